// Non-negative least squares for many right sides over one matrix.
#include "non_negative.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

namespace vitrine {

namespace {

constexpr int kRounds = 2000;
constexpr double kTolerance = 1e-10;

class Solver {
  public:
    /// @param gram  [m, m], the ridge on its diagonal
    Solver(const double* gram, std::int64_t m) : gram_(gram), m_(m), gradient_(static_cast<std::size_t>(m)) {}

    /// gram x = right over those where `above` is above zero, else x = 0: the derivative of a solution, times `right`.
    void solve_over(const double* above, const double* right, double* out) {
        choose(above);
        if (!factorise()) {
            // One row is made of the others: which of them moves is open, so all do a little.
            for (std::int64_t i = 0; i < m_; ++i) out[i] = above[i] > 0 && diagonal(i) > 0 ? right[i] / diagonal(i) : 0;
            return;
        }
        substitute(right);
        for (std::size_t i = 0; i < above_.size(); ++i) out[above_[i]] = found_[i];
    }

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
    double diagonal(std::int64_t i) const { return gram_[i * (m_ + 1)]; }
    double& factor(std::size_t i, std::size_t j) { return factor_[i * above_.size() + j]; }

    void choose(const double* values) {
        above_.clear();
        for (std::int64_t j = 0; j < m_; ++j)
            if (values[j] > 0) above_.push_back(j);
        factor_.resize(above_.size() * above_.size());
        found_.resize(above_.size());
    }
    /// Cholesky's of the chosen rows and columns; false where one is made of the others.
    bool factorise() {
        for (std::size_t i = 0; i < above_.size(); ++i)
            for (std::size_t j = 0; j <= i; ++j) {
                double sum = gram_[above_[i] * m_ + above_[j]];
                for (std::size_t k = 0; k < j; ++k) sum -= factor(i, k) * factor(j, k);
                if (i == j && !(sum > 1e-12 * diagonal(above_[i]))) return false;
                factor(i, j) = i == j ? std::sqrt(sum) : sum / factor(j, j);
            }
        return true;
    }
    void substitute(const double* right) {
        const std::size_t p = above_.size();
        for (std::size_t i = 0; i < p; ++i) {
            double sum = right[above_[i]];
            for (std::size_t k = 0; k < i; ++k) sum -= factor(i, k) * found_[k];
            found_[i] = sum / factor(i, i);
        }
        for (std::size_t i = p; i-- > 0;) {
            double sum = found_[i];
            for (std::size_t k = i + 1; k < p; ++k) sum -= factor(k, i) * found_[k];
            found_[i] = sum / factor(i, i);
        }
    }

    /// The exact solution over those above zero, if it is the answer.
    bool finished(const double* right, double* out) {
        choose(out);
        if (!factorise()) return false;  // descent alone answers
        substitute(right);
        for (const double value : found_)
            if (!(value >= 0)) return false;
        double greatest = 0;
        for (std::int64_t j = 0; j < m_; ++j) greatest = std::max(greatest, std::abs(right[j]));
        for (std::int64_t j = 0; j < m_; ++j) {
            if (out[j] > 0) continue;
            double gradient = -right[j];
            for (std::size_t i = 0; i < above_.size(); ++i) gradient += gram_[above_[i] * m_ + j] * found_[i];
            if (gradient < -kTolerance * greatest) return false;
        }
        for (std::size_t i = 0; i < above_.size(); ++i) out[above_[i]] = found_[i];
        return true;
    }

    const double* gram_;
    std::int64_t m_;
    std::vector<double> gradient_, factor_, found_;
    std::vector<std::int64_t> above_;
};

/// Row by row: out [n, m] of `body(solver, row)`, in double on the CPU.
at::Tensor for_each_row(const at::Tensor& gram, std::int64_t rows,
                        const std::function<void(Solver& solver, std::int64_t row, double* out)>& body) {
    const std::int64_t m = gram.size(0);
    at::Tensor out = at::zeros({rows, m}, at::kDouble);
    const double* g = gram.const_data_ptr<double>();
    double* to = out.mutable_data_ptr<double>();
    at::parallel_for(0, rows, 16, [&](std::int64_t begin, std::int64_t end) {
        Solver solver(g, m);
        for (std::int64_t i = begin; i < end; ++i) body(solver, i, to + i * m);
    });
    return out;
}

at::Tensor in_double(const at::Tensor& x) { return x.detach().to(at::kCPU, at::kDouble).contiguous(); }

/// gram^-1 over each row's codes above zero. Linear and its own transpose, so that its derivative is itself.
struct Support : torch::autograd::Function<Support> {
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& right,
                              const at::Tensor& gram, const at::Tensor& codes) {
        context->saved_data["gram"] = gram;
        context->saved_data["codes"] = codes;
        const at::Tensor b = in_double(right);
        const std::int64_t m = gram.size(0);
        return for_each_row(gram, b.size(0),
                            [&](Solver& solver, std::int64_t row, double* out) {
                                solver.solve_over(codes.const_data_ptr<double>() + row * m,
                                                  b.const_data_ptr<double>() + row * m, out);
                            })
            .to(right.device(), right.scalar_type());
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   const torch::autograd::variable_list& gradients) {
        return {Support::apply(gradients[0], context->saved_data["gram"].toTensor(),
                               context->saved_data["codes"].toTensor()),
                at::Tensor(), at::Tensor()};
    }
};

struct Solution : torch::autograd::Function<Solution> {
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& right,
                              const at::Tensor& gram) {
        const at::Tensor b = in_double(right);
        const std::int64_t m = gram.size(0);
        const at::Tensor codes = for_each_row(gram, b.size(0), [&](Solver& solver, std::int64_t row, double* out) {
            solver.solve(b.const_data_ptr<double>() + row * m, out);
        });
        context->saved_data["gram"] = gram;
        context->saved_data["codes"] = codes;
        return codes.to(right.device(), right.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   const torch::autograd::variable_list& gradients) {
        return {Support::apply(gradients[0], context->saved_data["gram"].toTensor(),
                               context->saved_data["codes"].toTensor()),
                at::Tensor()};
    }
};

}  // namespace

at::Tensor non_negative_least_squares(const at::Tensor& gram, const at::Tensor& right, double ridge) {
    at::Tensor matrix = in_double(gram).clone();
    matrix.diagonal().add_(ridge);
    return Solution::apply(right, matrix);
}

}  // namespace vitrine
