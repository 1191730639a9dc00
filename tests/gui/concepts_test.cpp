// The Concepts panel in the real window: opened, filled, hovered both ways, refused.
#include <QAbstractButton>
#include <QComboBox>
#include <QDockWidget>
#include <QDoubleSpinBox>
#include <QFile>
#include <QFocusEvent>
#include <QImage>
#include <QLabel>
#include <QLineEdit>
#include <QPainter>
#include <QTemporaryDir>
#include <QtTest/QTest>

#include <algorithm>

#include <gtest/gtest.h>

#include "jobs/comparison.h"
#include "jobs/concepts_on_show.h"
#include "panels/concept_list.h"
#include "panels/concepts_panel.h"
#include "panels/small_widgets.h"
#include "patience.h"
#include "tiny_model.h"
#include "windows/main_window.h"

namespace vitrine::app {
namespace {

class ConceptsWindowTest : public testing::Test {
  protected:
    void SetUp() override {
        qputenv("VITRINE_SETTINGS", folder_.filePath("settings.ini").toUtf8());
        QImage picture(300, 200, QImage::Format_RGB888);
        picture.fill(QColor(40, 80, 120));
        QPainter painter(&picture);
        painter.setBrush(QColor(220, 180, 40));
        painter.drawEllipse(90, 50, 80, 60);
        painter.end();
        picture_ = folder_.filePath("picture.png");
        ASSERT_TRUE(picture.save(picture_));
        model_ = folder_.filePath("tiny");
        auto written = test::write_tiny_model(model_.toStdString());
        ASSERT_TRUE(written) << written.error().message;
        file_ = folder_.filePath("concepts.safetensors");
        written = test::write_tiny_concepts(file_.toStdString());
        ASSERT_TRUE(written) << written.error().message;
        window_ = std::make_unique<MainWindow>();
        window_->show();
        ASSERT_TRUE(QTest::qWaitForWindowExposed(window_.get(), kPatience_ms));
        if (!window_->graphics()->ready())
            GTEST_SKIP() << "no Vulkan here: " << window_->graphics()->trouble().toStdString();
    }
    Session& session() { return window_->session(); }
    ConceptsOnShow& concepts() { return window_->concepts(); }
    ConceptList* list() { return window_->conceptsPanel()->list(); }
    Viewport* viewport() { return window_->viewport(); }
    bool settled() { return session().look() && session().explanation() && !session().explaining(); }
    void open() {
        session().openPaths({model_, picture_});
        ASSERT_TRUE(wait_until([&] { return settled() && viewport()->framesDrawn() > 0; }));
        window_->conceptsDock()->raise();
    }
    void open_concepts() {
        open();
        concepts().choose(file_);
        ASSERT_TRUE(wait_until([&] {
            return concepts().state() == ConceptsOnShow::State::Ready && !concepts().stale();
        })) << concepts().why().toStdString();
    }
    QPoint at(std::int64_t row, std::int64_t col) {
        const auto box =
            session().look()->geometry.cell(row, col, concepts().picture().rows(), concepts().picture().cols());
        return viewport()->toWindow({(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2}).toPoint();
    }
    QModelIndex row_of(std::int64_t number) {
        for (int row = 1 + ConceptList::kOfPatch; row < list()->model()->rowCount(); ++row)
            if (const auto index = list()->model()->index(row, 0); list()->conceptAt(index) == number) return index;
        return {};
    }

    QTemporaryDir folder_;
    QString model_, picture_, file_;
    std::unique_ptr<MainWindow> window_;
};

TEST_F(ConceptsWindowTest, WithoutAnAutoencoderItSaysWhatToDoAndARefusedFileWhy) {
    open();
    ASSERT_TRUE(wait_until([&] { return concepts().state() == ConceptsOnShow::State::None; }));
    auto* why = window_->findChild<QLabel*>("conceptsWhy");
    EXPECT_TRUE(why->isVisible());
    EXPECT_TRUE(why->text().contains("open an autoencoder")) << why->text().toStdString();
    EXPECT_FALSE(list()->isVisible());
    const auto broken = folder_.filePath("broken.safetensors");
    QFile file(broken);
    ASSERT_TRUE(file.open(QIODevice::WriteOnly));
    file.write("not an autoencoder at all");
    file.close();
    concepts().choose(broken);
    ASSERT_TRUE(wait_until([&] { return concepts().state() == ConceptsOnShow::State::Refused; }));
    EXPECT_TRUE(why->text().contains("broken")) << why->text().toStdString();
    EXPECT_EQ(why->text().count('\n'), 0) << "one sentence";
    EXPECT_TRUE(window_->findChild<QWidget*>("openConcepts")->isVisible());
    // A good one takes its place.
    concepts().choose(file_);
    ASSERT_TRUE(wait_until([&] { return concepts().state() == ConceptsOnShow::State::Ready; }));
    EXPECT_FALSE(why->isVisible());
    EXPECT_TRUE(list()->isVisible());
}

TEST_F(ConceptsWindowTest, HoverGoesBothWaysAndAPinStaysUntilEscape) {
    open_concepts();
    session().setLive(false);  // the map that is left is the method's, wherever the cursor stayed
    const auto& picture = concepts().picture();
    ASSERT_TRUE(picture.has_grid());
    EXPECT_EQ(list()->shown(), static_cast<int>(picture.heard().size()));
    const auto of_method = *session().shown()->values;

    // A patch: its concepts stand in the places that are kept for them, and nothing below them moves.
    const auto first = list()->model()->index(2 + ConceptList::kOfPatch, 0);
    const auto where = list()->visualRect(first);
    QTest::mouseMove(viewport(), at(0, 1) - QPoint(1, 1));
    QTest::mouseMove(viewport(), at(0, 1));
    ASSERT_TRUE(wait_until([&] { return concepts().patch() == std::pair<std::int64_t, std::int64_t>(0, 1); }));
    const auto here = picture.at(picture.cell(0, 1));
    ASSERT_FALSE(here.empty());
    for (std::size_t i = 0; i < std::min<std::size_t>(here.size(), ConceptList::kOfPatch); ++i)
        EXPECT_EQ(list()->conceptAt(list()->model()->index(static_cast<int>(i) + 1, 0)), here[i].id);
    EXPECT_EQ(list()->visualRect(first), where);

    // A concept: its map is what the next frame draws, and no job was asked.
    const auto number = picture.ranked(ConceptOrder::Sum).front();
    const auto row = row_of(number);
    ASSERT_TRUE(row.isValid());
    list()->scrollTo(row);
    const auto frames = viewport()->framesDrawn();
    QTest::mouseMove(list()->viewport(), list()->visualRect(row).center() - QPoint(2, 0));
    QTest::mouseMove(list()->viewport(), list()->visualRect(row).center());
    ASSERT_TRUE(wait_until([&] { return concepts().hovered() == number; }));
    ASSERT_TRUE(session().shown());
    EXPECT_EQ(*session().shown()->values, picture.map(number));
    ASSERT_FALSE(viewport()->scene().layers.empty());
    EXPECT_EQ(viewport()->scene().layers[0].map.data, session().shown()->values->data()) << "of the very next frame";
    ASSERT_TRUE(wait_until([&] { return viewport()->framesDrawn() > frames; }));

    QTest::mouseClick(list()->viewport(), Qt::LeftButton, {}, list()->visualRect(row).center());
    EXPECT_EQ(concepts().pinned(), number);
    concepts().hover(-1);
    EXPECT_EQ(*session().shown()->values, picture.map(number)) << "it is pinned";
    const auto npy = folder_.filePath("map.npy");
    ASSERT_TRUE(window_->exportMap(npy));
    QFile words(folder_.filePath("map.json"));
    ASSERT_TRUE(words.open(QIODevice::ReadOnly));
    EXPECT_TRUE(words.readAll().contains(QString("--method concepts").toUtf8()));
    QTest::keyClick(window_.get(), Qt::Key_Escape);
    EXPECT_EQ(concepts().pinned(), -1);
    EXPECT_EQ(*session().shown()->values, of_method);
}

TEST_F(ConceptsWindowTest, TheListIsSearchedSortedAndWalkedByKeys) {
    open_concepts();
    const auto& picture = concepts().picture();
    auto* order = window_->findChild<QComboBox*>("conceptOrder");
    order->setCurrentIndex(2);
    const int first = 2 + ConceptList::kOfPatch;
    EXPECT_EQ(list()->conceptAt(list()->model()->index(first, 0)), picture.ranked(ConceptOrder::Patches).front());
    auto* search = window_->findChild<QLineEdit*>("findConcept");
    std::int64_t silent = 0;
    while (!picture.where(silent).empty()) ++silent;
    ASSERT_LT(silent, picture.concepts());
    search->setText(QString::number(silent));
    const auto found = row_of(silent);
    ASSERT_TRUE(found.isValid());
    EXPECT_TRUE(found.data(Qt::ToolTipRole).toString().contains("Silent"));
    search->clear();
    EXPECT_EQ(list()->shown(), static_cast<int>(picture.heard().size()));
    // No window manager gives the window the focus here.
    QFocusEvent focus(QEvent::FocusIn, Qt::TabFocusReason);
    QCoreApplication::sendEvent(list(), &focus);
    EXPECT_EQ(concepts().hovered(), picture.ranked(ConceptOrder::Patches)[0]);
    QTest::keyClick(list(), Qt::Key_Down);
    EXPECT_EQ(concepts().hovered(), picture.ranked(ConceptOrder::Patches)[1]);
    QTest::keyClick(list(), Qt::Key_Return);
    EXPECT_EQ(concepts().pinned(), picture.ranked(ConceptOrder::Patches)[1]);
}

TEST_F(ConceptsWindowTest, SteeringChangesTheAnswerAndResetRestoresItExactly) {
    open_concepts();
    const auto before = session().look()->probabilities;
    const auto map = *session().explanation()->plane.values;
    const auto button = [&](const char* name) { return window_->findChild<QAbstractButton*>(name); };
    const auto steered = [&](bool yes) {
        return wait_until(
            [&] { return settled() && !session().looking() && session().look()->steered.empty() != yes; });
    };
    EXPECT_FALSE(button("steerReset")->isEnabled());
    EXPECT_FALSE(button("steerReset")->toolTip().isEmpty()) << "why it is grey";
    concepts().pin(concepts().picture().ranked(ConceptOrder::Patches).front());
    concepts().pin(concepts().picture().ranked(ConceptOrder::Patches)[1], true);
    EXPECT_EQ(concepts().chosen().size(), 2u);
    // A factor of one changes no number.
    button("steerScale")->click();
    window_->findChild<QDoubleSpinBox*>("steerNumber")->setValue(1);
    ASSERT_TRUE(steered(true)) << window_->notice()->sentence().toStdString();
    ASSERT_TRUE(wait_until([&] { return session().wanted("rollout").steer.edits.front().value == 1 && settled(); }));
    ASSERT_TRUE(steered(true));
    EXPECT_EQ(session().look()->probabilities, before);
    button("steerOff")->click();
    ASSERT_TRUE(wait_until([&] { return steered(true) && session().look()->probabilities != before; }));
    EXPECT_EQ(session().before(), before) << "the thin bars";
    ASSERT_TRUE(wait_until([&] { return settled() && *session().explanation()->plane.values != map; }))
        << "maps follow the steered model";
    const auto off = session().look()->probabilities;
    // Holding D shows the model as it was opened.
    QTest::keyPress(window_.get(), Qt::Key_D);
    ASSERT_TRUE(steered(false));
    EXPECT_EQ(session().look()->probabilities, before);
    ASSERT_TRUE(wait_until([&] { return settled() && *session().explanation()->plane.values == map; }));
    QTest::keyRelease(window_.get(), Qt::Key_D);
    ASSERT_TRUE(steered(true));
    EXPECT_EQ(session().look()->probabilities, off);
    // On one patch alone it is another answer.
    window_->findChild<QComboBox*>("steerTokens")->setCurrentIndex(3);
    EXPECT_TRUE(concepts().drawing());
    ASSERT_TRUE(steered(false)) << "no patch is chosen yet";
    QTest::mousePress(viewport(), Qt::LeftButton, {}, at(0, 0));
    for (int step = 1; step <= 4; ++step) QTest::mouseMove(viewport(), at(0, 0) + (at(1, 1) - at(0, 0)) * step / 4);
    QTest::mouseRelease(viewport(), Qt::LeftButton, {}, at(1, 1));
    ASSERT_TRUE(steered(true));
    EXPECT_EQ(session().steering().region, (Region{0, 0, 1, 1}));
    EXPECT_NE(session().look()->probabilities, off);
    EXPECT_FALSE(session().region()) << "what is explained stays";
    button("steerReset")->click();
    ASSERT_TRUE(steered(false));
    EXPECT_EQ(session().look()->probabilities, before);
    ASSERT_TRUE(wait_until([&] { return settled() && *session().explanation()->plane.values == map; }));
    EXPECT_TRUE(session().before().empty());
}

TEST_F(ConceptsWindowTest, TheGridShowsTheOriginalBesideTheSteeredAndASavedModelOpens) {
    open_concepts();
    const auto number = concepts().picture().ranked(ConceptOrder::Patches).front();
    concepts().pin(number);
    window_->findChild<QAbstractButton*>("steerFix")->click();
    ASSERT_TRUE(wait_until([&] { return settled() && !session().looking() && !session().look()->steered.empty(); }))
        << window_->notice()->sentence().toStdString();
    const auto answer = session().look()->probabilities;
    window_->comparison().setOpen(true);
    const auto& cells = window_->comparison().cells();
    ASSERT_EQ(cells.size(), 2u);
    ASSERT_TRUE(wait_until([&] { return cells[0].stage == Stage::Done && cells[1].stage == Stage::Done; }));
    EXPECT_FALSE(cells[0].is_original);
    EXPECT_TRUE(cells[1].is_original);
    EXPECT_NE(*cells[0].found->plane.values, *cells[1].found->plane.values);
    window_->comparison().setOpen(false);
    const auto file = folder_.filePath("tiny.steered.json");
    window_->session().saveSteered(file);
    ASSERT_TRUE(wait_until([&] { return QFile::exists(file); })) << window_->notice()->sentence().toStdString();
    session().openModel(file);
    ASSERT_TRUE(wait_until([&] { return session().model()->request == file.toStdString() && settled(); }))
        << window_->notice()->sentence().toStdString();
    EXPECT_EQ(session().look()->probabilities, answer);
}

}  // namespace
}  // namespace vitrine::app
