// vitrine predict: the most likely classes of pictures.
#include <ATen/ops/cat.h>

#include "cli/commands.h"

namespace vitrine::cli {

Status predict(const Common& common, const PredictOptions& options) {
    VITRINE_CHECK(check_owners(common, {"preprocess"}));
    const auto model = VITRINE_TRY(open(common));
    if (model->info().classes == 0)
        return fail(ErrorCode::Unsupported,
                    "{} has no classifier, so there is nothing to predict; try vitrine attention", model->info().name);
    auto documents = nlohmann::json::array();
    const auto total = static_cast<std::int64_t>(options.images.size());
    for (std::int64_t begin = 0; begin < total; begin += common.batch) {
        const std::int64_t end = std::min(total, begin + common.batch);
        std::vector<at::Tensor> pixels;
        for (std::int64_t i = begin; i < end; ++i)
            pixels.push_back(
                VITRINE_TRY(load_input(options.images[static_cast<std::size_t>(i)], model->preprocess())).pixels);
        const at::Tensor logits = VITRINE_TRY(run(*model, at::cat(pixels)));
        for (std::int64_t i = begin; i < end; ++i) {
            const std::string& image = options.images[static_cast<std::size_t>(i)];
            const auto answers = top(logits.select(0, i - begin), model->labels(), options.top);
            if (common.json) {
                auto entries = nlohmann::json::array();
                for (const auto& answer : answers) entries.push_back(describe(answer));
                documents.push_back({{"image", image}, {"top", std::move(entries)}});
                continue;
            }
            if (total > 1) fmt::print("{}\n", image);
            for (const auto& answer : answers)
                fmt::print("{:>6.2f} %  {:>8.3f}  {:>5}  {}\n", 100 * answer.probability, answer.logit, answer.index,
                           answer.label);
        }
        if (total > 1) progress({end, total, "pictures"});
    }
    if (common.json) fmt::print("{}\n", json_text(documents, 2));
    return {};
}

}  // namespace vitrine::cli
