// What the measures show the model again, for one of the maps that are shown.
//
// Lives on the interface thread, beside the session, which posts its jobs. Works only while somebody looks.
#pragma once

#include <QObject>

#include <optional>

#include "jobs/comparison.h"

namespace vitrine::app {

class SeenThrough : public QObject {
    Q_OBJECT

  public:
    SeenThrough(Session& session, const Comparison& comparison);
    void setLooking(bool looking);
    void setCell(int cell);  ///< of the comparison; the first where there is none such

    int cell() const;
    const std::optional<ThroughFacts>& found() const { return found_; }
    bool stale() const { return stale_; }
    /// Why there is nothing to show; empty when there is, or when it is on its way.
    QString whyNot() const;

  Q_SIGNALS:
    void changed();

  private:
    void follow();
    void post(const Wanted& wanted);
    void cancel();

    Session& session_;
    const Comparison& comparison_;
    bool looking_ = false, running_ = false, stale_ = false;
    int cell_ = 0;
    std::shared_ptr<const std::vector<float>> of_;  ///< the map that `found_`, or what is on its way, is of
    std::optional<ThroughFacts> found_;
    QString trouble_;
};

}  // namespace vitrine::app
