// Fits principal components, k-means and non-negative matrices to tokens.
#include <vitrine/concept_factors.h>

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <vitrine/torch_errors.h>

#include "dataset.h"

namespace vitrine {

namespace {

constexpr std::uint64_t kFirst = 0x6b6d65616e;
/// Rows that are compared with all centroids at once.
constexpr std::int64_t kPiece = 16384;

/// Eigenvectors of a symmetric matrix as rows, the largest eigenvalue first. In double, on the CPU.
std::pair<at::Tensor, at::Tensor> eigenvectors(const at::Tensor& symmetric) {
    const auto [values, vectors] = at::linalg_eigh(symmetric.to(at::kCPU, at::kDouble), "L");
    return {values.flip(0), vectors.t().flip(0).contiguous()};
}

/// x^T x in double, a piece at a time: a copy of all tokens in double may not fit.
at::Tensor inner(const at::Tensor& x, const at::Tensor& mean) {
    at::Tensor sum = at::zeros({x.size(1), x.size(1)}, x.options().dtype(at::kDouble));
    for (std::int64_t i = 0; i < x.size(0); i += kPiece) {
        at::Tensor some = x.narrow(0, i, std::min(kPiece, x.size(0) - i)).to(at::kDouble);
        if (mean.defined()) some = some - mean;
        sum += at::matmul(some.t(), some);
    }
    return sum;
}

Result<Autoencoder> fit_components(AutoencoderConfig config, const at::Tensor& x) {
    const std::int64_t count = config.latents / 2;
    if (count > std::min(x.size(0), x.size(1)))
        return fail(ErrorCode::BadInput,
                    "{} tokens of {} numbers have {} components, found {} latents: give {} or fewer", x.size(0),
                    x.size(1), std::min(x.size(0), x.size(1)), config.latents, 2 * std::min(x.size(0), x.size(1)));
    const at::Tensor mean = x.to(at::kDouble).mean(0);
    const auto [values, vectors] = eigenvectors(inner(x, mean));
    at::Tensor rows = vectors.narrow(0, 0, count);
    // An eigenvector has no sign of its own.
    const at::Tensor largest = rows.gather(1, rows.abs().argmax(1, true));
    rows = at::where(largest < 0, -rows, rows);
    const double whole = values.clamp_min(0).sum().item<double>(),
                 kept = values.narrow(0, 0, count).clamp_min(0).sum().item<double>();
    Autoencoder out = VITRINE_TRY(Autoencoder::of_rows(std::move(config), rows.to(x.options()), mean.to(x.options())));
    out.facts["fitted"] = fmt::format("{} principal components of {} tokens, {:.2f} % of their variance", count,
                                      x.size(0), whole > 0 ? 100 * kept / whole : 0.0);
    return out;
}

/// Squared distances to the nearest centroid and which it is.
std::pair<at::Tensor, at::Tensor> nearest(const at::Tensor& x, const at::Tensor& centres) {
    const at::Tensor lengths = centres.square().sum(1);
    std::vector<at::Tensor> distances, which;
    for (std::int64_t i = 0; i < x.size(0); i += kPiece) {
        const at::Tensor some = x.narrow(0, i, std::min(kPiece, x.size(0) - i));
        const at::Tensor each = lengths - 2 * at::matmul(some, centres.t());
        const at::Tensor first = largest(-each, 1);  // of equal ones the first
        which.push_back(first.squeeze(1));
        distances.push_back((each.gather(1, first).squeeze(1) + some.square().sum(1)).clamp_min(0));
    }
    return {at::cat(distances), at::cat(which)};
}

/// k-means++, greedy: of 2 + log(count) tokens drawn with a chance in proportion to their squared distance to the
/// centres before, the one that leaves the least distance.
at::Tensor first_centres(const at::Tensor& x, std::int64_t count, std::uint64_t seed) {
    StepRandom random(seed, 0, kFirst);
    const std::int64_t n = x.size(0), tries = 2 + static_cast<std::int64_t>(std::log(static_cast<double>(count)));
    std::vector<at::Tensor> out{x.narrow(0, random.below(n), 1)};
    at::Tensor distance = (x - out[0]).square().sum(1);
    while (std::ssize(out) < count) {
        const at::Tensor sums = distance.to(at::kCPU, at::kDouble).cumsum(0);
        const auto* sum = sums.const_data_ptr<double>();
        at::Tensor chosen, left;
        double least = 0;
        for (std::int64_t i = 0; i < tries; ++i) {
            const std::int64_t drawn =
                std::min<std::int64_t>(n - 1, std::upper_bound(sum, sum + n, random.uniform() * sum[n - 1]) - sum);
            const at::Tensor one = x.narrow(0, drawn, 1), after = at::minimum(distance, (x - one).square().sum(1));
            const double total = after.sum(at::kDouble).item<double>();
            if (i > 0 && total >= least) continue;
            chosen = one, left = after, least = total;
        }
        out.push_back(chosen);
        distance = left;
    }
    return at::cat(out);
}

Result<Autoencoder> fit_clusters(AutoencoderConfig config, const at::Tensor& tokens, const FactorOptions& options) {
    const std::int64_t count = config.latents, n = tokens.size(0);
    if (count > n) return fail(ErrorCode::BadInput, "{} tokens have no {} clusters; give fewer latents", n, count);
    const at::Tensor mean = tokens.to(at::kDouble).mean(0).to(tokens.options());
    const at::Tensor x = tokens - mean;
    at::Tensor centres = first_centres(x, count, options.seed), before;
    std::int64_t taken = 0;
    bool settled = false;
    while (taken < options.iterations && !settled) {
        if (options.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        auto [distance, which] = nearest(x, centres);
        settled = before.defined() && which.eq(before).all().item<bool>();
        before = which;
        ++taken;
        if (options.progress) options.progress(taken);
        // Sums as products with the table of who belongs where: in the same order on every machine.
        at::Tensor sums = at::zeros({count, x.size(1)}, x.options().dtype(at::kDouble)),
                   sizes = at::zeros({count}, sums.options());
        for (std::int64_t i = 0; i < n; i += kPiece) {
            const std::int64_t size = std::min(kPiece, n - i);
            const at::Tensor table = at::one_hot(which.narrow(0, i, size), count).to(x.scalar_type());
            sums += at::matmul(table.t(), x.narrow(0, i, size)).to(at::kDouble);
            sizes += table.sum(0, false, at::kDouble);
        }
        const at::Tensor empty = sizes.eq(0);
        centres = at::where(empty.unsqueeze(1), centres, (sums / sizes.clamp_min(1).unsqueeze(1)).to(x.options()));
        if (!empty.any().item<bool>()) continue;
        const at::Tensor which_empty = empty.nonzero().squeeze(1);
        centres.index_copy_(0, which_empty, x.index_select(0, largest(distance.unsqueeze(0), which_empty.size(0))[0]));
        settled = false;
    }
    Autoencoder out = VITRINE_TRY(Autoencoder::of_rows(std::move(config), centres, mean));
    out.facts["fitted"] = fmt::format("{} clusters of {} tokens after {} rounds{}", count, n, taken,
                                      settled ? "" : ", when some still moved");
    return out;
}

Result<Autoencoder> fit_non_negative(AutoencoderConfig config, const at::Tensor& tokens, const FactorOptions& options) {
    const at::Tensor bias =
        options.from_least ? tokens.amin(0).clamp_max(0) : at::zeros({tokens.size(1)}, tokens.options());
    const at::Tensor x = at::relu(tokens - bias);
    NonNegativeOptions of;
    of.iterations = options.iterations;
    of.tolerance = options.tolerance;
    of.stop = options.stop;
    of.progress = options.progress;
    const NonNegativeFactors found = VITRINE_TRY(non_negative_factors(x, config.latents, of));
    // Any length of a row is as good with codes that take it up: 1 makes the codes' unit the tokens'.
    const at::Tensor rows = found.rows / at::linalg_vector_norm(found.rows, 2, {1}, true).clamp_min(1e-30);
    Autoencoder out = VITRINE_TRY(Autoencoder::of_rows(std::move(config), rows, bias));
    const double whole = tokens.square().sum(at::kDouble).item<double>(),
                 kept = x.square().sum(at::kDouble).item<double>();
    out.facts["fitted"] = fmt::format("{} non-negative parts of {} tokens after {} iterations", found.rows.size(0),
                                      x.size(0), found.iterations);
    if (options.from_least)
        out.facts["fitted"] += "; each number is counted from its least";
    else if (kept < whole)
        out.facts["fitted"] += fmt::format(
            "; {:.1f} % of the tokens' squares is of negative numbers, which were set to 0", 100 * (1 - kept / whole));
    return out;
}

/// One side's numbers, one after the other, each to where its own parabola is least.
///
/// @param out    [count, n], changed
/// @param gram   [count, count] of the other side; `product` [count, n] of x and the other side
/// @return       the sum of the gradients that were left
at::Tensor descend(const at::Tensor& out, at::Tensor gram, const at::Tensor& product, double ridge) {
    gram.diagonal().add_(ridge);
    const at::Tensor hessian = gram.diagonal().to(at::kCPU, at::kDouble).contiguous();
    at::Tensor left = at::zeros({}, out.options().dtype(at::kDouble));
    for (std::int64_t t = 0; t < out.size(0); ++t) {
        at::Tensor row = out.select(0, t);
        const at::Tensor gradient = at::mv(out.t(), gram.select(0, t)) - product.select(0, t);
        left += at::where(row == 0, gradient.clamp_max(0), gradient).abs().sum(at::kDouble);
        const double h = hessian.const_data_ptr<double>()[t];
        if (h != 0) row.copy_((row - gradient / h).clamp_min(0));
    }
    return left;
}

Status check_non_negative(const at::Tensor& x, std::int64_t count) {
    if (x.dim() != 2 || x.numel() == 0) return fail(ErrorCode::BadInput, "there is nothing to factorise");
    if (!at::isfinite(x).all().item<bool>() || x.lt(0).any().item<bool>())
        return fail(ErrorCode::BadInput, "a non-negative factorisation needs numbers of zero or more");
    if (count < 1 || count > std::min(x.size(0), x.size(1)))
        return fail(ErrorCode::BadInput, "{} rows of {} numbers have 1 to {} non-negative parts, found {}", x.size(0),
                    x.size(1), std::min(x.size(0), x.size(1)), count);
    return {};
}

}  // namespace

Result<NonNegativeFactors> non_negative_start(const at::Tensor& x, std::int64_t count) {
    return guarded([&]() -> Result<NonNegativeFactors> {
        const at::NoGradGuard no_grad;
        VITRINE_CHECK(check_non_negative(x, count));
        // The singular vectors of the shorter side from x's products with itself, those of the other from them.
        const bool tall = x.size(0) >= x.size(1);
        const at::Tensor wide = tall ? x : x.t();
        const auto [values, vectors] = eigenvectors(inner(wide, {}));
        const at::Tensor singular = values.narrow(0, 0, count).clamp_min(0).sqrt();
        const at::Tensor right = vectors.narrow(0, 0, count).to(x.device());  // [count, shorter]
        at::Tensor left = at::empty({count, wide.size(0)}, right.options());
        for (std::int64_t i = 0; i < wide.size(0); i += kPiece) {
            const std::int64_t size = std::min(kPiece, wide.size(0) - i);
            left.narrow(1, i, size).copy_(at::matmul(right, wide.narrow(0, i, size).to(at::kDouble).t()));
        }
        // Beyond the rank there is nothing but rounding: these start from the mean alone.
        const double least = 1e-7 * singular[0].item<double>();
        left /= singular.clamp_min(std::max(least, 1e-300)).to(x.device()).unsqueeze(1);
        const at::Tensor &of_codes = tall ? left : right, &of_rows = tall ? right : left;
        at::Tensor codes = at::zeros({count, x.size(0)}, left.options()),
                   rows = at::zeros({count, x.size(1)}, left.options());
        for (std::int64_t j = 0; j < count; ++j) {
            const double s = singular[j].item<double>();
            if (s <= least) break;
            at::Tensor u = of_codes[j], v = of_rows[j];
            double weight = 1;
            if (j == 0) {
                u = u.abs();
                v = v.abs();
            } else {
                const auto length = [](const at::Tensor& t) { return at::linalg_vector_norm(t).item<double>(); };
                const at::Tensor up = u.clamp_min(0), vp = v.clamp_min(0), un = (-u).clamp_min(0),
                                 vn = (-v).clamp_min(0);
                const double positive = length(up) * length(vp), negative = length(un) * length(vn);
                u = positive > negative ? up / length(up) : un / std::max(length(un), 1e-300);
                v = positive > negative ? vp / length(vp) : vn / std::max(length(vn), 1e-300);
                weight = std::max(positive, negative);
            }
            codes[j].copy_(u * std::sqrt(s * weight));
            rows[j].copy_(v * std::sqrt(s * weight));
        }
        const at::Tensor mean = x.to(at::kDouble).mean();
        const auto filled = [&](const at::Tensor& t) { return at::where(t < 1e-6, mean, t).to(x.scalar_type()); };
        return NonNegativeFactors{filled(codes).t().contiguous(), filled(rows), 0};
    });
}

Result<NonNegativeFactors> non_negative_factors(const at::Tensor& x, std::int64_t count,
                                                const NonNegativeOptions& options) {
    return guarded([&]() -> Result<NonNegativeFactors> {
        const at::NoGradGuard no_grad;
        VITRINE_CHECK(check_non_negative(x, count));
        NonNegativeFactors out{options.codes, options.rows, 0};
        if (!out.codes.defined() || !out.rows.defined()) out = VITRINE_TRY(non_negative_start(x, count));
        if (out.codes.sizes() != at::IntArrayRef({x.size(0), count}) ||
            out.rows.sizes() != at::IntArrayRef({count, x.size(1)}))
            return fail(ErrorCode::BadInput, "the factorisation starts from matrices of other shapes than its own");
        // A part of all codes lies in one row: what the descent goes over.
        at::Tensor codes = out.codes.t().to(x.options()).clone(at::MemoryFormat::Contiguous),
                   rows = out.rows.to(x.options()).clone(at::MemoryFormat::Contiguous);
        const at::Tensor turned = x.t().contiguous();
        double first = 0;
        while (out.iterations < options.iterations) {
            if (options.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            at::Tensor left = descend(codes, at::matmul(rows, rows.t()), at::matmul(rows, turned), options.ridge_codes);
            left = left + descend(rows, at::matmul(codes, codes.t()), at::matmul(codes, x), options.ridge_rows);
            const double moved = left.item<double>();
            if (out.iterations++ == 0) first = moved;
            if (options.progress) options.progress(out.iterations);
            if (!(moved > options.tolerance * first)) break;
        }
        out.codes = codes.t().contiguous();
        out.rows = rows;
        return out;
    });
}

Result<Autoencoder> fit_factors(AutoencoderConfig config, const at::Tensor& tokens, const FactorOptions& options) {
    return guarded([&]() -> Result<Autoencoder> {
        const at::NoGradGuard no_grad;
        if (!tokens.defined() || tokens.dim() != 2 || tokens.size(0) < 1 || tokens.size(1) < 1)
            return fail(ErrorCode::BadInput, "there are no tokens to fit");
        const at::Tensor x = tokens.scalar_type() == at::kDouble ? tokens : tokens.to(at::kFloat);
        if (!at::isfinite(x).all().item<bool>())
            return fail(ErrorCode::BadInput, "the tokens have numbers that are not finite");
        config.width = x.size(1);
        VITRINE_TRY(Autoencoder::make(config, 0));  // what cannot be is refused before the work
        if (config.kind == "pca") return fit_components(std::move(config), x);
        if (config.kind == "k_means") return fit_clusters(std::move(config), x, options);
        if (config.kind == "nmf") return fit_non_negative(std::move(config), x, options);
        return fail(ErrorCode::BadInput, "{} is trained, not fitted", config.kind);
    });
}

}  // namespace vitrine
