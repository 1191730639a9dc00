// Reads autoencoders and a picture's codes: the part of the Concepts panel that knows tensors.
#pragma once

#include <filesystem>
#include <memory>
#include <stop_token>

#include <ATen/core/Tensor.h>
#include <vitrine/autoencoder.h>
#include <vitrine/steering.h>

#include "workbench.h"

namespace vitrine::app {

/// When a file was written and how long it is: whether it still holds what was read of it.
struct FileStamp {
    std::filesystem::file_time_type written = std::filesystem::file_time_type::min();
    std::uintmax_t size = 0;
    static FileStamp of(const std::filesystem::path& file);  ///< as made by default where there is none
    bool operator==(const FileStamp&) const = default;
};

/// The autoencoder that was read last: another picture does not read it again.
class ConceptShelf {
  public:
    /// Read, and compared with the model.
    /// @error Unsupported  none came with the model and no file was named
    /// @error BadInput     what reading says; it was trained on other weights
    Result<std::shared_ptr<const Autoencoder>> take(Model& model, const ConceptSource& source);
    /// The file of what `source` names; empty where nothing came with the model.
    static std::filesystem::path file_of(const ConceptSource& source);
    /// The largest that the index beside the file saw of each concept; empty where there is none that fits.
    const std::vector<float>& largest() const { return largest_; }
    const std::string& mark() const { return mark_; }  ///< what its names are known by
    void forget() { autoencoder_.reset(); }  ///< the model is another

  private:
    ConceptSource source_;
    FileStamp written_, indexed_;
    std::shared_ptr<const Autoencoder> autoencoder_;
    std::vector<float> largest_;
    std::string mark_;
};

/// What people called the concepts, from the file beside the autoencoder.
/// @error  what is wrong with that file; one that is not there gives no names
Result<std::map<std::int32_t, ConceptName>> names_of(const std::filesystem::path& autoencoder, const std::string& mark);

/// The model with the edits in it.
///
/// @param again  `model` is steered by the same autoencoder already: only what is done to it changes
/// @error  as `steered`
Result<std::shared_ptr<Model>> steered_model(const std::shared_ptr<Model>& model, const Autoencoder& autoencoder,
                                             const Steer& steer, bool again);
/// How far a concept steers, in the window's own words. @error  as `steerability`
Result<SteerCurve> curve_of(const std::shared_ptr<Model>& model, const Autoencoder& autoencoder, const Steer& steer,
                            const at::Tensor& pixels, const SteerabilityOptions& options);
/// What is changed of a steered model, in words; empty for one that is not.
std::string words_of_steering(const Model& model);

/// What the concepts say of a picture. Prefix tokens are read where the autoencoder reads them, and are
/// apart from the picture's lists.
///
/// @param pixels  [1, 3, height, width]
/// @error         as point_tokens
Result<ConceptsFound> concepts_of(Model& model, const at::Tensor& pixels, const Autoencoder& autoencoder,
                                  std::stop_token stop);

/// The same at every layer, by one run of the model.
///
/// @param points  alike to the autoencoder's own, from the first layer to the last
/// @error Unsupported  which tokens are patches is not known, or fewer than two of the points are as wide as the
///                     autoencoder reads them
Result<ConceptLayers> concept_layers(Model& model, const at::Tensor& pixels, const Autoencoder& autoencoder,
                                     const std::vector<std::string>& points, std::stop_token stop);

}  // namespace vitrine::app
