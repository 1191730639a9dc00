// What the measures share.
#include "measures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/reflection_pad2d.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <vitrine/base/random.h>
#include <vitrine/capture.h>

namespace vitrine::plugin::measures {

at::Generator generator(std::uint64_t seed, std::uint64_t stream) {
    return at::make_generator<at::CPUGeneratorImpl>(random_bits(seed, stream, 0));
}

Result<at::Tensor> pixel_map(const ExplainContext& context, const Attribution& attribution) {
    const at::Tensor map = VITRINE_TRY(native_map(attribution));
    return upsampled(map, context.input.pixels.size(2), context.input.pixels.size(3));
}

Result<at::Tensor> patch_map(const ExplainContext& context, const Attribution& attribution) {
    const at::Tensor& pixels = context.input.pixels;
    const TokenLayout layout = context.model.layout(pixels.size(2), pixels.size(3));
    if (!layout.known() || layout.rows * layout.cols == 0)
        return fail(ErrorCode::Unsupported, "{} has no grid of patches{}{}", context.model.info().name,
                    layout.unknown.empty() ? "" : ": ", layout.unknown);
    const at::Tensor map = VITRINE_TRY(native_map(attribution));
    if (map.size(0) == layout.rows && map.size(1) == layout.cols) return map;
    return at::adaptive_avg_pool2d(upsampled(map, pixels.size(2), pixels.size(3)).unsqueeze(0),
                                   {layout.rows, layout.cols})
        .squeeze(0);
}

std::vector<std::int64_t> ranked(const at::Tensor& map, std::uint64_t seed) {
    const at::Tensor values = map.to(at::kCPU, at::kFloat).contiguous();
    const auto* value = values.const_data_ptr<float>();
    const at::Tensor drawn = at::randperm(values.numel(), generator(seed, 0x7135), at::kLong);
    const auto* first = drawn.const_data_ptr<std::int64_t>();
    std::vector<std::int64_t> order(first, first + values.numel());
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return value[a] > value[b]; });
    return order;
}

at::Tensor ranks_of(const std::vector<std::int64_t>& order) {
    const auto count = static_cast<std::int64_t>(order.size());
    at::Tensor out = at::empty({count}, at::kLong);
    auto* rank = out.mutable_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < count; ++i) rank[order[static_cast<std::size_t>(i)]] = i;
    return out;
}

namespace {

/// Mean ranks, as SciPy's rankdata gives them.
std::vector<double> mean_ranks(const at::Tensor& map) {
    const at::Tensor values = map.to(at::kCPU, at::kFloat).contiguous();
    const auto* value = values.const_data_ptr<float>();
    const auto count = static_cast<std::size_t>(values.numel());
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](auto a, auto b) { return value[a] < value[b]; });
    std::vector<double> rank(count);
    for (std::size_t from = 0; from < count;) {
        std::size_t to = from + 1;
        while (to < count && value[order[to]] == value[order[from]]) ++to;
        for (std::size_t i = from; i < to; ++i) rank[order[i]] = 0.5 * static_cast<double>(from + to - 1);
        from = to;
    }
    return rank;
}

}  // namespace

std::optional<double> spearman(const at::Tensor& a, const at::Tensor& b) {
    const std::vector<double> x = mean_ranks(a), y = mean_ranks(b);
    const double middle = 0.5 * static_cast<double>(x.size() - 1);
    double xx = 0, yy = 0, xy = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        xx += (x[i] - middle) * (x[i] - middle);
        yy += (y[i] - middle) * (y[i] - middle);
        xy += (x[i] - middle) * (y[i] - middle);
    }
    if (xx <= 0 || yy <= 0) return std::nullopt;
    return xy / std::sqrt(xx * yy);
}

