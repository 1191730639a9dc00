// What looking at attention costs on a CUDA device, beside the fastest fused forward, peers over the same kept tensors
// and the ceilings of that device, measured in the same run.
#include "bench_attention.h"

#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <vitrine/capture.h>
#include <vitrine/explainer.h>
#include <vitrine/registry.h>
#include <vitrine/walk.h>

#include "device_attention.h"
#include "device_graph.h"
#include "softmax_mixing.h"
#include <vitrine/torch_errors.h>

namespace vitrine {
namespace {

/// The backends of libtorch's attention, one allowed at a time.
constexpr const char* kBackends[] = {"flash", "efficient", "cudnn", "math"};

void allow(const std::string& backend) {
    at::Context& context = at::globalContext();
    context.setSDPUseFlash(backend == "flash");
    context.setSDPUseMemEfficient(backend == "efficient");
    context.setSDPUseCuDNN(backend == "cudnn");
    context.setSDPUseMath(backend == "math");
}

/// Puts libtorch's own choice back.
struct Backends {
    ~Backends() {
        at::Context& context = at::globalContext();
        context.setSDPUseFlash(true);
        context.setSDPUseMemEfficient(true);
        context.setSDPUseCuDNN(true);
        context.setSDPUseMath(true);
    }
};

double worst(const at::Tensor& a, const at::Tensor& b) {
    return (a.to(at::kFloat) - b.to(at::kFloat)).abs().max().item<double>();
}

/// softmax(scale q k^T) of these queries, in float32 from what was kept. q and k are [heads, tokens, dim].
at::Tensor plain_rows(const at::Tensor& q, const at::Tensor& k) {
    const double scale = 1 / std::sqrt(static_cast<double>(k.size(-1)));
    return at::softmax(at::matmul(q.to(at::kFloat), k.to(at::kFloat).transpose(-2, -1)) * scale, -1);
}

/// As people do it: in the model's own precision.
at::Tensor peer_rows(const at::Tensor& q, const at::Tensor& k) {
    const double scale = 1 / std::sqrt(static_cast<double>(k.size(-1)));
    return at::softmax(at::matmul(q, k.transpose(-2, -1)) * scale, -1);
}

Result<at::Tensor> roll_by_sweeps(const Flow& flow, at::Device device) {
    return left_mean(flow.steps, flow.readout.to(device));
}

std::function<Status()> replay_of(const DeviceGraph& graph) {
    return [graph]() -> Status {
        graph.replay();
        return {};
    };
}

at::Tensor roll_dense(const Flow& flow, at::Device device) {
    at::Tensor product;
    for (const FlowStep& step : flow.steps) {
        const at::Tensor map = peer_rows(step.mixing->q(), step.mixing->k()).mean(0).to(at::kFloat);
        const at::Tensor one = (map + at::eye(map.size(0), map.options())) / 2;
        product = product.defined() ? at::matmul(one, product) : one;
    }
    return at::matmul(flow.readout.to(device).unsqueeze(0), product).select(0, 0);
}

/// r^T P of one head from its queries and keys, some rows of the map at a time.
at::Tensor plain_left(const at::Tensor& r, const at::Tensor& q, const at::Tensor& k) {
    at::Tensor sum = at::zeros({k.size(1)}, r.options());
    const std::int64_t step = std::max<std::int64_t>(1, (std::int64_t{1} << 27) / k.size(1));
    for (std::int64_t from = 0; from < q.size(1); from += step) {
        const std::int64_t count = std::min(step, q.size(1) - from);
        sum += at::matmul(r.narrow(0, from, count), plain_rows(q.narrow(1, from, count), k).select(0, 0));
    }
    return sum;
}

/// Bytes that a piece of work held at once on the device beyond nothing: weights and what was kept count too.
Result<std::int64_t> peak_of(at::Device device, const std::function<Status()>& work) {
    synchronize(device);
    reset_peak_bytes(device);
    VITRINE_CHECK(work());
    synchronize(device);
    return peak_bytes(device);
}

}  // namespace

Result<nlohmann::json> bench_attention_on_device(const BenchShape& shape, at::Device device, at::ScalarType dtype,
                                                 int repeats, std::int64_t memory_budget) {
    const at::NoGradGuard no_grad;
    const auto model = VITRINE_TRY(bench_model(shape));
    model->to(device, dtype);
    const at::Tensor pixels =
        at::randn({1, 3, shape.image, shape.image}, at::make_generator<at::CPUGeneratorImpl>(2)).to(device, dtype);
    const auto forward = [&]() -> Status { return run(*model, pixels).map([](const at::Tensor&) {}); };
    const std::int64_t side = shape.image / shape.patch, tokens = side * side + 1;
    const bool small = tokens<2000, huge = tokens> 100000, maps = side <= kMostPatchesForMaps;
    nlohmann::json out;

    // ---- the fastest fused forward, by its graph where one can be recorded ----
    const Backends put_back;
    std::string fastest;
    double least = 0;
    std::optional<DeviceGraph> graph;
    for (const char* backend : kBackends) {
        if (std::string(backend) == "math" && !small) continue;  // it forms the maps
        allow(backend);
        Interleaved one(device);
        one.add("forward", forward, small ? 10 : 1);
        if (const Status ran = one.run(huge ? 1 : 5); !ran) {
            out["backends_ms"][backend] = ran.error().message;
            continue;
        }
        double ms = one.ms("forward");
        out["backends_ms"][backend] = ms;
        std::optional<DeviceGraph> recorded;
        if (!huge) {
            auto made = DeviceGraph::record(device, forward);
            if (made) {
                recorded.emplace(std::move(*made));
                Interleaved replayed(device);
                replayed.add("graph", replay_of(*recorded), small ? 10 : 1);
                VITRINE_CHECK(replayed.run(5));
                ms = replayed.ms("graph");
                out["backends_graph_ms"][backend] = ms;
            } else {
                out["backends_graph_ms"][backend] = made.error().message;
            }
        }
        if (fastest.empty() || ms < least) {
            fastest = backend;
            least = ms;
            graph = std::move(recorded);
        }
    }
    if (fastest.empty())
        return fail(ErrorCode::Unsupported, "no attention backend of libtorch runs on {}", device.str());
    allow(fastest);

    // ---- answers first ----
    const CaptureOptions options{.memory_budget = memory_budget};
    nlohmann::json peaks;
    peaks["forward"] = VITRINE_TRY(peak_of(device, forward));
    std::shared_ptr<const Capture> kept;
    at::Tensor swept;
    peaks["capture_and_rollout"] = VITRINE_TRY(peak_of(device, [&]() -> Status {
        kept = VITRINE_TRY(run_captured(*model, pixels, options));
        if (!kept->flow.known() || kept->flow.steps.empty())
            return fail(ErrorCode::Internal, "the flow of the case is not known: {}", kept->flow.unknown);
        swept = VITRINE_TRY(roll_by_sweeps(kept->flow, device));
        return {};
    }));
    const Flow& flow = kept->flow;
    const double logits_error = worst(VITRINE_TRY(run(*model, pixels)), kept->output);
    const double logits_size = kept->output.abs().max().item<double>();
    double row_error = 0, check_error = 0, column_error = 0, tile_error = 0;
    const std::vector<std::int64_t> looked{0, tokens / 2};
    for (const FlowStep& step : flow.steps) {
        const Mixing& mixing = *step.mixing;
        const at::Tensor rows = VITRINE_TRY(mixing.rows({}, looked));
        const at::Tensor q = mixing.q(), k = mixing.k();
        for (std::size_t i = 0; i < looked.size(); ++i)
            row_error = std::max(row_error, worst(rows.select(1, static_cast<std::int64_t>(i)),
                                                  plain_rows(q.narrow(1, looked[i], 1), k).select(1, 0).to(at::kCPU)));
        const at::Tensor columns = VITRINE_TRY(mixing.columns({}, looked));
        for (std::int64_t i = 0; i < 2; ++i)
            column_error = std::max(column_error, worst(columns.select(1, looked[static_cast<std::size_t>(i)]),
                                                        rows.select(1, i).index_select(-1, at::tensor(looked))));
        const std::int64_t patch = std::min<std::int64_t>(64, tokens);
        std::vector<std::int64_t> first(static_cast<std::size_t>(patch));
        for (std::int64_t i = 0; i < patch; ++i) first[static_cast<std::size_t>(i)] = i;
        const at::Tensor tile = VITRINE_TRY(mixing.tile({}, 0, patch, 0, patch, patch));
        const at::Tensor mean = VITRINE_TRY(mixing.rows({}, first)).narrow(2, 0, patch).mean(at::IntArrayRef{1, 2});
        tile_error = std::max(tile_error, worst(tile.flatten(), mean) / mean.max().item<double>());
        const MixingCheck found = VITRINE_TRY(mixing.check());
        if (!found.passed) return fail(ErrorCode::Internal, "{}: {}", mixing.name, found.sentence);
        check_error = std::max(check_error, found.output_error);
    }
    const auto* last = dynamic_cast<const SoftmaxMixing*>(flow.steps.back().mixing.get());
    if (last == nullptr) return fail(ErrorCode::Internal, "the last layer is no softmax attention");
    const at::Tensor start = at::rand({tokens}, at::make_generator<at::CPUGeneratorImpl>(3)).to(device);
    const at::Tensor sweep_of_one = VITRINE_TRY(last->left(start)).select(0, 0);
    const at::Tensor plain = plain_left(start, last->q().narrow(0, 0, 1), last->k().narrow(0, 0, 1));
    const double sweep_error = worst(sweep_of_one, plain) / plain.max().item<double>();
    const double mass_error = std::abs(swept.sum().item<double>() - 1);
    double rollout_error = 0;
    if (maps) {
        const at::Tensor dense = roll_dense(flow, device);
        rollout_error = worst(swept, dense) / dense.max().item<double>();
    }
    // Rows and sweeps are fp32 whatever the model's type; the peers' dense product and the logits have that of the
    // model.
    const double loose = dtype == at::kFloat ? 1e-4 : 5e-2;
    for (const auto& [what, error, bound] :
         {std::tuple<const char*, double, double>{"logits", logits_error / logits_size, loose},
          {"rows", row_error, 1e-4},
          {"columns", column_error, 1e-5},
          {"tiles", tile_error, 1e-4},
          {"a sweep", sweep_error, 1e-3},
          {"the mass of rollout", mass_error, 1e-3},
          {"rollout", rollout_error, loose}})
        if (!(error < bound))
            return fail(ErrorCode::Internal, "{} differ from the plain answer by {:.1e}, allowed {:.0e}", what, error,
                        bound);

    // ---- times ----
    Interleaved timed(device);
    const int few = small ? 10 : 1;
    const std::int64_t first[] = {0};
    timed.add("forward", forward, few);
    if (graph) timed.add("forward_graph", replay_of(*graph), few);
    timed.add(
        "capture", [&]() -> Status { return run_captured(*model, pixels, options).map([](const auto&) {}); }, few);
    const auto row = [&]() -> Status { return rows_of_layers_there(flow, first, false).map([](const auto&) {}); };
    timed.add("row", row, huge ? 1 : 20);
    timed.add(
        "row_to_host", [&]() -> Status { return rows_of_layers(flow, first, false).map([](const auto&) {}); },
        huge ? 1 : 20);
    if (last->rematerialises()) {
        timed.add("row_remaking", [&]() -> Status {
            for (const FlowStep& step : flow.steps) (void)step.mixing->k();
            return {};
        });
    } else {
        timed.add(
            "row_matmul",
            [&]() -> Status {
                for (const FlowStep& step : flow.steps)
                    (void)peer_rows(step.mixing->q().narrow(1, 0, 1), step.mixing->k());
                return {};
            },
            20);
    }
    timed.add("columns", [&]() -> Status { return last->columns({}, looked).map([](const auto&) {}); });
    timed.add("tile", [&]() -> Status {
        return last->tile({}, 0, std::min<std::int64_t>(tokens, 4096), 0, std::min<std::int64_t>(tokens, 4096), 16)
            .map([](const auto&) {});
    });
    timed.add(
        "sweep", [&]() -> Status { return last->left(start).map([](const at::Tensor&) {}); }, few);
    timed.add(
        "rollout_sweeps", [&]() -> Status { return roll_by_sweeps(flow, device).map([](const at::Tensor&) {}); }, few);
    if (maps)
        timed.add("rollout_dense", [&]() -> Status {
            (void)roll_dense(flow, device);
            return {};
        });
    at::Tensor large = at::randn({std::int64_t{1} << 28}, at::TensorOptions().device(device));  // 1 GiB
    at::Tensor copied = at::empty_like(large);
    const double copied_bytes = 2.0 * static_cast<double>(large.nbytes());
    timed.add("copy", [&]() -> Status {
        copied.copy_(large);
        return {};
    });
    std::int64_t exponentials = 0;
    timed.add("exponentials", [&]() -> Status {
        exponentials = VITRINE_TRY(device_exponentials(device));
        return {};
    });
    std::vector<std::pair<std::string, std::function<Status()>>> explainers;
    {
        for (const char* method : {"rollout", "chefer", "legrad"}) {
            if (huge && std::string(method) == "rollout") continue;  // timed without its checks above
            const auto explainer = registry().explainer(method);
            if (!explainer || (*explainer)->why_not(*model)) continue;
            const auto explain = [&, explainer = *explainer]() -> Status {
                const at::AutoGradMode with_graph(true);
                Input input;
                input.pixels = pixels;
                ExplainContext context(*model, input, {.index = 3, .versus = {}});
                context.memory_budget = memory_budget;
                return explainer->explain(context, Settings(explainer->parameters())).map([](const Attribution&) {});
            };
            explainers.emplace_back(method, explain);
            timed.add(std::string("explain_") + method, explain, few);
        }
    }
    VITRINE_CHECK(timed.run(repeats));
    VITRINE_CHECK(last->left(start).map([](const at::Tensor&) {}));
    const std::string swept_by = last->implementation();
    const std::string rows_by = VITRINE_TRY(rows_of_layers_there(flow, first, false)).implementation;

    // What each method holds at its peak, by itself: nothing of the above is kept.
    const std::int64_t kept_bytes = kept->size_bytes;
    const bool only_inputs = last->rematerialises();
    copied.reset();
    large.reset();
    const bool graphed = graph.has_value();
    last = nullptr;
    kept.reset();
    for (auto& [method, explain] : explainers) {
        model->remembered.reset();  // a replay's memory is not counted; as it is, it is
        peaks["explain_" + method] = VITRINE_TRY(peak_of(device, explain));
    }
    model->remembered.reset();

    // ---- what they mean ----
    const double key_bytes =
        static_cast<double>(shape.depth * tokens * shape.width) * static_cast<double>(at::elementSize(dtype));
    const double copy_rate = copied_bytes / timed.ms("copy") / 1e6;  // GB/s
    const double row_floor_ms = key_bytes / copy_rate / 1e6;
    const double n = static_cast<double>(tokens);
    const double sweep_flop = 2 * n * n * static_cast<double>(shape.width);
    const double sweep_exponentials = n * n * static_cast<double>(shape.heads);
    const double exponential_rate = static_cast<double>(exponentials) / timed.device_ms("exponentials");  // a ms
    out["case"] = shape.name;
    out["model"] = shape.title;
    out["tokens"] = tokens;
    out["device"] = device.str();
    out["dtype"] = std::string(at::toString(dtype));
    out["repeats"] = repeats;
    out["fastest_backend"] = fastest;
    out["cuda_graph"] = graphed;
    out["capture"] = {{"keeps", only_inputs ? "inputs" : "whole"}, {"bytes", kept_bytes}};
    // What rows of a capture that keeps inputs cost beyond looking: each layer's queries, keys and values, made again.
    if (only_inputs) out["capture"]["share_of_row_that_is_remaking"] = timed.ratio("row_remaking", "row");
    out["verified"] = {{"logits_error", logits_error / logits_size},
                       {"row_error", row_error},
                       {"column_error", column_error},
                       {"tile_error", tile_error},
                       {"sweep_error", sweep_error},
                       {"rollout_mass_error", mass_error},
                       {"check_error", check_error}};
    if (maps) out["verified"]["rollout_error"] = rollout_error;
    out["implementation"] = {{"row", rows_by}, {"sweep", swept_by}};
    for (const auto& [name, samples] : timed.times()) out["median_ms"][name] = median(samples);
    for (const auto& [name, samples] : timed.device_times()) out["median_device_ms"][name] = median(samples);
    out["peak_bytes"] = peaks;
    out["floor"] = {
        {"copy_gb_per_s", copy_rate},
        {"key_bytes", key_bytes},
        {"row_ms", row_floor_ms},
        {"sweep_flop", sweep_flop},
        {"gexp_per_s", exponential_rate / 1e6},
        {"sweep_exponentials", sweep_exponentials},
        {"sweep_exponentials_ms", sweep_exponentials / exponential_rate},
        {"rollout_exponentials_ms", sweep_exponentials * static_cast<double>(shape.depth) / exponential_rate},
        {"sweep_tflop_per_s", sweep_flop / timed.device_ms("sweep") / 1e9},
        {"sweep_gexp_per_s", sweep_exponentials / timed.device_ms("sweep") / 1e6}};
    nlohmann::json& ratios = out["ratios"];
    ratios["capture_to_forward"] = timed.ratio("capture", "forward");
    ratios["row_to_floor"] = timed.ms("row") / row_floor_ms;
    ratios["forward_to_row"] = timed.ratio("forward", "row");
    if (timed.has("row_matmul")) ratios["row_to_matmul_and_softmax"] = timed.ratio("row", "row_matmul");
    ratios["rollout_to_forward"] = timed.ratio("rollout_sweeps", "forward");
    if (maps) ratios["dense_rollout_to_sweeps"] = timed.ratio("rollout_dense", "rollout_sweeps");
    for (const auto& [method, explain] : explainers)
        ratios["explain_" + method + "_to_forward"] = timed.ratio("explain_" + method, "forward");
    ratios["sweep_share_of_exponential_floor"] = sweep_exponentials / exponential_rate / timed.device_ms("sweep");
    ratios["row_on_device_to_floor"] = timed.device_ms("row") / row_floor_ms;
    // The forward of the targets is the fastest one: its graph, where there is one.
    const std::string fastest_forward = graphed ? "forward_graph" : "forward";
    std::vector<std::string> compared{"capture", "rollout_sweeps"};
    for (const auto& [method, explain] : explainers) compared.push_back("explain_" + method);
    for (const std::string& name : compared) ratios[name + "_to_fastest_forward"] = timed.ratio(name, fastest_forward);
    nlohmann::json& targets = out["targets"] = nlohmann::json::object();
    const std::string name = shape.name;
    if (name == "vit_l_1370" || name == "vit_b_16385") {
        const bool large_case = name == "vit_b_16385";
        targets["row_to_floor"] = target(ratios["row_to_floor"], 3, true);
        for (const auto& [what, limit] : {std::pair<const char*, double>{"rollout_sweeps", large_case ? 0.6 : 0.25},
                                          {"explain_chefer", large_case ? 4 : 3.5},
                                          {"explain_legrad", large_case ? 1.7 : 1.9}}) {
            const std::string ratio = std::string(what) + "_to_fastest_forward";
            if (ratios.contains(ratio)) targets[ratio] = target(ratios[ratio], limit, true);
        }
        targets["sweep_share_of_exponential_floor"] = target(ratios["sweep_share_of_exponential_floor"], 0.7, false);
        if (large_case) {
            targets["rollout_peak_bytes"] = target(peaks["explain_rollout"], 2e9, true);
            targets["chefer_peak_bytes"] = target(peaks["explain_chefer"], 8e9, true);
        }
    } else if (huge) {
        for (const auto& [what, bytes] : peaks.items())
            targets[what + "_peak_bytes"] = target(bytes.get<double>(), 16e9, true);
    }
    return out;
}

}  // namespace vitrine
