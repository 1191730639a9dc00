// What explains and measures by concepts: of a saved dictionary, or found in a few pictures.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/autoencoder.h>
#include <vitrine/explainer.h>
#include <vitrine/measure.h>
#include <vitrine/picture_set.h>

namespace vitrine::plugin::concepts {

std::unique_ptr<Explainer> make_concepts();
std::unique_ptr<Measure> make_autoencoder_fidelity();
std::unique_ptr<Measure> make_uncertainty_response();
std::unique_ptr<Explainer> make_craft();
std::unique_ptr<Explainer> make_deep_feature_factorisation();

/// The point that a setting names; where it names none the block three quarters deep, or the model's cam_point.
/// @error Unsupported, BadInput  there is none, or none of this name
Result<std::string> point_of(const Model& model, const std::string& named);
/// Why a model has no activation with a grid; empty when it may have.
std::optional<std::string> needs_points(const Model& model);

/// The activation at a point of some pictures, and its grid.
struct Seen {
    at::Tensor whole;  ///< [n, tokens, width] or [n, channels, rows, cols], as the point has it
    at::Tensor cells;  ///< [n, rows * cols, width], float64, on the CPU: without tokens that are no patches
    std::int64_t rows = 0, cols = 0;
    at::Tensor answer;  ///< [n, classes]
};
/// @error Unsupported  no grid at this point
Result<Seen> see(Model& model, const at::Tensor& pixels, const std::string& point, const std::stop_token& stop);
/// Seen::whole of other cells. [n, rows * cols, width] -> [n, ...], prefix tokens as in the first of `of`
at::Tensor whole_of(const at::Tensor& cells, const Seen& of);

/// Pictures of a folder by name, at any depth.
/// @error NotFound, BadInput  no such folder, no picture in it
Result<std::vector<std::string>> pictures_of(const std::string& folder, std::vector<std::string>& notes);

/// What stands between commas, empty items left out.
std::vector<std::string> items_of(const std::string& text);
/// The autoencoders that a measure's settings name, with their names, on the model's device.
///
/// @param files  with commas between; empty: the one that came with the built-in model
/// @param given  NAME=VALUE with commas between, what the files do not say
/// @error BadInput  no file named and none built in, an item that is not NAME=VALUE; as Autoencoder::load
Result<std::vector<std::pair<std::string, Autoencoder>>> autoencoders_of(const std::string& files,
                                                                         const std::string& given,
                                                                         const std::string& measure, Model& model);
/// Lines of FILE,NUMBER, a heading aside; NaN for pictures that no line names.
/// @error BadInput  a number for none of them
Result<std::vector<double>> numbers_of_pictures(const std::filesystem::path& file, const PictureSet& pictures);

}  // namespace vitrine::plugin::concepts
