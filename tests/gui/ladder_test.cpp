// The ladder panel in the real window: it grows while it is measured, stops and goes on, compares layers, and plays the
// picture on show.
#include <QCheckBox>
#include <QComboBox>
#include <QDockWidget>
#include <QImage>
#include <QLabel>
#include <QPainter>
#include <QPushButton>
#include <QSpinBox>
#include <QTemporaryDir>
#include <QtTest/QTest>

#include <cmath>

#include <gtest/gtest.h>

#include "panels/format.h"
#include "panels/ladder_panel.h"
#include "panels/ladder_player.h"
#include "panels/ladder_plot.h"
#include "patience.h"
#include "pointing.h"
#include "tiny_model.h"
#include "windows/main_window.h"

namespace vitrine::app {
namespace {

class LadderPanelTest : public testing::Test {
  protected:
    void SetUp() override {
        qputenv("VITRINE_SETTINGS", folder_.filePath("settings.ini").toUtf8());
        ASSERT_TRUE(QDir().mkpath(folder_.filePath("pictures")));
        for (int i = 0; i < 12; ++i) {
            QImage picture(64, 64, QImage::Format_RGB888);
            picture.fill(QColor::fromHsv(29 * i, 160, 90));
            QPainter painter(&picture);
            painter.setBrush(QColor::fromHsv(350 - 29 * i, 220, 240));
            painter.drawEllipse(QPoint(12 + 4 * i, 30), 10, 8);
            painter.end();
            ASSERT_TRUE(picture.save(folder_.filePath(QString("pictures/%1.png").arg(i))));
        }
        window_ = std::make_unique<MainWindow>();
        window_->show();
        ASSERT_TRUE(QTest::qWaitForWindowExposed(window_.get(), kPatience_ms));
    }
    void open(const QString& concepts) {
        const auto model = folder_.filePath("tiny");
        ASSERT_TRUE(test::write_tiny_model(model.toStdString()));
        ASSERT_TRUE(test::write_tiny_concepts(folder_.filePath("fixed.safetensors").toStdString()));
        for (int layer : {0, 1})
            ASSERT_TRUE(test::write_free_concepts(
                folder_.filePath(QString("free%1.safetensors").arg(layer)).toStdString(), layer));
        window_->session().openModel(model);
        ASSERT_TRUE(wait_until([&] { return window_->session().model().has_value(); }));
        window_->conceptGallery().choose(folder_.filePath(concepts));
        window_->ladderDock()->show();
        window_->ladderDock()->raise();
        ladder().setFolder(folder_.filePath("pictures"));
        set("ladderPictures", 2);
        set("ladderSeeds", 1);
    }
    LadderPanel& ladder() { return *window_->ladderPanel(); }
    void set(const char* name, int number) { ladder().findChild<QSpinBox*>(name)->setValue(number); }
    void choose(const char* name, int item) {
        auto* box = ladder().findChild<QComboBox*>(name);
        ASSERT_GT(box->count(), item) << name;
        box->setCurrentIndex(item);
        Q_EMIT box->activated(item);
    }
    bool through() {
        return wait_until([&] { return !ladder().climbing(); });
    }
    QPushButton* start() { return ladder().findChild<QPushButton*>("ladderStart"); }

