// What looking at attention costs beside the forward: rows, all maps, rollout and gradient methods, each beside a peer
// in the same run.
#include <vitrine/bench.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <random>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>

#include <vitrine/capture.h>
#include <vitrine/explainer.h>
#include <vitrine/kernels/floor.h>
#include <vitrine/registry.h>

#include "bench_attention.h"
#include "softmax_mixing.h"
#include <vitrine/torch_errors.h>

namespace vitrine {
namespace {

constexpr BenchShape kShapes[] = {{"vit_s_1370", "ViT-S/14, 518 px, 1370 tokens", 518, 14, 384, 12, 6, true},
                                  {"vit_ti_197", "ViT-Ti/16, 224 px, 197 tokens", 224, 16, 192, 12, 3, true},
                                  {"vit_micro_50", "1 block of width 64, 50 tokens", 56, 8, 64, 1, 2, true},
                                  {"vit_b_197", "ViT-B/16, 224 px, 197 tokens", 224, 16, 768, 12, 12, false},
                                  {"vit_l_1370", "ViT-L/14, 518 px, 1370 tokens", 518, 14, 1024, 24, 16, false},
                                  {"vit_b_16385", "ViT-B/16, 2048 px, 16385 tokens", 2048, 16, 768, 12, 12, false},
                                  {"vit_b_160000", "ViT-B/16, 6400 px, 160001 tokens", 6400, 16, 768, 12, 12, false},
                                  {"vit_l_160000", "ViT-L/16, 6400 px, 160001 tokens", 6400, 16, 1024, 24, 16, false}};

/// The walk of rollout by sweeps, from the class token.
Result<at::Tensor> roll_by_sweeps(const Flow& flow) {
    at::Tensor r = flow.readout;
    for (auto step = flow.steps.rbegin(); step != flow.steps.rend(); ++step)
        r = (VITRINE_TRY(step->mixing->left(r)).mean(0) + r) / 2;
    return r;
}

Result<at::Tensor> roll_dense(const Flow& flow) {
    at::Tensor product;
    for (const FlowStep& step : flow.steps) {
        const at::Tensor map = VITRINE_TRY(step.mixing->rows({}, {})).mean(0);
        const at::Tensor one = (map + at::eye(map.size(0))) / 2;
        product = product.defined() ? at::matmul(one, product) : one;
    }
    return at::matmul(flow.readout.unsqueeze(0), product).select(0, 0);
}

Result<std::vector<at::Tensor>> rows_by_matmul(const Flow& flow) {
    std::vector<at::Tensor> rows;
    for (const FlowStep& step : flow.steps) {
        const at::Tensor q = step.mixing->q().narrow(1, 0, 1),
                         k = step.mixing->k();  // [heads, 1, dim], [heads, keys, dim]
        rows.push_back(
            at::softmax(at::matmul(q, k.transpose(-2, -1)) * (1 / std::sqrt(static_cast<double>(k.size(-1)))), -1));
    }
    return rows;
}

/// The larger of the two; what is not a number stays.
double larger(double a, double b) { return std::isnan(a) || a > b ? a : b; }

/// The largest difference of any map of a flow from softmax over the kept queries and keys.
Result<double> worst_map(const Flow& flow) {
    double worst = 0;
    for (const FlowStep& step : flow.steps) {
        const at::Tensor q = step.mixing->q(), k = step.mixing->k();
        const at::Tensor map =
            at::softmax(at::matmul(q, k.transpose(-2, -1)) * (1 / std::sqrt(static_cast<double>(k.size(-1)))), -1);
        worst = larger(worst, (VITRINE_TRY(step.mixing->rows({}, {})) - map).abs().max().item<double>());
    }
    return worst;
}

double worst(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

}  // namespace

std::vector<std::string> attention_bench_cases(bool on_cpu) {
    std::vector<std::string> names;
    for (const BenchShape& shape : kShapes)
        if (shape.on_cpu == on_cpu) names.emplace_back(shape.name);
    return names;
}

Result<std::unique_ptr<Model>> bench_model(const BenchShape& shape) {
    const Architecture* vit = VITRINE_TRY(registry().architecture("vit"));
    Settings settings(vit->parameters());
    for (const auto& [name, value] : {std::pair<const char*, std::string>{"image_size", std::to_string(shape.image)},
                                      {"patch", std::to_string(shape.patch)},
                                      {"width", std::to_string(shape.width)},
                                      {"depth", std::to_string(shape.depth)},
                                      {"heads", std::to_string(shape.heads)},
                                      {"registers", "0"},
                                      {"layer_scale", "0"},
                                      {"classes", "1000"}})
        VITRINE_CHECK(settings.set(name, value));
    return vit->create(settings, 1);
}

Result<nlohmann::json> bench_attention(const std::string& case_name, int repeats, const std::string& device_name,
                                       const std::string& dtype_name, std::int64_t memory_budget) {
    const auto* shape =
        std::find_if(std::begin(kShapes), std::end(kShapes), [&](const BenchShape& s) { return case_name == s.name; });
    if (shape == std::end(kShapes))
        return fail(ErrorCode::BadInput, "there is no case '{}', there are {} for the CPU and {} for a device",
                    case_name, fmt::join(attention_bench_cases(true), ", "),
                    fmt::join(attention_bench_cases(false), ", "));
    const at::Device device = VITRINE_TRY(device_named(device_name));
    const at::ScalarType dtype = VITRINE_TRY(dtype_named(dtype_name));
    if (device.is_cpu() && dtype != at::kFloat)
        return fail(ErrorCode::Unsupported, "the bench runs in fp32 on the CPU, {} was asked for", dtype_name);
    if (device.is_cpu() && shape->image / shape->patch > kMostPatchesForMaps)
        return fail(ErrorCode::Unsupported, "{} is for a device: its peers form maps of {} x {} on the CPU", case_name,
                    shape->image / shape->patch * (shape->image / shape->patch) + 1,
                    shape->image / shape->patch * (shape->image / shape->patch) + 1);
    if (repeats < 1) return fail(ErrorCode::BadInput, "{} repeats were asked for, expected 1 or more", repeats);
    return guarded([&]() -> Result<nlohmann::json> {
        if (!device.is_cpu()) return bench_attention_on_device(*shape, device, dtype, repeats, memory_budget);
        const auto model = VITRINE_TRY(bench_model(*shape));
        const at::Tensor pixels =
            at::randn({1, 3, shape->image, shape->image}, at::make_generator<at::CPUGeneratorImpl>(2));
        const auto threads = static_cast<std::int64_t>(at::get_num_threads());

        // ---- answers first ----
        const auto kept = VITRINE_TRY(run_captured(*model, pixels));
        const Flow& flow = kept->flow;
        if (!flow.known() || flow.steps.empty())
            return fail(ErrorCode::Internal, "the flow of the case is not known: {}", flow.unknown);
        const at::Tensor logits = VITRINE_TRY(run(*model, pixels));
        const std::int64_t first[] = {0};
        const LayerRows rows = VITRINE_TRY(rows_of_layers(flow, first, false));
        const auto peers = VITRINE_TRY(rows_by_matmul(flow));
        double row_error = 0, check_error = 0;
        for (std::size_t l = 0; l < peers.size(); ++l) row_error = larger(row_error, worst(rows.rows[l], peers[l]));
        for (const FlowStep& step : flow.steps) {
            const MixingCheck found = VITRINE_TRY(step.mixing->check());
            if (!found.passed) return fail(ErrorCode::Internal, "{}: {}", step.mixing->name, found.sentence);
            check_error = std::max(check_error, found.output_error);
        }
        const at::Tensor swept = VITRINE_TRY(roll_by_sweeps(flow));
        const at::Tensor dense = VITRINE_TRY(roll_dense(flow));
        const double rollout_error = worst(swept, dense) / dense.max().item<double>();
        if (!at::equal(logits, kept->output)) return fail(ErrorCode::Internal, "watching changed the logits");
        if (!(row_error < 1e-5))
            return fail(ErrorCode::Internal, "rows differ from matmul and softmax by {:.1e}", row_error);
        if (!(rollout_error < 1e-4))
            return fail(ErrorCode::Internal, "rollout by sweeps differs from the dense product by {:.1e}",
                        rollout_error);

        // With maps: every one of them, the answer, and the same rollout.
        const auto mapped = VITRINE_TRY(run_captured(*model, pixels, {.maps = true}));
        const double map_error = VITRINE_TRY(worst_map(mapped->flow));
        const std::string map_implementation = mapped->flow.steps.back().mixing->implementation();
        const double logits_error = worst(mapped->output, logits) / logits.abs().max().item<double>();
        const double mapped_rollout_error =
            worst(VITRINE_TRY(roll_by_sweeps(mapped->flow)), dense) / dense.max().item<double>();
        if (!(map_error < 1e-5))
            return fail(ErrorCode::Internal, "maps differ from matmul and softmax by {:.1e}", map_error);
        if (!(logits_error < 1e-4))
            return fail(ErrorCode::Internal, "keeping maps changed the logits by {:.1e} of the largest", logits_error);
        if (!(mapped_rollout_error < 1e-4))
            return fail(ErrorCode::Internal, "rollout over kept maps differs from the dense product by {:.1e}",
                        mapped_rollout_error);

        // ---- times ----
        const std::int64_t tokens = flow.steps.front().mixing->queries;
        const std::int64_t key_numbers = shape->depth * tokens * shape->width;
        const at::Tensor same_size = at::randn({key_numbers}), flush = at::randn({64 * 1024 * 1024 / 4 * 2});
        const std::span<const float> same(same_size.data_ptr<float>(), static_cast<std::size_t>(key_numbers));
        const std::span<const float> large(flush.data_ptr<float>(), static_cast<std::size_t>(flush.numel()));
        const auto* sweep_of = flow.steps.back().mixing.get();
        const at::Tensor ones = at::randn({tokens}).abs();
        std::vector<double> flops;
        at::Tensor kept_rows;
        Interleaved timed(device);
        const auto empty_caches = [&]() -> Status {
            kernels::measure_read(large, threads, kKernelThreads);
            return {};
        };
        timed.add("forward", [&]() -> Status { return run(*model, pixels).map([](const at::Tensor&) {}); });
        timed.add("capture", [&]() -> Status { return run_captured(*model, pixels).map([](const auto&) {}); });
        timed.add("capture_all_maps", [&]() -> Status {
            const auto again = VITRINE_TRY(run_captured(*model, pixels, {.maps = true}));
            for (const FlowStep& step : again->flow.steps) kept_rows = VITRINE_TRY(step.mixing->rows({}, {}));
            return {};
        });
        timed.add("capture_all_maps_and_rollout", [&]() -> Status {
            const auto again = VITRINE_TRY(run_captured(*model, pixels, {.maps = true}));
            for (const FlowStep& step : again->flow.steps) kept_rows = VITRINE_TRY(step.mixing->rows({}, {}));
            return roll_by_sweeps(again->flow).map([](const at::Tensor&) {});
        });
        timed.add("sweep", [&]() -> Status { return sweep_of->left(ones).map([](const at::Tensor&) {}); });
        timed.add("fma", [&]() -> Status {
            flops.push_back(kernels::measure_flops(threads, kKernelThreads));
            return {};
        });
        timed.add("rollout_sweeps", [&]() -> Status { return roll_by_sweeps(flow).map([](const at::Tensor&) {}); });
        timed.add("rollout_maps",
                  [&]() -> Status { return roll_by_sweeps(mapped->flow).map([](const at::Tensor&) {}); });
        timed.add("rollout_dense", [&]() -> Status { return roll_dense(flow).map([](const at::Tensor&) {}); });
        // A hovered row follows another one, and caches hold what they can; the first after something else finds them
        // cold.
        const auto row = [&]() -> Status { return rows_of_layers(flow, first, false).map([](const LayerRows&) {}); };
        const auto row_matmul = [&]() -> Status { return rows_by_matmul(flow).map([](const auto&) {}); };
        const auto read = [&]() -> Status {
            kernels::measure_read(same, threads, kKernelThreads);
            return {};
        };
        for (const auto& [name, work] : {std::pair<std::string, std::function<Status()>>{"row", row},
                                         {"row_matmul", row_matmul},
                                         {"read", read}}) {
            timed.add("flush_" + name, empty_caches);
            timed.add(name + "_cold", work);
            timed.add(name, work, 10);
        }
        // The first row of a capture reads the keys as they were kept, the second packs them, later ones gain by it.
        std::shared_ptr<const Capture> fresh;
        const auto fresh_row = [&]() -> Status {
            return rows_of_layers(fresh->flow, first, false).map([](const LayerRows&) {});
        };
        timed.add("flush_fresh", [&]() -> Status {
            fresh = VITRINE_TRY(run_captured(*model, pixels));
            return empty_caches();
        });
        timed.add("row_first_cold", fresh_row);
        timed.add("flush_packing", empty_caches);
        timed.add("row_packing_cold", fresh_row);
        for (const char* method : {"rollout", "chefer", "legrad"}) {
            const auto explainer = registry().explainer(method);
            if (!explainer || (*explainer)->why_not(*model)) continue;
            timed.add(std::string("explain_") + method, [&, explainer = *explainer]() -> Status {
                Input input;
                input.pixels = pixels;
                ExplainContext context(*model, input, {.index = 3, .versus = {}});
                return explainer->explain(context, Settings(explainer->parameters())).map([](const Attribution&) {});
            });
        }
        VITRINE_CHECK(timed.run(repeats));
        VITRINE_CHECK(sweep_of->left(ones).map([](const at::Tensor&) {}));

        // ---- what they mean ----
        const double peak = *std::max_element(flops.begin(), flops.end());
        const double sweep_flop = 2.0 * static_cast<double>(tokens) * static_cast<double>(tokens * shape->width);
        const double bytes = 4.0 * static_cast<double>(key_numbers);
        nlohmann::json out;
        out["case"] = shape->name;
        out["model"] = shape->title;
        out["tokens"] = tokens;
        out["threads"] = threads;
        out["repeats"] = repeats;
        out["verified"] = {{"logits", "equal"},
                           {"row_error", row_error},
                           {"rollout_error", rollout_error},
                           {"check_error", check_error},
                           {"map_error", map_error},
                           {"logits_error_with_maps", logits_error},
                           {"rollout_error_with_maps", mapped_rollout_error}};
        out["implementation"] = {
            {"row", rows.implementation}, {"sweep", sweep_of->implementation()}, {"maps", map_implementation}};
        for (const auto& [name, samples] : timed.times())
            if (name.rfind("flush", 0) != 0 && name != "fma") out["median_ms"][name] = median(samples);
        out["floor"] = {{"fma_gflops", peak / 1e9},
                        {"read_gb_per_s", bytes / timed.ms("read") / 1e6},
                        {"read_cold_gb_per_s", bytes / timed.ms("read_cold") / 1e6},
                        {"key_bytes", bytes},
                        {"sweep_ms", sweep_flop / peak * 1e3}};
        const double sweep_share = sweep_flop / (timed.ms("sweep") * 1e-3) / peak;
        nlohmann::json& ratios = out["ratios"];
        ratios["capture_to_forward"] = timed.ratio("capture", "forward");
        ratios["forward_to_row"] = timed.ratio("forward", "row");
        ratios["forward_to_row_cold"] = timed.ratio("forward", "row_cold");
        ratios["row_to_matmul_and_softmax"] = timed.ratio("row", "row_matmul");
        ratios["row_cold_to_matmul_and_softmax"] = timed.ratio("row_cold", "row_matmul_cold");
        ratios["row_share_of_read_bandwidth"] = timed.ratio("read", "row");
        ratios["row_cold_share_of_read_bandwidth"] = timed.ratio("read_cold", "row_cold");
        ratios["row_first_cold_share_of_read_bandwidth"] = timed.ratio("read_cold", "row_first_cold");
        ratios["row_packing_cold_to_row_first_cold"] = timed.ratio("row_packing_cold", "row_first_cold");
        ratios["row_first_cold_to_row_cold"] = timed.ratio("row_first_cold", "row_cold");
        ratios["forward_and_all_maps_to_forward"] = timed.ratio("capture_all_maps", "forward");
        ratios["forward_all_maps_and_rollout_to_forward"] = timed.ratio("capture_all_maps_and_rollout", "forward");
        ratios["rollout_after_maps_to_forward"] = timed.ratio("rollout_maps", "forward");
        ratios["rollout_to_forward"] = timed.ratio("rollout_sweeps", "forward");
        ratios["dense_rollout_to_sweeps"] = timed.ratio("rollout_dense", "rollout_sweeps");
        ratios["sweep_share_of_fma_peak"] = sweep_share;
        for (const char* method : {"rollout", "chefer", "legrad"}) {
            const std::string name = std::string("explain_") + method;
            if (timed.has(name)) ratios[name + "_to_forward"] = timed.ratio(name, "forward");
        }
        nlohmann::json& targets = out["targets"];
        if (case_name == "vit_s_1370") {
            targets["capture_to_forward"] = target(ratios["capture_to_forward"], 1.03, true);
            targets["forward_to_row"] = target(ratios["forward_to_row"], 600, false);
            targets["row_share_of_read_bandwidth"] = target(ratios["row_share_of_read_bandwidth"], 0.8, false);
            targets["row_to_matmul_and_softmax"] = target(ratios["row_to_matmul_and_softmax"], 1, true);
            targets["rollout_to_forward"] = target(ratios["rollout_to_forward"], 0.3, true);
            targets["sweep_share_of_fma_peak"] = target(sweep_share, 0.6, false);
            if (timed.has("explain_chefer"))
                targets["explain_chefer_to_forward"] = target(ratios["explain_chefer_to_forward"], 3.5, true);
            if (timed.has("explain_legrad"))
                targets["explain_legrad_to_forward"] = target(ratios["explain_legrad_to_forward"], 1.9, true);
        } else if (case_name == "vit_ti_197") {
            targets["forward_and_all_maps_to_forward"] = target(ratios["forward_and_all_maps_to_forward"], 1.1, true);
            targets["rollout_to_forward"] = target(ratios["rollout_to_forward"], 0.1, true);
        }
        return out;
    });
}

}  // namespace vitrine
