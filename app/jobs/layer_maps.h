// The chosen method's map at each of the model's layers, for methods that read one.
//
// Lives on the interface thread, beside the session, which posts its jobs. Works only while somebody looks.
#pragma once

#include <QObject>

#include <optional>
#include <string>
#include <vector>

#include "jobs/session.h"

namespace vitrine::app {

class LayerMaps : public QObject {
    Q_OBJECT

  public:
    struct Layer {
        std::string name;  ///< of the point
        std::optional<Plane> plane;
        QString trouble;  ///< why there is no map of it
    };

    explicit LayerMaps(Session& session);
    void setLooking(bool looking);
    void choose(int layer);  ///< becomes the method's setting; the layer that is chosen already: the method's own again

    const std::vector<Layer>& layers() const { return layers_; }
    int chosen() const;  ///< of `layers`; -1 for another
    bool running() const { return running_; }
    bool stale() const { return stale_; }
    /// Why there is nothing to show; empty when there is.
    QString whyNot() const;

  Q_SIGNALS:
    void changed();

  private:
    void follow();
    void post();
    Wanted wanted() const;  ///< whatever its layer

    Session& session_;
    bool looking_ = false, running_ = false, stale_ = false, stopped_ = false;
    std::optional<Wanted> shown_;  ///< what `layers` are of
    std::vector<Layer> layers_;
};

}  // namespace vitrine::app
