// The Train panel in the real window: a mask is set up, trained, paused, gone on with and tried out.
#include <QApplication>
#include <QComboBox>
#include <QDockWidget>
#include <QDropEvent>
#include <QFile>
#include <QFileInfo>
#include <QImage>
#include <QLabel>
#include <QLineEdit>
#include <QMenu>
#include <QMimeData>
#include <QPainter>
#include <QPushButton>
#include <QSpinBox>
#include <QTemporaryDir>
#include <QToolButton>
#include <QtTest/QTest>

#include <cmath>
#include <cstdlib>

#include <gtest/gtest.h>

#include "jobs/training_run.h"
#include "panels/small_widgets.h"
#include "panels/train_panel.h"
#include "patience.h"
#include "tiny_model.h"
#include "windows/main_window.h"

namespace vitrine::app {
namespace {

class TrainPanelTest : public testing::Test {
  protected:
    using Stage = TrainingRun::Stage;

    void SetUp() override {
        if (!Workbench::has_starter()) GTEST_SKIP() << "the built-in model is not part of this build";
        qputenv("VITRINE_SETTINGS", folder_.filePath("settings.ini").toUtf8());
        ASSERT_TRUE(QDir().mkpath(folder_.filePath("pictures")));
        for (int i = 0; i < 3; ++i) {
            QImage picture(96, 80, QImage::Format_RGB888);
            picture.fill(QColor(60 + 60 * i, 90, 140 - 30 * i));
            QPainter painter(&picture);
            painter.setBrush(QColor::fromHsv(120 * i, 220, 230));
            painter.drawEllipse(QPoint(30 + 15 * i, 40), 22, 18);
            painter.end();
            ASSERT_TRUE(picture.save(folder_.filePath(QString("pictures/%1.png").arg(i))));
        }
        window_ = std::make_unique<MainWindow>();
        window_->show();
        ASSERT_TRUE(QTest::qWaitForWindowExposed(window_.get(), kPatience_ms));
        session().openModel("starter");
        session().openPaths({folder_.filePath("pictures/0.png")});
        ASSERT_TRUE(wait_until([&] { return session().look() && session().explanation() && !session().explaining(); }));
        open_panel();
    }
    void open_panel() {
        for (auto* action : window_->findChildren<QAction*>())
            if (action->text() == QString("Train a mask…")) action->trigger();
        ASSERT_TRUE(wait_until([&] { return window_->trainPanel()->isVisible(); }));
    }
    /// Three small pictures, two a step, all trained on.
    void set_up(int steps) {
        run().setData(folder_.filePath("pictures"));
        run().setOut(folder_.filePath("one.mask.safetensors"));
        for (const auto& [name, value] : {std::pair<const char*, std::string>{"steps", std::to_string(steps)},
                                          {"batch", "2"},
                                          {"held", "0"},
                                          {"report_seconds", "0"},
                                          {"preview_every", "1"}})
            run().set(name, value);
    }
    void click(const char* name) {
        auto* button = window_->trainPanel()->findChild<QPushButton*>(name);
        ASSERT_NE(button, nullptr);
        ASSERT_TRUE(button->isVisibleTo(window_->trainPanel())) << name;
        ASSERT_TRUE(button->isEnabled()) << name << ": " << button->toolTip().toStdString();
        button->click();
    }
    QString trouble() {
        auto* words = window_->trainPanel()->findChild<QLabel*>("trainTroubleWords");
        return words->isVisibleTo(window_->trainPanel()) ? words->text().remove(QChar(0x200B)) : QString();
    }
    /// Paused as soon as a step is told. Training does not wait for that: where it has ended before, as on a busy
    /// machine, it is started anew.
    void start_and_pause(TrainingRun& run) {
        const auto listening = QObject::connect(&run, &TrainingRun::moved, [&] {
            if (!run.curve().empty() && run.stage() == Stage::Running) run.pause();
        });
        for (ended_ = 0; ended_ < 20; ++ended_) {
            click("trainStart");
            ASSERT_TRUE(wait_until([&] { return !run.busy(); }));
            if (run.stage() != Stage::Ended) break;
            click("trainAgain");
            ASSERT_TRUE(QFile::remove(run.out()));
        }
        QObject::disconnect(listening);
        ASSERT_EQ(run.stage(), Stage::Paused) << run.trouble().toStdString();
    }
    Session& session() { return window_->session(); }
    TrainingRun& run() { return window_->maskRun(); }
    std::int64_t step() { return run().moment() && !run().curve().empty() ? run().curve().back().step : 0; }

