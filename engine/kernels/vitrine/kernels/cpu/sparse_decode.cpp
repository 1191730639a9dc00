// Sums of few rows, the plain version, and which implementation runs.
#include <vitrine/kernels/sparse_decode.h>

#include <vitrine/kernels/cpu/implementations.h>
#include <vitrine/kernels/cpu/sparse_run.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace vitrine::kernels {
namespace {

void add_row(float* to, const float* row, float weight, std::int64_t d) {
    for (std::int64_t x = 0; x < d; ++x) to[x] += weight * row[x];
}

void decode(const SparseRows& p, float* out, const ParallelFor& parallel_for) {
    parallel_for(p.n, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            float* to = out + i * p.d;
            std::fill(to, to + p.d, 0.0F);
            for (std::int64_t j = first_term(p, i); j < first_term(p, i + 1); ++j)
                add_row(to, p.rows + p.indices[j] * p.d, p.values[j], p.d);
        }
    });
}

void value_gradient(const SparseRows& p, const float* d_out, float* d_values, const ParallelFor& parallel_for) {
    parallel_for(p.n, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            for (std::int64_t j = first_term(p, i); j < first_term(p, i + 1); ++j) {
                const float* row = p.rows + p.indices[j] * p.d;
                float sum = 0;
                for (std::int64_t x = 0; x < p.d; ++x) sum += row[x] * d_out[i * p.d + x];
                d_values[j] = sum;
            }
    });
}

void row_gradient(const SparseRows& p, const float* d_out, float* d_rows, float* sums,
                  const ParallelFor& parallel_for) {
    const TermsByRow by_row(p);
    by_row.share(parallel_for, [&](std::int64_t row) {
        float* to = d_rows + row * p.d;
        std::fill(to, to + p.d, 0.0F);
        float sum = 0;
        for (const auto& term : by_row.of(row)) {
            sum += p.values[term.at];
            add_row(to, d_out + term.token * p.d, p.values[term.at], p.d);
        }
        if (sums != nullptr) sums[row] = sum;
    });
}

void largest(const float* x, std::int64_t rows, std::int64_t count, std::int64_t top, float* values,
             std::int64_t* indices, const ParallelFor& parallel_for) {
    parallel_for(rows, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r)
            select_top(x + r * count, count, top, values + r * top, indices + r * top);
    });
}

const std::vector<const SparseKernels*>& built() {
    static const std::vector<const SparseKernels*> all = [] {
        std::vector<const SparseKernels*> list{sparse_reference()};
        for (const SparseKernels* kernels : {sparse_avx2(), sparse_avx512()})
            if (kernels != nullptr) list.push_back(kernels);
        return list;
    }();
    return all;
}

}  // namespace

const char* cannot_run(const SparseRows& p) noexcept {
    if (p.n < 0 || p.k < 0 || p.m < 1 || p.d < 1) return "a size is not positive";
    if (p.n > 0 && terms_of(p) > 0 && (p.indices == nullptr || p.values == nullptr)) return "the terms are missing";
    if (p.starts != nullptr && p.starts[0] != 0) return "the first term is not at the start";
    if (terms_of(p) >= std::int64_t{1} << 31) return "there are more than 2^31 terms";
    return nullptr;
}

const SparseKernels* sparse_reference() noexcept {
    static const SparseKernels table{"reference",   []() noexcept -> const char* { return nullptr; },
                                     &decode,       &value_gradient,
                                     &row_gradient, &largest};
    return &table;
}

std::span<const SparseKernels* const> sparse_kernels() noexcept { return built(); }

Result<const SparseKernels*> choose_sparse(const std::string& forced) {
    const auto& all = built();
    // One that is forced for a device says nothing of this side.
    if (!forced.empty() && !forced.starts_with("cuda_")) {
        std::string names;
        for (const SparseKernels* kernels : all) {
            if (forced == kernels->name) {
                if (const char* why = kernels->machine())
                    return fail(ErrorCode::Unsupported, "VITRINE_KERNEL asks for {}, which cannot run here: {}", forced,
                                why);
                return kernels;
            }
            names += (names.empty() ? "" : ", ") + std::string(kernels->name);
        }
        return fail(ErrorCode::BadInput, "VITRINE_KERNEL is {}, but there is only {}", forced, names);
    }
    for (auto kernels = all.rbegin(); kernels != all.rend(); ++kernels)
        if ((*kernels)->machine() == nullptr) return *kernels;
    return all.front();
}

Result<const SparseKernels*> choose_sparse() {
    const char* forced = std::getenv("VITRINE_KERNEL");
    return choose_sparse(forced == nullptr ? "" : forced);
}

}  // namespace vitrine::kernels
