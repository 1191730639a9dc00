// What was done to concepts can be taken back: how the model is steered, and what concepts are called.
//
// Lives on the interface thread. It listens to who is asked for a change, so whatever asks need not know of it.
#pragma once

#include <QUndoStack>

#include "jobs/session.h"

namespace vitrine::app {

class ConceptGallery;
class ConceptsOnShow;

class EditHistory : public QObject {
    Q_OBJECT

  public:
    /// All three outlive it.
    EditHistory(Session& session, ConceptsOnShow& concepts, ConceptGallery& gallery, QObject* parent = nullptr);
    void undo() { stack_.undo(); }
    void redo() { stack_.redo(); }
    const QUndoStack& stack() const { return stack_; }
    bool saved() const { return stack_.isClean(); }  ///< nothing was changed since the steered model was written

  Q_SIGNALS:
    void changed();

  private:
    class Steering;
    class Calling;
    void steered(const Steer& before, quint64 gesture);
    void follow();
    void forget();
    QString wordsFor(const Steer& before, const Steer& after) const;

    Session& session_;
    ConceptsOnShow& concepts_;
    ConceptGallery& gallery_;
    Steer now_;             ///< after the last step that stands
    ConceptSource source_;  ///< whose concepts the steps are of
    QString named_;         ///< likewise, of the names
    bool going_ = false;    ///< a step is being taken or taken back
    bool telling_ = true;   ///< the session is told of it
    QUndoStack stack_;
};

}  // namespace vitrine::app
