// What a trained mask shows in the real window: its parts, its other classes, its two maps; and the picture that
// measures show the model again, for any method.
#include <QDockWidget>
#include <QLabel>
#include <QPushButton>
#include <QTableWidget>
#include <QTemporaryDir>
#include <QtTest/QTest>

#include <cmath>

#include <gtest/gtest.h>

#include "jobs/comparison.h"
#include "jobs/layer_maps.h"
#include "panels/explain_panel.h"
#include "panels/layer_strip.h"
#include "panels/measures_panel.h"
#include "panels/small_widgets.h"
#include "patience.h"
#include "tiny_model.h"
#include "windows/main_window.h"

namespace vitrine::app {
namespace {

using Kind = LayerMaps::Kind;

class MaskWindowTest : public testing::Test {
  protected:
    void SetUp() override {
        if (!Workbench::has_starter()) GTEST_SKIP() << "the built-in model is not part of this build";
        qputenv("VITRINE_SETTINGS", folder_.filePath("settings.ini").toUtf8());
        window_ = std::make_unique<MainWindow>();
        window_->show();
        ASSERT_TRUE(QTest::qWaitForWindowExposed(window_.get(), kPatience_ms));
        window_->start({});
        ASSERT_TRUE(wait_until([&] { return session().look() && settled(); }));
    }
    Session& session() { return window_->session(); }
    LayerMaps& maps() { return window_->layerMaps(); }
    bool settled() { return session().explanation() && !session().explaining(); }
    void explain_by(const char* method) {
        session().setMethod(method);
        ASSERT_TRUE(wait_until([&] { return settled() && session().explanation()->method == method; }))
            << session().explainTrouble().toStdString();
    }
    QPushButton* button(const char* name) { return window_->findChild<QPushButton*>(name); }
    bool strip_settled() {
        if (!settled() || maps().running() || maps().layers().empty()) return false;
        for (const auto& one : maps().layers())
            if (!one.plane) return false;
        return true;
    }
    int cell_of(Kind kind, const std::string& name) {
        for (std::size_t i = 0; i < maps().layers().size(); ++i)
            if (maps().layers()[i].kind == kind && maps().layers()[i].name == name) return static_cast<int>(i);
        return -1;
    }
    void click(int cell) {
        const auto box = window_->layerStrip()->cell(cell);
        ASSERT_FALSE(box.isEmpty());
        QTest::mouseClick(window_->layerStrip(), Qt::LeftButton, {}, box.center());
        ASSERT_TRUE(wait_until([&] { return strip_settled(); }));
    }

