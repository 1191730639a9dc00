// A region of the picture as what is explained: drawn with the mouse, typed, taken back, refused and written down.
#include <QImage>
#include <QJsonDocument>
#include <QJsonObject>
#include <QLabel>
#include <QListView>
#include <QPainter>
#include <QSpinBox>
#include <QTemporaryDir>
#include <QToolButton>
#include <QtTest/QTest>

#include <cmath>

#include <gtest/gtest.h>

#include "jobs/comparison.h"
#include "panels/choice_button.h"
#include "panels/explain_panel.h"
#include "panels/method_picker.h"
#include "panels/region_row.h"
#include "panels/small_widgets.h"
#include "patience.h"
#include "tiny_model.h"
#include "windows/main_window.h"

namespace vitrine::app {
namespace {

class RegionWindowTest : public testing::Test {
  protected:
    void SetUp() override {
        qputenv("VITRINE_SETTINGS", folder_.filePath("settings.ini").toUtf8());
        for (int i = 0; i < 2; ++i) {
            QImage picture(300, 200, QImage::Format_RGB888);
            picture.fill(QColor(40 + 90 * i, 80, 120));
            QPainter painter(&picture);
            painter.setBrush(QColor(220, 180, 40 + 100 * i));
            painter.drawEllipse(90, 50, 80 + 20 * i, 60);
            painter.end();
            pictures_[i] = folder_.filePath(QString("picture_%1.png").arg(i));
            ASSERT_TRUE(picture.save(pictures_[i]));
        }
        model_ = folder_.filePath("tiny");
        const auto written = test::write_tiny_model(model_.toStdString());
        ASSERT_TRUE(written) << written.error().message;
        window_ = std::make_unique<MainWindow>();
        window_->show();
        ASSERT_TRUE(QTest::qWaitForWindowExposed(window_.get(), kPatience_ms));
        if (!window_->graphics()->ready())
            GTEST_SKIP() << "no Vulkan here: " << window_->graphics()->trouble().toStdString();
        session().openPaths({model_, pictures_[0]});
        ASSERT_TRUE(wait_until([&] { return settled() && viewport()->framesDrawn() > 0; }));
        session().setMethod("saliency");
        ASSERT_TRUE(wait_until([&] { return settled() && session().explanation()->method == "saliency"; }));
    }
    Session& session() { return window_->session(); }
    Viewport* viewport() { return window_->viewport(); }
    bool settled() { return session().look() && session().explanation() && !session().explaining(); }
    /// The middle of a cell, in the viewport.
    QPoint at(std::int64_t row, std::int64_t col) {
        const auto& look = *session().look();
        const auto box = look.geometry.cell(row, col, look.grid_rows, look.grid_cols);
        return viewport()->toWindow({(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2}).toPoint();
    }
    void drag(QPoint from, QPoint to, bool let_go = true) {
        QTest::mousePress(viewport(), Qt::LeftButton, {}, from);
        for (int step = 1; step <= 4; ++step) QTest::mouseMove(viewport(), from + (to - from) * step / 4);
        if (let_go) QTest::mouseRelease(viewport(), Qt::LeftButton, {}, to);
    }
    void expect_region(const Region& region) {
        ASSERT_TRUE(wait_until([&] { return session().region() == region && settled(); }))
            << (session().region() ? session().region()->text() : "none");
        const auto cells = (region.to_row - region.row + 1) * (region.to_col - region.col + 1);
        EXPECT_EQ(session().explanation()->explained.find("activation of " + std::to_string(cells)), 0u)
            << session().explanation()->explained;
        const auto drawn = viewport()->scene().region;
        ASSERT_TRUE(drawn);
        const auto wanted = session().boxOf(region);
        EXPECT_NEAR(drawn->x0, wanted.x0, 1e-9);
        EXPECT_NEAR(drawn->y1, wanted.y1, 1e-9);
    }
    QSpinBox* number(const char* name) { return window_->findChild<QSpinBox*>(name); }

    QTemporaryDir folder_;
    QString model_, pictures_[2];
    std::unique_ptr<MainWindow> window_;
};

TEST_F(RegionWindowTest, ADragExplainsTheCellsThatItTouchesAndEscapeTheClassAgain) {
    const auto of_class = *session().explanation()->plane.values;
    EXPECT_FALSE(viewport()->scene().region);
    drag(at(1, 1), at(2, 3));
    expect_region({1, 1, 2, 3});
    EXPECT_NE(*session().explanation()->plane.values, of_class);
    EXPECT_TRUE(session().showsExplanation()) << "the cursor rests on a patch, whose attention is not what was asked";
    EXPECT_TRUE(window_->findChild<RegionRow*>()->isVisible());
    // It is seen: white on the picture where the rectangle runs.
    const auto frame = viewport()->lastFrame();
    ASSERT_TRUE(frame) << frame.error().message;
    const auto corner = viewport()->toWindow({session().boxOf({1, 1, 2, 3}).x0, session().boxOf({1, 1, 2, 3}).y0});
    const double ratio = viewport()->devicePixelRatio();
    int whitest = 0;
    for (int dy = -2; dy <= 2; ++dy)
        for (int dx = -2; dx <= 2; ++dx) {
            const auto* p = frame->at(std::lround(corner.x() * ratio) + dx, std::lround(corner.y() * ratio) + dy);
            whitest = std::max(whitest, std::min({int(p[0]), int(p[1]), int(p[2])}));
        }
    EXPECT_EQ(whitest, 255);
    // Another rectangle, drawn the other way round, takes its place.
    const auto first = *session().explanation()->plane.values;
    drag(at(3, 2), at(0, 0));
    expect_region({0, 0, 3, 2});
    EXPECT_NE(*session().explanation()->plane.values, first);
    QTest::keyClick(viewport(), Qt::Key_Escape);
    EXPECT_FALSE(session().region());
    ASSERT_TRUE(wait_until([&] { return settled(); }));
    EXPECT_EQ(*session().explanation()->plane.values, of_class);
    EXPECT_FALSE(viewport()->scene().region);
    EXPECT_FALSE(window_->findChild<RegionRow*>()->isVisible());
}

TEST_F(RegionWindowTest, AClickAPanAndADragThatIsGivenUpDrawNone) {
    QTest::mouseClick(viewport(), Qt::LeftButton, {}, at(1, 1));
    EXPECT_TRUE(session().pinned());
    session().pin(std::nullopt);
    drag(at(1, 1), at(1, 1) + QPoint(5, 2));
    EXPECT_FALSE(session().region()) << "a hand that slips draws nothing";
    drag(at(1, 1), at(2, 2), false);
    EXPECT_TRUE(viewport()->scene().region) << "it is seen while it is drawn";
    QTest::keyClick(viewport(), Qt::Key_Escape);
    EXPECT_FALSE(viewport()->scene().region);
    QTest::mouseRelease(viewport(), Qt::LeftButton, {}, at(2, 2));
    QTest::keyPress(viewport(), Qt::Key_Space);
    drag(at(1, 1), at(2, 2));
    QTest::keyRelease(viewport(), Qt::Key_Space);
    // Beside the picture there is nothing to explain.
    drag({2, 2}, {20, 20});
    QTest::qWait(100);
    EXPECT_FALSE(session().region());
    EXPECT_FALSE(viewport()->scene().region);
}

TEST_F(RegionWindowTest, KeysAndNumbersChooseItToo) {
    QTest::keyClick(viewport(), Qt::Key_R);
    ASSERT_TRUE(wait_until([&] { return session().region() && settled(); }));
    const auto rows = session().regionCells()->rows, cols = session().regionCells()->cols;
    EXPECT_LE(session().region()->to_row, rows - 1);
    ASSERT_TRUE(wait_until([&] { return number("regionRowFrom")->isVisible(); }));
    number("regionRowFrom")->setValue(0);
    number("regionRowTo")->setValue(1);
    number("regionColumnFrom")->setValue(static_cast<int>(cols) - 1);
    expect_region({0, cols - 1, 1, cols - 1});
    EXPECT_EQ(number("regionColumnTo")->value(), cols - 1) << "the last column went along";
    // A class that is chosen takes its place; the button among the numbers takes it back, too.
    session().setTarget(session().look()->top[1].index);
    EXPECT_FALSE(session().region());
    session().setRegion(Region{0, 0, 0, 0});
    expect_region({0, 0, 0, 0});
    window_->findChild<QToolButton*>("clearRegion")->click();
    EXPECT_FALSE(session().region());
    EXPECT_EQ(session().target(), session().look()->top[1].index) << "the class of before";
}

TEST_F(RegionWindowTest, MethodsThatCannotAreGreyWithTheReasonAndSaySo) {
    drag(at(1, 1), at(2, 2));
    expect_region({1, 1, 2, 2});
    auto* picker = MethodPicker::open(session(), window_->comparison(), window_->methodButton());
    auto* list = picker->findChild<QListView*>("methodList");
    int grey = 0, can = 0;
    for (int row = 0; row < list->model()->rowCount(); ++row) {
        const auto index = list->model()->index(row, 0);
        const auto why = index.data(Qt::AccessibleDescriptionRole).toString();
        if (index.data().toString() == "Generic attention explainability") {
            EXPECT_TRUE(why.contains("region")) << why.toStdString();
            ++grey;
        }
        if (index.data().toString() == "Saliency" || index.data().toString() == "Grad-CAM") can += why.isEmpty();
    }
    EXPECT_EQ(grey, 1);
    EXPECT_EQ(can, 2);
    picker->close();
    // One that was chosen before says why, and its map does not stay as if it were the answer.
    session().setMethod("chefer");
    ASSERT_TRUE(wait_until([&] { return !session().explaining() && !session().explainTrouble().isEmpty(); }));
    EXPECT_FALSE(session().explanation());
    EXPECT_TRUE(session().explainTrouble().contains("cannot explain a region"))
        << session().explainTrouble().toStdString();
    session().clearRegion();
    ASSERT_TRUE(wait_until([&] { return settled() && session().explanation()->method == "chefer"; }));
}

TEST_F(RegionWindowTest, AnotherPictureHasNone) {
    drag(at(1, 1), at(2, 2));
    expect_region({1, 1, 2, 2});
    session().openPaths({pictures_[1]});
    ASSERT_TRUE(wait_until([&] { return session().picture()->name == "picture_1.png" && settled(); }));
    EXPECT_FALSE(session().region());
    EXPECT_FALSE(viewport()->scene().region);
    EXPECT_EQ(session().explanation()->explained.find("activation"), std::string::npos);
}

TEST_F(RegionWindowTest, WhatIsWrittenNamesItForTheCommandLine) {
    drag(at(1, 1), at(2, 3));
    expect_region({1, 1, 2, 3});
    const auto png = folder_.filePath("map.png"), npy = folder_.filePath("map.npy");
    ASSERT_TRUE(window_->exportPicture(png));
    EXPECT_EQ(QImage(png).text("region"), "1,1-2,3");
    EXPECT_TRUE(QImage(png).text("command").contains("--method saliency --region 1,1-2,3"));
    ASSERT_TRUE(window_->exportMap(npy));
    QFile file(folder_.filePath("map.json"));
    ASSERT_TRUE(file.open(QIODevice::ReadOnly));
    const auto words = QJsonDocument::fromJson(file.readAll()).object();
    EXPECT_EQ(words["region"].toString(), "1,1-2,3");
    EXPECT_EQ(words["model"].toString(), model_);
    EXPECT_TRUE(words["command"].toString().contains("--region 1,1-2,3"));
}

}  // namespace
}  // namespace vitrine::app
