// Steps hold how it was before and after, so any of them can be taken back without asking the model.
#include "edit_history.h"

#include "jobs/concept_gallery.h"
#include "jobs/concepts_on_show.h"

namespace vitrine::app {
namespace {

/// Longer histories forget their beginning.
constexpr int kSteps = 200;

QString shortened(QString words) {
    constexpr int kMost = 40;
    return words.size() <= kMost ? words : words.left(kMost - 1) + QChar(0x2026);
}

}  // namespace

class EditHistory::Steering final : public QUndoCommand {
  public:
    Steering(EditHistory& history, Steer before, Steer after, quint64 gesture)
        : history_(history), before_(std::move(before)), after_(std::move(after)), gesture_(gesture) {
        setText(history.wordsFor(before_, after_));
    }
    int id() const override { return 1; }
    bool mergeWith(const QUndoCommand* next) override {
        const auto* other = static_cast<const Steering*>(next);
        if (gesture_ == 0 || other->gesture_ != gesture_) return false;
        after_ = other->after_;
        setText(history_.wordsFor(before_, after_));
        setObsolete(before_ == after_);
        return true;
    }
    void undo() override { go(before_); }
    void redo() override { go(after_); }

  private:
    void go(const Steer& to) {
        history_.now_ = to;
        if (!history_.telling_) return;
        history_.going_ = true;
        history_.session_.steer(to);
        history_.going_ = false;
    }
    EditHistory& history_;
    Steer before_, after_;
    quint64 gesture_;
};

class EditHistory::Calling final : public QUndoCommand {
  public:
    struct Called {
        QString name;
        QStringList tags;
    };
    Calling(EditHistory& history, qint64 concept_number, Called before, Called after)
        : history_(history), concept_(concept_number), before_(std::move(before)), after_(std::move(after)) {
        setText(before_.name == after_.name ? EditHistory::tr("tags of concept %1").arg(concept_)
                : after_.name.isEmpty()     ? EditHistory::tr("concept %1 without a name").arg(concept_)
                                            : EditHistory::tr("name \u201c%1\u201d").arg(shortened(after_.name)));
    }
    void undo() override { go(before_); }
    void redo() override {
        if (std::exchange(done_, true)) go(after_);
    }

  private:
    void go(const Called& to) { history_.gallery_.call(concept_, to.name, to.tags, /*again=*/true); }
    EditHistory& history_;
    qint64 concept_;
    Called before_, after_;
    bool done_ = false;  ///< pushing takes the step, which was taken already
};

EditHistory::EditHistory(Session& session, ConceptsOnShow& concepts, ConceptGallery& gallery, QObject* parent)
    : QObject(parent), session_(session), concepts_(concepts), gallery_(gallery) {
    stack_.setUndoLimit(kSteps);
    connect(&session, &Session::steerAsked, this, &EditHistory::steered);
    connect(&session, &Session::steerChanged, this, &EditHistory::follow);
    connect(&session, &Session::steerSaved, &stack_, &QUndoStack::setClean);
    // Steps are of one model's concepts.
    connect(&session, &Session::modelChanged, this, &EditHistory::forget);
    connect(&concepts, &ConceptsOnShow::changed, this, [this] {
        // A file that is refused takes nothing away.
        if (concepts_.source() != source_ && concepts_.state() == ConceptsOnShow::State::Ready && !concepts_.stale())
            forget();
    });
    connect(&gallery, &ConceptGallery::changed, this, [this] {
        if (!named_.isEmpty() && gallery_.autoencoder() != named_) forget();
    });
    connect(
        &gallery, &ConceptGallery::callAsked, this,
        [this](qint64 number, const QString& name, const QStringList& tags) {
            named_ = gallery_.autoencoder();
            stack_.push(new Calling(*this, number, {gallery_.nameOf(number), gallery_.tagsOf(number)}, {name, tags}));
        });
    connect(&stack_, &QUndoStack::indexChanged, this, &EditHistory::changed);
}

void EditHistory::steered(const Steer& before, quint64 gesture) {
    if (going_) return;
    if (!before.edits.empty() && before.source != concepts_.source()) return forget();  // of concepts that went
    // Taking the step tells the session what it knows.
    telling_ = false;
    stack_.push(new Steering(*this, before, session_.steering(), gesture));
    telling_ = true;
    Q_EMIT changed();  // a step that joins another leaves the index where it was
}

/// What could not be run, or was stopped, is not in force: its steps can be taken again.
void EditHistory::follow() {
    if (going_ || session_.steering() == now_) return;
    telling_ = false;
    while (session_.steering() != now_ && stack_.canUndo() &&
           dynamic_cast<const Steering*>(stack_.command(stack_.index() - 1)) != nullptr)
        stack_.undo();
    telling_ = true;
    if (session_.steering() != now_) forget();
}

void EditHistory::forget() {
    now_ = session_.steering();
    source_ = concepts_.source();
    named_.clear();
    stack_.clear();
}

QString EditHistory::wordsFor(const Steer& before, const Steer& after) const {
    std::vector<std::int64_t> touched;
    const SteeredConcept* now = nullptr;
    const auto look = [&](const Steer& here, const Steer& there) {
        for (const auto& edit : here.edits) {
            const auto* other = there.find(edit.number);
            if (other != nullptr && (*other == edit || &here == &before)) continue;
            touched.push_back(edit.number);
            if (&here == &after) now = &edit;
        }
    };
    look(after, before);
    look(before, after);
    if (touched.empty()) {
        switch (after.tokens) {
            case Steer::Tokens::All:
                return tr("steering on all tokens");
            case Steer::Tokens::Class:
                return tr("steering on the class token");
            case Steer::Tokens::Patches:
                return tr("steering on the patches");
            case Steer::Tokens::Chosen:
                return after.region ? tr("steering on patches %1").arg(QString::fromStdString(after.region->text()))
                                    : tr("steering on some patches");
        }
    }
    if (after.edits.empty() && touched.size() > 1) return tr("reset");
    const auto what =
        touched.size() == 1 ? shortened(concepts_.nameOf(touched.front())) : tr("%1 concepts").arg(touched.size());
    if (now == nullptr) return tr("%1 as it is").arg(what);
    const auto* was = before.find(now->number);
    switch (now->mode) {
        case SteeredConcept::Mode::Suppress:
            return tr("%1 off").arg(what);
        case SteeredConcept::Mode::Scale:
            return touched.size() > 1 && was != nullptr && was->mode == now->mode
                       ? tr("%1 scaled").arg(what)
                       : tr("%1 \u00d7 %2").arg(what, QString::number(now->value, 'g', 3));
        case SteeredConcept::Mode::Set:
            break;
    }
    return touched.size() > 1 ? tr("%1 fixed").arg(what)
                              : tr("%1 fixed at %2").arg(what, QString::number(now->value, 'g', 3));
}

}  // namespace vitrine::app
