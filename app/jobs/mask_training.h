// Training a mask as the window asks for it: what is wanted goes in, and figures, previews and the outcome come back,
// all of them plain. No torch, no Qt in sight.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <vector>

#include "workbench.h"

namespace vitrine::app {

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

struct MaskPlan {
    std::string model;  ///< as ModelFacts::request: it is opened once more, so that the window keeps its own
    std::filesystem::path data, out;
    MethodSettings settings;  ///< what differs from mask_settings()
};

struct MaskMoment {
    std::int64_t step = 0, steps = 0;
    double total = 0, answer = 0, area = 0, smooth = 0;  ///< means since the moment before
    double coverage = 0, agreement = 0;                  ///< 0 to 1
    double learning_rate = 0, pictures_per_second = 0, seconds_left = 0;
    std::string note;
};

/// The mask of the predicted class on the current picture.
struct MaskPreview {
    std::int64_t step = 0;
    std::string label, trouble;  ///< trouble: why there is no mask; empty when there is one
    Plane mask;                  ///< 0 to 1
    double coverage = 0;
    ImageView seen;  ///< what the model sees of the picture
};

struct MaskOutcome {
    bool finished = false;  ///< false: a checkpoint lies beside the file
    std::int64_t steps = 0, pictures = 0, parameters = 0, size_bytes = 0;
    std::vector<std::string> layers, skipped, notes;
    std::vector<std::array<float, 5>> curve;  ///< total, answer, area, smoothness, coverage of every step
    std::int64_t held = 0;                    ///< pictures that were not trained on; the figures are theirs
    double agreement = 0, coverage = 0;
    std::array<double, 3> average_drop{}, increase{};  ///< in %, with 100, 50 and 15 % of the map kept
};

struct MaskReports {
    std::function<void(std::string doing, std::int64_t done, std::int64_t total)> doing;  ///< before the first step
    std::function<void(MaskMoment)> moment;
    std::function<void(MaskPreview)> preview;
};

std::vector<SettingFacts> mask_settings();
/// Where a plan's checkpoint lies once it was paused.
std::filesystem::path checkpoint_of(const std::filesystem::path& out);
/// A free name beside it, under which a paused training is kept where another begins: it goes on as that file's.
std::filesystem::path aside_of(const std::filesystem::path& out);

/// Trains on the calling thread, which gives way to others from then on. It has nothing of its own.
class MaskTrainer {
  public:
    /// @error Cancelled  stopped before the first step; else what train_mask() says
    static Result<MaskOutcome> train(const MaskPlan& plan, const PreviewPicture& picture, std::stop_token stop,
                                     const MaskReports& reports);
};

}  // namespace vitrine::app
