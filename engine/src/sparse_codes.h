// Codes as lists of the few numbers that are not zero, and what is made of lists by kernels of ours: reconstructions
// and gradients that cost what is listed, not what could be.
//
//     const CodeLists lists = largest_lists(before, k);           // of each row
//     at::Tensor x = decode_lists(lists.indices, relu(lists.values), lists.starts, autoencoder.tensor("W_dec"));
//
// On the CPU and on devices with kernels in this build, in float32. Nothing here waits for a device.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace vitrine {

struct CodeLists {
    at::Tensor indices;  ///< int64 [n, k], or with `starts` [terms]: row by row
    at::Tensor values;   ///< as many
    at::Tensor starts;   ///< int64 [n + 1]; undefined: k each
};

/// Whether the kernels take rows like these: float32, on the CPU or on a CUDA device with kernels in this build.
bool lists_apply(const at::Tensor& rows);

/// The k largest of each row, the largest first, of equal ones the first. Empty where this is not for the kernels:
/// another type, or so large a k that they have no form for it.
std::optional<CodeLists> largest_lists(const at::Tensor& rows, std::int64_t k);
/// The `count` largest of all rows together, as lists by row, in the order of their places. Of several equal ones at
/// the edge the first are taken on the CPU; on a device that choice is libtorch's.
CodeLists largest_of_all(const at::Tensor& rows, std::int64_t count);
/// What is not zero, where it is at most this share of all. On the CPU alone.
std::optional<CodeLists> lists_of(const at::Tensor& active, double most);

/// Up to this share of codes that are not zero, finding and gathering them is faster than the product: on two cores
/// with AVX-512 it took 1 / 1.8 of its time at 0.08, 1 / 1.1 at 0.16 and 1.6 times as long at 0.32 (`vitrine bench
/// sparse --case w192`).
constexpr double kSparseEnough = 0.12;

/// sum_j values[i, j] rows[indices[i, j]], with gradients to values and rows. [n, width]
at::Tensor decode_lists(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                        const at::Tensor& rows);

/// decode_lists' gradients: to the values, and to rows [m, width] with the values' sums [m] unless these are undefined.
at::Tensor lists_value_gradient(const at::Tensor& indices, const at::Tensor& starts, const at::Tensor& rows,
                                const at::Tensor& d_out);
at::Tensor lists_row_gradient(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                              std::int64_t m, const at::Tensor& d_out, const at::Tensor& sums = {});

/// The listed numbers of x encoder + bias once more, now with gradients to the encoder and its bias, and through x to
/// what was subtracted to make it: what is not listed has none, and is never formed.
///
/// @param lists       of that product
/// @param x           [n, width], without a graph
/// @param encoder     [width, latents]
/// @param subtracted  [width], in the graph, or undefined
/// @return            the values
at::Tensor listed_products(const CodeLists& lists, const at::Tensor& x, const at::Tensor& encoder,
                           const at::Tensor& bias, const at::Tensor& subtracted);

}  // namespace vitrine
