// What the measures of this folder share: maps over the input, orders, substitutes for pixels, boxes, likeness of maps.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <vitrine/measure.h>
#include <vitrine/parameters_aside.h>
#include <vitrine/seen_through.h>

namespace vitrine::plugin::measures {

std::unique_ptr<Measure> make_insertion();
std::unique_ptr<Measure> make_deletion();
std::unique_ptr<Measure> make_aopc();
std::unique_ptr<Measure> make_average_drop();
std::unique_ptr<Measure> make_increase_in_confidence();
std::unique_ptr<Measure> make_average_gain();
std::unique_ptr<Measure> make_road();
std::unique_ptr<Measure> make_infidelity();
std::unique_ptr<Measure> make_max_sensitivity();
std::unique_ptr<Measure> make_completeness();
std::unique_ptr<Measure> make_sparseness();
std::unique_ptr<Measure> make_complexity();
std::unique_ptr<Measure> make_pointing_game();
std::unique_ptr<Measure> make_energy_pointing_game();
std::unique_ptr<Measure> make_localisation_mass();
std::unique_ptr<Measure> make_topk_localisation();
std::unique_ptr<Measure> make_parameter_randomisation();
std::unique_ptr<Measure> make_random_logit();
std::unique_ptr<Measure> make_agreement();

/// A measure whose parameters and description are data; most need no more.
class Basic : public Measure {
  public:
    std::optional<std::string> why_not(const Model&, const Explainer&) const override { return std::nullopt; }
};

// ---- numbers that follow from a seed --------------------------------------------------------------------------------

/// A generator for one purpose: equal seeds and streams give equal numbers.
at::Generator generator(std::uint64_t seed, std::uint64_t stream);

// ---- maps -----------------------------------------------------------------------------------------------------------

/// The map over the model's input. [input height, input width]
Result<at::Tensor> pixel_map(const ExplainContext& context, const Attribution& attribution);
/// Over the patch grid: as it is where it has that size, else the mean over each patch of the map over the input.
Result<at::Tensor> patch_map(const ExplainContext& context, const Attribution& attribution);

/// Places by falling value; equal values in an order drawn from the seed. [count] indices into the flattened map
std::vector<std::int64_t> ranked(const at::Tensor& map, std::uint64_t seed);
/// The inverse: how many places come before each. int64 [count]
at::Tensor ranks_of(const std::vector<std::int64_t>& order);

// ---- likeness of two maps -------------------------------------------------------------------------------------------

/// Spearman's rank correlation, equal values sharing their mean rank; nothing where a map is flat.
std::optional<double> spearman(const at::Tensor& a, const at::Tensor& b);
/// Mean structural similarity (Wang et al. 2004, as scikit-image computes it by default: uniform 7 x 7 window, sample
/// covariance, borders left out), the window cut to the map where that is smaller. Range: of both maps together.
std::optional<double> ssim(const at::Tensor& a, const at::Tensor& b);
/// Share of the k highest places of one that are among the k highest of the other.
double top_overlap(const at::Tensor& a, const at::Tensor& b, std::int64_t k, std::uint64_t seed);

// ---- changed pictures -----------------------------------------------------------------------------------------------

/// What pixels are replaced by, in the model's normalised units. [1, 3, height, width]
///
/// @param how  zero (the mean colour), black, white, mean (of this picture, a channel each), uniform (noise in every
///             pixel), blur_rise (RISE's evaluation: 11 wide, sigma 5, borders black), blur (the same, borders
///             mirrored)
at::Tensor substitute(const ExplainContext& context, const std::string& how, std::uint64_t seed);
std::vector<std::string> substitutes();

/// As the objective, but with the class that was predicted made explicit, so that a changed picture keeps it.
Result<Target> settled(ExplainContext& context);

/// The explained numbers along a path of changes.
struct Curve {
    std::vector<double> share;  ///< of places changed, rising
    std::vector<double> score;
    /// By trapezoids, over the span of `share`.
    double area() const;
};

/// Scores pictures in which the places whose rank is below a count were taken from `finish` and the others from
/// `start`.
///
/// @param ranks   int64, [height, width] or its flat form: how many places come before each (ranks_of)
/// @param counts  one picture each
Result<Curve> walk(ExplainContext& context, const Objective& objective, const at::Tensor& start,
                   const at::Tensor& finish, const at::Tensor& ranks, const std::vector<std::int64_t>& counts);

/// Fills the unknown pixels: each is the weighted mean of its eight neighbours (1/6 beside, 1/12 across), borders with
/// the neighbours there are, then noise. One sparse factorisation for all channels.
///
/// @param picture  [1, 3, height, width]
/// @param known    bool [height, width]
/// @param noise    standard deviation, in the picture's units
/// @error BadInput  no pixel is known
/// @source Y. Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022
Result<at::Tensor> impute(const at::Tensor& picture, const at::Tensor& known, double noise, std::uint64_t seed);

/// The largest change of the map under noise; `noise(i)` is what is added to the pixels the i-th time.
/// @source C. Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, the definition of
/// SENS_MAX
Result<double> max_sensitivity(ExplainContext& context, const Subject& subject, std::int64_t samples, bool relative,
                               const std::function<at::Tensor(std::int64_t)>& noise);

// ---- boxes ----------------------------------------------------------------------------------------------------------

/// The picture's boxes in the pixels of the model's input, not cut at its border.
std::vector<Box> boxes_in_input(const ExplainContext& context);
/// Pixels whose centre lies in a box, or that a box touches at all. bool [input height, input width]
at::Tensor box_mask(const ExplainContext& context, bool touched = false);

// ---- parameters -----------------------------------------------------------------------------------------------------

/// The layers of a model from its end to its beginning: lists of places among its parameters.
///
/// A layer is what shares a name up to the first number ("blocks.3", "layer1.0") or, without one, up to the last dot
/// ("head"). Earlier layers are those whose change reaches more named points of the model.
Result<std::vector<std::vector<std::size_t>>> layers_from_the_head(ExplainContext& context);

}  // namespace vitrine::plugin::measures
