// The chosen method's map at each of the model's layers, for methods that read one; for methods with parts, what adds
// up to the map, and the maps of other classes, which cost no further run.
//
// Lives on the interface thread, beside the session, which posts its jobs. Works only while somebody looks.
#pragma once

#include <QObject>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "jobs/session.h"

namespace vitrine::app {

class LayerMaps : public QObject {
    Q_OBJECT

  public:
    enum class Kind : std::uint8_t { Layer, Part, Class };
    struct Layer {
        Kind kind = Kind::Layer;
        std::string name;         ///< of the point, the part or the class
        std::int64_t index = -1;  ///< of the class
        double probability = 0;   ///< of the class
        std::optional<Plane> plane;
        QString trouble;  ///< why there is no map of it
    };

    explicit LayerMaps(Session& session);
    void setLooking(bool looking);
    /// Becomes the method's setting, or the target; what is chosen already is taken back.
    void choose(int layer);

    const std::vector<Layer>& layers() const { return layers_; }
    int chosen() const;  ///< of `layers`; -1 for another. Where there are parts and classes, the one chosen last
    bool isChosen(int layer) const;
    /// Parts have one scale, so that they can be added by eye: the greatest of their numbers. 0 without parts.
    float reach() const;
    static constexpr double kWeak = 0.01;  ///< classes less probable than this are weakly trained
    bool running() const { return running_; }
    bool stale() const { return stale_; }
    const std::optional<LitConcept>& lit() const { return session_.lit(); }  ///< outlined on every map
    /// Why there is nothing to show; empty when there is.
    QString whyNot() const;

  Q_SIGNALS:
    void changed();
    void litChanged();  ///< perhaps

  private:
    void follow();
    void post();
    void postParts();
    bool hasParts() const;
    Wanted wanted() const;  ///< whatever its layer or part
    void arrived(std::size_t at, Result<Explanation> found);

    Session& session_;
    bool looking_ = false, running_ = false, stale_ = false, stopped_ = false;
    std::optional<Wanted> shown_;  ///< what `layers` are of
    std::vector<Layer> layers_;
    QString trouble_;  ///< why there are none
    Kind last_ = Kind::Part;
};

}  // namespace vitrine::app
