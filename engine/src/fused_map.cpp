// One map fused of all heads, made of rows some queries at a time, and its order statistics.
#include <vitrine/mixing.h>

#include <vitrine/torch_errors.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/xlogy.h>
#include <ATen/ops/zeros.h>

namespace vitrine {
namespace {

/// Queries at a time: rows of all heads in 16 MB. A kind's rows may depend on how many are asked for in their last
/// bits, so everything here asks for the same chunks.
std::int64_t chunk_of(const Mixing& m) {
    return std::clamp<std::int64_t>((std::int64_t{1} << 22) / std::max<std::int64_t>(m.heads * m.keys, 1), 1,
                                    std::max<std::int64_t>(m.queries, 1));
}

Result<at::Tensor> chunk_rows(const Mixing& m, std::int64_t first) {
    std::vector<std::int64_t> queries(static_cast<std::size_t>(std::min(chunk_of(m), m.queries - first)));
    std::iota(queries.begin(), queries.end(), first);
    return m.rows({}, queries);
}

/// Calls look(first query, [queries, keys]) for all chunks in order.
template <class F>
Status fused_chunks(const Mixing& m, kernels::HeadFusion fusion, const F& look) {
    for (std::int64_t first = 0; first < m.queries; first += chunk_of(m)) {
        const at::Tensor map = VITRINE_TRY(chunk_rows(m, first));
        look(first, (fusion == kernels::HeadFusion::Mean  ? map.mean(0)
                     : fusion == kernels::HeadFusion::Max ? map.amax(0)
                                                          : map.amin(0))
                        .contiguous());
    }
    return {};
}

/// The same with zeros where something is dropped.
template <class F>
Status left_chunks(const Mixing& m, kernels::HeadFusion fusion, const kernels::Dropped& dropped, const F& look) {
    return fused_chunks(m, fusion, [&](std::int64_t first, at::Tensor rows) {
        auto* x = rows.data_ptr<float>();
        if (dropped.threshold > -std::numeric_limits<float>::infinity())
            for (std::int64_t i = 0; i < rows.size(0); ++i)
                for (std::int64_t j = 0; j < m.keys; ++j, ++x)
                    if (dropped.drops(*x, first + i, j, m.keys)) *x = 0;
        look(first, rows);
    });
}

}  // namespace

Result<at::Tensor> Mixing::fused_rows(kernels::HeadFusion fusion, std::span<const std::int64_t> wanted) const {
    return guarded([&]() -> Result<at::Tensor> {
        std::vector<std::int64_t> at(wanted.begin(), wanted.end());
        if (at.empty()) {
            at.resize(static_cast<std::size_t>(queries));
            std::iota(at.begin(), at.end(), 0);
        }
        for (std::int64_t& query : at) {
            if (query < 0) query += queries;
            if (query < 0 || query >= queries)
                return fail(ErrorCode::BadInput, "query {} is not there: {} has {}", query, name, queries);
        }
        at::Tensor out = at::empty({static_cast<std::int64_t>(at.size()), keys});
        VITRINE_CHECK(fused_chunks(*this, fusion, [&](std::int64_t first, const at::Tensor& rows) {
            for (std::size_t i = 0; i < at.size(); ++i)
                if (at[i] >= first && at[i] < first + rows.size(0))
                    out[static_cast<std::int64_t>(i)].copy_(rows[at[i] - first]);
        }));
        return out;
    });
}

Result<at::Tensor> Mixing::fused_left(kernels::HeadFusion fusion, const at::Tensor& r,
                                      const kernels::Dropped& dropped) const {
    return guarded([&]() -> Result<at::Tensor> {
        if (r.numel() != queries)
            return fail(ErrorCode::BadInput, "the weights have {} numbers, expected {}", r.numel(), queries);
        const at::Tensor weights = r.reshape({-1}).to(at::kCPU, at::kDouble);
        at::Tensor sum = at::zeros({keys}, at::kDouble);
        VITRINE_CHECK(left_chunks(*this, fusion, dropped, [&](std::int64_t first, const at::Tensor& rows) {
            sum += weights.narrow(0, first, rows.size(0)).matmul(rows.to(at::kDouble));
        }));
        return sum.to(at::kFloat);
    });
}

Result<at::Tensor> Mixing::fused_row_sums(kernels::HeadFusion fusion, const kernels::Dropped& dropped) const {
    return guarded([&]() -> Result<at::Tensor> {
        std::vector<at::Tensor> sums;
        VITRINE_CHECK(left_chunks(*this, fusion, dropped,
                                  [&](std::int64_t, const at::Tensor& rows) { sums.push_back(rows.sum(-1)); }));
        return at::cat(sums);
    });
}

Result<FusedCounts> Mixing::fused_counts(kernels::HeadFusion fusion, std::uint32_t first, int shift,
                                         std::int64_t bins) const {
    return guarded([&]() -> Result<FusedCounts> {
        FusedCounts out;
        out.bins.resize(static_cast<std::size_t>(bins));
        VITRINE_CHECK(fused_chunks(*this, fusion, [&](std::int64_t, const at::Tensor& rows) {
            const float* x = rows.data_ptr<float>();
            for (std::int64_t i = 0; i < rows.numel(); ++i) {
                const auto bits = std::bit_cast<std::uint32_t>(x[i] + 0.0F);  // a kept -0 is +0
                if (bits < first)
                    ++out.below;
                else if (const auto bin = static_cast<std::int64_t>((bits - first) >> shift); bin < bins)
                    ++out.bins[static_cast<std::size_t>(bin)];
            }
        }));
        return out;
    });
}

Result<at::Tensor> Mixing::entropy() const {
    return guarded([&]() -> Result<at::Tensor> {
        std::vector<at::Tensor> parts;
        for (std::int64_t first = 0; first < queries; first += chunk_of(*this)) {
            const at::Tensor p = VITRINE_TRY(chunk_rows(*this, first));
            parts.push_back((-at::xlogy(p, p).sum(-1)).clamp_min(0));
        }
        return at::cat(parts, 1);
    });
}

Result<kernels::Dropped> smallest_entries(const Mixing& mixing, kernels::HeadFusion fusion, std::int64_t count,
                                          std::stop_token stop) {
    constexpr int kShift = 15;
    constexpr std::int64_t kBins = std::int64_t{1} << kShift;  // twice: 30 bits, the numbers below 2
    kernels::Dropped dropped;
    if (count < 1) return dropped;
    std::uint32_t first = 0;
    std::int64_t before = 0, ties = 0;
    for (const int shift : {kShift, 0}) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const FusedCounts found = VITRINE_TRY(mixing.fused_counts(fusion, first, shift, kBins));
        before = found.below;
        std::size_t bin = 0;
        while (bin < found.bins.size() && before + found.bins[bin] < count) before += found.bins[bin++];
        if (bin == found.bins.size())
            return fail(ErrorCode::Unsupported, "only {} entries of the map of {} are numbers below 2, expected {}",
                        before, mixing.name, count);
        first += static_cast<std::uint32_t>(bin) << shift;
        ties = found.bins[bin];
    }
    dropped.threshold = std::bit_cast<float>(first);
    dropped.tie_end = mixing.queries * mixing.keys;
    std::int64_t wanted = count - before;
    if (wanted == ties || dropped.threshold == 0) return dropped;
    for (std::int64_t query = 0; query < mixing.queries; query += 256) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        std::vector<std::int64_t> queries(
            static_cast<std::size_t>(std::min<std::int64_t>(256, mixing.queries - query)));
        std::iota(queries.begin(), queries.end(), query);
        const at::Tensor rows = VITRINE_TRY(mixing.fused_rows(fusion, queries)).contiguous();
        const float* x = rows.data_ptr<float>();
        for (std::int64_t i = 0; i < rows.numel(); ++i)
            if (x[i] == dropped.threshold && --wanted == 0) {
                dropped.tie_end = query * mixing.keys + i + 1;
                return dropped;
            }
    }
    return fail(ErrorCode::Internal, "the map of {} changed between two passes", mixing.name);
}

}  // namespace vitrine