    QTemporaryDir folder_;
    std::unique_ptr<MainWindow> window_;
    int ended_ = 0;  ///< how often a pause came too late
};

TEST_F(TrainPanelTest, TheFormIsFilledAndSaysWhatIsMissing) {
    auto* panel = window_->trainPanel();
    EXPECT_EQ(run().whyNot(), "Choose a folder of pictures first");
    EXPECT_FALSE(panel->findChild<QPushButton*>("trainStart")->isEnabled());
    EXPECT_TRUE(run().out().endsWith(".mask.safetensors")) << run().out().toStdString();
    // Layers are those that would be chosen; another version may read others.
    ASSERT_TRUE(wait_until([&] { return !qobject_cast<QLineEdit*>(panel->control("layers"))->text().isEmpty(); }));
    const auto three = qobject_cast<QLineEdit*>(panel->control("layers"))->text();
    EXPECT_EQ(three.count(','), 2) << three.toStdString();
    run().set("version", "l_cam");
    ASSERT_TRUE(wait_until([&] { return qobject_cast<QLineEdit*>(panel->control("layers"))->text() != three; }));
    EXPECT_EQ(qobject_cast<QLineEdit*>(panel->control("layers"))->text().count(','), 0);
    EXPECT_FALSE(run().settings().contains("layers")) << "a default is no setting";
    // The rest waits under More.
    EXPECT_FALSE(panel->control("weight_decay")->isVisibleTo(panel));
    // A folder that is dropped on its field is taken.
    auto* field = panel->findChild<QLineEdit*>("trainData");
    QMimeData mime;
    mime.setUrls({QUrl::fromLocalFile(folder_.filePath("pictures"))});
    QDragEnterEvent enter(QPoint(5, 5), Qt::CopyAction, &mime, Qt::LeftButton, Qt::NoModifier);
    QCoreApplication::sendEvent(field, &enter);
    EXPECT_TRUE(enter.isAccepted());
    QDropEvent drop(QPoint(5, 5), Qt::CopyAction, &mime, Qt::LeftButton, Qt::NoModifier);
    QCoreApplication::sendEvent(field, &drop);
    EXPECT_EQ(field->text().toStdString(), folder_.filePath("pictures").toStdString());
    EXPECT_TRUE(panel->findChild<QPushButton*>("trainStart")->isEnabled());
}

TEST_F(TrainPanelTest, AMaskIsPausedGoneOnWithEndedAndExplainsThePicture) {
    constexpr int kSteps = 4;
    set_up(kSteps);
    ASSERT_NO_FATAL_FAILURE(start_and_pause(run()));
    const auto paused_at = run().outcome()->steps;
    EXPECT_GE(paused_at, 1);
    EXPECT_LT(paused_at, kSteps);
    EXPECT_FALSE(run().outcome()->finished);
    EXPECT_EQ(run().curve().size(), static_cast<std::size_t>(paused_at));
    const auto file = folder_.filePath("one.mask.safetensors");
    EXPECT_TRUE(QFileInfo::exists(file + ".checkpoint"));
    EXPECT_FALSE(QFileInfo::exists(file));
    EXPECT_TRUE(run().preview());
    EXPECT_FALSE(run().whyNotExplain().isEmpty());

    click("trainResume");
    ASSERT_TRUE(wait_until([&] { return run().stage() == Stage::Ended || run().stage() == Stage::Setup; }));
    ASSERT_EQ(run().stage(), Stage::Ended) << trouble().toStdString();
    EXPECT_TRUE(run().notes().join(' ').contains(QString("Resumed at step %1").arg(paused_at)))
        << run().notes().join(' ').toStdString();
    ASSERT_EQ(run().curve().size(), static_cast<std::size_t>(kSteps));
    for (const auto& point : run().curve()) EXPECT_TRUE(std::isfinite(point.values[0]));
    EXPECT_TRUE(QFileInfo::exists(file));
    EXPECT_FALSE(QFileInfo::exists(file + ".checkpoint"));
    ASSERT_TRUE(run().preview());
    EXPECT_EQ(run().preview()->trouble, "");
    EXPECT_EQ(run().preview()->label, session().look()->top.front().label);
    EXPECT_EQ(run().preview()->step, kSteps);

    click("trainExplain");
    EXPECT_EQ(session().method(), "ttame");
    EXPECT_EQ(session().settings().at("mask"), file.toStdString());
    ASSERT_TRUE(wait_until([&] { return !session().explaining(); }));
    ASSERT_TRUE(session().explanation()) << session().explainTrouble().toStdString();
    EXPECT_EQ(session().explanation()->method, "ttame");
    EXPECT_TRUE(QString::fromStdString(session().explanation()->notes.front()).contains("one.mask.safetensors"));
    // Back at the settings, the next mask would not replace this one unasked.
    click("trainAgain");
    EXPECT_EQ(run().stage(), Stage::Setup);
    EXPECT_FALSE(run().aboutTheFile().isEmpty());
}

TEST_F(TrainPanelTest, AHoverIsAnsweredWhileTrainingRuns) {
    set_up(1'000'000);
    click("trainStart");
    ASSERT_TRUE(wait_until([&] { return step() >= 1 || run().stage() == Stage::Setup; }));
    ASSERT_TRUE(run().busy()) << trouble().toStdString();
    if (!session().look()->heads.empty()) {
        for (const Token token : {Token{1, 1}, Token{0, 2}}) {
            session().hover(token);
            ASSERT_TRUE(wait_until([&] { return session().row() && session().row()->token == token; }));
        }
        session().hover(std::nullopt);
    }
    // Explaining goes on beside it as well.
    session().setMethod("rollout");
    session().refreshExplanation();
    ASSERT_TRUE(wait_until([&] { return session().explanation() && !session().explaining(); }));
    EXPECT_EQ(run().stage(), Stage::Running) << "all of it while training";
    const auto before = step();
    ASSERT_TRUE(wait_until([&] { return step() > before; }));
    click("trainStop");
    ASSERT_TRUE(wait_until([&] { return run().stage() == Stage::Setup; }));
    EXPECT_EQ(trouble(), "");
    EXPECT_TRUE(run().doing().startsWith("Stopped at step")) << run().doing().toStdString();
    EXPECT_TRUE(QFileInfo::exists(run().out() + ".checkpoint")) << "nothing is lost";
    EXPECT_FALSE(run().aboutTheFile().isEmpty());
}

TEST_F(TrainPanelTest, WhatCannotBeTrainedOnIsSaidInOneSentenceAndTheFormStays) {
    set_up(3);
    const auto says = [&](const QString& folder) {
        run().setData(folder);
        click("trainStart");
        EXPECT_TRUE(wait_until([&] { return run().stage() == Stage::Setup; }));
        return trouble();
    };
    const auto nowhere = folder_.filePath("not_there");
    EXPECT_EQ(says(nowhere).toStdString(), ("There is nothing at " + nowhere).toStdString());
    EXPECT_EQ(run().data(), nowhere);
    EXPECT_EQ(run().settings().at("batch"), "2");
    ASSERT_TRUE(QDir().mkpath(folder_.filePath("empty")));
    const auto empty = says(folder_.filePath("empty"));
    EXPECT_FALSE(empty.isEmpty());
    EXPECT_FALSE(empty.contains('\n')) << empty.toStdString();
    EXPECT_FALSE(empty.contains("--")) << empty.toStdString();
    run().setOut(folder_.filePath("no/such/folder/a.safetensors"));
    EXPECT_TRUE(says(folder_.filePath("pictures")).contains("cannot be written"));
    // What was wrong is forgotten once it is changed, and the same form trains.
    run().setOut(folder_.filePath("two.mask.safetensors"));
    EXPECT_EQ(trouble(), "");
    click("trainStart");
    ASSERT_TRUE(wait_until([&] { return run().stage() == Stage::Ended || run().stage() == Stage::Setup; }));
    EXPECT_EQ(run().stage(), Stage::Ended) << trouble().toStdString();
    EXPECT_EQ(run().curve().size(), 3u);
}

TEST_F(TrainPanelTest, CaptionsAreWordsAndSayWhatIsCounted) {
    auto* panel = window_->trainPanel();
    QStringList captions;
    for (const auto& setting : run().declared()) {
        ASSERT_FALSE(setting.caption.empty()) << setting.name << " has no caption";
        captions << QString::fromStdString(setting.caption);
        auto* control = panel->control(setting.name);
        ASSERT_NE(control, nullptr) << setting.name;
        EXPECT_EQ(control->accessibleName(), captions.back());
    }
    EXPECT_EQ(captions.removeDuplicates(), 0);
    EXPECT_TRUE(captions.contains("Learning rate"));
    EXPECT_TRUE(qobject_cast<QSpinBox*>(panel->control("batch"))->suffix().contains("pictures"));
    EXPECT_TRUE(qobject_cast<QSpinBox*>(panel->control("preview_every"))->suffix().contains("steps"));
    // None is wider than the panel, folded open or not.
    panel->findChild<QToolButton*>("foldTraining")->setChecked(true);
    QCoreApplication::processEvents();
    for (const auto& setting : run().declared()) {
        auto* control = panel->control(setting.name);
        EXPECT_TRUE(wait_until([&] {
            return control->mapTo(panel, QPoint(control->width(), 0)).x() <= panel->width();
        })) << setting.name;
    }
}

TEST_F(TrainPanelTest, APausedTrainingGoesOnOrIsKeptWhereAnotherStartsAnew) {
    set_up(1'000'000);
    auto* panel = window_->trainPanel();
    auto* start = panel->findChild<QPushButton*>("trainStart");
    EXPECT_EQ(start->text(), "Start training");
    EXPECT_FALSE(panel->findChild<QPushButton*>("trainAnew")->isVisibleTo(panel));
    click("trainStart");
    ASSERT_TRUE(wait_until([&] { return step() >= 1 || run().stage() == Stage::Setup; }));
    click("trainStop");
    EXPECT_EQ(run().stage(), Stage::Pausing) << "at once";
    EXPECT_TRUE(run().doing().startsWith("Stopping")) << run().doing().toStdString();
    ASSERT_TRUE(wait_until([&] { return run().stage() == Stage::Setup; }));
    ASSERT_TRUE(run().goesOn()) << trouble().toStdString();
    EXPECT_EQ(start->text(), "Go on");
    // Other settings do not go on, and what to do is said in the panel's own words.
    run().set("steps", "2");
    run().set("lr", "0.002");
    click("trainStart");
    ASSERT_TRUE(wait_until([&] { return !run().busy(); }));
    EXPECT_TRUE(trouble().contains("start anew")) << trouble().toStdString();
    EXPECT_FALSE(trouble().contains("lr =")) << trouble().toStdString();
    EXPECT_TRUE(run().goesOn()) << "nothing is lost";
    const auto kept = folder_.filePath("one.mask-before.safetensors");
    EXPECT_TRUE(run().aboutTheFile().contains("one.mask-before.safetensors.checkpoint"))
        << run().aboutTheFile().toStdString();
    QFile before(run().out() + ".checkpoint");
    ASSERT_TRUE(before.open(QIODevice::ReadOnly));
    const auto bytes = before.readAll();
    click("trainAnew");
    ASSERT_TRUE(wait_until([&] { return !run().busy(); }));
    ASSERT_EQ(run().stage(), Stage::Ended) << trouble().toStdString();
    EXPECT_EQ(run().curve().size(), 2u) << "from the first step";
    EXPECT_TRUE(run().notes().join(' ').contains("one.mask-before.safetensors.checkpoint"));
    EXPECT_FALSE(run().notes().join(' ').contains("Resumed"));
    QFile after(kept + ".checkpoint");
    ASSERT_TRUE(after.open(QIODevice::ReadOnly));
    EXPECT_EQ(after.readAll(), bytes) << "as it was";
    // It goes on as the file it is kept for; the next one that is moved aside takes another name.
    click("trainAgain");
    run().setOut(kept);
    EXPECT_TRUE(run().goesOn());
    EXPECT_EQ(aside_of(folder_.filePath("one.mask.safetensors").toStdString()).filename(),
              "one.mask-before-2.safetensors");
}

TEST_F(TrainPanelTest, APauseIsAnsweredAtOnceWhateverIsBeingDone) {
    set_up(1'000'000);
    click("trainStart");
    ASSERT_EQ(run().stage(), Stage::Starting);
    click("trainPause");
    EXPECT_EQ(run().stage(), Stage::Pausing);
    EXPECT_EQ(run().doing(), "Pausing before the first step");
    auto* words = window_->trainPanel()->findChild<QLabel*>("trainDoing");
    ASSERT_TRUE(wait_until([&] {
        if (run().stage() == Stage::Pausing) {
            EXPECT_EQ(words->text(), "Pausing before the first step");
        }
        return run().stage() != Stage::Pausing;
    }));
    EXPECT_TRUE(run().stage() == Stage::Paused || run().stage() == Stage::Setup);
    EXPECT_EQ(trouble(), "");
    // A training that is fast, or a click that is late, has come to a step by then.
    const auto steps = run().outcome() ? run().outcome()->steps : 0;
    EXPECT_TRUE(run().doing().contains(steps > 0 ? QString("at step %1;").arg(steps) : "before the first step"))
        << run().doing().toStdString();
}

TEST_F(TrainPanelTest, MasksThatHideAllAreWarnedOfAndThenEndTheTraining) {
    // A model so small that a hundred steps are over at once.
    const auto model = folder_.filePath("tiny");
    ASSERT_TRUE(test::write_tiny_model(model.toStdString()));
    session().openModel(model);
    ASSERT_TRUE(wait_until([&] { return session().model()->request == model.toStdString() && session().look(); }));
    set_up(1000);
    run().set("cross_entropy", "0");
    run().set("smooth", "0");
    run().set("area", "100");
    run().set("lr", "0.5");
    run().set("preview_every", "0");
    QString said;
    bool shown = false;  // now: the end may come in the same round of events
    auto* words = window_->trainPanel()->findChild<QLabel*>("trainWarningWords");
    const auto listening = QObject::connect(&run(), &TrainingRun::moved, [&] {
        if (!said.isEmpty()) return;
        said = run().warning();
        shown = words->isVisibleTo(window_->trainPanel());
    });
    click("trainStart");
    ASSERT_TRUE(wait_until([&] { return !said.isEmpty() || !run().busy(); }));
    QObject::disconnect(listening);
    ASSERT_FALSE(said.isEmpty()) << trouble().toStdString();
    EXPECT_TRUE(said.contains("hide all or nothing")) << said.toStdString();
    EXPECT_TRUE(shown);
    ASSERT_TRUE(wait_until([&] { return !run().busy(); }));
    EXPECT_EQ(run().stage(), Stage::Setup);
    EXPECT_TRUE(trouble().contains("hide all or nothing")) << trouble().toStdString();
    EXPECT_TRUE(trouble().contains("learning rate")) << trouble().toStdString();
    EXPECT_FALSE(words->isVisibleTo(window_->trainPanel())) << "one of the two is enough";
}

TEST_F(TrainPanelTest, ConvolutionalNetworksAndProgramsAreTrainedOnOrRefusedWithTheReason) {
    const char* set = std::getenv("VITRINE_TEST_DATA");
    const QString data = set ? QString(set) : QStringLiteral(VITRINE_SOURCE_DIR "/../shared/data");
    const QString parity = QStringLiteral(VITRINE_SOURCE_DIR "/tests/parity/data/");
    struct Case {
        QString file, refused;
    };
    const Case cases[] = {{data + "/resnet_cifar10/resnet20.safetensors", {}},
                          {data + "/mobilenet_v2_tf/model.safetensors", {}},
                          {parity + "capture_timm_plain_traced.pt", {}},
                          {parity + "capture_encoder_pre_traced.pt", "which layers of"},
                          {parity + "capture_torchvision_traced.pt", "no gradient"}};
    int trained = 0;
    for (const auto& one : cases) {
        SCOPED_TRACE(one.file.toStdString());
        if (!QFileInfo::exists(one.file)) continue;
        session().openModel(one.file, true);
        ASSERT_TRUE(wait_until([&] {
            return session().model() && session().model()->request == one.file.toStdString() && session().look();
        })) << window_->notice()->sentence().toStdString();
        set_up(2);
        run().setOut(folder_.filePath(QString("%1.mask.safetensors").arg(++trained)));
        click("trainStart");
        ASSERT_TRUE(wait_until([&] { return !run().busy(); }));
        if (!one.refused.isEmpty()) {
            EXPECT_EQ(run().stage(), Stage::Setup);
            EXPECT_TRUE(trouble().contains(one.refused, Qt::CaseInsensitive)) << trouble().toStdString();
            EXPECT_FALSE(trouble().contains("vitrine info")) << trouble().toStdString();
            continue;
        }
        ASSERT_EQ(run().stage(), Stage::Ended) << trouble().toStdString();
        ASSERT_TRUE(run().preview());
        EXPECT_EQ(run().preview()->trouble, "");
        click("trainExplain");
        ASSERT_TRUE(wait_until([&] { return session().explanation() && !session().explaining(); }))
            << session().explainTrouble().toStdString();
        EXPECT_EQ(session().explanation()->method, "ttame");
        EXPECT_TRUE(session().explanation()->checks.front().passed) << session().explanation()->checks.front().finding;
        click("trainAgain");
    }
    EXPECT_GE(trained, 3);
}

TEST_F(TrainPanelTest, ConceptsArePausedGoneOnWithEndedAndShown) {
    const auto model = folder_.filePath("tiny");
    ASSERT_TRUE(test::write_tiny_model(model.toStdString()));
    session().openModel(model);
    ASSERT_TRUE(wait_until([&] { return session().model()->request == model.toStdString() && session().look(); }));
    auto* panel = window_->trainPanel();
    panel->findChild<QPushButton*>("trainConcepts")->click();
    auto& concepts = window_->conceptRun();
    EXPECT_EQ(&panel->run(), &concepts);
    // The layer that would be read is named, and all others are offered.
    auto* point = qobject_cast<QComboBox*>(panel->control("point"));
    ASSERT_NE(point, nullptr);
    EXPECT_TRUE(point->currentText().startsWith("blocks.")) << point->currentText().toStdString();
    EXPECT_EQ(static_cast<std::size_t>(point->count()), session().model()->points.size());
    EXPECT_TRUE(concepts.settings().empty()) << "a default is no setting";
    for (const auto& setting : concepts.declared()) EXPECT_FALSE(setting.caption.empty()) << setting.name;
    // What the kind does not read is grey, kept, and not trained with.
    EXPECT_TRUE(panel->control("k")->isEnabled());
    EXPECT_FALSE(panel->control("sparsity")->isEnabled());
    concepts.set("k", "5");
    concepts.set("kind", "relu");
    EXPECT_FALSE(panel->control("k")->isEnabled());
    EXPECT_TRUE(panel->control("sparsity")->isEnabled());
    concepts.set("kind", "top_k");
    EXPECT_TRUE(panel->control("k")->isEnabled());
    EXPECT_EQ(concepts.settings().at("k"), "5");
    concepts.set("band", "0.2");

    constexpr int kSteps = 300;  // enough that a pause after the first comes before the end
    concepts.setData(folder_.filePath("pictures"));
    concepts.setOut(folder_.filePath("one.concepts.safetensors"));
    for (const auto& [name, value] : {std::pair<const char*, std::string>{"steps", std::to_string(kSteps)},
                                      {"batch", "8"},
                                      {"latents", "32"},
                                      {"k", "4"},
                                      {"buffer", "1"},
                                      {"held", "0.34"},
                                      {"held_every", "50"},
                                      {"report_seconds", "0"}})
        concepts.set(name, value);
    QStringList ready;
    QObject::connect(&session(), &Session::autoencoderReady, [&](const QString& file) { ready << file; });
    ASSERT_NO_FATAL_FAILURE(start_and_pause(concepts));
    EXPECT_EQ(ready.size(), ended_) << "before the end";
    ready.clear();
    click("trainResume");
    ASSERT_TRUE(wait_until([&] { return !concepts.busy(); }));
    ASSERT_EQ(concepts.stage(), Stage::Ended) << trouble().toStdString();
    ASSERT_EQ(concepts.curve().size(), static_cast<std::size_t>(kSteps));
    EXPECT_LE(concepts.curve().back().values[kActive], 4.001f) << "no more than k";
    EXPECT_EQ(concepts.outcome()->held, 1);
    // How far answers move is drawn beside the other curves.
    ASSERT_EQ(concepts.looks().size(), 5u);
    for (std::size_t i = 0; i < 5; ++i) {
        EXPECT_EQ(concepts.looks()[i].step, static_cast<std::int64_t>(50 * (i + 1)));
        EXPECT_GE(concepts.looks()[i].divergence, 0);
    }
    auto* looks = panel->findChild<QWidget*>("trainLooks");
    ASSERT_NE(looks, nullptr);
    EXPECT_TRUE(looks->isVisibleTo(panel));
    EXPECT_TRUE(looks->accessibleDescription().startsWith("Step 250: change of the answer"))
        << looks->accessibleDescription().toStdString();
    // The speed stands beside what it cannot exceed, and what each kind of token is explained by itself.
    auto* speed = panel->findChild<QLabel*>("trainSpeed");
    ASSERT_NE(speed, nullptr);
    EXPECT_TRUE(speed->isVisibleTo(panel));
    EXPECT_TRUE(speed->text().contains("tokens/s")) << speed->text().toStdString();
    EXPECT_TRUE(speed->text().contains("that the encoder's product alone allows")) << speed->text().toStdString();
    QStringList told;
    for (const auto* label : panel->findChild<QWidget*>("trainHeld")->findChildren<QLabel*>()) told << label->text();
    EXPECT_TRUE(told.contains("  in the class token")) << told.join('\n').toStdString();
    EXPECT_TRUE(told.contains("  in patches")) << told.join('\n').toStdString();
    EXPECT_EQ(ready, QStringList{concepts.out()});
    // The other kind was not touched.
    EXPECT_EQ(run().stage(), Stage::Setup);
    panel->findChild<QPushButton*>("trainMask")->click();
    EXPECT_TRUE(panel->findChild<QPushButton*>("trainStart")->isVisibleTo(panel));
    EXPECT_FALSE(looks->isVisibleTo(panel));
    EXPECT_FALSE(speed->isVisibleTo(panel));
    panel->findChild<QPushButton*>("trainConcepts")->click();
    click("trainExplain");
    ASSERT_TRUE(wait_until([&] { return !session().explaining(); }));
    ASSERT_TRUE(session().explanation()) << session().explainTrouble().toStdString();
    EXPECT_EQ(session().explanation()->method, "concepts");
}

TEST_F(TrainPanelTest, TheFormIsForTheModelThatWasOpenedWhileItTrained) {
    const auto model = folder_.filePath("tiny");
    ASSERT_TRUE(test::write_tiny_model(model.toStdString()));
    const auto opens = [&](const QString& request) {
        session().openModel(request);
        return wait_until([&] { return session().model()->request == request.toStdString() && session().look(); });
    };
    ASSERT_TRUE(opens(model));
    window_->trainPanel()->findChild<QPushButton*>("trainConcepts")->click();
    auto& concepts = window_->conceptRun();
    // Paused after its first step.
    const auto train = [&](const char* name) {
        concepts.setData(folder_.filePath("pictures"));
        concepts.setOut(folder_.filePath(name));
        for (const auto& [setting, value] : {std::pair<const char*, std::string>{"steps", "60"},
                                             {"batch", "8"},
                                             {"latents", "32"},
                                             {"k", "4"},
                                             {"buffer", "1"},
                                             {"report_seconds", "0"},
                                             {"point", "blocks.0"}})
            concepts.set(setting, value);
        ASSERT_TRUE(concepts.settings().contains("point"));
        const auto listening = QObject::connect(&concepts, &TrainingRun::moved, [&] {
            if (!concepts.curve().empty() && concepts.stage() == Stage::Running) concepts.pause();
        });
        concepts.start();
        ASSERT_TRUE(wait_until([&] { return !concepts.busy(); }));
        QObject::disconnect(listening);
        ASSERT_EQ(concepts.stage(), Stage::Paused) << concepts.trouble().toStdString();
    };
    train("one.concepts.safetensors");
    ASSERT_TRUE(opens("starter"));
    EXPECT_TRUE(concepts.settings().contains("point")) << "the run itself keeps what it was started with";
    concepts.resume();
    ASSERT_TRUE(wait_until([&] { return !concepts.busy(); }));
    ASSERT_EQ(concepts.stage(), Stage::Ended) << concepts.trouble().toStdString();
    concepts.again();
    EXPECT_FALSE(concepts.settings().contains("point")) << "that layer was chosen for another model";
    EXPECT_TRUE(concepts.settings().contains("latents")) << "the rest is of no model";
    // Back from a pause, too.
    train("two.concepts.safetensors");
    ASSERT_TRUE(opens(model));
    concepts.stop();
    EXPECT_EQ(concepts.stage(), Stage::Setup);
    EXPECT_FALSE(concepts.settings().contains("point"));
}

TEST_F(TrainPanelTest, AWindowThatIsClosedWhileTrainingLeavesACheckpoint) {
    set_up(1'000'000);
    const auto file = folder_.filePath("one.mask.safetensors.checkpoint");
    click("trainStart");
    ASSERT_TRUE(wait_until([&] { return step() >= 1 || run().stage() == Stage::Setup; }));
    ASSERT_TRUE(run().busy()) << trouble().toStdString();
    window_.reset();
    EXPECT_TRUE(QFileInfo::exists(file));
}

}  // namespace
}  // namespace vitrine::app
