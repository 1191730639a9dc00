// What the methods of this folder share: maps of input pixels, baselines, noise by seed, sums over many gradients.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <vitrine/explainer.h>

namespace vitrine::plugin::gradient {

/// What stochastic methods draw, by the number of the sample; what is empty is drawn from the context's seed. Tests
/// give the draws of another package here.
struct Draws {
    std::function<at::Tensor(std::int64_t sample)> noise;     ///< [1, 3, H, W], added to the normalised picture
    std::function<at::Tensor(std::int64_t sample)> baseline;  ///< [1, 3, H, W], normalised
    std::function<double(std::int64_t sample)> place;         ///< where between baseline and picture, 0 to 1
};

std::unique_ptr<Explainer> make_saliency();
std::unique_ptr<Explainer> make_input_x_gradient();
std::unique_ptr<Explainer> make_integrated_gradients();
std::unique_ptr<Explainer> make_blur_ig();
std::unique_ptr<Explainer> make_xrai();
std::unique_ptr<Explainer> make_smooth_grad(Draws draws = {});
std::unique_ptr<Explainer> make_square_grad(Draws draws = {});
std::unique_ptr<Explainer> make_var_grad(Draws draws = {});
std::unique_ptr<Explainer> make_gradient_shap(Draws draws = {});
std::unique_ptr<Explainer> make_deep_lift();
std::unique_ptr<Explainer> make_guided_backprop();
std::unique_ptr<Explainer> make_guided_grad_cam();

/// How the three channels become one map: "sum" (signed) or "max_abs".
Parameter reduce_parameter(std::string standard);
/// The picture in which nothing is to be seen: zero, black, white, blur, noise_mean.
Parameter baseline_parameter();

/// How many pictures the setting `baseline` stands for.
std::int64_t ways_of(const Settings& settings);
/// The pictures of `baseline_parameter()`: one, or for noise_mean several over which maps are averaged.
///
/// @return  [count, 3, height, width], normalised
at::Tensor baselines(const ExplainContext& context, const std::string& name);

/// Blurs by a Gaussian of this many pixels, zeros outside, cut at 4 sigma, as scipy.ndimage.gaussian_filter does with
/// mode="constant".
///
/// @param picture  [..., height, width], float64
at::Tensor blurred(const at::Tensor& picture, double sigma);

/// A generator that depends on the seed, the stream (what is drawn) and the sample only: batches do not matter.
at::Generator generator_of(std::uint64_t seed, std::uint64_t stream, std::int64_t sample);

/// The map of `channels` [3, H, W] by the setting `reduce`, and what all methods say alike.
Attribution to_attribution(const Explainer& method, const Settings& settings, const Objective& objective,
                           const at::Tensor& channels);

/// How far the sum of a map is from the change of the explained number that it should be.
struct Gap {
    double sum = 0, change = 0;
    double share() const;  ///< |sum - change| / |change|
    /// The badge: passed up to 5 %, and said to be above 1 % from there.
    Check check() const;
};

/// One run under gradients with the explained number of each picture, for methods that change how gradients pass.
struct Run {
    std::shared_ptr<const Capture> capture;
    at::Tensor scores;  ///< [pictures], with the graph
};
Result<Run> run_with_graph(ExplainContext& context, const Objective& objective, const at::Tensor& pixels,
                           const std::string& point = {});

}  // namespace vitrine::plugin::gradient
