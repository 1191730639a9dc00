// vitrine bench explain: a method's time beside that of the passes it spends, in one process.
#include <vitrine/bench_explain.h>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>

#include "bench_attention.h"

#include <ctime>
#include <limits>

namespace vitrine {

namespace {

/// By the wall's clock, and of all threads' processor time, which other programs on the machine hardly disturb.
struct Time {
    double ms = 0, cpu_ms = 0;

    static Time now() {
        const auto wall = std::chrono::steady_clock::now().time_since_epoch();
        return {std::chrono::duration<double, std::milli>(wall).count(),
                1e3 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC};
    }
    static Time since(const Time& start) {
        const Time end = now();
        return {end.ms - start.ms, end.cpu_ms - start.cpu_ms};
    }
    Time& operator+=(const Time& other) {
        ms += other.ms;
        cpu_ms += other.cpu_ms;
        return *this;
    }
};

Time middle_of(const std::vector<Time>& samples) {
    std::vector<double> wall, cpu;
    // The first round warms up.
    for (std::size_t i = 1; i < samples.size(); ++i) {
        wall.push_back(samples[i].ms);
        cpu.push_back(samples[i].cpu_ms);
    }
    return {median(wall), median(cpu)};
}

/// A model that counts what goes through it and how long that takes.
class Counted final : public Model {
  public:
    explicit Counted(Model& model) : model_(model) {
        info_ = model.info();
        preprocess_ = model.preprocess();
        labels_ = model.labels();
    }

    at::Tensor forward(const at::Tensor& pixels) override {
        return timed(pixels, 1, [&] { return model_.forward(pixels); });
    }
    at::Tensor forward_kept(const at::Tensor& pixels, const at::Tensor& kept) override {
        return timed(pixels, 1, [&] { return model_.forward_kept(pixels, kept); });
    }
    std::optional<Chain> chain(std::int64_t height, std::int64_t width) override {
        auto out = model_.chain(height, width);
        if (!out) return out;
        out->block = [this, block = out->block, share = 1.0 / static_cast<double>(out->blocks)](
                         std::int64_t i, const at::Tensor& x) { return timed(x, share, [&] { return block(i, x); }); };
        return out;
    }
    bool has_chain() const override { return model_.has_chain(); }
    TokenLayout layout(std::int64_t height, std::int64_t width) const override { return model_.layout(height, width); }
    std::vector<NamedPoint> points() const override { return model_.points(); }
    std::optional<std::string> no_layer_answer() const override { return model_.no_layer_answer(); }
    at::Tensor layer_answer(const at::Tensor& tokens, const TokenLayout& layout) const override {
        return model_.layer_answer(tokens, layout);
    }
    std::optional<std::string> no_token_removal() const override { return model_.no_token_removal(); }
    std::vector<std::pair<std::string, at::Tensor>> parameters() override { return model_.parameters(); }
    void to(at::Device device, at::ScalarType dtype) override { model_.to(device, dtype); }
    bool is_native() const override { return model_.is_native(); }

    double forwards = 0, gradients = 0;  ///< pictures without and with a graph
    Time spent;                          ///< in forwards, and from there to the picture's gradient
    bool saw_gradient = false;

  private:
    template <class Work>
    at::Tensor timed(const at::Tensor& input, double share, const Work& work) {
        const bool graph = at::GradMode::is_enabled();
        const Time start = Time::now();
        at::Tensor out = work();
        spent += Time::since(start);
        // In a block one activation may have become several; of a whole model only what is behind it ran for each.
        const std::int64_t count = share < 1 ? std::max(input.size(0), out.size(0)) : input.size(0);
        (graph ? gradients : forwards) += share * static_cast<double>(count);
        if (graph && input.requires_grad()) {
            // The picture's gradient is the last that a backward pass makes.
            input.register_hook([this, end = Time::now()](const at::Tensor&) {
                spent += Time::since(end);
                saw_gradient = true;
            });
        }
        return out;
    }

