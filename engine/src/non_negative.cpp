// Non-negative least squares for many right sides over one matrix.
#include "non_negative.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/zeros_like.h>

namespace vitrine {

namespace {

constexpr int kRounds = 2000;
constexpr double kTolerance = 1e-10;

class Solver {
  public:
    /// @param gram  [m, m], the ridge on its diagonal
    Solver(const double* gram, std::int64_t m) : gram_(gram), m_(m), gradient_(static_cast<std::size_t>(m)) {}

    /// @param right, out  [m]; out comes as zeros
    void solve(const double* right, double* out) {
        for (std::int64_t j = 0; j < m_; ++j) gradient_[std::size_t(j)] = -right[j];
        int look = 4;
        for (int round = 1; round <= kRounds; ++round) {
            double moved = 0, greatest = 0;
            for (std::int64_t j = 0; j < m_; ++j) {
                const double* row = gram_ + j * m_;
                if (row[j] <= 0) continue;  // an empty row of the dictionary
                const double next = std::max(0.0, out[j] - gradient_[std::size_t(j)] / row[j]), step = next - out[j];
                greatest = std::max(greatest, next);
                if (step == 0) continue;
                out[j] = next;
                moved = std::max(moved, std::abs(step));
                for (std::int64_t i = 0; i < m_; ++i) gradient_[std::size_t(i)] += step * row[i];
            }
            if (!(moved > kTolerance * greatest)) return;
            if (round == look) {
                if (finished(right, out)) return;
                look += look / 2;
            }
        }
    }

  private:
    /// The exact solution over those above zero, if it is the answer.
    bool finished(const double* right, double* out) {
        above_.clear();
        for (std::int64_t j = 0; j < m_; ++j)
            if (out[j] > 0) above_.push_back(j);
        const auto p = static_cast<std::int64_t>(above_.size());
        factor_.resize(static_cast<std::size_t>(p * p));
        found_.resize(static_cast<std::size_t>(p));
        const auto at = [&](std::int64_t i, std::int64_t j) -> double& { return factor_[std::size_t(i * p + j)]; };
        for (std::int64_t i = 0; i < p; ++i) {
            for (std::int64_t j = 0; j <= i; ++j) {
                double sum = gram_[above_[std::size_t(i)] * m_ + above_[std::size_t(j)]];
                for (std::int64_t k = 0; k < j; ++k) sum -= at(i, k) * at(j, k);
                if (i != j) {
                    at(i, j) = sum / at(j, j);
                    continue;
                }
                // One row is made of the others: descent alone answers.
                if (!(sum > 1e-12 * gram_[above_[std::size_t(i)] * (m_ + 1)])) return false;
                at(i, i) = std::sqrt(sum);
            }
        }
        for (std::int64_t i = 0; i < p; ++i) {
            double sum = right[above_[std::size_t(i)]];
            for (std::int64_t k = 0; k < i; ++k) sum -= at(i, k) * found_[std::size_t(k)];
            found_[std::size_t(i)] = sum / at(i, i);
        }
        for (std::int64_t i = p - 1; i >= 0; --i) {
            double sum = found_[std::size_t(i)];
            for (std::int64_t k = i + 1; k < p; ++k) sum -= at(k, i) * found_[std::size_t(k)];
            found_[std::size_t(i)] = sum / at(i, i);
            if (!(found_[std::size_t(i)] >= 0)) return false;
        }
        double greatest = 0;
        for (std::int64_t j = 0; j < m_; ++j) greatest = std::max(greatest, std::abs(right[j]));
        for (std::int64_t j = 0; j < m_; ++j) {
            if (out[j] > 0) continue;
            double gradient = -right[j];
            for (std::int64_t i = 0; i < p; ++i)
                gradient += gram_[above_[std::size_t(i)] * m_ + j] * found_[std::size_t(i)];
            if (gradient < -kTolerance * greatest) return false;
        }
        for (std::int64_t i = 0; i < p; ++i) out[above_[std::size_t(i)]] = found_[std::size_t(i)];
        return true;
    }

    const double* gram_;
    std::int64_t m_;
    std::vector<double> gradient_, factor_, found_;
    std::vector<std::int64_t> above_;
};

}  // namespace

at::Tensor non_negative_least_squares(const at::Tensor& gram, const at::Tensor& right, double ridge) {
    at::Tensor matrix = gram.detach().to(at::kCPU, at::kDouble).contiguous().clone();
    matrix.diagonal().add_(ridge);
    const at::Tensor b = right.detach().to(at::kCPU, at::kDouble).contiguous();
    at::Tensor out = at::zeros_like(b);
    const std::int64_t m = b.size(1);
    const double *g = matrix.const_data_ptr<double>(), *from = b.const_data_ptr<double>();
    double* to = out.mutable_data_ptr<double>();
    at::parallel_for(0, b.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
        Solver solver(g, m);
        for (std::int64_t i = begin; i < end; ++i) solver.solve(from + i * m, to + i * m);
    });
    return out.to(right.device(), right.scalar_type());
}

}  // namespace vitrine
