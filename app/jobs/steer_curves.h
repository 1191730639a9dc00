// How far the chosen concept steers the answer, set to more and to less, beside what chance does: asked for while
// somebody looks at it and nothing more urgent is computed.
//
// Lives on the interface thread, beside the session, which posts its job.
#pragma once

#include <QObject>

#include <optional>

#include "jobs/session.h"

namespace vitrine::app {

class ConceptsOnShow;

class SteerCurves : public QObject {
    Q_OBJECT

  public:
    /// Both outlive it.
    SteerCurves(Session& session, ConceptsOnShow& concepts, QObject* parent = nullptr);
    void setOpen(bool open);
    bool isOpen() const { return open_; }
    /// Of the concept that is chosen, on the tokens that are steered; nothing while it is not known.
    const std::optional<SteerCurve>& curve() const { return curve_; }
    /// In place of the curve: why there is none, or what it waits for.
    const QString& words() const { return words_; }
    bool stopped() const { return stopped_; }  ///< by the person: `again` measures it
    void again();

  Q_SIGNALS:
    void changed();

  private:
    void follow();
    void stop();
    void say(const QString& words);

    Session& session_;
    ConceptsOnShow& concepts_;
    bool open_ = false, running_ = false, stopped_ = false;
    std::string wanted_;     ///< what there would be a curve of; empty where there can be none
    std::string asked_for_;  ///< what the curve, its failure or its stop is of
    std::optional<SteerCurve> curve_;
    QString words_;
};

}  // namespace vitrine::app