    QTemporaryDir folder_;
    std::unique_ptr<MainWindow> window_;
};

TEST_F(MaskWindowTest, LayersAndBiasAddUpInTheStripAndOtherClassesAreAClickAway) {
    explain_by("ttame");
    ASSERT_TRUE(button("maskInside")->isVisible());
    button("maskInside")->click();
    ASSERT_TRUE(wait_until([&] { return window_->layerStrip()->isVisible() && strip_settled(); }))
        << maps().whyNot().toStdString();
    const int sum = cell_of(Kind::Part, "sum"), bias = cell_of(Kind::Part, "bias");
    ASSERT_GE(bias, 2);
    ASSERT_EQ(sum, bias + 1);
    const auto check_sum = [&] {
        std::vector<double> added(maps().layers()[0].plane->values->size(), 0.0);
        for (int i = 0; i < sum; ++i)
            for (std::size_t at = 0; at < added.size(); ++at)
                added[at] += (*maps().layers()[static_cast<std::size_t>(i)].plane->values)[at];
        const auto& whole = *maps().layers()[static_cast<std::size_t>(sum)].plane->values;
        for (std::size_t at = 0; at < added.size(); ++at) EXPECT_NEAR(added[at], whole[at], 1e-5);
    };
    check_sum();
    EXPECT_GT(maps().reach(), 0);
    // Ten classes, the most probable first, the explained one among them.
    int classes = 0;
    double before = 1;
    for (const auto& one : maps().layers()) {
        if (one.kind != Kind::Class) continue;
        ++classes;
        EXPECT_LE(one.probability, before);
        before = one.probability;
    }
    EXPECT_EQ(classes, 10);
    EXPECT_TRUE(maps().isChosen(sum + 1));
    EXPECT_EQ(*maps().layers()[static_cast<std::size_t>(sum) + 1].plane->values,
              *session().explanation()->plane.values);
    // A class that is clicked becomes the target, and its map is the one of the strip; again: the predicted one.
    const auto predicted = session().explainedClass();
    click(sum + 3);
    const auto& third = maps().layers()[static_cast<std::size_t>(sum) + 3];
    EXPECT_EQ(session().target(), third.index);
    EXPECT_EQ(*session().explanation()->plane.values, *third.plane->values);
    EXPECT_EQ(third.probability < LayerMaps::kWeak,
              std::any_of(
                  session().explanation()->notes.begin(), session().explanation()->notes.end(),
                  [](const auto& note) { return note.find("weakly trained") != std::string::npos; }));
    check_sum();
    click(sum + 3);
    EXPECT_EQ(session().explainedClass(), predicted);
    // A layer's part is a signed map of its own, drawn around zero, and a click on it takes it back.
    click(0);
    EXPECT_EQ(session().settings().at("part"), maps().layers()[0].name);
    EXPECT_TRUE(session().explanation()->plane.is_signed);
    EXPECT_EQ(*session().explanation()->plane.values, *maps().layers()[0].plane->values);
    EXPECT_TRUE(button("maskInside")->isChecked());
    click(0);
    EXPECT_FALSE(session().settings().contains("part"));
    // Methods without parts have their layers here as before.
    explain_by("grad_cam");
    ASSERT_TRUE(wait_until([&] { return !maps().running() && !maps().layers().empty(); }));
    EXPECT_EQ(maps().layers().front().kind, Kind::Layer);
    EXPECT_FALSE(button("maskInside")->isVisible());
}

TEST_F(MaskWindowTest, OneClickLeadsFromTheMapToTheTrainingMaskAndTwoClassesDiffer) {
    explain_by("ttame");
    const auto map = *session().explanation()->plane.values;
    EXPECT_TRUE(button("maskAsMap")->isChecked());
    button("maskAsMask")->click();
    ASSERT_TRUE(wait_until([&] { return settled() && *session().explanation()->plane.values != map; }));
    EXPECT_GT(session().explanation()->plane.low, 0);
    EXPECT_LT(session().explanation()->plane.high, 1);
    EXPECT_TRUE(button("maskAsMask")->isChecked());
    button("maskAsMap")->click();
    ASSERT_TRUE(wait_until([&] { return settled() && *session().explanation()->plane.values == map; }));
    // The difference of two classes is signed; a training mask of it there is not, and the switch says so.
    const auto second = session().look()->top.at(1).index;
    session().setVersus(second);
    ASSERT_TRUE(wait_until([&] { return settled() && session().explanation()->plane.is_signed; }))
        << session().explainTrouble().toStdString();
    EXPECT_EQ(session().explanation()->plane.shown_low, -session().explanation()->plane.shown_high);
    EXPECT_FALSE(button("maskAsMask")->isEnabled());
    EXPECT_TRUE(button("maskAsMask")->toolTip().contains("one class"));
}

TEST_F(MaskWindowTest, WhatTheMeasuresShowTheModelStandsBesideThemForAnyMethod) {
    window_->measuresDock()->show();
    window_->measuresDock()->raise();
    auto* panel = window_->measures();
    for (const char* method : {"rollout", "grad_cam", "ttame"}) {
        SCOPED_TRACE(method);
        explain_by(method);
        const auto shown = [&] {
            const auto& cell = window_->comparison().cells().front();
            const auto score = cell.scores.find("average_drop");
            return window_->seenThrough().found() && !window_->seenThrough().stale() && score != cell.scores.end() &&
                   score->second.stage == Stage::Done && cell.found->method == method;
        };
        ASSERT_TRUE(wait_until(shown)) << window_->seenThrough().whyNot().toStdString();
        const auto& found = *window_->seenThrough().found();
        ASSERT_EQ(found.kept.size(), 3u);
        // The very number that average drop is made of.
        const auto drop = window_->comparison().cells().front().scores.at("average_drop").facts.value;
        EXPECT_NEAR(drop, 100 * std::max(0.0, found.whole - found.kept[0].number) / found.whole, 1e-3);
        EXPECT_NEAR(found.whole, session().look()->top.front().probability, 1e-4);
        double visible = 1.01;
        for (int i = 0; i < 3; ++i) {
            EXPECT_FALSE(panel->picture(i)->image().isNull());
            EXPECT_EQ(panel->picture(i)->image().width(), session().look()->seen.width);
            EXPECT_LE(found.kept[static_cast<std::size_t>(i)].visible, visible);
            visible = found.kept[static_cast<std::size_t>(i)].visible;
        }
        EXPECT_LT(visible, 0.2);
        EXPECT_TRUE(panel->caption(1).startsWith("50 %"));
    }
    // With several maps a click on a row shows that one's.
    window_->comparison().setMethods({"rollout", "grad_cam"});
    window_->comparison().setOpen(true);
    ASSERT_TRUE(wait_until([&] {
        const auto& cells = window_->comparison().cells();
        return cells.size() == 2 && cells[0].stage == Stage::Done && cells[1].stage == Stage::Done &&
               window_->seenThrough().found() && !window_->seenThrough().stale() && panel->table()->rowCount() == 2;
    }));
    auto* title = panel->findChild<QLabel*>("seenTitle");
    EXPECT_TRUE(title->text().contains("rollout", Qt::CaseInsensitive)) << title->text().toStdString();
    const auto first = panel->picture(2)->image();
    const auto row = panel->table()->visualItemRect(panel->table()->item(1, 0)).center();
    QTest::mouseClick(panel->table()->viewport(), Qt::LeftButton, {}, row);
    ASSERT_TRUE(wait_until([&] { return title->text().contains("CAM") && !window_->seenThrough().stale(); }));
    EXPECT_NE(panel->picture(2)->image(), first);
}

TEST_F(MaskWindowTest, AModelWithoutAMaskSaysSoInTheStrip) {
    const auto model = folder_.filePath("tiny");
    ASSERT_TRUE(test::write_tiny_model(model.toStdString()));
    window_->layersDock()->show();
    window_->layersDock()->raise();
    session().openModel(model);
    ASSERT_TRUE(wait_until([&] { return session().model()->name != "starter" && session().look() && settled(); }));
    session().setMethod("ttame");
    ASSERT_TRUE(wait_until([&] { return !session().explaining() && !maps().running(); }));
    EXPECT_TRUE(session().explainTrouble().contains("no mask was trained")) << session().explainTrouble().toStdString();
    ASSERT_TRUE(wait_until([&] { return !maps().whyNot().isEmpty(); }));
    EXPECT_TRUE(maps().whyNot().contains("mask")) << maps().whyNot().toStdString();
    EXPECT_TRUE(maps().layers().empty());
}

}  // namespace
}  // namespace vitrine::app
