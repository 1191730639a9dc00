// Steering in the real window: steps are taken back and again, and how far a concept steers is drawn.
#include <QAbstractButton>
#include <QAction>
#include <QComboBox>
#include <QDockWidget>
#include <QDoubleSpinBox>
#include <QFile>
#include <QImage>
#include <QSlider>
#include <QTemporaryDir>
#include <QtTest/QTest>

#include <gtest/gtest.h>

#include "jobs/concepts_on_show.h"
#include "panels/concepts_panel.h"
#include "panels/small_widgets.h"
#include "panels/steer_curve_view.h"
#include "patience.h"
#include "tiny_model.h"
#include "windows/main_window.h"

namespace vitrine::app {
namespace {

class SteerWindowTest : public testing::Test {
  protected:
    void SetUp() override {
        qputenv("VITRINE_SETTINGS", folder_.filePath("settings.ini").toUtf8());
        QImage picture(64, 64, QImage::Format_RGB888);
        for (int y = 0; y < 64; ++y)
            for (int x = 0; x < 64; ++x) picture.setPixelColor(x, y, QColor(4 * x, 4 * y, (x * y) % 256));
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
        session().openPaths({model_, picture_});
        ASSERT_TRUE(wait_until([&] { return settled(); }));
        window_->conceptsDock()->raise();
        concepts().choose(file_);
        ASSERT_TRUE(wait_until([&] {
            return concepts().state() == ConceptsOnShow::State::Ready && !concepts().stale();
        })) << concepts().why().toStdString();
        first_ = concepts().picture().ranked(ConceptOrder::Patches)[0];
        second_ = concepts().picture().ranked(ConceptOrder::Patches)[1];
    }
    Session& session() { return window_->session(); }
    ConceptsOnShow& concepts() { return window_->concepts(); }
    bool settled() {
        return session().look() && session().explanation() && !session().explaining() && !session().looking();
    }
    QAbstractButton* button(const char* name) { return window_->findChild<QAbstractButton*>(name); }
    QSlider* slider() { return window_->findChild<QSlider*>("steerSlider"); }
    QAction* action(const QString& begins) {
        for (auto* one : window_->actions())
            if (one->text().startsWith(begins)) return one;
        return nullptr;
    }
    const std::vector<SteeredConcept>& edits() { return session().steering().edits; }
    /// A drag of the handle, in three moves.
    void drag(int to) {
        const int from = slider()->value();
        slider()->setSliderDown(true);
        for (int i = 1; i <= 3; ++i) slider()->setSliderPosition(from + (to - from) * i / 3);
        slider()->setSliderDown(false);
    }
    void undo() { QTest::keyClick(window_.get(), Qt::Key_Z, Qt::ControlModifier); }
    void redo() { QTest::keyClick(window_.get(), Qt::Key_Z, Qt::ControlModifier | Qt::ShiftModifier); }

