// Training as the window asks for it, of a mask or of concepts: what is wanted goes in, and figures, previews and the
// outcome come back, all of them plain. No torch, no Qt in sight.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "workbench.h"

namespace vitrine::app {

/// What is trained: a mask beside the model, or an autoencoder that reads one of its layers.
enum class Trained : std::uint8_t { Mask, Concepts };

/// The picture of which previews are made. Set on the interface thread, read while training.
class PreviewPicture {
  public:
    void set(std::filesystem::path file) {
        const std::lock_guard lock(mutex_);
        file_ = std::move(file);
    }
    std::filesystem::path get() const {
        const std::lock_guard lock(mutex_);
        return file_;
    }

  private:
    mutable std::mutex mutex_;
    std::filesystem::path file_;
};

struct TrainingPlan {
    Trained what = Trained::Mask;
    std::string model;  ///< as ModelFacts::request: it is opened once more, so that the window keeps its own
    std::filesystem::path data, out;
    MethodSettings settings;  ///< what differs from training_settings(); of these, unread_settings() are left out
};

/// Figures of a step. Of a mask: total, answer, area, smoothness, coverage. Of concepts: total, reconstruction,
/// sparsity, revival, explained variance, active latents a token, share of latents that are silent.
using TrainingFigures = std::array<float, 7>;
constexpr std::size_t kCoverage = 4, kExplained = 4, kActive = 5, kDead = 6;

/// What becomes of the answers for some held pictures when the concepts speak in the layer's place.
struct TrainingLook {
    std::int64_t step = 0;
    double divergence = 0;  ///< from the model's own answers, nats
    double agreement = 0;   ///< share that is answered alike
};

struct TrainingMoment {
    std::int64_t step = 0, steps = 0;
    TrainingFigures values{};  ///< means since the moment before
    double agreement = 0;      ///< 0 to 1, of a mask
    double learning_rate = 0, per_second = 0, seconds_left = 0;  ///< pictures or tokens a second
    std::string note;
    std::optional<TrainingLook> look;  ///< of concepts: the last one
};

/// The mask of the predicted class on the current picture.
struct MaskPreview {
    std::int64_t step = 0;
    std::string label, trouble;  ///< trouble: why there is no mask; empty when there is one
    Plane mask;                  ///< 0 to 1
    double coverage = 0;
    ImageView seen;  ///< what the model sees of the picture
};

struct TrainingOutcome {
    bool finished = false;  ///< false: a checkpoint lies beside the file
    std::int64_t steps = 0, pictures = 0;
    std::vector<std::string> skipped;
    std::vector<TrainingFigures> curve;  ///< of every step
    /// Of the pictures that were not trained on.
    std::int64_t held = 0;
    double agreement = 0;                              ///< share that is answered alike
    double coverage = 0;                               ///< of a mask
    std::array<double, 3> average_drop{}, increase{};  ///< in %, with 100, 50 and 15 % of the mask's map kept
    double explained = 0, active = 0, distinct = 0;    ///< of concepts: variance; latents a token; and a picture
    double never = 0, dense = 0;                       ///< shares of the latents: for no token; over 1 % of them
    double divergence = 0, substitution = 0;           ///< with the reconstruction in the activation's place
    /// Of each kind of token, where several are read: "class", "registers", "patches".
    std::vector<std::pair<std::string, double>> explained_of;
    bool answers = false;  ///< whether agreement, divergence and substitution are known
    /// Tokens a second: with the model's runs, of the steps alone, and what these could not exceed; 0: not known.
    double per_second = 0, steps_per_second = 0, ceiling_per_second = 0;
    std::int64_t ceiling_products = 0;  ///< whole matrix products of a step
};

struct TrainingReports {
    std::function<void(std::string doing, std::int64_t done, std::int64_t total)> doing;  ///< before the first step
    std::function<void(TrainingMoment)> moment;
    std::function<void(MaskPreview)> preview;  ///< of a mask
};

std::vector<SettingFacts> training_settings(Trained what);
/// Names of those that the others leave unread, as k where the kind is relu.
std::vector<std::string> unread_settings(Trained what, const MethodSettings& settings);
/// Where a plan's checkpoint lies once it was paused.
std::filesystem::path checkpoint_of(const std::filesystem::path& out);
/// A free name beside it, under which a paused training is kept where another begins: it goes on as that file's.
std::filesystem::path aside_of(const std::filesystem::path& out);

/// Trains on the calling thread, which gives way to others from then on. It has nothing of its own.
class Trainer {
  public:
    /// @error Cancelled  stopped before the first step; else what train_mask() or train_concepts() says
    static Result<TrainingOutcome> train(const TrainingPlan& plan, const PreviewPicture& picture, std::stop_token stop,
                                         const TrainingReports& reports);
};

}  // namespace vitrine::app
