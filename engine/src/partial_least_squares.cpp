// PLS1 by NIPALS, and the same from products of rows for many targets at once.
#include <vitrine/partial_least_squares.h>

#include <algorithm>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

namespace vitrine {

namespace {

/// What is this much smaller than at the start is rounding.
constexpr double kNothing = 1e-13;

std::int64_t at_most(std::int64_t asked, std::int64_t there) { return asked == 0 ? there : std::min(asked, there); }

}  // namespace

at::Tensor PartialLeastSquares::beta(std::int64_t asked) const {
    const std::int64_t count = at_most(asked, components());
    const at::Tensor w = weights.narrow(1, 0, count), p = loadings.narrow(1, 0, count);
    // P^T W is upper triangular with ones on its diagonal, which NIPALS leaves exact but for rounding.
    const at::Tensor inner =
        at::linalg_solve_triangular(at::matmul(p.t(), w), q.narrow(0, 0, count).unsqueeze(1), /*upper=*/true);
    return at::matmul(w, inner).squeeze(1);
}

at::Tensor PartialLeastSquares::vip(std::int64_t asked) const {
    const std::int64_t count = at_most(asked, components());
    const at::Tensor explained = (q.square() * scores.square().sum(0)).narrow(0, 0, count);
    const auto columns = static_cast<double>(weights.size(0));
    return (at::matmul(weights.narrow(1, 0, count).square(), explained) * columns / explained.sum()).sqrt();
}

Result<PartialLeastSquares> partial_least_squares(const at::Tensor& x, const at::Tensor& y, std::int64_t components) {
    const at::NoGradGuard no_grad;
    if (x.dim() != 2 || y.dim() != 1 || x.size(0) != y.size(0) || x.size(0) < 1 || x.size(1) < 1 || components < 1)
        return fail(ErrorCode::BadInput,
                    "partial least squares is given {} rows, {} targets and {} components; expected as many targets as "
                    "rows, and at least one of each",
                    x.dim() == 2 ? x.size(0) : 0, y.numel(), components);
    at::Tensor rest = x.to(at::kDouble).clone(), left = y.to(at::kDouble);
    if (!at::isfinite(rest).all().item<bool>() || !at::isfinite(left).all().item<bool>())
        return fail(ErrorCode::BadInput, "partial least squares is given numbers that are not finite");
    std::vector<at::Tensor> w, t, p, q;
    double first = 0;
    for (std::int64_t a = 0; a < components; ++a) {
        at::Tensor weight = at::matmul(rest.t(), left);
        const double length = weight.norm().item<double>();
        if (a == 0) first = length;
        if (!(length > kNothing * first)) break;
        weight = weight / length;
        const at::Tensor score = at::matmul(rest, weight);
        const at::Tensor squares = score.dot(score);
        if (!(squares.item<double>() > 0)) break;
        const at::Tensor loading = at::matmul(rest.t(), score) / squares, share = left.dot(score) / squares;
        rest.sub_(at::outer(score, loading));
        left = left - share * score;
        w.push_back(weight);
        t.push_back(score);
        p.push_back(loading);
        q.push_back(share);
    }
    if (w.empty())
        return fail(ErrorCode::BadInput,
                    "there is nothing to predict: the columns and the target have no part in common");
    return PartialLeastSquares{at::stack(w, 1), at::stack(t, 1), at::stack(p, 1), at::stack(q), left};
}

at::Tensor partial_least_squares_predictions(const at::Tensor& gram, const at::Tensor& cross, const at::Tensor& targets,
                                             std::int64_t components) {
    const at::NoGradGuard no_grad;
    const std::int64_t rows = gram.size(0);
    const at::Tensor both = at::cat({gram, cross});
    at::Tensor left = targets, said = at::zeros({cross.size(0), targets.size(1)}, targets.options());
    std::vector<at::Tensor> scores, out;  // scores of rows and others, those of the rows of length 1 a target
    at::Tensor first;
    for (std::int64_t a = 0; a < components; ++a) {
        at::Tensor score = at::matmul(both, left);
        if (a == 0) first = score.narrow(0, 0, rows).square().sum(0);
        for (const at::Tensor& before : scores)
            score = score - before * (before.narrow(0, 0, rows) * score.narrow(0, 0, rows)).sum(0);
        const at::Tensor squares = score.narrow(0, 0, rows).square().sum(0);
        const at::Tensor alive = squares > first * (kNothing * kNothing);
        score = at::where(alive, score / squares.sqrt(), at::zeros_like(squares));
        const at::Tensor share = (score.narrow(0, 0, rows) * left).sum(0);
        left = left - score.narrow(0, 0, rows) * share;
        said = said + score.narrow(0, rows, cross.size(0)) * share;
        scores.push_back(score);
        out.push_back(said);
    }
    return at::stack(out);
}

}  // namespace vitrine