    QTemporaryDir folder_;
    std::unique_ptr<MainWindow> window_;
};

TEST_F(LadderPanelTest, SaysWhatIsMissingAndWhatIsWrong) {
    EXPECT_FALSE(start()->isEnabled());
    EXPECT_EQ(start()->toolTip(), "Open a model first");
    open("fixed.safetensors");
    ladder().setFolder(folder_.filePath("nothing"));
    ladder().start();
    ASSERT_TRUE(through());
    EXPECT_FALSE(ladder().trouble().isEmpty());
    EXPECT_FALSE(ladder().facts());
}

TEST_F(LadderPanelTest, GrowsWhileItIsMeasured) {
    open("fixed.safetensors");
    set("ladderPictures", 4);
    std::vector<std::int64_t> inputs;
    std::vector<std::size_t> points;
    bool whole = false;
    QObject::connect(&ladder(), &LadderPanel::grew, &ladder(), [&] {
        whole = ladder().facts()->whole;
        inputs.push_back(ladder().facts()->inputs);
        std::size_t known = 0;
        for (const auto& curve : ladder().plot()->content().curves)
            for (const auto& e : curve.values) known += std::isfinite(e.mean);
        points.push_back(known);
    });
    const auto* jobs = window_->findChild<QLabel*>("statusJobs");
    bool said = false;   // beside what the window itself does
    const QObject here;  // the window, closing, may move once more when these are gone
    QObject::connect(&ladder(), &LadderPanel::moved, &here, [&] { said |= jobs->text().contains("signal to noise"); });
    EXPECT_TRUE(start()->isEnabled()) << start()->toolTip().toStdString();
    start()->click();
    EXPECT_TRUE(ladder().climbing());
    ASSERT_TRUE(through());
    EXPECT_TRUE(said);
    EXPECT_TRUE(wait_until([&] { return jobs->text() == "jobs: none"; })) << jobs->text().toStdString();
    ASSERT_TRUE(ladder().facts()) << ladder().trouble().toStdString();
    EXPECT_TRUE(whole);
    EXPECT_EQ(start()->text(), "Start") << "nothing is left to go on with";
    ASSERT_GE(inputs.size(), 3u) << "the first run of the model, the end of either course";
    EXPECT_TRUE(std::is_sorted(points.begin(), points.end()));
    const auto& facts = *ladder().facts();
    EXPECT_LT(points.front(), points.back());
    EXPECT_EQ(points.back(), 2 * facts.rungs.size());
    EXPECT_EQ(facts.pictures, 4);
    EXPECT_EQ(facts.rungs.front(), "clean");
    ASSERT_EQ(facts.layers.size(), 1u);
    EXPECT_TRUE(facts.layers[0].fixed) << "top_k: a token always has 3";
    for (const auto& series : facts.layers[0].series) {
        EXPECT_EQ(series.points.size(), facts.rungs.size()) << series.tokens;
        if (series.tokens != "patches") continue;
        EXPECT_LE(series.points.front().active.mean, 3);
    }
    EXPECT_EQ(ladder().findChild<QComboBox*>("ladderFigure")->currentText(), "Concepts a picture");
    EXPECT_TRUE(ladder().plot()->isVisibleTo(&ladder()));
    // The ratio stands beside a line at 1, and the clean picture lies on it.
    choose("ladderFigure", 2);
    EXPECT_EQ(ladder().plot()->content().level, 1);
    EXPECT_EQ(ladder().plot()->content().curves.front().values.front().mean, 1);
    // So it does where concepts are shared with it, on a scale of shares.
    choose("ladderFigure", 3);
    const auto& content = ladder().plot()->content();
    EXPECT_TRUE(content.shares);
    EXPECT_EQ(content.curves.front().values.front().mean, 1);
    EXPECT_LT(content.curves.front().values.back().mean, 1);
    // The tokens' length stands beside every point, drawn and said.
    const auto& patches = *std::find_if(facts.layers[0].series.begin(), facts.layers[0].series.end(),
                                        [](const auto& one) { return one.tokens == "patches" && !one.control; });
    for (std::size_t i = 0; i < facts.rungs.size(); ++i) {
        EXPECT_GT(patches.points[i].norm, 0);
        EXPECT_EQ(content.curves.front().norms.at(i), patches.points[i].norm);
    }
    const QPointF last(ladder().plot()->width() - 12, 80);
    point_at(ladder().plot(), last);
    EXPECT_TRUE(ladder().plot()->toolTip().contains("; tokens " + value(patches.points.back().norm) + " long"))
        << ladder().plot()->toolTip().toStdString();
}

TEST_F(LadderPanelTest, WhatAFileDoesNotSayIsAsItWasGivenInTheGallery) {
    ASSERT_TRUE(test::write_foreign_concepts(folder_.filePath("foreign.safetensors").toStdString()));
    ASSERT_TRUE(test::write_foreign_concepts(folder_.filePath("other.safetensors").toStdString()));
    open("foreign.safetensors");
    start()->click();
    ASSERT_TRUE(through());
    EXPECT_TRUE(
        ladder().trouble().startsWith("The file foreign.safetensors does not say which point of the model it reads; "
                                      "open it once in the Concepts panel"))
        << ladder().trouble().toStdString();
    window_->conceptGallery().give("point", "blocks.1");
    // A layer more is known from when it was opened.
    window_->conceptGallery().choose(folder_.filePath("other.safetensors"), {{"point", "blocks.0"}});
    window_->conceptGallery().choose(folder_.filePath("foreign.safetensors"), {{"point", "blocks.1"}});
    ladder().addLayer(folder_.filePath("other.safetensors"));
    start()->click();
    ASSERT_TRUE(through());
    ASSERT_TRUE(ladder().facts()) << ladder().trouble().toStdString();
    ASSERT_EQ(ladder().facts()->layers.size(), 2u);
    EXPECT_EQ(ladder().facts()->layers[0].point, "blocks.1");
    EXPECT_EQ(ladder().facts()->layers[1].point, "blocks.0");
    // And it is played.
    window_->session().openPaths({folder_.filePath("pictures/3.png")});
    auto& player = *ladder().player();
    auto* button = player.findChild<QPushButton*>("ladderPlay");
    ASSERT_TRUE(wait_until([&] { return button->isEnabled(); }));
    button->click();
    ASSERT_TRUE(wait_until([&] { return !player.playing(); }));
    EXPECT_FALSE(player.steps().empty()) << player.trouble().toStdString();
    // Read at another layer they are others.
    window_->conceptGallery().give("point", "blocks.0");
    EXPECT_TRUE(player.steps().empty()) << "those of the point before are not left";
    EXPECT_TRUE(button->isVisibleTo(&player) && button->isEnabled());
}

TEST_F(LadderPanelTest, StepsOfAnAutoencoderThatIsNoMoreChosenDoNotArrive) {
    open("free1.safetensors");
    auto& player = *ladder().player();
    auto* button = player.findChild<QPushButton*>("ladderPlay");
    window_->session().openPaths({folder_.filePath("pictures/3.png")});
    ASSERT_TRUE(wait_until([&] { return window_->session().picture().has_value() && button->isEnabled(); }));
    button->click();
    ASSERT_TRUE(player.playing());
    window_->conceptGallery().choose(folder_.filePath("free0.safetensors"));
    EXPECT_FALSE(player.playing()) << "its names would stand on the steps of the one before";
    EXPECT_TRUE(player.steps().empty());
    button->click();
    ASSERT_TRUE(wait_until([&] { return !player.playing(); }));
    EXPECT_FALSE(player.steps().empty()) << player.trouble().toStdString();
}

TEST_F(LadderPanelTest, WhatIsFoundIsListedForEveryLayer) {
    open("free1.safetensors");
    ladder().addLayer(folder_.filePath("free0.safetensors"));
    set("ladderSeeds", 2);  // with one draw there is nothing to compare a picture's shuffles with
    auto* suppress = ladder().findChild<QCheckBox*>("ladderSuppress");
    EXPECT_FALSE(suppress->isChecked());
    EXPECT_FALSE(suppress->isEnabled()) << "it follows the risk";
    EXPECT_EQ(suppress->toolTip(), "Only where the risk is foretold");
    ladder().findChild<QCheckBox*>("ladderRisk")->setChecked(true);
    ASSERT_TRUE(suppress->isEnabled());
    suppress->setChecked(true);
    start()->click();
    ASSERT_TRUE(through());
    ASSERT_TRUE(ladder().facts() && ladder().facts()->whole) << ladder().trouble().toStdString();
    const auto says = [&](const QString& words) {
        for (const auto* label : ladder().findChildren<QLabel*>())
            if (label->isVisibleTo(&ladder()) && label->text() == words) return true;
        return false;
    };
    const auto listed = [&](const LadderLayer& layer) {
        // What was listed before is gone, and what is listed now is shown, when the loop was through.
        QCoreApplication::sendPostedEvents(nullptr, QEvent::DeferredDelete);
        QCoreApplication::processEvents();
        ASSERT_FALSE(layer.insensitive.empty()) << layer.point;
        const auto& first = layer.insensitive.front();
        const auto title = QString("Concept %1").arg(first.latent);
        bool there = false;
        for (const auto* button : ladder().findChildren<QPushButton*>())
            if (button->text() == title) {
                there = true;
                EXPECT_EQ(button->isEnabled(), layer.point == "blocks.1") << "the gallery shows that one";
            }
        EXPECT_TRUE(there) << title.toStdString();
        ASSERT_TRUE(first.insensitivity.has_value());
        EXPECT_TRUE(says(QString::number(*first.insensitivity, 'f', 2))) << *first.insensitivity;
        ASSERT_EQ(layer.suppression.size(), 2u);
        for (const auto& one : layer.suppression) {
            EXPECT_GT(one.inputs, 0);
            EXPECT_TRUE(says(QString::number(one.before.mean, 'f', 3)));
            EXPECT_TRUE(says(QString::number(one.after.mean, 'f', 3)));
            const auto sign = one.difference.mean > 0 ? "+" : "";
            EXPECT_TRUE(says(sign + QString::number(one.difference.mean, 'f', 3)));
        }
    };
    auto* found = ladder().findChild<QComboBox*>("ladderFound");
    ASSERT_TRUE(found->isVisibleTo(&ladder()));
    EXPECT_EQ(found->currentText(), "blocks.1") << "the one that the gallery shows";
    EXPECT_EQ(ladder().findChild<QComboBox*>("ladderWhich")->currentText(), "blocks.1");
    const auto& layers = ladder().facts()->layers;
    listed(layers[0]);
    choose("ladderFound", 0);
    listed(layers[1]);
    // A layer that is chosen to be plotted is listed.
    choose("ladderWhich", 1);
    EXPECT_EQ(found->currentText(), "blocks.1");
    listed(layers[0]);
    choose("ladderWhich", 0);
    EXPECT_EQ(found->currentText(), "blocks.0");
    listed(layers[1]);
}

TEST_F(LadderPanelTest, WhatIsStoppedStaysAndGoesOn) {
    open("fixed.safetensors");
    set("ladderPictures", 4);
    // As many as there may be: it does not wait for a stop, with which a busy machine is late.
    set("ladderSeeds", 64);
    std::int64_t first = -1;
    QObject::connect(&ladder(), &LadderPanel::grew, &ladder(), [&] {
        if (first < 0) first = ladder().facts()->inputs;
        ladder().stop();
    });
    start()->click();
    ASSERT_TRUE(through());
    ASSERT_TRUE(ladder().facts()) << ladder().trouble().toStdString();
    EXPECT_TRUE(ladder().trouble().isEmpty());
    ASSERT_FALSE(ladder().facts()->whole);
    const auto before = ladder().facts()->inputs;
    EXPECT_GT(before, 0);
    EXPECT_EQ(start()->text(), "Go on");
    EXPECT_FALSE(ladder().plot()->content().curves.empty()) << "what was read stays";
    first = -1;
    start()->click();
    ASSERT_TRUE(through());
    EXPECT_GT(first, before) << "it did not start over";
    EXPECT_TRUE(ladder().trouble().isEmpty()) << ladder().trouble().toStdString();
}

TEST_F(LadderPanelTest, LayersAreComparedAndRiskIsForetoldAtEach) {
    open("free1.safetensors");
    ladder().addLayer(folder_.filePath("free1.safetensors"));
    EXPECT_TRUE(ladder().moreLayers().isEmpty()) << "it is there already";
    ladder().addLayer(folder_.filePath("free0.safetensors"));
    EXPECT_EQ(ladder().moreLayers().size(), 1);
    ladder().findChild<QCheckBox*>("ladderRisk")->setChecked(true);
    start()->click();
    ASSERT_TRUE(through());
    ASSERT_TRUE(ladder().facts() && ladder().facts()->whole) << ladder().trouble().toStdString();
    ASSERT_EQ(ladder().facts()->layers.size(), 2u);
    choose("ladderFigure", 2);
    choose("ladderAcross", 1);
    const auto& content = ladder().plot()->content();
    EXPECT_EQ(content.places, (std::vector<QString>{"blocks.0", "blocks.1"})) << "as the model has them";
    ASSERT_EQ(content.curves.size(), 2u);
    auto* which = ladder().findChild<QComboBox*>("ladderWhich");
    EXPECT_EQ(which->currentText(), "gaussian");
    const auto expected = [&](const char* point, std::size_t rung, bool control) {
        for (const auto& layer : ladder().facts()->layers)
            for (const auto& series : layer.series)
                if (layer.point == point && series.tokens == "patches" && series.control == control)
                    return series.points.at(rung).ratio.mean;
        return std::nan("");
    };
    const std::size_t noise = ladder().facts()->rungs.size() - 1;
    EXPECT_EQ(content.curves[0].values[0].mean, expected("blocks.0", noise, false));
    EXPECT_EQ(content.curves[0].values[1].mean, expected("blocks.1", noise, false));
    EXPECT_EQ(content.curves[1].values[0].mean, expected("blocks.0", noise, true));
    choose("ladderWhich", 2);
    EXPECT_EQ(ladder().plot()->content().curves[0].values[1].mean, expected("blocks.1", 2, false));
    // Rung by rung a layer is chosen.
    choose("ladderAcross", 0);
    choose("ladderWhich", 1);
    EXPECT_EQ(which->currentText(), "blocks.1");
    EXPECT_EQ(ladder().plot()->content().curves[0].values[noise].mean, expected("blocks.1", noise, false));
    // The risk has a curve along the layers, beside permuted scores.
    choose("ladderFigure", 5);
    const auto& risk = ladder().plot()->content();
    ASSERT_EQ(risk.places.size(), 2u);
    ASSERT_EQ(risk.curves.size(), 2u);
    for (std::size_t i = 0; i < 2; ++i) {
        const auto& layers = ladder().facts()->layers;
        const auto& layer = layers[0].point == risk.places[i].toStdString() ? layers[0] : layers[1];
        ASSERT_TRUE(layer.risk.has_value());
        const auto& [mean, low, high] = layer.risk->spearman;
        EXPECT_EQ(risk.curves[0].values[i].mean, mean);
        EXPECT_EQ(risk.curves[0].values[i].low, low);
        EXPECT_EQ(risk.curves[0].values[i].high, high);
        EXPECT_LE(low, mean);
        EXPECT_LE(mean, high);
        EXPECT_EQ(risk.curves[1].values[i].mean, layer.risk->null_spearman);
    }
}

TEST_F(LadderPanelTest, ThePictureOnShowIsPlayedStepByStep) {
    open("free1.safetensors");
    auto& player = *ladder().player();
    auto* button = player.findChild<QPushButton*>("ladderPlay");
    EXPECT_EQ(button->toolTip(), "Open a picture from a file first");
    window_->session().openPaths({folder_.filePath("pictures/3.png")});
    ASSERT_TRUE(wait_until([&] { return window_->session().picture().has_value() && button->isEnabled(); }));
    button->click();
    ASSERT_TRUE(wait_until([&] { return !player.playing(); }));
    ASSERT_FALSE(player.steps().empty()) << player.trouble().toStdString();
    EXPECT_TRUE(player.strip()->isVisibleTo(&player));
    EXPECT_EQ(player.strip()->chosen(), 0);
    for (const auto& row : player.concepts()->rows()) EXPECT_TRUE(row.stays) << "of the picture itself all stay";
    // A step that is clicked is shown, and so is the next by its key.
    QTest::mouseClick(player.strip(), Qt::LeftButton, {}, player.strip()->tile(3).center());
    EXPECT_EQ(player.strip()->chosen(), 3);
    QTest::keyClick(player.strip(), Qt::Key_End);
    const auto last = static_cast<std::size_t>(player.strip()->chosen());
    ASSERT_EQ(last, player.steps().size() - 1);
    const auto& step = player.steps()[last];
    EXPECT_TRUE(player.findChild<QLabel*>("ladderStep")->text().startsWith("gaussian"));
    const auto& rows = player.concepts()->rows();
    ASSERT_FALSE(rows.empty());
    for (std::size_t i = 0; i < rows.size(); ++i) {
        EXPECT_EQ(rows[i].latent, step.concepts[i].latent);
        EXPECT_EQ(rows[i].stays, step.concepts[i].stays);
    }
    qint64 wanted = -1;
    QObject::connect(&ladder(), &LadderPanel::conceptWanted, &ladder(), [&](qint64 latent) { wanted = latent; });
    QTest::mouseClick(player.concepts(), Qt::LeftButton, {}, QPoint(40, PlayedConcepts::kRow / 2));
    EXPECT_EQ(wanted, rows.front().latent);
    // Another picture is played as this one was.
    window_->ladderDock()->raise();
    window_->session().openPaths({folder_.filePath("pictures/4.png")});
    ASSERT_TRUE(wait_until([&] {
        return window_->session().picture() && window_->session().picture()->name.starts_with("4") &&
               !player.playing() && (!player.steps().empty() || !player.isVisible());
    }));
}

}  // namespace
}  // namespace vitrine::app