std::optional<double> ssim(const at::Tensor& a, const at::Tensor& b) {
    const at::Tensor x = a.to(at::kDouble).reshape({1, 1, a.size(0), a.size(1)});
    const at::Tensor y = b.to(at::kDouble).reshape({1, 1, b.size(0), b.size(1)});
    const double range = std::max(x.max().item<double>(), y.max().item<double>()) -
                         std::min(x.min().item<double>(), y.min().item<double>());
    if (!(range > 0)) return std::nullopt;
    std::int64_t window = std::min<std::int64_t>({7, a.size(0), a.size(1)});
    if (window % 2 == 0) --window;
    if (window < 3) return std::nullopt;
    const auto mean = [&](const at::Tensor& z) { return at::avg_pool2d(z, {window, window}, {1, 1}); };
    const double count = static_cast<double>(window * window), sample = count / (count - 1);
    const at::Tensor mx = mean(x), my = mean(y);
    const at::Tensor vx = (mean(x * x) - mx * mx) * sample, vy = (mean(y * y) - my * my) * sample;
    const at::Tensor both = (mean(x * y) - mx * my) * sample;
    const double c1 = 1e-4 * range * range, c2 = 9e-4 * range * range;
    return (((2 * mx * my + c1) * (2 * both + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean().item<double>();
}

double top_overlap(const at::Tensor& a, const at::Tensor& b, std::int64_t k, std::uint64_t seed) {
    const at::Tensor x = ranks_of(ranked(a, seed)), y = ranks_of(ranked(b, seed));
    return static_cast<double>(((x < k) & (y < k)).sum().item<std::int64_t>()) / static_cast<double>(k);
}

std::vector<std::string> substitutes() { return {"zero", "black", "white", "mean", "uniform", "blur", "blur_rise"}; }

namespace {

/// Eleven weights. RISE takes SciPy's gaussian_filter of a dot on 11 pixels, whose mirrored borders fold the tails back
/// into the window; otherwise the tails are cut and the rest scaled to 1, as torchvision does.
std::vector<double> blur_weights(bool folded) {
    constexpr int kHalf = 5, kSize = 11, kReach = 20;  // SciPy cuts at 4 sigma
    constexpr double kSigma = 5;
    std::vector<double> out(kSize, 0.0);
    double total = 0;
    for (int i = -kReach; i <= kReach; ++i) {
        const double weight = std::exp(-0.5 * i * i / (kSigma * kSigma));
        if (!folded && std::abs(i) > kHalf) continue;
        // Mirrored so that the border's pixel is repeated: ... 1 0 | 0 1 2 ... 10 | 10 9 ...
        int at = ((kHalf + i) % (2 * kSize) + 2 * kSize) % (2 * kSize);
        if (at >= kSize) at = 2 * kSize - 1 - at;
        out[static_cast<std::size_t>(at)] += weight;
        total += weight;
    }
    for (double& weight : out) weight /= total;
    return out;
}

at::Tensor blurred(const at::Tensor& pixels, bool as_rise) {
    constexpr std::int64_t kHalf = 5;
    const at::Tensor line = at::tensor(blur_weights(as_rise), at::kFloat);
    const at::Tensor kernel =
        (line.unsqueeze(1) * line.unsqueeze(0)).reshape({1, 1, 2 * kHalf + 1, 2 * kHalf + 1}).expand({3, 1, -1, -1});
    // Mirroring needs a picture wider than what is mirrored; smaller ones get black borders.
    const bool mirror = !as_rise && pixels.size(2) > kHalf && pixels.size(3) > kHalf;
    const at::Tensor framed = mirror ? at::reflection_pad2d(pixels, {kHalf, kHalf, kHalf, kHalf}) : pixels;
    const std::array<std::int64_t, 2> one{1, 1}, border{mirror ? 0 : kHalf, mirror ? 0 : kHalf};
    return at::conv2d(framed, kernel, {}, at::IntArrayRef(one), at::IntArrayRef(border), at::IntArrayRef(one), 3);
}

}  // namespace

at::Tensor substitute(const ExplainContext& context, const std::string& how, std::uint64_t seed) {
    const at::Tensor pixels = context.input.pixels.detach().to(at::kCPU, at::kFloat);
    const Preprocess& p = context.model.preprocess();
    if (how == "black") return normalise(at::zeros({1, 3, 1, 1}), p).expand_as(pixels).contiguous();
    if (how == "white") return normalise(at::ones({1, 3, 1, 1}), p).expand_as(pixels).contiguous();
    if (how == "mean") return pixels.mean({2, 3}, true).expand_as(pixels).contiguous();
    if (how == "uniform") return normalise(at::rand(pixels.sizes(), generator(seed, 0xF111), at::kFloat), p);
    if (how == "blur" || how == "blur_rise") return blurred(pixels, how == "blur_rise");
    return at::zeros_like(pixels);
}

Result<Target> settled(ExplainContext& context) {
    Target target = context.target;
    if (!target.index && !target.reference.defined() && target.region.empty() && context.model.info().classes > 0)
        target.index = VITRINE_TRY(context.objective()).index;
    return target;
}

double Curve::area() const {
    if (share.size() < 2 || !(share.back() > share.front())) return score.empty() ? 0 : score.front();
    double sum = 0;
    for (std::size_t i = 1; i < share.size(); ++i) sum += 0.5 * (score[i] + score[i - 1]) * (share[i] - share[i - 1]);
    return sum / (share.back() - share.front());
}

Result<Curve> walk(ExplainContext& context, const Objective& objective, const at::Tensor& start,
                   const at::Tensor& finish, const at::Tensor& ranks, const std::vector<std::int64_t>& counts) {
    // On a device the pictures are made there: as many as there are steps need not travel.
    const at::Device device = context.model.device();
    const at::Tensor rank = ranks.reshape({1, 1, start.size(2), start.size(3)}).to(device);
    const at::Tensor first = start.to(device), last = finish.to(device);
    const at::Tensor numbers = VITRINE_TRY(
        context.scores(objective, static_cast<std::int64_t>(counts.size()), [&](std::int64_t from, std::int64_t count) {
            const at::Tensor until =
                at::tensor(at::ArrayRef<std::int64_t>(counts.data() + from, static_cast<std::size_t>(count)), at::kLong)
                    .reshape({count, 1, 1, 1})
                    .to(device);
            return at::where(rank < until, last, first);
        }));
    Curve out;
    for (std::size_t i = 0; i < counts.size(); ++i) {
        out.share.push_back(static_cast<double>(counts[i]) / static_cast<double>(ranks.numel()));
        out.score.push_back(numbers[static_cast<std::int64_t>(i)].item<double>());
    }
    return out;
}

std::vector<Box> boxes_in_input(const ExplainContext& context) {
    std::vector<Box> out;
    for (const Box& box : context.boxes) {
        const Point a = context.input.geometry.to_input({box.x0, box.y0});
        const Point b = context.input.geometry.to_input({box.x1, box.y1});
        out.push_back({a.x, a.y, b.x, b.y});
    }
    return out;
}

at::Tensor box_mask(const ExplainContext& context, bool touched) {
    const std::int64_t height = context.input.pixels.size(2), width = context.input.pixels.size(3);
    at::Tensor out = at::zeros({height, width}, at::kBool);
    const auto inside = [touched](double from, double to, std::int64_t side) {
        // Pixel i is in when its centre i + 0.5 lies in [from, to), or any of [i, i + 1) does.
        const double last = static_cast<double>(side);
        const double low = touched ? std::floor(from) : std::ceil(from - 0.5);
        const double high = touched ? std::ceil(to) : std::ceil(to - 0.5);
        const auto first = static_cast<std::int64_t>(std::clamp(low, 0.0, last));
        const auto end = static_cast<std::int64_t>(std::clamp(high, 0.0, last));
        return std::pair{first, std::max<std::int64_t>(0, end - first)};
    };
    for (const Box& box : boxes_in_input(context)) {
        const auto [row, rows] = inside(box.y0, box.y1, height);
        const auto [col, cols] = inside(box.x0, box.x1, width);
        if (rows > 0 && cols > 0) out.narrow(0, row, rows).narrow(1, col, cols).fill_(true);
    }
    return out;
}

namespace {

std::string layer_of(const std::string& name) {
    std::size_t from = 0;
    while (from < name.size()) {
        const std::size_t dot = std::min(name.find('.', from), name.size());
        const std::string_view part = std::string_view(name).substr(from, dot - from);
        if (!part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos) return name.substr(0, dot);
        from = dot + 1;
    }
    const std::size_t last = name.rfind('.');
    return last == std::string::npos ? name : name.substr(0, last);
}

}  // namespace

Result<std::vector<std::vector<std::size_t>>> layers_from_the_head(ExplainContext& context) {
    ParametersAside aside(context.model);
    std::vector<std::vector<std::size_t>> layers;
    std::vector<std::string> names;
    for (std::size_t i = 0; i < aside.names().size(); ++i) {
        const std::string name = layer_of(aside.names()[i]);
        const auto found = std::find(names.begin(), names.end(), name);
        if (found == names.end()) {
            names.push_back(name);
            layers.push_back({i});
        } else {
            layers[static_cast<std::size_t>(found - names.begin())].push_back(i);
        }
    }
    CaptureOptions options;
    options.mixings = false;
    options.points = {"*"};
    options.stop = context.stop;
    const auto before = VITRINE_TRY(run_captured(context.model, context.input.pixels, options));
    std::vector<std::pair<std::int64_t, std::size_t>> reach;  // points changed, layer
    for (std::size_t i = 0; i < layers.size(); ++i) {
        for (const std::size_t parameter : layers[i]) aside.shuffle(parameter, generator(0, parameter));
        const auto after = VITRINE_TRY(run_captured(context.model, context.input.pixels, options));
        aside.restore();
        std::int64_t changed = 0;
        for (const auto& [name, x] : before->points)
            if (const auto found = after->points.find(name); found == after->points.end() || !found->second.equal(x))
                ++changed;
        reach.emplace_back(changed, i);
    }
    // Of layers that reach equally many the later in the model's list is nearer to the head.
    std::stable_sort(reach.begin(), reach.end(), [](const auto& a, const auto& b) {
        return a.first != b.first ? a.first < b.first : a.second > b.second;
    });
    std::vector<std::vector<std::size_t>> out;
    for (const auto& entry : reach) out.push_back(layers[entry.second]);
    return out;
}

}  // namespace vitrine::plugin::measures
