// What the methods of this folder share: the loop of steps, matrices that enlarge and blur, each term of their
// objectives.
//
// Terms take any floating type and keep the graph, so that a test can hold them against double precision.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/explainer.h>

namespace vitrine::plugin::optimised {

std::unique_ptr<Explainer> make_meaningful_perturbation();
std::unique_ptr<Explainer> make_extremal_perturbation();
std::unique_ptr<Explainer> make_token_mask();

/// A number in [0, 1) that hangs on its three numbers alone.
double uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t index);

// ---- the loop ------------------------------------------------------------------------------------------------------

/// Runs `step` for each of `steps`, shows `so_far` every tenth and says how far it is. A stop between or within steps
/// shows the map so far before the work ends, as for every method that refines.
///
/// @error Cancelled  stopped
Status optimise(ExplainContext& context, std::int64_t steps, const std::function<Status(std::int64_t step)>& step,
                const std::function<Attribution()>& so_far);

/// Adam with the betas 0.9 and 0.999 and epsilon 1e-8 of Kingma and Ba, ICLR 2015.
class Adam {
  public:
    explicit Adam(double rate) : rate_(rate) {}
    /// Moves `x` in place against its gradient.
    void descend(at::Tensor& x, const at::Tensor& gradient);

  private:
    double rate_;
    std::int64_t steps_ = 0;
    at::Tensor first_, second_;
};

/// Stochastic gradient descent with momentum and an equal dampening; the first step is not dampened (as in PyTorch).
class Momentum {
  public:
    Momentum(double rate, double momentum) : rate_(rate), momentum_(momentum) {}
    void descend(at::Tensor& x, const at::Tensor& gradient);

  private:
    double rate_, momentum_;
    at::Tensor velocity_;
};

/// Explained number and its gradient at one changed picture [1, 3, height, width].
struct Slope {
    double score = 0;
    at::Tensor gradient;  ///< [1, 3, height, width], float32, on the picture's device
};
Result<Slope> slope_at(ExplainContext& context, const Objective& objective, const at::Tensor& picture);

/// "probability", "logit", or "number" where it is of no class.
const char* word_of(const Objective& objective);

/// Pixels of this picture for one of a picture 224 a side: what papers say of lengths is said of that size.
double unit_of(const at::Tensor& pixels);

// ---- pictures ------------------------------------------------------------------------------------------------------

/// Rows of weights, each summing to 1, that enlarge `cells` to `size` by a Gaussian of `sigma` pixels about each cell's
/// centre. [size, cells], float64
at::Tensor gaussian_enlargement(std::int64_t cells, std::int64_t size, double sigma);
/// Rows of weights that enlarge linearly, the outer cells at the outer pixels. [size, cells], float64
at::Tensor linear_enlargement(std::int64_t cells, std::int64_t size);
/// Rows of weights that blur an axis by a Gaussian cut at 4 sigma. [size, size], float64
///
/// @param mirrored  beyond the border the picture is mirrored; else there is 0 there, the training mean
at::Tensor blur_axis(std::int64_t size, double sigma, bool mirrored);
/// [..., height, width] blurred along both axes, of its own type.
at::Tensor blurred(const at::Tensor& picture, double sigma, bool mirrored);

// ---- meaningful perturbation ---------------------------------------------------------------------------------------

/// The sum of |1 - m|, or its mean. m [rows, cols]
at::Tensor hidden_area(const at::Tensor& m, bool mean);
/// The sum of |dy m|^beta and |dx m|^beta over neighbouring cells, or the mean of each axis. m [rows, cols]
at::Tensor roughness(const at::Tensor& m, double beta, bool mean);

// ---- extremal perturbation -----------------------------------------------------------------------------------------

/// A mask that cannot be rougher than its kernel: the smooth maximum of the kernels that stand on a grid of parameters.
///
/// m(u) = sum over v of w e^(20 w) / sum over v of e^(20 w), w = k(|u - v| / sigma) p(v), k(z) = exp(-2 max(z - 1/2,
/// 0)^2). Around the picture is a margin of sigma, so that a blob at the border has its whole area.
class SmoothMask {
  public:
    /// @param step   pixels between parameters
    /// @param sigma  radius of the kernel, pixels
    SmoothMask(std::int64_t height, std::int64_t width, std::int64_t step, double sigma, at::TensorOptions options);
    std::int64_t rows() const { return rows_; }
    std::int64_t cols() const { return cols_; }
    /// parameters [rows, cols] -> [height and margins, width and margins], 0 to 1, with the graph
    at::Tensor whole(const at::Tensor& parameters) const;
    /// The picture's part of it. [height, width]
    at::Tensor inner(const at::Tensor& whole) const;

  private:
    std::int64_t height_, width_, rows_, cols_, padding_, reach_, margin_;
    at::Tensor index_y_, index_x_;  ///< [out * reach], into the padded parameters
    at::Tensor weight_;             ///< [out rows, reach, out cols, reach]
};

/// The mean square distance of the mask's sorted values from (1 - area) zeros and then ones.
at::Tensor rank_penalty(const at::Tensor& mask, double area);

/// The picture under `levels` blurs, the strongest first and the last none. [levels, 3, height, width]
at::Tensor blur_pyramid(const at::Tensor& pixels, std::int64_t levels, double sigma);
/// The picture that looks into the pyramid at each pixel as deep as the mask says, linear between levels.
/// mask [height, width] -> [1, 3, height, width], with the graph
at::Tensor look_into(const at::Tensor& pyramid, const at::Tensor& mask);

// ---- token mask ----------------------------------------------------------------------------------------------------

/// The leave-one-out score-function estimate of d E[reward] / d theta, theta the logits of the kept probabilities:
/// 1 / (S - 1) sum over s of (r_s - mean r)(z_s - p), which is 1 / S sum of (r_s - mean of the others' r)(z_s - p).
///
/// @param kept     [S, patches], 0 or 1, drawn by p
/// @param rewards  [S]
/// @param p        [patches]
/// @source  W. Kool, H. van Hoof, M. Welling, Buy 4 REINFORCE Samples, Get a Baseline for Free!, ICLR 2019 workshop
at::Tensor leave_one_out(const at::Tensor& kept, const at::Tensor& rewards, const at::Tensor& p);

}  // namespace vitrine::plugin::optimised
