// What a capture would cost, counted from a model's shape before anything is computed.
#include <vitrine/capture.h>

#include <chrono>
#include <map>
#include <mutex>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>

#include <vitrine/device.h>

namespace vitrine {
namespace {

/// Below this nobody asks how much memory is free: the answer costs more than it is worth.
constexpr std::int64_t kSmall = std::int64_t{256} << 20;

/// Floating point operations a second of a matrix product, timed once for each device and type.
double matmul_rate(at::Device device, at::ScalarType dtype) {
    static std::mutex mutex;
    static std::map<std::pair<std::string, at::ScalarType>, double> rates;
    std::lock_guard lock(mutex);
    double& rate = rates[{device.str(), dtype}];
    if (rate > 0) return rate;
    const at::NoGradGuard no_grad;
    const std::int64_t side = device.is_cpu() ? 768 : 4096;
    const at::Tensor a = at::rand({side, side}, at::TensorOptions().device(device).dtype(dtype));
    for (int i = 0; i < 4; ++i) {  // the first one or two find libraries and caches cold
        synchronize(device);
        const auto start = std::chrono::steady_clock::now();
        const at::Tensor b = at::matmul(a, a);
        synchronize(device);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        rate = std::max(rate, 2.0 * static_cast<double>(side * side * side) / seconds);
    }
    return rate;
}

std::string gigabytes(std::int64_t bytes) {
    const double value = static_cast<double>(bytes);
    return value >= 1e9 ? fmt::format("{:.1f} GB", value / 1e9) : fmt::format("{:.1f} MB", value / 1e6);
}

/// Two digits: it is an estimate.
std::string about(double seconds) {
    if (seconds < 0.0995) return fmt::format("{:.2g} ms", seconds * 1e3);
    if (seconds < 99.5) return fmt::format("{:.2g} s", seconds);
    if (seconds < 99.5 * 60) return fmt::format("{:.0f} min", seconds / 60);
    return fmt::format("{:.0f} h", seconds / 3600);
}

std::string counted(std::int64_t layers) { return layers == 1 ? "the layer" : fmt::format("{} layers", layers); }

}  // namespace

std::string CaptureCost::sentence(std::int64_t layers) const {
    const std::string time = seconds > 0 ? fmt::format("; a run takes about {}", about(seconds)) : "";
    switch (keep) {
        case Keep::Whole:
            return fmt::format("{} tokens: keeps {}, queries, keys, values and outputs of {}{}", tokens,
                               gigabytes(whole), counted(layers), time);
        case Keep::Inputs:
            return fmt::format(
                "{} tokens: keeps {}, the inputs of {}, because queries and keys would take {} of the {} "
                "allowed{}",
                tokens, gigabytes(inputs), counted(layers), gigabytes(whole), gigabytes(budget), time);
        case Keep::Nothing:
            break;
    }
    const std::string least = inputs > 0
                                  ? fmt::format("the inputs of {} alone take {}, queries and keys {}", counted(layers),
                                                gigabytes(inputs), gigabytes(whole))
                                  : fmt::format("queries and keys of {} take {}", counted(layers), gigabytes(whole));
    return fmt::format("a capture of {} tokens does not fit into its budget of {}: {}", tokens, gigabytes(budget),
                       least);
}

CaptureCost capture_cost(Model& model, std::int64_t input_height, std::int64_t input_width, std::int64_t budget,
                         bool timed) {
    CaptureCost cost;
    const ModelInfo& info = model.info();
    if (info.layers == 0) return cost;
    const TokenLayout layout = model.layout(input_height, input_width);
    if (!layout.known()) return cost;
    cost.tokens = layout.tokens();
    const std::int64_t bytes_each = info.parameters > 0 ? info.size_bytes / info.parameters : 4;
    const std::int64_t tokens = info.layers * cost.tokens, token = info.width * bytes_each, lse = 4 * info.heads;
    cost.whole = tokens * (info.kept_widths * token + lse);
    if (model.has_chain()) cost.inputs = tokens * (token + lse);
    // Of a block a graph keeps both norms' inputs and outputs, queries, keys, values, the attention's output and,
    // twice, the MLP's hidden tokens; of the latter the weights tell the width.
    const double per_width = static_cast<double>(info.parameters) /
                             static_cast<double>(std::max<std::int64_t>(1, info.layers * info.width * info.width));
    cost.graph = static_cast<std::int64_t>(static_cast<double>(tokens * token) * (5 + std::max(4.0, per_width)));
    // The stream, the normed tokens, queries, keys, values, the output and its projection, and a piece of the MLP.
    cost.working = 10 * cost.tokens * token + 3 * input_height * input_width * (4 + bytes_each);
    const double n = static_cast<double>(cost.tokens);
    cost.flops = 2.0 * static_cast<double>(info.parameters) * n +
                 4.0 * static_cast<double>(info.layers) * n * n * static_cast<double>(info.width);

    at::Device device = at::kCPU;
    at::ScalarType dtype = at::kFloat;
    const bool large = std::max(cost.whole, cost.graph) > kSmall;
    if (timed || (budget == 0 && large)) {
        if (const auto parameters = model.parameters(); !parameters.empty()) {
            device = parameters.front().second.device();
            dtype = parameters.front().second.scalar_type();
        }
    }
    cost.budget = budget;
    if (budget == 0) {
        // A tenth stays for what is not counted here; where free memory cannot be told there is no limit.
        const std::int64_t free = large ? free_bytes(device) : 0;
        cost.budget = free > 0 ? std::max<std::int64_t>(0, free - free / 10 - cost.working)
                               : std::max({kSmall, cost.whole, cost.graph});
    }
    cost.keep = cost.whole <= cost.budget                       ? CaptureCost::Keep::Whole
                : cost.inputs > 0 && cost.inputs <= cost.budget ? CaptureCost::Keep::Inputs
                                                                : CaptureCost::Keep::Nothing;
    // A forward pass reaches some 0.6 of a large product's rate: ViT-S at 1370 tokens on two cores, 93 GFLOP in 0.51 s.
    if (timed) cost.seconds = cost.flops / (0.6 * matmul_rate(device, dtype));
    return cost;
}

}  // namespace vitrine
