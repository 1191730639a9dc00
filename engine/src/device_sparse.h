// The kernels on lists of codes over tensors of a CUDA device. Raise a c10::Error where they cannot run.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace vitrine {

/// Whether they are in this build.
bool device_sparse_built();
/// The largest k that device_largest takes.
std::int64_t device_most_largest();

// As kernels/cuda/sparse_decode.h; `starts` may be undefined, `rows` is fp32 or bf16, all contiguous.
at::Tensor device_sparse_decode(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                                const at::Tensor& rows);
at::Tensor device_sparse_value_gradient(const at::Tensor& indices, const at::Tensor& starts, const at::Tensor& rows,
                                        const at::Tensor& d_out);
/// d_rows [m, width] and, unless `sums` is undefined, the values' sums [m]
at::Tensor device_sparse_row_gradient(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                                      std::int64_t m, const at::Tensor& d_out, const at::Tensor& sums);
/// Fills values and indices [rows, k].
void device_largest(const at::Tensor& x, const at::Tensor& values, const at::Tensor& indices);

// A whole step on lists, as kernels/cuda/list_step.h. What may be missing is undefined.

/// Whether rows of that width are taken.
bool device_list_step_takes(std::int64_t width);
struct ListErrorAsked {
    at::Tensor indices, values, starts;        // values before the activation
    at::Tensor rows, bias, x, centre;          // x fp32 [n, width]
    at::Tensor scale, shift;                   // [n, 1] or undefined
    bool keep_negative = false, made = false;  // made: what the codes say is wanted
    int over = 0;                              // kernels::cuda::ErrorOver
    double factor = 1;
};
struct ListErrorFound {
    at::Tensor active, d_values, d_said, sums, made;
};
ListErrorFound device_list_error(const ListErrorAsked& asked);
/// Fills the gradients of the decoder [m, width], of the encoder as [m, width], of its bias, who was heard (1 or 0) [m]
/// and the squares of the gradients' rows [2, m]. `plus` are added to the first two.
struct ListGradients {
    at::Tensor decoder, encoder, encoder_bias, heard, squares;
    at::Tensor plus_decoder, plus_encoder;
};
void device_list_gradients(const ListErrorAsked& asked, const ListErrorFound& found, const at::Tensor& read,
                           const ListGradients& to);
void device_row_squares(const at::Tensor& rows, const at::Tensor& squares);
/// Sums over the rows of x times `factor`, less columns weights, and more `plus`: to `sums` [width]. Without columns x
/// less `taken_off` comes back where that is defined.
at::Tensor device_column_sums(const at::Tensor& x, double factor, const at::Tensor& sums, const at::Tensor& taken_off,
                              const at::Tensor& columns = {}, const at::Tensor& weights = {},
                              const at::Tensor& plus = {});
/// What becomes figures [8]: list_error's sums of n tokens, of a batch of so many.
struct ListFigured {
    at::Tensor sums, revival, figures;  // revival: scalar or undefined
    std::int64_t batch = 0;
    double revival_share = 1;
};
void device_list_figures(const ListFigured& figured);
/// Adam's step on W_dec, W_enc, b_enc and b_dec, in this order, and what else ends a step.
struct ListUpdated {
    at::Tensor weights[4], first[4], second[4], counts[4], gradients[4];  // W_enc's gradient as [m, width]
    at::Tensor squares, heard, silent, figures, rate_there;
    std::int64_t batch = 0, window = 0, longest = 0;
    double rate = 0, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, clip = 1;
};
/// @param figured  made in the same launch, or null: they are there
void device_list_update(const ListUpdated& update, const ListFigured* figured);

}  // namespace vitrine
