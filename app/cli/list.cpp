// vitrine list and vitrine doctor: what is built in, and what this build and machine can do.
#include <ATen/Parallel.h>
#include <torch/version.h>
#include <vitrine/base/file.h>
#include <vitrine/device.h>

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
        const auto first = line.find('\t');
        const auto second = line.find('\t', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const int number = std::stoi(line.substr(0, first));
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
        const std::string works = line.substr(second + 1);
        out.push_back({{"number", number},
                       {"title", line.substr(first + 1, second - first - 1)},
                       {"plugins", plugins},
                       {"works", plugins.empty() ? "not yet"
                                 : works.empty() ? "yes"
                                                 : works}});
    }
    return out;
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
    else
        entries = VITRINE_TRY(systems());
    if (common.json) {
        fmt::print("{}\n", entries.dump(2));
        return {};
    }
    if (entries.empty()) say("no " + what + " are built in");
    for (const auto& entry : entries) {
        if (what == "systems") {
            fmt::print("{:>3}  {:<8} {}\n", entry["number"].get<int>(), entry["works"].get<std::string>(),
                       entry["title"].get<std::string>());
            continue;
        }
        fmt::print("{:<30} {}\n", entry["name"].get<std::string>(), entry["summary"].get<std::string>());
        for (const auto& parameter : entry["parameters"])
            fmt::print("    {:<18} {} (default {})\n", parameter["name"].get<std::string>(),
                       parameter["meaning"].get<std::string>(), parameter["default"].get<std::string>());
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
    out["built_in_pictures"] = builtin_pictures().size();
    out["architectures"] = registry().architectures().size();
    out["explainers"] = registry().explainers().size();
    if (common.json) {
        fmt::print("{}\n", out.dump(2));
        return {};
    }
    for (const auto& [key, value] : out.items())
        fmt::print("{:<18} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
    return {};
}

}  // namespace vitrine::cli