    Model& model_;
};

}  // namespace

Result<nlohmann::json> bench_explain(Model& model, const Input& input, const Target& target, const Explainer& method,
                                     const Settings& settings, const std::vector<std::int64_t>& batches, int repeats,
                                     std::uint64_t seed) {
    if (batches.empty() || *std::min_element(batches.begin(), batches.end()) < 1 || repeats < 1)
        return fail(ErrorCode::BadInput, "a batch size and a repeat are needed, each at least 1");
    const std::string name = method.description().name;
    if (auto why = method.why_not(model))
        return fail(ErrorCode::Unsupported, "{} cannot run on {}: {}", name, model.info().name, *why);

    // ---- once, for the answer and what it spends ----
    Counted counted(model);
    ExplainContext first(counted, input, target, seed);
    const Attribution wanted = VITRINE_TRY(method.explain(first, settings));
    if (!at::isfinite(wanted.map).all().item<bool>())
        return fail(ErrorCode::Internal, "the map of {} holds numbers that are not finite", name);
    const double forwards = counted.forwards, slopes = counted.gradients;
    const bool to_the_picture = counted.saw_gradient;
    const double range = (wanted.map.max() - wanted.map.min()).item<double>();
    std::vector<std::int64_t> sizes;
    for (const std::int64_t size : batches)
        if (size == 1 || static_cast<double>(size) <= std::max(forwards, slopes)) sizes.push_back(size);
    if (sizes.empty()) sizes.push_back(1);

    // ---- the method and the model alone, one after the other ----
    ExplainContext alone(model, input, target, seed);
    const Objective objective = VITRINE_TRY([&]() -> Result<Objective> {
        if (forwards + slopes == 0) return Objective{};
        return alone.objective();
    }());
    double worst = 0;
    /// Samples of one kind of work, a list for each batch size.
    using Samples = std::map<std::int64_t, std::vector<Time>>;
    Samples total, inside, forward, gradient;
    Interleaved jobs(model.device());
    const auto timed = [](Samples& samples, std::int64_t size, const auto& work) -> Status {
        const Time start = Time::now();
        const auto done = work();
        samples[size].push_back(Time::since(start));
        if (!done) return tl::make_unexpected(done.error());
        return {};
    };
    for (const std::int64_t size : sizes) {
        jobs.add(fmt::format("method {}", size), [&, size]() -> Status {
            counted.spent = {};
            ExplainContext context(counted, input, target, seed);
            context.batch = size;
            Attribution found;
            VITRINE_CHECK(timed(total, size, [&]() -> Status {
                found = VITRINE_TRY(method.explain(context, settings));
                return {};
            }));
            inside[size].push_back(counted.spent);
            if (found.map.sizes() != wanted.map.sizes())
                return fail(ErrorCode::Internal, "{} gave a map of another size at {} pictures a pass", name, size);
            if (range > 0) worst = std::max(worst, (found.map - wanted.map).abs().max().item<double>() / range);
            return {};
        });
        const at::Tensor pixels = input.pixels.expand({size, -1, -1, -1}).contiguous();
        if (forwards > 0)
            jobs.add(fmt::format("forward {}", size),
                     [&, size, pixels] { return timed(forward, size, [&] { return run(model, pixels); }); });
        if (slopes > 0)
            jobs.add(fmt::format("gradient {}", size), [&, size, pixels] {
                alone.batch = size;
                return timed(gradient, size, [&] {
                    return alone.slopes(
                        objective, size, [&](std::int64_t, std::int64_t) { return pixels; },
                        [](std::int64_t, double, const at::Tensor&) {});
                });
            });
    }
    VITRINE_CHECK(jobs.run(repeats));
    // Sums in another order may turn a ReLU that is just at its kink, where the gradient jumps.
    if (worst > 1e-3)
        return fail(ErrorCode::Internal, "{} gives another map with other batch sizes: off by {:.1e} of its range",
                    name, worst);

    // ---- what it says ----
    nlohmann::json by_batch = nlohmann::json::object();
    const double infinite = std::numeric_limits<double>::infinity();
    Time least_forward{infinite, infinite}, least_gradient{infinite, infinite}, best_total, best_inside;
    std::int64_t best = 0;
    for (const std::int64_t size : sizes) {
        auto& entry = by_batch[std::to_string(size)];
        const auto each = [&](const char* what, const Samples& samples, Time& least) {
            if (samples.empty()) return Time{};
            Time one = middle_of(samples.at(size));
            one = {one.ms / static_cast<double>(size), one.cpu_ms / static_cast<double>(size)};
            least = {std::min(least.ms, one.ms), std::min(least.cpu_ms, one.cpu_ms)};
            entry[fmt::format("{}_ms_a_picture", what)] = one.ms;
            entry[fmt::format("{}_cpu_ms_a_picture", what)] = one.cpu_ms;
            return one;
        };
        const Time f = each("forward", forward, least_forward), g = each("gradient", gradient, least_gradient);
        const Time all = middle_of(total[size]);
        Time in_model = middle_of(inside[size]);
        // Where the backward pass ends at a layer nothing tells when: at most what one to the picture takes.
        if (slopes > 0 && !to_the_picture)
            in_model = {std::min(all.ms, forwards * f.ms + slopes * g.ms),
                        std::min(all.cpu_ms, forwards * f.cpu_ms + slopes * g.cpu_ms)};
        entry["ms"] = all.ms;
        entry["cpu_ms"] = all.cpu_ms;
        if (best == 0 || all.ms < best_total.ms) {
            best = size;
            best_total = all;
            best_inside = in_model;
        }
    }
    const auto passes = [&](double Time::*part) {
        return (forwards > 0 ? forwards * least_forward.*part : 0) + (slopes > 0 ? slopes * least_gradient.*part : 0);
    };
    nlohmann::json out{{"suite", "explain"},
                       {"model", model.info().name},
                       {"method", name},
                       {"settings", nlohmann::json::object()},
                       {"threads", at::get_num_threads()},
                       {"device", model.device().str()},
                       {"repeats", repeats},
                       {"verified", true},
                       {"off_between_batches", worst},
                       {"spent", {{"forwards", forwards}, {"gradients", slopes}}},
                       {"batches", by_batch},
                       {"best_batch", best},
                       {"ms", best_total.ms},
                       {"cpu_ms", best_total.cpu_ms},
                       {"set_up_and_after_ms", best_total.ms - best_inside.ms},
                       {"set_up_and_after_cpu_ms", best_total.cpu_ms - best_inside.cpu_ms},
                       {"passes_ms", passes(&Time::ms)},
                       {"passes_cpu_ms", passes(&Time::cpu_ms)}};
    for (const Parameter& parameter : settings.declared())
        out["settings"][parameter.name] = to_string(settings.value(parameter.name));
    if (forwards + slopes > 0) {
        out["in_model_over_passes"] = vitrine::target(best_inside.ms / passes(&Time::ms), 1.05, true);
        out["in_model_over_passes_cpu"] = vitrine::target(best_inside.cpu_ms / passes(&Time::cpu_ms), 1.05, true);
    }
    return out;
}

}  // namespace vitrine
