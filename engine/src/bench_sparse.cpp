// Times the kernels on lists of codes and a training step, each beside dense products and the bandwidth of a copy.
#include <vitrine/bench_sparse.h>

#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <vitrine/torch_errors.h>

#include "bench_attention.h"
#include "concept_steps.h"
#include "float_products.h"
#include "sparse_codes.h"

namespace vitrine {

namespace {

struct Shape {
    const char* name;
    std::int64_t tokens, k, latents, width;
};
constexpr Shape kShapes[] = {{"w192", 4096, 32, 1536, 192}, {"w768", 4096, 32, 12288, 768}, {"tiny", 64, 4, 96, 24}};

double off(const at::Tensor& found, const at::Tensor& wanted) {
    const at::Tensor size = wanted.abs().max().clamp_min(1e-30);
    return ((found - wanted).abs().max() / size).item<double>();
}

Status check(nlohmann::json& out, const char* name, const at::Tensor& found, const at::Tensor& wanted) {
    const double error = off(found, wanted);
    out["verified"][name] = error;
    if (!(error <= 1e-5))
        return fail(ErrorCode::Internal, "{} differs from the dense product by {:.2e} of the largest number", name,
                    error);
    return {};
}

/// A kernel beside the dense product, and the bytes it must move.
struct Compared {
    const char* name;
    double bytes;
};

}  // namespace

std::vector<std::string> sparse_bench_cases() { return {"w192", "w768"}; }

Result<nlohmann::json> bench_sparse(const std::string& case_name, int repeats, const std::string& device_name,
                                    const std::string& products) {
    return guarded([&]() -> Result<nlohmann::json> {
        const Shape* shape = nullptr;
        for (const Shape& s : kShapes)
            if (case_name == s.name) shape = &s;
        if (shape == nullptr)
            return fail(ErrorCode::BadInput, "there is no case '{}', expected w192, w768 or tiny", case_name);
        const at::Device device = VITRINE_TRY(device_named(device_name));
        const auto [name, n, k, m, d] = *shape;
        nlohmann::json out{
            {"case", name}, {"device", device.str()},           {"tokens", n},         {"k", k}, {"latents", m},
            {"width", d},   {"threads", at::get_num_threads()}, {"products", products}};
        auto g = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{1});
        const auto drawn = [&](at::IntArrayRef sizes) { return at::randn(sizes, g).to(device); };
        const at::Tensor before = drawn({n, m}), rows = drawn({m, d}), d_out = drawn({n, d}), x = drawn({n, d}),
                         encoder = drawn({d, m}), bias = at::zeros({m}, rows.options());
        if (!lists_apply(rows))
            return fail(ErrorCode::Unsupported, "the kernels on lists of codes are not in this build");
        const auto found = largest_lists(before, k);
        if (!found) return fail(ErrorCode::Unsupported, "there is no kernel for the {} largest", k);
        const CodeLists lists = *found;
        at::Tensor dense = at::zeros_like(before).scatter(1, lists.indices, lists.values);

        // The answers, by double precision where it is not too much.
        {
            const at::Tensor values = lists.values.detach().clone().set_requires_grad(true),
                             weights = rows.detach().clone().set_requires_grad(true);
            const at::Tensor made = decode_lists(lists.indices, values, {}, weights);
            made.backward(d_out);
            const at::Tensor whole = dense.to(at::kDouble);
            VITRINE_CHECK(check(out, "decode", made.detach(), at::matmul(whole, rows.to(at::kDouble))));
            VITRINE_CHECK(check(out, "row_gradient", weights.grad(), at::matmul(whole.t(), d_out.to(at::kDouble))));
            VITRINE_CHECK(check(out, "value_gradient", values.grad(),
                                at::matmul(d_out.to(at::kDouble), rows.to(at::kDouble).t()).gather(1, lists.indices)));
            const at::Tensor top = std::get<0>(at::topk(before, k, 1));
            VITRINE_CHECK(check(out, "largest", lists.values, top));
        }

        // Timed with the graph off.
        const at::NoGradGuard no_grad;
        const FloatProducts as(device.is_cuda() ? products : "fp32");
        const at::Tensor copied = at::empty_like(before);
        const double numbers = static_cast<double>(n) * static_cast<double>(k);
        const double read = numbers * (12 + 4.0 * static_cast<double>(d));
        const Compared kernels[] = {
            {"decode", read + 4.0 * static_cast<double>(n * d)},
            {"value_gradient", read},
            {"row_gradient", read + 4.0 * static_cast<double>(m * d)},
            {"largest", 4.0 * static_cast<double>(n * m) + 12 * numbers},
        };
        Interleaved timed(device);
        const auto plain = [](auto work) {
            return [work]() -> Status {
                work();
                return {};
            };
        };
        // On a device as in training, where one is launched while the one before still runs.
        const int in_a_row = device.is_cuda() ? 8 : 1;
        const auto add = [&](const char* of, auto work) { timed.add(of, plain(work), in_a_row); };
        add("copy", [&] { const_cast<at::Tensor&>(copied).copy_(before); });
        add("decode", [&] { decode_lists(lists.indices, lists.values, {}, rows); });
        add("decode_dense", [&] { at::matmul(dense, rows); });
        add("value_gradient", [&] { lists_value_gradient(lists.indices, {}, rows, d_out); });
        add("value_gradient_dense", [&] { at::matmul(d_out, rows.t()); });
        add("row_gradient", [&] { lists_row_gradient(lists.indices, lists.values, {}, m, d_out); });
        add("row_gradient_dense", [&] { at::matmul(dense.t(), d_out); });
        add("largest", [&] { largest_lists(before, k); });
        add("largest_dense", [&] { at::topk(before, k, 1); });

        AutoencoderConfig config;
        config.kind = "top_k";
        config.k = k;
        config.width = d;
        config.latents = m;
        config.point = "random";
        ConceptStepsOptions options;
        options.steps = 1 << 20;
        options.dead_window = std::int64_t{1} << 40;
        ConceptSteps steps = VITRINE_TRY(ConceptSteps::make(config, options, x));
        for (int i = 0; i < 4; ++i) steps.step(x);  // on a device the third is recorded
        add("step", [&] { steps.step(x); });
        add("step_ceiling", [&] {
            at::addmm_out(const_cast<at::Tensor&>(before), bias, x, encoder);
            const_cast<at::Tensor&>(copied).copy_(before);
        });
        VITRINE_CHECK(timed.run(repeats));

        const auto ms = [&](const std::string& of) { return device.is_cuda() ? timed.device_ms(of) : timed.ms(of); };
        const double bytes_per_ms = 8.0 * static_cast<double>(n * m) / ms("copy");
        out["copy_gb_per_s"] = bytes_per_ms / 1e6;
        for (const auto& [kernel, bytes] : kernels) {
            const std::string one = kernel;
            const double own = ms(one);
            auto& it = out["kernels"][one];
            it["ms"] = own;
            it["dense_ms"] = ms(one + "_dense");
            it["times_as_fast_as_dense"] = ms(one + "_dense") / own;
            it["bytes"] = bytes;
            it["share_of_copy_bandwidth"] = bytes / bytes_per_ms / own;
        }
        out["step"] = {{"ms", ms("step")},
                       {"ceiling_ms", ms("step_ceiling")},
                       {"tokens_per_second", 1000.0 * static_cast<double>(n) / ms("step")},
                       {"ceiling_tokens_per_second", 1000.0 * static_cast<double>(n) / ms("step_ceiling")},
                       {"share_of_ceiling", 1 / timed.ratio("step", "step_ceiling")},
                       {"recorded", steps.recorded()}};

        if (device.is_cpu()) {
            const at::Tensor chance = at::rand({n, m}, g);
            for (const double share : {0.01, 0.02, 0.04, 0.08, 0.16, 0.32}) {
                const at::Tensor active = before * (chance < share);
                Interleaved at_share(device);
                at_share.add("lists", plain([&] {
                                 const auto some = lists_of(active, 1);
                                 decode_lists(some->indices, some->values, some->starts, rows);
                             }));
                at_share.add("dense", plain([&] { at::matmul(active, rows); }));
                VITRINE_CHECK(at_share.run(std::min(repeats, 7)));
                out["dense_over_lists_at_share"][fmt::format("{}", share)] = at_share.ratio("dense", "lists");
            }
        }
        return out;
    });
}

}  // namespace vitrine
