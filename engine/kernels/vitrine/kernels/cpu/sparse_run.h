// What all implementations of the sums of few rows share: where terms lie, and terms ordered by the row they name.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include <vitrine/kernels/sparse_decode.h>
#include <vitrine/kernels/sweep_gradient.h>

namespace vitrine::kernels {

const SparseKernels* sparse_reference() noexcept;
const SparseKernels* sparse_avx2() noexcept;    ///< null where it was not built
const SparseKernels* sparse_avx512() noexcept;  ///< null where it was not built

inline std::int64_t first_term(const SparseRows& p, std::int64_t i) noexcept {
    return p.starts != nullptr ? p.starts[i] : i * p.k;
}

/// Terms in the order of the rows they name, those of one row as they come.
class TermsByRow {
  public:
    struct Term {
        std::int32_t at, token;
    };
    explicit TermsByRow(const SparseRows& p);
    std::span<const Term> of(std::int64_t row) const {
        const auto begin = static_cast<std::size_t>(starts_[static_cast<std::size_t>(row)]),
                   end = static_cast<std::size_t>(starts_[static_cast<std::size_t>(row) + 1]);
        return {terms_.data() + begin, end - begin};
    }
    /// Calls f(row) for every row, in runs that have about as many terms each: few rows are named by most tokens.
    template <class F>
    void share(const ParallelFor& parallel_for, const F& f) const {
        constexpr std::int64_t kRuns = 256;
        const std::int64_t rows = std::ssize(starts_) - 1, all = std::ssize(terms_) + rows,
                           runs = std::min(kRuns, rows);
        // The first row of a run: where terms and rows before it reach its share.
        const auto first = [&](std::int64_t run) {
            std::int64_t low = 0, high = rows;
            while (low < high) {
                const std::int64_t middle = (low + high) / 2;
                if (starts_[static_cast<std::size_t>(middle)] + middle < all * run / runs)
                    low = middle + 1;
                else
                    high = middle;
            }
            return low;
        };
        parallel_for(runs, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t row = first(begin); row < (end == runs ? rows : first(end)); ++row) f(row);
        });
    }

  private:
    std::vector<std::int64_t> starts_;  // [m + 1]
    std::vector<Term> terms_;
};

}  // namespace vitrine::kernels
