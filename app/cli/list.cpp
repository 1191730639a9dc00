// vitrine list and vitrine doctor: what is built in, and what this build and machine can do.
#include <ATen/Parallel.h>
#include <torch/version.h>
#include <vitrine/base/file.h>
#include <vitrine/device.h>
#include <vitrine/smoothing.h>
#include <vitrine/train.h>
#include <vitrine/train_concepts.h>
#include <vitrine/train_mask.h>

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <sstream>
#include <thread>

#include "cli/commands.h"
#if VITRINE_VIZ
#include <vitrine/viz/compositor.h>
#endif

namespace vitrine::cli {

namespace {

template <class T>
nlohmann::json all(const std::vector<std::unique_ptr<T>>& plugins) {
    auto out = nlohmann::json::array();
    for (const auto& plugin : plugins) {
        auto entry = describe(plugin->description());
        entry["parameters"] = describe(plugin->parameters());
        if constexpr (std::is_same_v<T, Kernel>) {
            entry["operation"] = plugin->operation();
            entry["implementation"] = plugin->implementation();
            if (auto why = plugin->why_not()) entry["why_not"] = *why;
        }
        out.push_back(std::move(entry));
    }
    return out;
}

Result<nlohmann::json> systems() {
    std::istringstream lines(VITRINE_TRY(read_text(VITRINE_TRY(resource("systems.tsv")))));
    auto out = nlohmann::json::array();
    std::string line;
    std::getline(lines, line);
    while (std::getline(lines, line)) {
        std::istringstream fields(line);  // number, year, title, works
        std::string number_text, year, title, works;
        if (!std::getline(fields, number_text, '\t') || !std::getline(fields, year, '\t') ||
            !std::getline(fields, title, '\t'))
            continue;
        std::getline(fields, works, '\t');
        const int number = std::stoi(number_text);
        auto plugins = nlohmann::json::array();
        auto collect = [&](const auto& of_kind) {
            for (const auto& plugin : of_kind)
                if (plugin->description().system == number) plugins.push_back(plugin->description().name);
        };
        collect(registry().architectures());
        collect(registry().variants());
        collect(registry().explainers());
        collect(registry().measures());
        collect(registry().kernels());
        collect(registry().references());
        out.push_back({{"number", number},
                       {"year", std::stoi(year)},
                       {"title", title},
                       {"plugins", plugins},
                       {"works", plugins.empty() ? "not yet"
                                 : works.empty() ? "yes"
                                                 : works}});
    }
    return out;
}

/// What every explainer takes beside its own parameters, under the names that --set knows.
nlohmann::json shared_parameters() {
    auto out = describe(smoothing_parameters());
    for (auto& parameter : out)
        parameter["name"] = fmt::format("{}.{}", kSmoothing, parameter["name"].get<std::string>());
    return out;
}

/// The trainers, whose settings are no plugin's.
nlohmann::json trainers() {
    const auto one = [](const char* name, const char* summary, const std::vector<Parameter>& parameters) {
        return nlohmann::json{{"name", name}, {"summary", summary}, {"parameters", describe(parameters)}};
    };
    return {one("train-classifier", "A classifier from a folder of labelled pictures", train_parameters()),
            one("train-mask", "An explanation mask beside a model", mask_parameters()),
            one("train-concepts", "A sparse autoencoder, or a factorisation, of a layer", concept_parameters())};
}

void print_parameters(const nlohmann::json& parameters) { fmt::print("{}", settings_text(parameters)); }

/// The order of menus; a family that is not among them comes last.
bool by_family(const nlohmann::json& a, const nlohmann::json& b) {
    static const std::vector<std::string> order{"Attention",     "Class activation", "Gradients", "Perturbation",
                                                "Learned masks", "Inner views",      "Controls"};
    const auto place = [](const nlohmann::json& entry) {
        return std::find(order.begin(), order.end(), entry.value("family", "")) - order.begin();
    };
    return place(a) < place(b);
}

}  // namespace

Status list(const Common& common, const std::string& what) {
    nlohmann::json entries;
    if (what == "architectures")
        entries = all(registry().architectures());
    else if (what == "variants")
        entries = all(registry().variants());
    else if (what == "explainers")
        entries = all(registry().explainers());
    else if (what == "measures")
        entries = all(registry().measures());
    else if (what == "kernels")
        entries = all(registry().kernels());
    else if (what == "references")
        entries = all(registry().references());
    else if (what == "trainers")
        entries = trainers();
    else
        entries = VITRINE_TRY(systems());
    if (common.json) {
        // In every entry, so that the document stays the list of explainers that scripts read.
        if (what == "explainers")
            for (auto& entry : entries) entry["smoothing"] = shared_parameters();
        fmt::print("{}\n", json_text(entries, 2));
        return {};
    }
    if (entries.empty()) say("no " + what + " are built in");
    if (what == "explainers") std::stable_sort(entries.begin(), entries.end(), by_family);
    std::string family;
    if (what == "systems") {
        const auto done =
            std::count_if(entries.begin(), entries.end(), [](const auto& entry) { return !entry["plugins"].empty(); });
        fmt::print("{} papers, {} of them with something that works here; what works is named below each\n\n",
                   entries.size(), done);
    }
    for (const auto& entry : entries) {
        if (what == "systems") {
            fmt::print("{:>3}  {}  {:<8} {}\n", entry["number"].get<int>(), entry["year"].get<int>(),
                       entry["works"].get<std::string>(), entry["title"].get<std::string>());
            for (const auto& plugin : entry["plugins"]) fmt::print("{:20}{}\n", "", plugin.get<std::string>());
            continue;
        }
        if (const std::string of = entry.value("family", ""); of != family) {
            fmt::print("{}{}\n", family.empty() ? "" : "\n", of);
            family = of;
        }
        fmt::print("{:<30} {}{}\n", entry["name"].get<std::string>(), entry["summary"].get<std::string>(),
                   entry.contains("why_not") ? " (not here: " + entry["why_not"].get<std::string>() + ")" : "");
        print_parameters(entry["parameters"]);
    }
    if (what == "explainers") {
        fmt::print("\nEvery explainer also takes, as --set {}.NAME=VALUE\n", kSmoothing);
        print_parameters(shared_parameters());
    }
    return {};
}

Status doctor(const Common& common) {
    const auto cuda = device_named("cuda");
    nlohmann::json out{{"vitrine", version()},
                       {"libtorch", TORCH_VERSION},
                       {"cpu_threads", at::get_num_threads()},
                       {"cpu_cores", std::thread::hardware_concurrency()},
                       {"cuda", cuda.has_value()}};
    if (!cuda) out["no_cuda"] = cuda.error().message;
#if VITRINE_VIZ
    if (auto device = viz::Device::create(); device)
        out["vulkan"] = (*device)->name() + ((*device)->is_software() ? " (software)" : "");
    else
        out["vulkan"] = "none: " + device.error().message;
#else
    out["vulkan"] = "not built in";
#endif
    const auto starter = resource("starter");
    out["starter"] = starter ? "present" : starter.error().message;
    out["architectures"] = registry().architectures().size();
    out["explainers"] = registry().explainers().size();
    const auto pictures = builtin_pictures();
    out["built_in_pictures"] = pictures.size();
    if (pictures.empty()) {
        out["photographs"] = "not tried: the built-in pictures are missing";
    } else {
        const auto photo = read_photo(pictures.front());
        out["photographs"] = photo ? "can be read" : photo.error().message;
    }
    std::set<std::string> implementations;
    for (const auto& kernel : registry().kernels())
        if (!kernel->why_not()) implementations.insert(kernel->implementation());
    out["kernels"] = implementations;
    if (common.json) {
        fmt::print("{}\n", json_text(out, 2));
        return {};
    }
    const auto given = [](const char* name) {
        const char* value = std::getenv(name);
        return value != nullptr && *value != 0;
    };
    const bool display = given("DISPLAY") || given("WAYLAND_DISPLAY");
    const auto line = [](std::string_view name, const std::string& text) { fmt::print("{:<18} {}\n", name, text); };
    line("program", fmt::format("vitrine {} with libtorch {}", version(), TORCH_VERSION));
    line("processor", fmt::format("{} cores, {} threads in use; kernels: {}", out["cpu_cores"].get<unsigned>(),
                                  out["cpu_threads"].get<int>(), fmt::join(implementations, ", ")));
    line("CUDA", at::hasCUDA() ? "yes: --device cuda runs models there" : "no: models run on the processor");
    line("drawing (Vulkan)", out["vulkan"].get<std::string>());
    line("display", display ? "yes" : "none: the window cannot open here, the command line can be used");
    line("photographs", out["photographs"].get<std::string>());
    line("built-in model", starter ? "starter, " + starter->string() : starter.error().message);
    line("built-in pictures", std::to_string(pictures.size()));
    line("plugins",
         fmt::format("{} architectures, {} variants, {} explainers, {} measures, {} kernels, {} references; "
                     "see vitrine list",
                     registry().architectures().size(), registry().variants().size(), registry().explainers().size(),
                     registry().measures().size(), registry().kernels().size(), registry().references().size()));
    return {};
}

}  // namespace vitrine::cli
