// Concepts drawn on pictures in the real window, kept in a list, and tested against random sets.
#include <QClipboard>
#include <QDockWidget>
#include <QFile>
#include <QGuiApplication>
#include <QImage>
#include <QLabel>
#include <QLineEdit>
#include <QPainter>
#include <QPushButton>
#include <QSpinBox>
#include <QTemporaryDir>
#include <QToolButton>
#include <QtTest/QTest>

#include <memory>

#include <gtest/gtest.h>

#include "panels/tcav_bars.h"
#include "panels/tcav_panel.h"
#include "patience.h"
#include "tiny_model.h"
#include "windows/main_window.h"

namespace vitrine::app {
namespace {

class TcavWindowTest : public testing::Test {
  protected:
    void SetUp() override {
        qputenv("VITRINE_SETTINGS", folder_.filePath("settings.ini").toUtf8());
        qputenv("XDG_DATA_HOME", folder_.filePath("data").toUtf8());
        for (const auto& [name, count] : {std::pair{"film", 2}, {"examples", 4}, {"random", 30}, {"folder", 7}}) {
            ASSERT_TRUE(QDir().mkpath(folder_.filePath(name)));
            for (int i = 0; i < count; ++i) {
                QImage picture(64, 64, QImage::Format_RGB888);
                picture.fill(QColor::fromHsv((47 * i + count) % 360, 160, 90));
                QPainter painter(&picture);
                painter.setBrush(QColor::fromHsv((91 * i) % 360, 220, 240));
                painter.drawEllipse(QPoint(12 + 7 * (i % 6), 30), 10, 8 + i % 3);
                painter.end();
                ASSERT_TRUE(picture.save(folder_.filePath(QString("%1/%2.png").arg(name).arg(i))));
            }
        }
        const auto model = folder_.filePath("tiny");
        ASSERT_TRUE(test::write_tiny_model(model.toStdString()));
        window_ = std::make_unique<MainWindow>();
        window_->show();
        ASSERT_TRUE(QTest::qWaitForWindowExposed(window_.get(), kPatience_ms));
        if (!window_->graphics()->ready())
            GTEST_SKIP() << "no Vulkan here: " << window_->graphics()->trouble().toStdString();
        session().openPaths({model, film(0), film(1)});
        ASSERT_TRUE(wait_until([&] { return session().look() && window_->viewport()->framesDrawn() > 0; }));
        for (auto* action : window_->findChildren<QAction*>())
            if (action->text() == QString("Test concepts…")) action->trigger();
        ASSERT_TRUE(wait_until([&] { return panel().isVisible() && panel().ready(); }));
    }
    QString film(int i) { return folder_.filePath(QString("film/%1.png").arg(i)); }
    Session& session() { return window_->session(); }
    TcavPanel& panel() { return *window_->tcavPanel(); }
    TcavSets& sets() { return *panel().sets(); }
    /// The middle of one of 4 x 4 cells, in the viewport.
    QPoint at(std::int64_t row, std::int64_t col) {
        const auto box = session().look()->geometry.cell(row, col, 4, 4);
        return window_->viewport()->toWindow({(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2}).toPoint();
    }
    void drag(QPoint from, QPoint to) {
        auto* viewport = window_->viewport();
        QTest::mousePress(viewport, Qt::LeftButton, {}, from);
        for (int step = 1; step <= 4; ++step) QTest::mouseMove(viewport, from + (to - from) * step / 4);
        QTest::mouseRelease(viewport, Qt::LeftButton, {}, to);
    }
    void click(const char* name) {
        auto* button = panel().findChild<QAbstractButton*>(name);
        ASSERT_NE(button, nullptr) << name;
        ASSERT_TRUE(button->isVisibleTo(&panel())) << name;
        ASSERT_TRUE(button->isEnabled()) << name << ": " << button->toolTip().toStdString();
        button->click();
    }
    QString words(const char* name) { return panel().findChild<QLabel*>(name)->text().remove(QChar(0x200B)); }
    QString list() {
        QFile file(TcavSets::listsFolder() + "/spots.txt");
        return file.open(QIODevice::ReadOnly) ? QString::fromUtf8(file.readAll()) : QString();
    }
    void addRegions(int count) {
        for (int i = 0; i < count; ++i) {
            drag(at(i % 4, 0), at(i % 4, 1 + i / 4));
            ASSERT_NO_FATAL_FAILURE(click("tcavAdd"));
        }
    }

    QTemporaryDir folder_;
    std::unique_ptr<MainWindow> window_;
};

TEST_F(TcavWindowTest, ADrawnConceptIsKeptTestedAndRepeatedAtTheCommandLine) {
    EXPECT_TRUE(words("tcavNext").startsWith("Add a concept")) << words("tcavNext").toStdString();
    EXPECT_FALSE(panel().findChild<QPushButton*>("tcavStart")->isEnabled());
    panel().findChild<QLineEdit*>("tcavName")->setText("spots");
    ASSERT_NO_FATAL_FAILURE(click("tcavDraw"));
    drag(at(1, 1), at(2, 3));
    EXPECT_FALSE(session().region()) << "what is explained stays";
    ASSERT_TRUE(window_->viewport()->scene().region) << "it is seen until it is added";
    EXPECT_EQ(window_->viewport()->scene().region->x0, session().boxOf({1, 1, 2, 3}, 4, 4).x0);
    EXPECT_TRUE(words("tcavHint").startsWith("2 × 3 cells of ")) << words("tcavHint").toStdString();
    ASSERT_NO_FATAL_FAILURE(click("tcavAdd"));
    EXPECT_FALSE(window_->viewport()->scene().region);
    ASSERT_EQ(sets().sets().size(), 1u);
    const auto picture = session().picture()->file;
    EXPECT_EQ(list(), QString("# cells 4 x 4\n%1,1,1-2,3\n").arg(QString::fromStdString(picture.string())));
    EXPECT_FALSE(sets().sets()[0].tiles[0].isNull());

    // The same region once more is none, and on the next picture it is another.
    drag(at(1, 1), at(2, 3));
    click("tcavAdd");
    EXPECT_TRUE(sets().trouble().contains("already")) << sets().trouble().toStdString();
    session().showPicture(1 - session().current());
    ASSERT_TRUE(wait_until([&] { return session().picture()->file != picture && session().look(); }));
    EXPECT_TRUE(sets().drawing()) << "the next picture is drawn on";
    ASSERT_NO_FATAL_FAILURE(addRegions(6));
    ASSERT_EQ(sets().sets()[0].examples(), 7);
    // Delete takes out the one that has the focus.
    auto tiles = panel().findChildren<RegionTile*>();
    ASSERT_FALSE(tiles.empty());
    QTest::keyClick(tiles.back(), Qt::Key_Delete);
    ASSERT_TRUE(wait_until([&] { return sets().sets()[0].examples() == 6; }));
    EXPECT_EQ(list().count('\n'), 7) << "and from the list";
    QTest::keyClick(window_->viewport(), Qt::Key_Escape);
    EXPECT_FALSE(sets().drawing());

    sets().addFolder(folder_.filePath("folder"));
    panel().setExamples(folder_.filePath("examples"));
    EXPECT_TRUE(words("tcavNext").startsWith("Choose a folder of other pictures"));
    panel().setRandom(folder_.filePath("random"));
    EXPECT_EQ(panel().findChild<QSpinBox*>("tcavRuns")->value(), 30);
    const auto predicted = session().look()->top.front().index;
    const auto* jobs = window_->findChild<QLabel*>("statusJobs");
    bool said = false;
    const QObject here;  // the window, closing, moves once more when these are gone
    QObject::connect(&panel(), &TcavPanel::moved, &here, [&] { said |= jobs->text().startsWith("Testing concepts"); });
    ASSERT_NO_FATAL_FAILURE(click("tcavStart"));
    EXPECT_TRUE(panel().running());
    EXPECT_TRUE(session().look()) << "the window goes on";
    ASSERT_TRUE(wait_until([&] { return !panel().running(); }));
    EXPECT_TRUE(said);
    EXPECT_EQ(jobs->text(), "jobs: none");
    ASSERT_TRUE(panel().facts()) << panel().trouble().toStdString();
    const auto& facts = *panel().facts();
    EXPECT_EQ(facts.point, "blocks.2");
    EXPECT_EQ(facts.examples, 4);
    EXPECT_EQ(facts.random, 30);
    ASSERT_EQ(facts.concepts.size(), 2u);
    EXPECT_EQ(facts.concepts[0].name, "spots");
    EXPECT_EQ(facts.concepts[0].features, "regions");
    EXPECT_EQ(facts.concepts[0].examples, 6);
    EXPECT_EQ(facts.concepts[1].features, "whole");
    for (const auto& one : facts.concepts) {
        EXPECT_LE(one.score.low, one.score.mean);
        EXPECT_GE(one.score.high, one.score.mean);
        EXPECT_NEAR(one.p_corrected, std::min(1.0, 2 * one.p), 1e-15);
    }
    const auto* bars = panel().findChild<TcavBars*>();
    EXPECT_TRUE(bars->accessibleDescription().startsWith(QString("spots: %1, %2")
                                                             .arg(facts.concepts[0].score.mean, 0, 'f', 2)
                                                             .arg(TcavBars::verdictOf(facts.concepts[0]))))
        << bars->accessibleDescription().toStdString();
    EXPECT_EQ(bars->table().count('\n'), 2);

    click("tcavCopyCommand");
    EXPECT_EQ(QGuiApplication::clipboard()->text(),
              QString("vitrine tcav %1 --class %2 --examples %3 --concept spots=%4 --concept folder=%5 --random %6 "
                      "--point blocks.2 --features whole --runs 30")
                  .arg(folder_.filePath("tiny"))
                  .arg(predicted)
                  .arg(folder_.filePath("examples"), TcavSets::listsFolder() + "/spots.txt", folder_.filePath("folder"),
                       folder_.filePath("random")));
    // What the list says now is what the command reads: asked again, the same scores.
    TcavPlan plan;
    plan.model = folder_.filePath("tiny").toStdString();
    plan.target = predicted;
    plan.examples = folder_.filePath("examples").toStdString();
    plan.random = folder_.filePath("random").toStdString();
    plan.concepts = {{"spots", (TcavSets::listsFolder() + "/spots.txt").toStdString()}};
    const auto again = run_tcav(plan, {}, [](std::string, std::int64_t, std::int64_t) {});
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(again->concepts[0].score.mean, facts.concepts[0].score.mean);
    EXPECT_EQ(again->concepts[0].p, facts.concepts[0].p);
}

TEST_F(TcavWindowTest, AListIsOpenedGoneOnWithAndRefusedInOneSentence) {
    const auto file = TcavSets::listsFolder() + "/spots.txt";
    ASSERT_TRUE(QDir().mkpath(TcavSets::listsFolder()));
    const auto written = [&](const QString& name, const QString& content) {
        QFile out(name);
        ASSERT_TRUE(out.open(QIODevice::WriteOnly));
        out.write(content.toUtf8());
    };
    written(file, QString("# cells 4 x 4\n%1,0,0-1,1\n%2,2,2\n").arg(film(0), film(1)));
    // A name of an earlier day goes on where it was.
    panel().findChild<QLineEdit*>("tcavName")->setText("spots");
    ASSERT_NO_FATAL_FAILURE(click("tcavDraw"));
    drag(at(3, 3), at(3, 3) + QPoint(12, 8));
    ASSERT_NO_FATAL_FAILURE(click("tcavAdd"));
    ASSERT_EQ(sets().sets().size(), 1u);
    EXPECT_EQ(sets().sets()[0].examples(), 3);
    EXPECT_EQ(list().count('\n'), 4);
    // What was drawn before is seen, too.
    ASSERT_TRUE(wait_until([&] {
        const auto& tiles = sets().sets()[0].tiles;
        return tiles.size() == 3 && !tiles[0].isNull() && !tiles[1].isNull();
    }));
    EXPECT_TRUE(panel().whyNot().startsWith("spots has 3 of the 6 examples")) << panel().whyNot().toStdString();
    sets().openList(file);
    EXPECT_EQ(sets().trouble(), "This list is a concept already");
    sets().remove(0);
    EXPECT_EQ(list().count('\n'), 4) << "what is on disk stays";

    const auto other = folder_.filePath("other.txt");
    written(other, "picture.png\n");
    sets().openList(other);
    EXPECT_TRUE(sets().trouble().startsWith("Line 1 of")) << sets().trouble().toStdString();
    sets().openList(folder_.filePath("nothing.txt"));
    EXPECT_FALSE(sets().trouble().isEmpty());
    sets().addFolder(folder_.filePath("nothing"));
    EXPECT_TRUE(sets().trouble().startsWith("There is no folder at"));
    EXPECT_TRUE(sets().sets().empty());
    QString lines = "# cells 7 x 7\n";
    for (int i = 0; i < 6; ++i) lines += film(0) + QString(",0,%1\n").arg(i);
    written(other, lines);
    sets().openList(other);
    EXPECT_TRUE(panel().whyNot().startsWith("other was drawn on 7 × 7 cells and blocks.2 has 4 × 4"))
        << panel().whyNot().toStdString();
    sets().remove(0);

    // Errors of the run, and its stop.
    sets().addFolder(folder_.filePath("folder"));
    panel().setTarget(3);
    panel().setExamples(folder_.filePath("nothing"));
    panel().setRandom(folder_.filePath("random"));
    ASSERT_NO_FATAL_FAILURE(click("tcavStart"));
    ASSERT_TRUE(wait_until([&] { return !panel().running(); }));
    EXPECT_TRUE(panel().trouble().startsWith("There is no folder at")) << panel().trouble().toStdString();
    EXPECT_TRUE(words("tcavTrouble").startsWith("There is no folder at"));
    panel().setExamples(folder_.filePath("examples"));
    EXPECT_EQ(panel().trouble(), "");
    panel().findChild<QSpinBox*>("tcavRuns")->setValue(1000);
    ASSERT_NO_FATAL_FAILURE(click("tcavStart"));
    ASSERT_NO_FATAL_FAILURE(click("tcavStop"));
    ASSERT_TRUE(wait_until([&] { return !panel().running(); }));
    EXPECT_EQ(words("tcavDoing"), "Stopped");
    EXPECT_FALSE(panel().facts());
    // Behind another tab a drag explains a region again.
    sets().setDrawing(true);
    EXPECT_TRUE(sets().drawing());
    window_->tcavDock()->hide();
    EXPECT_FALSE(sets().drawing());
}

}  // namespace
}  // namespace vitrine::app
