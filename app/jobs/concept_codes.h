// Reads autoencoders and a picture's codes: the part of the Concepts panel that knows tensors.
#pragma once

#include <filesystem>
#include <memory>
#include <stop_token>

#include <ATen/core/Tensor.h>
#include <vitrine/autoencoder.h>

#include "concepts_of_picture.h"

namespace vitrine::app {

/// The autoencoder that was read last: another picture does not read it again.
class ConceptShelf {
  public:
    /// Read, and compared with the model.
    /// @error Unsupported  none came with the model and no file was named
    /// @error BadInput     what reading says; it was trained on other weights
    Result<std::shared_ptr<const Autoencoder>> take(Model& model, const ConceptSource& source);
    /// The file of what `source` names; empty where nothing came with the model.
    static std::filesystem::path file_of(const ConceptSource& source);
    void forget() { autoencoder_.reset(); }  ///< the model is another

  private:
    ConceptSource source_;
    std::filesystem::file_time_type written_;
    std::shared_ptr<const Autoencoder> autoencoder_;
};

/// What people called the concepts, from the file beside the autoencoder.
/// @error  what is wrong with that file; one that is not there gives no names
Result<std::map<std::int32_t, ConceptName>> names_of(const std::filesystem::path& autoencoder);

/// What the concepts say of a picture. Prefix tokens are read where the autoencoder reads them, and are in no list.
///
/// @param pixels  [1, 3, height, width]
/// @error         as point_tokens
Result<ConceptsFound> concepts_of(Model& model, const at::Tensor& pixels, const Autoencoder& autoencoder,
                                  std::stop_token stop);

}  // namespace vitrine::app
