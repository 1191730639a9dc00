// vitrine bench: measurements, each with its answer verified first.
#include <vitrine/bench.h>

#include "cli/commands.h"

namespace vitrine::cli {

Status bench(const Common& common, const BenchOptions& options) {
    const auto model = VITRINE_TRY(open(common));
    std::filesystem::path picture = options.image;
    if (options.image.empty()) {
        const auto pictures = builtin_pictures();
        if (pictures.empty()) return fail(ErrorCode::NotFound, "there is no built-in picture; give one with --image");
        picture = pictures.front();
    }
    const Input input = VITRINE_TRY(load_input(picture, model->preprocess()));
    const nlohmann::json result = VITRINE_TRY(bench_capture(*model, input.pixels, static_cast<int>(options.repeats)));
    if (common.json) {
        fmt::print("{}\n", result.dump(2));
        return {};
    }
    for (const auto& [key, value] : result.items())
        fmt::print("{:<28} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
    return {};
}

}  // namespace vitrine::cli
