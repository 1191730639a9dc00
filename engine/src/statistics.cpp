// Ranks, quantiles and resampled means.
#include "statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "dataset.h"

namespace vitrine {

double quantile_of(std::vector<double> values, double share) {
    std::sort(values.begin(), values.end());
    const double place = share * static_cast<double>(values.size() - 1);
    const auto low = static_cast<std::size_t>(place);
    const std::size_t high = std::min(low + 1, values.size() - 1);
    return values[low] + (values[high] - values[low]) * (place - static_cast<double>(low));
}

std::vector<double> ranks_of(const std::vector<double>& values) {
    std::vector<std::size_t> order(values.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](auto a, auto b) { return values[a] < values[b]; });
    std::vector<double> rank(values.size());
    for (std::size_t from = 0; from < order.size();) {
        std::size_t to = from + 1;
        while (to < order.size() && values[order[to]] == values[order[from]]) ++to;
        for (std::size_t i = from; i < to; ++i) rank[order[i]] = 0.5 * static_cast<double>(from + to + 1);
        from = to;
    }
    return rank;
}

std::optional<double> auroc_of(const std::vector<double>& values, const std::vector<bool>& positive) {
    const std::vector<double> rank = ranks_of(values);
    double sum = 0, count = 0;
    for (std::size_t i = 0; i < rank.size(); ++i)
        if (positive[i]) sum += rank[i], ++count;
    const double others = static_cast<double>(rank.size()) - count;
    if (count == 0 || others == 0) return std::nullopt;
    return (sum - count * (count + 1) / 2) / (count * others);
}

std::optional<double> spearman_of(const std::vector<double>& a, const std::vector<double>& b) {
    const std::vector<double> x = ranks_of(a), y = ranks_of(b);
    const double middle = 0.5 * static_cast<double>(x.size() + 1);
    double xx = 0, yy = 0, xy = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        xx += (x[i] - middle) * (x[i] - middle);
        yy += (y[i] - middle) * (y[i] - middle);
        xy += (x[i] - middle) * (y[i] - middle);
    }
    if (!(xx > 0) || !(yy > 0)) return std::nullopt;
    return xy / std::sqrt(xx * yy);
}

PictureResampling::PictureResampling(std::int64_t pictures, std::int64_t resamples, std::uint64_t seed) {
    weights_ = at::zeros({resamples, pictures}, at::kDouble);
    double* weight = weights_.mutable_data_ptr<double>();
    for (std::int64_t r = 0; r < resamples; ++r, weight += pictures) {
        StepRandom random(seed, static_cast<std::uint64_t>(r), 0x626F6F74);
        for (std::int64_t i = 0; i < pictures; ++i) weight[random.below(pictures)] += 1;
    }
}

at::Tensor PictureResampling::means(const at::Tensor& of_pictures) const {
    return at::matmul(weights_, of_pictures) / double(of_pictures.size(0));
}

at::Tensor PictureResampling::middle(const at::Tensor& resampled) {
    const at::Tensor sorted = std::get<0>(at::sort(resampled, 0));
    const auto at_share = [&](double share) {
        const double place = share * static_cast<double>(sorted.size(0) - 1);
        const auto low = static_cast<std::int64_t>(place);
        const std::int64_t high = std::min(low + 1, sorted.size(0) - 1);
        return sorted[low] + (sorted[high] - sorted[low]) * (place - static_cast<double>(low));
    };
    return at::stack({at_share(0.025), at_share(0.975)});
}

void BetweenPictures::add(const at::Tensor& members) {
    const at::Tensor values = members.to(at::kDouble);
    add(values.sum(0), values.square().sum(0), values.size(0));
}

void BetweenPictures::add(const at::Tensor& sum, const at::Tensor& squares, std::int64_t members) {
    if (pictures_ == 0) {
        sum_ = at::zeros_like(sum);
        squares_ = at::zeros_like(sum);
        squared_means_ = at::zeros_like(sum);
    }
    ++pictures_;
    members_ += members;
    sum_ += sum;
    squares_ += squares;
    squared_means_ += (sum / static_cast<double>(members)).square();
}

at::Tensor BetweenPictures::insensitivity() const {
    if (pictures_ == 0) return {};
    const at::Tensor square = (sum_ / static_cast<double>(members_)).square();
    const at::Tensor total = squares_ / static_cast<double>(members_) - square,
                     between = squared_means_ / static_cast<double>(pictures_) - square;
    // What is left of a constant's variance is rounding.
    const at::Tensor varies = total > 1e-12 * squares_ / static_cast<double>(members_);
    return at::where(varies, 1 - between.clamp_min(0) / total,
                     at::full_like(total, std::numeric_limits<double>::quiet_NaN()))
        .to(at::kCPU);
}

}  // namespace vitrine
