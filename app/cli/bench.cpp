// vitrine bench: measurements, each with its answer verified first.
#include <ATen/Parallel.h>
#include <vitrine/bench.h>
#include <vitrine/bench_explain.h>
#include <vitrine/bench_sparse.h>

#include "cli/chosen.h"
#include "cli/commands.h"

namespace vitrine::cli {

namespace {

/// One line a figure: groups are indented by their name.
void print(const std::string& prefix, const nlohmann::json& value) {
    for (const auto& [key, part] : value.items()) {
        if (part.is_object() && part.contains("met")) {
            const bool at_most = part.contains("at_most");
            fmt::print("{:<52} {:.4g}  ({} {}: {})\n", prefix + key, part["value"].get<double>(),
                       at_most ? "at most" : "at least", json_text(part[at_most ? "at_most" : "at_least"]),
                       part["met"].get<bool>() ? "met" : "missed");
        } else if (part.is_object()) {
            print(prefix + key + ".", part);
        } else if (part.is_number_float()) {
            fmt::print("{:<52} {:.4g}\n", prefix + key, part.get<double>());
        } else {
            fmt::print("{:<52} {}\n", prefix + key, part.is_string() ? part.get<std::string>() : json_text(part));
        }
    }
}

Status bench_attention_suite(const Common& common, const BenchOptions& options) {
    if (common.threads > 0) at::set_num_threads(static_cast<int>(common.threads));
    nlohmann::json results = nlohmann::json::array();
    for (const std::string& name :
         options.cases.empty() ? attention_bench_cases(common.device == "cpu") : options.cases) {
        say("measuring " + name);
        results.push_back(VITRINE_TRY(bench_attention(name, static_cast<int>(options.repeats), common.device,
                                                      common.dtype, common.memory_bytes)));
        if (!common.json) {
            print("", results.back());
            fmt::print("\n");
        }
    }
    if (common.json) fmt::print("{}\n", json_text({{"suite", "attention"}, {"cases", results}}, 2));
    return {};
}

/// What one method refuses does not stop the others; the first failure is returned at the end.
Status bench_explain_suite(const Common& common, const BenchOptions& options, Model& model, const Input& input) {
    if (options.methods.empty()) return fail(ErrorCode::BadInput, "which methods? give --method NAME[,NAME...]");
    std::vector<std::string> owners{"preprocess"};
    const auto methods = VITRINE_TRY(choose<Explainer>(
        common, options.methods, [](const std::string& name) { return registry().explainer(name); }, owners));
    VITRINE_CHECK(check_owners(common, owners));
    Target target;
    if (!options.target.empty()) target.index = VITRINE_TRY(class_of(model, options.target));
    nlohmann::json results = nlohmann::json::array();
    Status first;
    for (const auto& method : methods) {
        say("measuring " + method.name);
        auto found = bench_explain(model, input, target, *method.plugin, method.settings, options.batches,
                                   static_cast<int>(options.repeats), common.seed);
        if (!found) {
            say(method.name + ": " + found.error().message);
            results.push_back({{"method", method.name}, {"error", found.error().message}});
            if (first) first = tl::make_unexpected(std::move(found).error());
            continue;
        }
        results.push_back(std::move(*found));
        if (common.json) continue;
        print("", results.back());
        fmt::print("\n");
    }
    if (common.json) fmt::print("{}\n", json_text({{"suite", "explain"}, {"methods", results}}, 2));
    return first;
}

}  // namespace

Status bench(const Common& common, const BenchOptions& options) {
    if (options.suite == "attention") return bench_attention_suite(common, options);
    if (options.suite == "concepts") {
        if (common.threads > 0) at::set_num_threads(static_cast<int>(common.threads));
        const nlohmann::json result =
            VITRINE_TRY(bench_concept_index(50000, 16384, 600, static_cast<int>(options.repeats)));
        if (common.json)
            fmt::print("{}\n", json_text(result, 2));
        else
            print("", result);
        return {};
    }
    if (options.suite == "sparse") {
        if (common.threads > 0) at::set_num_threads(static_cast<int>(common.threads));
        nlohmann::json results = nlohmann::json::array();
        for (const std::string& name : options.cases.empty() ? sparse_bench_cases() : options.cases) {
            say("measuring " + name);
            results.push_back(
                VITRINE_TRY(bench_sparse(name, static_cast<int>(options.repeats), common.device, options.products)));
            if (!common.json) {
                print("", results.back());
                fmt::print("\n");
            }
        }
        if (common.json) fmt::print("{}\n", json_text({{"suite", "sparse"}, {"cases", results}}, 2));
        return {};
    }
    const auto model = VITRINE_TRY(open(common));
    std::filesystem::path picture = options.image;
    if (options.image.empty()) {
        const auto pictures = builtin_pictures();
        if (pictures.empty()) return fail(ErrorCode::NotFound, "there is no built-in picture; give one with --image");
        picture = pictures.front();
    }
    const Input input = VITRINE_TRY(load_input(picture, model->preprocess()));
    if (options.suite == "explain") return bench_explain_suite(common, options, *model, input);
    const nlohmann::json result = VITRINE_TRY(bench_capture(*model, input.pixels, static_cast<int>(options.repeats)));
    if (common.json) {
        fmt::print("{}\n", json_text(result, 2));
        return {};
    }
    for (const auto& [key, value] : result.items())
        fmt::print("{:<28} {}\n", key, value.is_string() ? value.get<std::string>() : json_text(value));
    return {};
}

}  // namespace vitrine::cli
