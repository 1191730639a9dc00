// Turns --target, --versus, --reference and --region into targets of a model.
#include "cli/targets.h"

#include <algorithm>
#include <sstream>

#include <vitrine/region.h>

namespace vitrine::cli {

std::string slug(const std::string& text) {
    std::string out;
    for (const char c : text) {
        const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-' || c == '_';
        if (plain)
            out += c;
        else if (!out.empty() && out.back() != '_')
            out += '_';
    }
    while (!out.empty() && (out.back() == '_' || out.back() == '.')) out.pop_back();
    if (out.size() > 60) out.resize(60);
    return out.empty() || out == "." || out == ".." ? "picture" : out;
}

namespace {

/// One class, or several joined by plus signs; a class whose name holds a plus sign is taken as it is.
Result<std::vector<std::int64_t>> classes_of(const Model& model, const std::string& text) {
    if (text.find('+') == std::string::npos) return std::vector{VITRINE_TRY(class_of(model, text))};
    if (const auto whole = class_of(model, text)) return std::vector{*whole};
    std::vector<std::int64_t> out;
    std::istringstream parts(text);
    std::string part;
    while (std::getline(parts, part, '+')) out.push_back(VITRINE_TRY(class_of(model, part)));
    for (std::size_t i = 0; i < out.size(); ++i)
        if (std::find(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(i), out[i]) !=
            out.begin() + static_cast<std::ptrdiff_t>(i))
            return fail(ErrorCode::BadInput, "--target {} names class {} twice", text, out[i]);
    return out;
}

}  // namespace

Result<TargetMaker> TargetMaker::make(const Common& common, Model& model, const TargetOptions& options) {
    TargetMaker out;
    out.model_ = &model;
    out.targets_ = options.targets;
    for (const auto& [key, value] : VITRINE_TRY(settings_of(common, "target"))) {
        if (key == "scale" && (value == "logit" || value == "probability"))
            out.common_.scale = value == "logit" ? Scale::Logit : Scale::Probability;
        else if (key == "scale")
            return fail(ErrorCode::BadInput, "--set target.scale is '{}', expected logit or probability", value);
        else if (key == "point")
            out.common_.point = value;
        else
            return fail(ErrorCode::BadInput, "--set target.{} is unknown; there are target.scale and target.point",
                        key);
    }
    if (!out.common_.point.empty() && options.region.empty())
        return fail(ErrorCode::BadInput, "--set target.point says where a --region is read; none is given");
    if (!options.versus.empty()) out.common_.versus = VITRINE_TRY(class_of(model, options.versus));
    if (!options.reference.empty()) {
        if (model.info().classes > 0)
            return fail(ErrorCode::Unsupported, "{} has classes: give one of them, not a reference picture",
                        model.info().name);
        const Input input = VITRINE_TRY(load_input(options.reference, model.preprocess()));
        out.common_.reference = VITRINE_TRY(run(model, input.pixels))[0];
        out.common_.reference_name = input.name.empty() ? options.reference : input.name;
    }
    if (!options.region.empty()) {
        const auto grid = region_grid(model, out.common_.point);
        if (!grid && grid.error().code == ErrorCode::BadInput)
            return fail(ErrorCode::BadInput, "{}; vitrine info --points lists them", grid.error().message);
        if (!grid) return tl::unexpected(grid.error());
        out.common_.point = grid->point;
        out.common_.region = VITRINE_TRY(region_tokens(options.region, *grid));
    }
    for (const auto& text : options.targets) {
        if (text == "label") continue;
        if (text == "top5" || text == "top10") {
            if (model.info().classes == 0)
                return fail(ErrorCode::Unsupported, "{} has no classifier, so it has no {}", model.info().name,
                            text == "top5" ? "top five" : "top ten");
            continue;
        }
        VITRINE_TRY(classes_of(model, text));
    }
    return out;
}

Result<std::vector<NamedTarget>> TargetMaker::of(const std::filesystem::path& picture,
                                                 const std::vector<Answer>& answers,
                                                 std::optional<std::int64_t> true_label) const {
    std::vector<NamedTarget> out;
    const auto add = [&](const std::vector<std::int64_t>& classes) {
        NamedTarget named{fmt::format("{}-{}", fmt::join(classes, "+"), slug(model_->labels().name(classes.front()))),
                          common_};
        named.target.index = classes.front();
        named.target.also.assign(classes.begin() + 1, classes.end());
        out.push_back(std::move(named));
    };
    for (const auto& text : targets_) {
        if (text == "top5" || text == "top10")
            for (std::size_t i = 0; i < std::min<std::size_t>(answers.size(), text == "top5" ? 5 : 10); ++i)
                add({answers[i].index});
        else if (text == "label")
            add({true_label ? *true_label : VITRINE_TRY(true_class(*model_, picture))});
        else
            add(VITRINE_TRY(classes_of(*model_, text)));
    }
    if (targets_.empty()) {
        out.push_back({"", common_});
        if (common_.region.empty() && !common_.reference.defined() && !answers.empty())
            out.back().target.index = answers.front().index;
    }
    return out;
}

nlohmann::json describe(const Target& target, const Model& model) {
    nlohmann::json out;
    if (target.index && target.region.empty() && !target.reference.defined()) {
        out = {{"index", *target.index}, {"label", model.labels().name(*target.index)}};
        for (const std::int64_t other : target.also)
            out["also"].push_back({{"index", other}, {"label", model.labels().name(other)}});
    }
    if (target.reference.defined()) out = {{"reference", target.reference_name}};
    if (!target.region.empty()) out = {{"region", target.region}, {"point", target.point}};
    if (target.scale != Scale::Standard) out["scale"] = target.scale == Scale::Logit ? "logit" : "probability";
    return out;
}

}  // namespace vitrine::cli
