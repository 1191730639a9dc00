// Orders the terms of sums by the row they name, by counting.
#include <vitrine/kernels/cpu/sparse_run.h>

namespace vitrine::kernels {

TermsByRow::TermsByRow(const SparseRows& p)
    : starts_(static_cast<std::size_t>(p.m) + 1, 0), terms_(static_cast<std::size_t>(terms_of(p))) {
    for (std::int64_t at = 0; at < std::ssize(terms_); ++at) ++starts_[static_cast<std::size_t>(p.indices[at]) + 1];
    for (std::size_t row = 1; row < starts_.size(); ++row) starts_[row] += starts_[row - 1];
    std::vector<std::int64_t> next(starts_.begin(), starts_.end() - 1);
    for (std::int64_t i = 0; i < p.n; ++i)
        for (std::int64_t at = first_term(p, i); at < first_term(p, i + 1); ++at)
            terms_[static_cast<std::size_t>(next[static_cast<std::size_t>(p.indices[at])]++)] = {
                static_cast<std::int32_t>(at), static_cast<std::int32_t>(i)};
}

}  // namespace vitrine::kernels
