// The steered model itself, for what makes it, saves it and measures it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <vitrine/steering.h>

namespace vitrine {

/// What was found out about the point of a steered model, once.
struct SteeredPoint {
    std::int64_t prefix = 0;          ///< tokens before the patches there
    std::int64_t rows = 0, cols = 0;  ///< of the patches at the model's usual input; 0: not known which are patches
    bool class_token = false;         ///< the first of the prefix is one
    bool behind_blocks = false;       ///< passed after the chain's last block
};

/// Finds them, checking that the concepts fit the model.
Result<SteeredPoint> steered_point(Model& model, const Autoencoder& autoencoder);
/// Checks edits, tokens and boxes; fills in the grid, and makes of Tokens::All what the autoencoder reads.
Status check_steering(const Model& model, const SteeredPoint& point, Steering& steering);

/// All edits as one line a latent, f' = f * first + second, those that change nothing left out.
std::map<std::int64_t, std::pair<double, double>> edited_lines(const Steering& steering);

/// What decides which rows of an activation are edited.
struct SteeredPlace {
    TokenLayout layout;
    at::Tensor kept;  ///< [batch, count]: patches that are tokens at all; undefined: all
    at::Tensor mask;  ///< mask_of() the steering, on the model's device
};

/// [rows * cols] of the grid, 1 where a patch is in a box; undefined where no patches were chosen.
at::Tensor mask_of(const Steering& steering);

/// x with `change` added to the tokens that the steering is about. [rows, width] -> [rows, width], a row a token
///
/// @param x  [batch, tokens, width] or [batch, channels, rows, cols]
/// @throws c10::Error  another grid than that of the boxes
at::Tensor with_change(const at::Tensor& x, const Steering& steering, const SteeredPoint& point,
                       const SteeredPlace& place, const std::function<at::Tensor(const at::Tensor&)>& change);

/// What setting one latent to a number adds to tokens. [rows, width]
at::Tensor set_latent(const Autoencoder& autoencoder, const at::Tensor& rows, std::int64_t index, double to);
/// The same lengths, backwards where it goes backwards, along another direction. @param direction  [width], of length 1
at::Tensor set_along(const Autoencoder& autoencoder, const at::Tensor& rows, std::int64_t index, double to,
                     const at::Tensor& direction);

struct OpenOptions;
/// Opens a file of a steered model and all that it names.
///
/// @error BadInput  a broken file, another autoencoder or model than it was written with
Result<std::shared_ptr<Model>> open_steered(const std::filesystem::path& file, const OpenOptions& options);

}  // namespace vitrine
