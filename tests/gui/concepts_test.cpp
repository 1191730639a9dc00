// The Concepts panel in the real window: opened, filled, hovered both ways, refused.
#include <QAbstractButton>
#include <QComboBox>
#include <QDockWidget>
#include <QDoubleSpinBox>
#include <QDropEvent>
#include <QElapsedTimer>
#include <QFile>
#include <QFocusEvent>
#include <QImage>
#include <QLabel>
#include <QLineEdit>
#include <QMimeData>
#include <QPainter>
#include <QTemporaryDir>
#include <QUrl>
#include <QtTest/QTest>

#include <algorithm>
#include <map>

#include <gtest/gtest.h>

#include "jobs/comparison.h"
#include "jobs/concepts_on_show.h"
#include "panels/choice_button.h"
#include "panels/concept_list.h"
#include "panels/concept_strip.h"
#include "panels/concepts_panel.h"
#include "panels/format.h"
#include "panels/grid_view.h"
#include "panels/small_widgets.h"
#include "patience.h"
#include "pointing.h"
#include "tiny_model.h"
#include "windows/main_window.h"
#include "windows/scene.h"

namespace vitrine::app {
namespace {

TEST(Breakable, LinesEndInsideNamesAndNeverInsideNumbers) {
    const auto parts = [](const char* words) { return breakable(words).replace(QChar(0x200B), "|").toStdString(); };
    EXPECT_EQ(parts("blocks.3, a/long-name_of.it"), "blocks.|3, a/|long-|name_|of.|it");
    EXPECT_EQ(parts("from -0.0945 to 12.5 (-3), vit-3"), "from -0.0945 to 12.5 (-3), vit-|3");
}

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

TEST_F(ConceptsWindowTest, WhatIsStoppedStaysStoppedUntilItIsAskedForAgain) {
    const auto idle = [&] {
        return wait_until([&] { return session().jobs().running.empty() && session().jobs().waiting == 0; });
    };
    open();
    ASSERT_TRUE(wait_until([&] { return concepts().state() == ConceptsOnShow::State::None; }));
    concepts().choose(file_);
    session().cancelAll();
    ASSERT_TRUE(idle());
    EXPECT_EQ(concepts().state(), ConceptsOnShow::State::Stopped);
    auto* why = window_->findChild<QLabel*>("conceptsWhy");
    EXPECT_EQ(why->text(), "Reading the concepts was stopped");
    auto* again = window_->findChild<QAbstractButton*>("readConcepts");
    ASSERT_TRUE(again->isVisible());
    again->click();
    ASSERT_TRUE(wait_until([&] { return concepts().state() == ConceptsOnShow::State::Ready; }));
    EXPECT_FALSE(again->isVisible());
    EXPECT_FALSE(why->isVisible());
    // The same at every layer.
    concepts().setLookingAtLayers(true);
    session().cancelAll();
    ASSERT_TRUE(idle());
    EXPECT_FALSE(concepts().layers());
    EXPECT_EQ(concepts().whyNoLayers(), "Reading the concepts at every layer was stopped");
    window_->findChild<QDockWidget*>("conceptLayers")->raise();
    auto* layers = window_->findChild<QAbstractButton*>("readLayers");
    ASSERT_TRUE(wait_until([&] { return layers->isVisible(); }));
    layers->click();
    ASSERT_TRUE(wait_until([&] { return concepts().layers().has_value(); })) << concepts().whyNoLayers().toStdString();
    EXPECT_FALSE(layers->isVisible());
    // Another picture is another question.
    concepts().reread();
    session().cancelAll();
    ASSERT_TRUE(concepts().stopped());
    const auto other = folder_.filePath("other.png");
    ASSERT_TRUE(QFile::copy(picture_, other));
    session().openPaths({other});
    ASSERT_TRUE(wait_until([&] { return session().picture()->file == other.toStdString() && settled(); }));
    ASSERT_TRUE(wait_until([&] { return concepts().state() == ConceptsOnShow::State::Ready && !concepts().stale(); }));
    EXPECT_FALSE(concepts().stopped());
}

TEST_F(ConceptsWindowTest, AnAutoencoderAmongTheFilesIsOpenedAfterItsModel) {
    const auto misnamed = folder_.filePath("photo.png");
    ASSERT_TRUE(QFile::copy(file_, misnamed));
    // As they are named on the command line, in an order that a person may choose.
    window_->start({misnamed, picture_, model_});
    const auto shows = [&](const QString& file) {
        return concepts().state() == ConceptsOnShow::State::Ready && !concepts().stale() &&
               concepts().source().file == file.toStdString();
    };
    ASSERT_TRUE(wait_until([&] { return shows(misnamed); })) << concepts().why().toStdString();
    EXPECT_TRUE(list()->isVisible()) << "the panel is in front";
    EXPECT_TRUE(window_->conceptsPanel()->findChild<ChoiceButton*>("choice")->faceText().contains("photo.png"));
    EXPECT_EQ(session().film().size(), 1u);
    EXPECT_FALSE(window_->notice()->isVisible()) << window_->notice()->sentence().toStdString();
    // Beside a model that is opened over another, whose concepts go with it.
    session().openPaths({file_, model_});
    ASSERT_TRUE(wait_until([&] { return shows(file_); })) << concepts().why().toStdString();
    // Dropped alone, while another panel is in front.
    window_->conceptsDock()->hide();
    QMimeData dropped;
    dropped.setUrls({QUrl::fromLocalFile(misnamed)});
    QDragEnterEvent enter(QPoint(50, 50), Qt::CopyAction, &dropped, Qt::LeftButton, Qt::NoModifier);
    QCoreApplication::sendEvent(window_.get(), &enter);
    QDropEvent drop(QPointF(50, 50), Qt::CopyAction, &dropped, Qt::LeftButton, Qt::NoModifier);
    QCoreApplication::sendEvent(window_.get(), &drop);
    ASSERT_TRUE(wait_until([&] { return shows(misnamed); })) << concepts().why().toStdString();
    EXPECT_TRUE(list()->isVisible());
    // One of another width says so in the panel and leaves model and picture alone.
    const auto wide = folder_.filePath("wide.safetensors");
    ASSERT_TRUE(test::write_wide_concepts(wide.toStdString(), 32, 2));
    session().openPaths({wide});
    ASSERT_TRUE(wait_until([&] { return concepts().state() == ConceptsOnShow::State::Refused; }));
    auto* why = window_->findChild<QLabel*>("conceptsWhy");
    EXPECT_TRUE(why->isVisible());
    EXPECT_EQ(why->text().count('\n'), 0) << why->text().toStdString();
    EXPECT_TRUE(settled());
    // Beside a model that is refused it is not tried on another.
    const auto broken = folder_.filePath("broken.safetensors");
    QFile file(broken);
    ASSERT_TRUE(file.open(QIODevice::WriteOnly));
    file.write(QByteArray("\x10\0\0\0\0\0\0\0{}              ", 24));
    file.close();
    session().openPaths({broken, file_});
    ASSERT_TRUE(wait_until([&] { return window_->notice()->isVisible(); }));
    EXPECT_TRUE(window_->notice()->sentence().contains("broken")) << window_->notice()->sentence().toStdString();
    ASSERT_TRUE(wait_until([&] { return settled() && !session().opening(); }));
    EXPECT_EQ(concepts().source().file, wide.toStdString());
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
    point_at(viewport(), at(0, 1));
    ASSERT_EQ(concepts().patch(), (std::pair<std::int64_t, std::int64_t>(0, 1)));
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
    point_at(list()->viewport(), list()->visualRect(row).center());
    ASSERT_EQ(concepts().hovered(), number);
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

/// 16,384 concepts, 64 in each of 37 x 37 patches: what is pointed at is lit in the scene that the very next frame
/// draws. Times are printed: how fast a busy machine is proves nothing.
TEST_F(ConceptsWindowTest, HoverIsInTheVeryNextFrameAtFullSize) {
    constexpr int kSide = 37, kConcepts = 16384, kEach = 64, kMoves = 60;
    const auto wide = folder_.filePath("wide"), many = folder_.filePath("many.safetensors");
    ASSERT_TRUE(test::write_wide_model(wide.toStdString(), 16 * kSide));
    ASSERT_TRUE(test::write_wide_concepts(many.toStdString(), kConcepts, kEach));
    model_ = wide;
    file_ = many;
    open_concepts();
    session().setLive(false);
    const auto& picture = concepts().picture();
    ASSERT_EQ(picture.rows() * picture.cols(), kSide * kSide);
    ASSERT_GT(picture.heard().size(), 1000u);
    std::map<const char*, std::vector<double>> took_ms;
    const auto follow = [&](const char* what, auto* there, QPoint place, auto followed) {
        const auto frames = viewport()->framesDrawn();
        QElapsedTimer timer;
        timer.start();
        point_at(there, place);
        EXPECT_TRUE(followed()) << what;
        ASSERT_TRUE(wait_until([&] { return viewport()->framesDrawn() > frames; })) << what;
        took_ms[what].push_back(static_cast<double>(timer.nsecsElapsed()) / 1e6);
    };
    for (int i = 0; i < kMoves; ++i) {
        const std::int64_t row = (i * 11 + 3) % kSide, col = (i * 7 + 5) % kSide;
        follow("a patch", viewport(), at(row, col), [&] {
            return concepts().patch() == std::pair(row, col) &&
                   list()->conceptAt(list()->model()->index(1, 0)) == picture.at(picture.cell(row, col)).front().id;
        });
    }
    for (int i = 0; i < kMoves; ++i) {
        const auto index = list()->model()->index(2 + ConceptList::kOfPatch + (i * 37) % 900, 0);
        const auto number = list()->conceptAt(index);
        ASSERT_GE(number, 0);
        list()->scrollTo(index);
        follow("a concept", list()->viewport(), list()->visualRect(index).center(), [&] {
            return concepts().hovered() == number && *session().shown()->values == picture.map(number) &&
                   viewport()->scene().layers[0].map.data == session().shown()->values->data();
        });
    }
    for (auto& [what, times] : took_ms) {
        ASSERT_FALSE(times.empty());
        std::sort(times.begin(), times.end());
        std::printf("pointing at %s to a drawn frame: median %.1f ms, 95th percentile %.1f ms, longest %.1f ms\n", what,
                    times[times.size() / 2], times[times.size() * 95 / 100], times.back());
    }
}

TEST_F(ConceptsWindowTest, WhatTheWheelBringsUnderTheCursorIsPointedAt) {
    open_concepts();
    // A list of two rows has something to scroll.
    list()->setMinimumHeight(0);
    list()->setMaximumHeight(2 * list()->visualRect(list()->model()->index(2 + ConceptList::kOfPatch, 0)).height());
    ASSERT_TRUE(wait_until([&] { return list()->height() == list()->maximumHeight(); }));
    const QPoint cursor(20, list()->viewport()->height() / 2);
    const auto under = [&] { return list()->conceptAt(list()->indexAt(cursor)); };
    point_at(list()->viewport(), cursor);
    const auto before = under();
    EXPECT_EQ(concepts().hovered(), before);
    for (int notch = 0; notch < 40; ++notch) {
        turn_wheel(list()->viewport(), cursor, -1);
        ASSERT_EQ(concepts().hovered(), under()) << "after notch " << notch;
    }
    EXPECT_NE(under(), before);
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

TEST_F(ConceptsWindowTest, NamesOfAnotherAutoencoderAreNotShownAndThatIsSaid) {
    QFile names(file_ + ".names");
    ASSERT_TRUE(names.open(QIODevice::WriteOnly));
    names.write("# concepts of 0123456789ab\n1\tlawn\n");
    names.close();
    open_concepts();
    EXPECT_FALSE(concepts().isNamed(1));
    auto* facts = window_->findChild<QLabel*>("conceptFacts");
    EXPECT_TRUE(facts->text().contains("another autoencoder")) << facts->text().toStdString();
    EXPECT_TRUE(facts->toolTip().contains("'# concepts of 0123456789ab'")) << facts->toolTip().toStdString();
    // Without the line it is a file as there were before: its names are shown.
    ASSERT_TRUE(names.open(QIODevice::WriteOnly));
    names.write("1\tlawn\n");
    names.close();
    concepts().choose(file_);
    ASSERT_TRUE(wait_until([&] { return concepts().isNamed(1) && !concepts().stale(); }));
    EXPECT_FALSE(facts->text().contains("another autoencoder")) << facts->text().toStdString();
}

TEST_F(ConceptsWindowTest, WhatHasANameComesFirstHoweverLongItIs) {
    open_concepts();
    const auto last = concepts().picture().ranked(ConceptOrder::Sum).back();
    const int width = window_->minimumSizeHint().width();
    QFile names(file_ + ".names");
    ASSERT_TRUE(names.open(QIODevice::WriteOnly));
    names.write(QString("%1\t%2\n").arg(last).arg(QString("a name without end ").repeated(45).trimmed()).toUtf8());
    names.close();
    concepts().choose(file_);
    ASSERT_TRUE(wait_until([&] { return concepts().isNamed(last) && !concepts().stale(); }));
    const int first = 2 + ConceptList::kOfPatch;
    EXPECT_EQ(list()->conceptAt(list()->model()->index(first, 0)), last);
    concepts().pin(last);
    QTest::qWait(0);
    EXPECT_EQ(window_->minimumSizeHint().width(), width) << "a long name is cut";
    window_->findChild<QComboBox*>("conceptOrder")->setCurrentIndex(0);
    EXPECT_EQ(list()->conceptAt(list()->model()->index(first, 0)),
              concepts().picture().ranked(ConceptOrder::Sum).front());
}

TEST_F(ConceptsWindowTest, TokensThatAreNoPatchesAreListedApart) {
    open_concepts();
    const auto& apart = concepts().found()->apart;
    ASSERT_FALSE(apart.empty());
    // How much of the class token is explained is told beside the share of all, where that would hide it.
    const auto& said = concepts().found()->facts;
    ASSERT_TRUE(said.explained && said.explained_class);
    auto* facts = window_->findChild<QLabel*>("conceptFacts");
    EXPECT_TRUE(facts->toolTip().contains("sets the class token apart")) << facts->toolTip().toStdString();
    EXPECT_EQ(facts->text().contains("(class token "),
              *said.explained >= 0 && *said.explained_class < *said.explained - 0.1)
        << facts->text().toStdString();
    auto* tokens = window_->findChild<QAbstractButton*>("ofTokens");
    EXPECT_TRUE(tokens->isVisible());
    EXPECT_EQ(tokens->text().toStdString(), apart.size() == 1 ? "Class token" : "Other tokens");
    const int of_patches = list()->shown();
    tokens->click();
    EXPECT_TRUE(list()->apart());
    std::size_t all = 0;
    for (const auto& token : apart) all += token.concepts.size();
    EXPECT_EQ(list()->shown(), static_cast<int>(all));
    EXPECT_FALSE(window_->findChild<QComboBox*>("conceptOrder")->isEnabled());
    const auto first = row_of(apart[0].concepts[0].id);
    ASSERT_TRUE(first.isValid());
    EXPECT_EQ(first.row(), 2 + ConceptList::kOfPatch) << "below its heading";
    EXPECT_TRUE(first.data(Qt::ToolTipRole).toString().contains("class token"));
    // What it says of the patches is drawn, and beside it how strong it is where it was pointed at.
    list()->scrollTo(first);
    point_at(list()->viewport(), list()->visualRect(first).center());
    ASSERT_TRUE(session().lit());
    EXPECT_EQ(*session().lit()->plane.values, concepts().picture().map(apart[0].concepts[0].id));
    EXPECT_TRUE(session().lit()->aside.startsWith("class token")) << session().lit()->aside.toStdString();
    window_->findChild<QAbstractButton*>("ofPatches")->click();
    EXPECT_EQ(list()->shown(), of_patches);
}

TEST_F(ConceptsWindowTest, SeveralConceptsHaveAColourEachAndKeepIt) {
    open_concepts();
    session().setLive(false);
    const auto ranked = concepts().picture().ranked(ConceptOrder::Patches);
    concepts().pin(ranked[0]);
    ASSERT_EQ(viewport()->scene().layers.size(), 1u);
    EXPECT_FALSE(viewport()->scene().layers[0].hue) << "alone it has the colours of maps";
    concepts().pin(ranked[1], true);
    concepts().pin(ranked[2], true);
    const auto hues = [&] {
        std::map<const float*, int> out;
        for (const auto& one : session().lit()->together) out[one.plane.values->data()] = one.slot;
        return out;
    };
    ASSERT_EQ(viewport()->scene().layers.size(), 3u);
    ASSERT_EQ(hues().size(), 3u);
    for (const auto& layer : viewport()->scene().layers) {
        ASSERT_TRUE(hues().contains(layer.map.data));
        const auto hue = hue_of(hues().at(layer.map.data));
        ASSERT_TRUE(layer.hue);
        EXPECT_TRUE(layer.hue->r == hue.r && layer.hue->g == hue.g && layer.hue->b == hue.b);
        EXPECT_EQ(layer.scale.low, 0);
        EXPECT_EQ(layer.scale.high,
                  *std::max_element(layer.map.data, layer.map.data + layer.map.shape[1] * layer.map.shape[2]))
            << "without an index the largest of this picture";
    }
    const int kept = concepts().slotOf(ranked[2]);
    EXPECT_NE(kept, concepts().slotOf(ranked[1]));
    concepts().pin(ranked[0], true);
    EXPECT_EQ(concepts().slotOf(ranked[2]), kept);
    EXPECT_EQ(viewport()->scene().layers.size(), 2u);
}

TEST_F(ConceptsWindowTest, TheStripShowsEveryLayerAndLightsWhatIsPointedAt) {
    open_concepts();
    EXPECT_FALSE(concepts().layers()) << "nobody looks";
    window_->findChild<QDockWidget*>("conceptLayers")->raise();
    ASSERT_TRUE(wait_until([&] { return concepts().layers().has_value(); })) << concepts().whyNoLayers().toStdString();
    const auto& layers = *concepts().layers();
    ASSERT_GE(layers.points.size(), 2u);
    auto* strip = window_->findChild<ConceptStrip*>();
    const auto number = strip->conceptAt(0);
    EXPECT_EQ(number, concepts().picture().ranked(ConceptOrder::Sum).front());
    EXPECT_EQ(layers.at(layers.own, number), concepts().picture().summary(number).strongest);
    // The own layer's colour says the share of the largest.
    const auto box = strip->cell(0, layers.own);
    ASSERT_FALSE(box.isEmpty());
    const auto colour =
        viz::colour_at(window_->viewSettings().colours, layers.at(layers.own, number) / concepts().unitOf(number));
    const QColor found(strip->grab().toImage().pixel(box.center() * strip->devicePixelRatioF()));
    EXPECT_NEAR(found.red(), colour.r, 1);
    EXPECT_NEAR(found.green(), colour.g, 1);
    EXPECT_NEAR(found.blue(), colour.b, 1);
    point_at(strip, box.center());
    ASSERT_TRUE(session().lit() && session().lit()->number == number);
    // Who is chosen comes first.
    const auto second = strip->conceptAt(1);
    QTest::mouseClick(strip, Qt::LeftButton, {}, strip->cell(1, 0).center());
    EXPECT_EQ(concepts().pinned(), second);
    EXPECT_EQ(strip->conceptAt(0), second);
}

TEST_F(ConceptsWindowTest, TheGridOutlinesALitConceptAndComposesNothingAnew) {
    open_concepts();
    window_->comparison().setOpen(true);
    const auto& cells = window_->comparison().cells();
    ASSERT_FALSE(cells.empty());
    ASSERT_TRUE(wait_until([&] {
        return std::all_of(cells.begin(), cells.end(), [](const auto& one) { return one.stage == Stage::Done; });
    }));
    auto* cell = window_->grid()->cells().front();
    const auto plain = cell->grab().toImage();
    const auto composite = cell->drawn().cacheKey();
    const auto number = concepts().picture().ranked(ConceptOrder::Sum).front();
    concepts().hover(number);
    const auto outlined = cell->grab().toImage();
    EXPECT_EQ(cell->drawn().cacheKey(), composite);
    // Changed are lines alone: none of what lies inside a patch that is far from them.
    int changed = 0;
    for (int y = 0; y < plain.height(); ++y)
        for (int x = 0; x < plain.width(); ++x) changed += plain.pixel(x, y) != outlined.pixel(x, y);
    EXPECT_GT(changed, 20);
    EXPECT_LT(changed, plain.width() * plain.height() / 4);
    concepts().hover(-1);
    EXPECT_EQ(cell->grab().toImage(), plain);
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
    // A file that is refused takes nothing away: back at the one before, all is as it was.
    concepts().choose(picture_);
    ASSERT_TRUE(wait_until([&] { return concepts().state() == ConceptsOnShow::State::Refused; }));
    concepts().choose(file_);
    ASSERT_TRUE(wait_until([&] { return concepts().state() == ConceptsOnShow::State::Ready; }));
    EXPECT_EQ(session().steering().edits.size(), 2u);
    EXPECT_EQ(session().look()->probabilities, off);
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
