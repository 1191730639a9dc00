// What the methods of this folder share: a set of features, masks over them, the model's scores, a rule that makes a
// map.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/random.h>
#include <vitrine/explainer.h>

namespace vitrine::plugin::perturbation {

std::unique_ptr<Explainer> make_occlusion();
std::unique_ptr<Explainer> make_feature_ablation();
std::unique_ptr<Explainer> make_rise();
std::unique_ptr<Explainer> make_lime();
std::unique_ptr<Explainer> make_kernel_shap();
std::unique_ptr<Explainer> make_sobol();
std::unique_ptr<Explainer> make_hsic();
std::unique_ptr<Explainer> make_vit_cx();
std::unique_ptr<Explainer> make_tis();

/// A number in [0, 1) from random_bits(): neither the batch size nor the order of the work changes a mask.
double uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t index);

// ---- what a masked picture is made of
// --------------------------------------------------------------------------------------------

/// The parameter `fill`: what takes the place of what a mask leaves out.
Parameter fill_parameter(const std::string& standard, const std::string& source);
/// Why no region can be explained with this `fill`; empty when one can.
std::optional<std::string> no_region_for(const Settings& settings);

struct Features;

/// Gives the explained number of pictures of which masks keep a part: by painting pixels, or by leaving patches out.
class Canvas {
  public:
    using Masks = std::function<at::Tensor(std::int64_t from, std::int64_t count)>;

    /// @param fill      "zero", "black", ..., "remove"
    /// @param expected  how many pictures will be asked for, for progress
    /// @error Unsupported  patches that cannot be left out of this model
    static Result<Canvas> make(ExplainContext& context, const std::string& fill, std::int64_t expected);

    bool removes() const { return fill_name_ == "remove"; }
    /// A mask's shape: pixels, or patches where those are left out.
    std::int64_t rows() const { return rows_; }
    std::int64_t cols() const { return cols_; }
    /// Makes each feature's own mean colour what is painted; nothing under another fill than "segment".
    void paint_means(const Features& features);
    void expect(std::int64_t pictures) { expected_ = pictures; }

    /// @param masks  [count, rows * cols], float32 in [0, 1], 1 keeps; below 0.5 a patch is left out
    /// @return       [count], float64
    Result<at::Tensor> scores(std::int64_t count, const Masks& masks);
    /// The same of subsets of features: samples [count, features.count].
    Result<at::Tensor> scores(const Features& features, const at::Tensor& samples);
    /// The same of pictures that are no masks of this one; `make` gives [count, 3, height, width].
    Result<at::Tensor> scores_of(std::int64_t count, const Masks& make);
    /// The explained number of the picture as it is; asked once.
    Result<double> whole();

    /// An attribution with what all methods say; the map is made float32.
    Attribution attribution(const Explainer& method, const at::Tensor& map, bool on_tokens, bool is_signed) const;
    ExplainContext& context() const { return *context_; }
    const Objective& objective() const { return objective_; }
    std::int64_t spent() const { return spent_; }  ///< pictures that went through the model
    at::Tensor picture() const { return context_->input.pixels.select(0, 0); }  ///< [3, height, width]

  private:
    Result<at::Tensor> counted(std::int64_t count, const std::function<Result<at::Tensor>()>& work);

    ExplainContext* context_ = nullptr;
    Objective objective_;
    std::string fill_name_;
    at::Tensor fill_;  ///< [3, height, width]; undefined for zero
    std::int64_t rows_ = 0, cols_ = 0, spent_ = 0, expected_ = 0;
    std::optional<double> whole_;
};

// ---- features
// --------------------------------------------------------------------------------------------------------------------

/// A partition of a canvas.
struct Features {
    std::int64_t count = 0;
    at::Tensor of;                              ///< int64 [canvas rows * cols], which feature each cell belongs to
    std::int64_t grid_rows = 0, grid_cols = 0;  ///< where the features are a grid in row-major order
    std::int64_t canvas_rows = 0, canvas_cols = 0;
    std::string name;  ///< "52 superpixels (slic)"

    /// [n, count] -> [n, canvas rows * cols]
    at::Tensor expand(const at::Tensor& masks) const { return masks.index_select(1, of); }
    /// Values of the features as a map: the grid itself, else each value on all cells of its feature.
    at::Tensor map_of(const at::Tensor& values) const;
    bool is_grid() const { return grid_rows > 0; }
};

/// A grid over a canvas: cell of row y is floor((y + 0.5) rows / canvas rows), as a nearest upsampling has it. Never
/// finer than the canvas.
Features grid_features(const Canvas& canvas, std::int64_t rows, std::int64_t cols);
/// The parameters `features`, `grid` and `segments`.
std::vector<Parameter> feature_parameters(const std::string& standard, const std::string& source);
/// What those say: patches, a grid, or superpixels of the picture; where patches are left out each belongs to the
/// superpixel that covers most of it. One superpixel alone is no set of features: then slic is asked, then a grid.
Result<Features> features_of(const Canvas& canvas, const Settings& settings);