    QTemporaryDir folder_;
    QString model_, picture_, file_;
    std::int64_t first_ = 0, second_ = 0;
    std::unique_ptr<MainWindow> window_;
};

TEST_F(SteerWindowTest, EveryStepIsTakenBackAndAgainByItsName) {
    const auto before = session().look()->probabilities;
    EXPECT_FALSE(action("Undo")->isEnabled());
    EXPECT_FALSE(action("Undo")->toolTip().isEmpty()) << "why it is grey";
    concepts().pin(first_);
    button("steerScale")->click();
    const auto scaled = edits();
    ASSERT_EQ(scaled.size(), 1u);
    EXPECT_EQ(action("Undo")->text(), QString("Undo: Concept %1 \u00d7 2").arg(first_));
    // A drag is one step, however many moves it has.
    drag(50);
    EXPECT_EQ(edits()[0].value, 5);
    EXPECT_EQ(action("Undo")->text(), QString("Undo: Concept %1 \u00d7 5").arg(first_));
    drag(-30);
    EXPECT_EQ(edits()[0].value, -3);
    undo();
    EXPECT_EQ(edits()[0].value, 5);
    EXPECT_EQ(slider()->value(), 50) << "the controls follow";
    EXPECT_EQ(action("Redo")->text(), QString("Redo: Concept %1 \u00d7 -3").arg(first_));
    undo();
    EXPECT_EQ(edits(), scaled);
    undo();
    EXPECT_TRUE(edits().empty());
    EXPECT_FALSE(action("Undo")->isEnabled());
    ASSERT_TRUE(wait_until([&] { return settled() && session().look()->steered.empty(); }));
    EXPECT_EQ(session().look()->probabilities, before) << "exactly as before";
    redo();
    redo();
    EXPECT_EQ(edits()[0].value, 5);
    // A drag that ends where it began is no step, and a new one ends what could be taken again.
    slider()->setSliderDown(true);
    slider()->setSliderPosition(20);
    slider()->setSliderPosition(50);
    slider()->setSliderDown(false);
    EXPECT_EQ(edits()[0].value, 5);
    undo();
    EXPECT_EQ(edits(), scaled);
    // Off, elsewhere, and all of it.
    concepts().pin(second_);
    button("steerOff")->click();
    EXPECT_FALSE(action("Redo")->isEnabled());
    EXPECT_EQ(action("Undo")->text(), QString("Undo: Concept %1 off").arg(second_));
    window_->findChild<QComboBox*>("steerTokens")->setCurrentIndex(2);
    EXPECT_EQ(action("Undo")->text(), "Undo: steering on the patches");
    button("steerReset")->click();
    EXPECT_EQ(action("Undo")->text(), "Undo: reset");
    EXPECT_TRUE(edits().empty());
    undo();
    EXPECT_EQ(edits().size(), 2u);
    EXPECT_EQ(session().steering().tokens, Steer::Tokens::Patches);
    undo();
    EXPECT_EQ(session().steering().tokens, Steer::Tokens::All);
    EXPECT_EQ(window_->findChild<QComboBox*>("steerTokens")->currentIndex(), 0);
    undo();
    EXPECT_EQ(edits(), scaled);
}

TEST_F(SteerWindowTest, StepsEndWithTheirConceptsAndOutliveSaving) {
    concepts().pin(first_);
    button("steerFix")->click();
    drag(40);
    const auto fixed = edits();
    const auto saved = folder_.filePath("tiny.steered.json");
    session().saveSteered(saved);
    ASSERT_TRUE(wait_until([&] { return QFile::exists(saved); })) << window_->notice()->sentence().toStdString();
    undo();
    EXPECT_NE(edits(), fixed);
    redo();
    EXPECT_EQ(edits(), fixed);
    // The file that was written is the model that is opened: nothing is left of how it was made.
    session().openModel(saved);
    ASSERT_TRUE(wait_until([&] { return session().model()->request == saved.toStdString() && settled(); }));
    EXPECT_FALSE(action("Undo")->isEnabled());
    EXPECT_FALSE(action("Redo")->isEnabled());
    undo();
    EXPECT_TRUE(edits().empty());
    // Concepts of another file are others.
    concepts().choose(file_);
    ASSERT_TRUE(wait_until([&] { return concepts().state() == ConceptsOnShow::State::Ready && !concepts().stale(); }));
    concepts().pin(first_);
    button("steerOff")->click();
    EXPECT_TRUE(action("Undo")->isEnabled());
    const auto other = folder_.filePath("other.safetensors");
    ASSERT_TRUE(QFile::copy(file_, other));
    concepts().choose(other);
    ASSERT_TRUE(wait_until([&] { return edits().empty(); }));
    EXPECT_FALSE(action("Undo")->isEnabled());
}

TEST_F(SteerWindowTest, WhatCannotBeRunIsNoStep) {
    concepts().pin(first_);
    button("steerOff")->click();
    ASSERT_TRUE(wait_until([&] { return settled() && !session().look()->steered.empty(); }));
    auto beyond = session().steering();
    beyond.put({1'000'000, SteeredConcept::Mode::Suppress, 0});
    session().steer(beyond);
    ASSERT_TRUE(wait_until([&] { return edits().size() == 1 && settled(); }));
    EXPECT_EQ(action("Undo")->text(), QString("Undo: Concept %1 off").arg(first_));
    undo();
    EXPECT_TRUE(edits().empty());
}

TEST_F(SteerWindowTest, HowFarAConceptSteersIsDrawn) {
    auto* curve = window_->findChild<SteerCurveView*>("steerCurve");
    EXPECT_FALSE(curve->isVisible());
    concepts().pin(first_);
    const auto heads = session().steering();
    button("steerHowFar")->click();
    EXPECT_TRUE(curve->isVisible());
    ASSERT_TRUE(wait_until([&] { return curve->accessibleDescription().contains("KL"); }))
        << curve->accessibleDescription().toStdString();
    const auto words = curve->accessibleDescription();
    EXPECT_TRUE(words.contains("8 other concepts") && words.contains("8 directions by chance")) << words.toStdString();
    EXPECT_EQ(session().steering(), heads) << "measuring changes nothing";
    // Of another concept it is another; of two there is none.
    concepts().pin(second_);
    ASSERT_TRUE(wait_until(
        [&] { return curve->accessibleDescription().contains("KL") && curve->accessibleDescription() != words; }));
    concepts().pin(first_, true);
    EXPECT_EQ(curve->accessibleDescription(), "Choose one concept");
}

TEST_F(SteerWindowTest, AMeasurementThatIsStoppedStaysStoppedUntilItIsAskedForAgain) {
    auto* curve = window_->findChild<SteerCurveView*>("steerCurve");
    concepts().pin(first_);
    button("steerHowFar")->click();
    session().cancelAll();
    ASSERT_TRUE(wait_until([&] { return session().jobs().running.empty() && session().jobs().waiting == 0; }));
    EXPECT_EQ(curve->accessibleDescription(), "Measuring how far it steers was stopped");
    ASSERT_TRUE(button("steerMeasure")->isVisible());
    button("steerMeasure")->click();
    EXPECT_FALSE(button("steerMeasure")->isVisible());
    ASSERT_TRUE(wait_until([&] { return curve->accessibleDescription().contains("KL"); }))
        << curve->accessibleDescription().toStdString();
}

}  // namespace
}  // namespace vitrine::app
