// The plain kernels on the fused map, made of the plain rows.
#include <vitrine/kernels/fused_sweep.h>

#include <vitrine/kernels/cpu/implementations.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <numeric>
#include <vector>

namespace vitrine::kernels {
namespace {

void one_thread(std::int64_t count, const std::function<void(std::int64_t, std::int64_t)>& f) { f(0, count); }

/// One row of the fused map after the other, with the memory this takes.
class FusedRow {
  public:
    FusedRow(const AttentionParams& params, HeadFusion fusion)
        : params_(params),
          fusion_(fusion),
          heads_(static_cast<std::size_t>(params.heads)),
          rows_(static_cast<std::size_t>(params.heads * params.keys)) {
        std::iota(heads_.begin(), heads_.end(), 0);
    }

    void compute(std::int64_t query, float* out) {
        map_rows(params_, heads_, {&query, 1}, rows_.data(), one_thread);
        std::copy(rows_.begin(), rows_.begin() + params_.keys, out);
        for (std::int64_t h = 1; h < params_.heads; ++h) {
            const float* row = rows_.data() + h * params_.keys;
            // Comparisons with not-a-number are false: written so that it comes through from either side.
            for (std::int64_t j = 0; j < params_.keys; ++j) {
                if (fusion_ == HeadFusion::Mean)
                    out[j] += row[j];
                else if (row[j] != row[j] || (fusion_ == HeadFusion::Max ? row[j] > out[j] : row[j] < out[j]))
                    out[j] = row[j];
            }
        }
        if (fusion_ == HeadFusion::Mean)
            for (std::int64_t j = 0; j < params_.keys; ++j) out[j] *= 1.0F / static_cast<float>(params_.heads);
    }

  private:
    const AttentionParams& params_;
    HeadFusion fusion_;
    std::vector<std::int64_t> heads_;
    std::vector<float> rows_;
};

}  // namespace

const char* name_of(HeadFusion fusion) noexcept {
    switch (fusion) {
        case HeadFusion::Mean:
            return "mean";
        case HeadFusion::Max:
            return "max";
        case HeadFusion::Min:
            return "min";
    }
    return "unknown";
}

void fused_rows(const AttentionParams& p, HeadFusion fusion, std::span<const std::int64_t> queries, float* out,
                const ParallelFor& parallel_for) {
    parallel_for(static_cast<std::int64_t>(queries.size()), [&](std::int64_t begin, std::int64_t end) {
        FusedRow row(p, fusion);
        for (std::int64_t i = begin; i < end; ++i) row.compute(queries[static_cast<std::size_t>(i)], out + i * p.keys);
    });
}

void fused_sweep(const AttentionParams& p, HeadFusion fusion, const Dropped& dropped, const float* r, float* out,
                 const ParallelFor& parallel_for) {
    // So many bands of queries, whatever the number of threads; their sums are added in order at the end.
    const std::int64_t bands = std::min<std::int64_t>(16, p.queries);
    std::vector<double> part(static_cast<std::size_t>(bands * p.keys));
    parallel_for(bands, [&](std::int64_t begin, std::int64_t end) {
        FusedRow row(p, fusion);
        std::vector<float> value(static_cast<std::size_t>(p.keys));
        for (std::int64_t band = begin; band < end; ++band) {
            double* sum = part.data() + band * p.keys;
            for (std::int64_t i = band * p.queries / bands; i < (band + 1) * p.queries / bands; ++i) {
                if (r[i] == 0) continue;
                row.compute(i, value.data());
                for (std::int64_t j = 0; j < p.keys; ++j)
                    if (!dropped.drops(value[j], i, j, p.keys)) sum[j] += static_cast<double>(r[i]) * value[j];
            }
        }
    });
    for (std::int64_t j = 0; j < p.keys; ++j) {
        double sum = 0;
        for (std::int64_t band = 0; band < bands; ++band) sum += part[band * p.keys + j];
        out[j] = static_cast<float>(sum);
    }
}

void fused_row_sums(const AttentionParams& p, HeadFusion fusion, const Dropped& dropped, float* out,
                    const ParallelFor& parallel_for) {
    parallel_for(p.queries, [&](std::int64_t begin, std::int64_t end) {
        FusedRow row(p, fusion);
        std::vector<float> value(static_cast<std::size_t>(p.keys));
        for (std::int64_t i = begin; i < end; ++i) {
            row.compute(i, value.data());
            double sum = 0;
            for (std::int64_t j = 0; j < p.keys; ++j)
                if (!dropped.drops(value[j], i, j, p.keys)) sum += value[j];
            out[i] = static_cast<float>(sum);
        }
    });
}

void fused_histogram(const AttentionParams& p, HeadFusion fusion, std::uint32_t first, int shift, std::int64_t bins,
                     std::int64_t* counts, std::int64_t* below, const ParallelFor& parallel_for) {
    std::fill(counts, counts + bins, 0);
    std::int64_t fewer = 0;
    parallel_for(p.queries, [&](std::int64_t begin, std::int64_t end) {
        FusedRow row(p, fusion);
        std::vector<float> value(static_cast<std::size_t>(p.keys));
        for (std::int64_t i = begin; i < end; ++i) {
            row.compute(i, value.data());
            for (const float x : value) {
                const auto bits = std::bit_cast<std::uint32_t>(x);
                if (bits < first) {
                    std::atomic_ref(fewer).fetch_add(1, std::memory_order_relaxed);
                } else if (const auto bin = static_cast<std::int64_t>((bits - first) >> shift); bin < bins) {
                    std::atomic_ref(counts[bin]).fetch_add(1, std::memory_order_relaxed);
                }
            }
        }
    });
    if (below != nullptr) *below = fewer;
}

const FusedKernels* fused_reference() noexcept {
    static const FusedKernels table{&fused_rows, &fused_sweep, &fused_row_sums, &fused_histogram};
    return &table;
}

}  // namespace vitrine::kernels