/// A sample that keeps nothing is no picture where patches are left out: it keeps one feature. In place.
void keep_one(const at::Tensor& samples);

// ---- rules, each on its own so that a test can inject masks and scores
// -----------------------------------------------------------

/// RISE's masks: a random s x s grid enlarged by ceil(side / s) a cell with linear interpolation, cut out at a random
/// shift.
///
/// @return [count, rows * cols], float32
at::Tensor rise_masks(std::uint64_t seed, std::int64_t from, std::int64_t count, std::int64_t cells, double keep,
                      std::int64_t rows, std::int64_t cols);
/// One mask from a given grid [s, s] and shift. [rows, cols]
at::Tensor rise_mask(const at::Tensor& grid, std::int64_t shift_y, std::int64_t shift_x, std::int64_t rows,
                     std::int64_t cols);

/// Sums from which RISE's map and its standard error follow; masks come in any number of parts.
class RiseSum {
  public:
    RiseSum(double keep, bool centred) : keep_(keep), centred_(centred) {}
    /// @param masks [n, cells], scores [n]
    void add(const at::Tensor& masks, const at::Tensor& scores);
    at::Tensor map() const;    ///< [cells], float64
    at::Tensor error() const;  ///< [cells], standard error of the map
    /// Mean standard error as a share of the map's range.
    double error_share() const;
    std::int64_t count() const { return count_; }

  private:
    double keep_ = 0.5;
    bool centred_ = false;
    std::int64_t count_ = 0;
    double scores_ = 0;
    at::Tensor masks_, squares_, weighted_, weighted_squares_, squared_;
};

/// Samples for LIME: random subsets, the first with all features. [samples, features], float32
at::Tensor lime_samples(std::uint64_t seed, std::int64_t samples, std::int64_t features);
/// Weighted ridge regression on the samples. [features], float64
///
/// weights = sqrt(exp(-d^2 / kernel_width^2)), d the cosine distance to the first, full sample; the intercept is free.
at::Tensor lime_weights(const at::Tensor& samples, double kernel_width);
at::Tensor ridge(const at::Tensor& samples, const at::Tensor& scores, const at::Tensor& weights, double alpha);

/// Samples for KernelSHAP: all, none (unless `none` is false), then subsets whose size k is drawn with p(k) ~ (M - 1) /
/// (k (M - k)).
at::Tensor shap_samples(std::uint64_t seed, std::int64_t samples, std::int64_t features, bool none = true);
/// Weighted least squares of smallest norm with a free intercept; 1e6 weighs the full and the empty sample. [features],
/// float64
at::Tensor shap_values(const at::Tensor& samples, const at::Tensor& scores);

/// `count` points of the Sobol sequence (Joe and Kuo) behind the one at 0. [count, dimensions], float32 in (0, 1)
Result<at::Tensor> sobol_points(std::int64_t count, std::int64_t dimensions);
/// Rows of A and, for each feature i, A with column i of B, where `points` [designs, 2 features] are A beside B; there
/// are designs * (features + 1). [count, features]
at::Tensor sobol_design(const at::Tensor& points, std::int64_t from, std::int64_t count);
/// Total indices by Jansen's estimator from the scores of that design. [features], float64
at::Tensor sobol_indices(const at::Tensor& scores, std::int64_t designs);
/// HSIC of each binary feature with the score: Dirac kernel 1.5 or 0.5, Gaussian kernel of the scores' median.
/// [features], float64
at::Tensor hsic_scores(const at::Tensor& masks, const at::Tensor& scores);

/// Complete-linkage clusters of points below a distance. [n, n] -> n labels from 0
std::vector<std::int64_t> complete_linkage(const at::Tensor& distances, double threshold);
/// The matrix that enlarges `in` cells to `out`, bilinear, half-pixel centres. [out, in], float64
at::Tensor bilinear_axis(std::int64_t out, std::int64_t in);
/// The noise of ViT-CX's mask i, standard normal. [3, height, width]
at::Tensor vit_cx_noise(std::uint64_t seed, std::int64_t mask, std::int64_t height, std::int64_t width);
/// Lloyd's k-means from `clusters` different points drawn by seed. [points, width] -> [clusters, width]
Result<at::Tensor> k_means(const at::Tensor& points, std::int64_t clusters, std::uint64_t seed, std::stop_token stop);
/// For each row the largest `keep` entries as 1; of equal ones the first. [n, cells] -> the same, float32
at::Tensor top_masks(const at::Tensor& rows, std::int64_t keep);

}  // namespace vitrine::plugin::perturbation
