// vitrine steer: the answer before and after some concepts are changed, and how far one of them steers.
#include <vitrine/steering.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_softmax.h>
#include <vitrine/concept_doubt.h>
#include <vitrine/concept_names.h>

#include "cli/commands.h"
#include "cli/may_write.h"

namespace vitrine::cli {

namespace {

using Mode = ConceptEdit::Mode;

/// The edits of one mode. "12=2x" is twice the largest of concept 12 on the picture.
Status add_edits(Steering& steering, Mode mode, const std::vector<std::string>& texts, Model& model,
                 const at::Tensor& pixels, at::Tensor& largest) {
    for (const std::string& text : texts) {
        std::istringstream parts(text + ",");
        for (std::string part; std::getline(parts, part, ',');) {
            if (part.empty())
                return fail(ErrorCode::BadInput, "--{} is '{}', expected {} between the commas", name_of(mode), text,
                            mode == Mode::Suppress ? "a concept's number" : "CONCEPT=VALUE");
            const bool relative = part.ends_with('x') && (mode == Mode::Set || mode == Mode::Add);
            if (relative) part.pop_back();
            for (ConceptEdit edit : VITRINE_TRY(concept_edits(mode, part))) {
                if (relative) {
                    if (!largest.defined()) largest = VITRINE_TRY(largest_codes(model, pixels, steering.autoencoder));
                    if (edit.index < 0 || edit.index >= largest.numel())
                        return fail(ErrorCode::BadInput, "there is no concept {}, the file has 0 to {}", edit.index,
                                    largest.numel() - 1);
                    const double most = largest[edit.index].item<double>();
                    if (most <= 0)
                        return fail(ErrorCode::BadInput,
                                    "concept {} is silent on this picture, so a multiple of its largest says nothing; "
                                    "give a number",
                                    edit.index);
                    edit.value *= most;
                }
                // They would be done one mode after the other, whatever the order on the command line.
                for (const ConceptEdit& before : steering.edits)
                    if (before.index == edit.index)
                        return fail(ErrorCode::BadInput,
                                    "concept {} is named by --{} and by --{}{}, expected one change of each concept: "
                                    "leave one out",
                                    edit.index, name_of(before.mode), name_of(mode),
                                    before.mode == mode ? " again" : "");
                steering.edits.push_back(edit);
            }
        }
    }
    return {};
}

/// Mean and largest of the controls' divergence at one value.
std::pair<double, double> of_controls(const std::vector<SteeringCurve>& curves, std::size_t at) {
    double sum = 0, most = 0;
    for (const SteeringCurve& curve : curves) {
        sum += curve.points[at].divergence;
        most = std::max(most, curve.points[at].divergence);
    }
    return {curves.empty() ? 0 : sum / static_cast<double>(curves.size()), most};
}

nlohmann::json describe_curve(const SteeringCurve& curve) {
    auto points = nlohmann::json::array();
    for (const SteeredAnswer& p : curve.points)
        points.push_back({{"value", p.value},
                          {"divergence", p.divergence},
                          {"changed", p.changed},
                          {"top", p.top},
                          {"probability", p.probability}});
    nlohmann::json out{{"points", std::move(points)}};
    if (curve.index >= 0) out["concept"] = curve.index;
    return out;
}

nlohmann::json describe_curves(const std::vector<SteeringCurve>& curves) {
    auto out = nlohmann::json::array();
    for (const SteeringCurve& curve : curves) out.push_back(describe_curve(curve));
    return out;
}

}  // namespace

Status steer(const Common& common, const SteerArguments& arguments) {
    VITRINE_CHECK(check_owners(common, {"preprocess"}));
    if (!arguments.out.empty())
        VITRINE_CHECK(may_write(
            arguments.out, arguments.overwrite,
            {{common.model, "the model"}, {arguments.autoencoder, "the concepts"}, {arguments.image, "the picture"}},
            "write it anew"));
    const auto model = VITRINE_TRY(open(common));
    if (model->info().classes == 0)
        return fail(ErrorCode::Unsupported, "{} has no classifier, so there is no answer to compare",
                    model->info().name);
    const Input input = VITRINE_TRY(load_input(arguments.image, model->preprocess()));

    Steering steering;
    steering.file = arguments.autoencoder;
    if (steering.file.empty()) {
        steering.file = built_in_concepts();
        if (steering.file.empty())
            return fail(ErrorCode::BadInput,
                        "no concepts came with {}: name a file with --autoencoder (vitrine train-concepts makes one)",
                        model->info().name);
    }
    std::istringstream given(arguments.given);
    for (std::string item; std::getline(given, item, ',');) {
        const auto equals = item.find('=');
        if (equals == std::string::npos) return fail(ErrorCode::BadInput, "'{}' in --given is not NAME=VALUE", item);
        steering.given[item.substr(0, equals)] = item.substr(equals + 1);
    }
    steering.autoencoder = VITRINE_TRY(Autoencoder::load(steering.file, steering.given));
    steering.autoencoder.to(model->device());
    const std::string doubt = doubt_of(steering.autoencoder, *model);
    if (!doubt.empty()) say(doubt);
    VITRINE_CHECK(set_tokens(steering, arguments.tokens));
    at::Tensor largest;
    VITRINE_CHECK(add_edits(steering, Mode::Set, arguments.set, *model, input.pixels, largest));
    VITRINE_CHECK(add_edits(steering, Mode::Add, arguments.add, *model, input.pixels, largest));
    VITRINE_CHECK(add_edits(steering, Mode::Scale, arguments.scale, *model, input.pixels, largest));
    VITRINE_CHECK(add_edits(steering, Mode::Suppress, arguments.suppress, *model, input.pixels, largest));

    // Names help to read, and a broken file of them stops nothing.
    const auto names = ConceptNames::of(steering.file, concepts_mark(steering.autoencoder));
    if (!names) say(names.error().message);
    const auto name_of_concept = [&](std::int64_t index) {
        const ConceptName* found = names ? names->find(index) : nullptr;
        return found == nullptr ? std::string() : found->name;
    };
    const auto changed = VITRINE_TRY(steered(model, steering));
    const at::Tensor before = VITRINE_TRY(run(*model, input.pixels)), after = VITRINE_TRY(run(*changed, input.pixels));
    const auto was = top(before, model->labels(), arguments.top), is = top(after, model->labels(), arguments.top);
    const at::Tensor p = at::log_softmax(before[0].to(at::kCPU, at::kDouble), 0),
                     q = at::log_softmax(after[0].to(at::kCPU, at::kDouble), 0);
    const double divergence = (p.exp() * (p - q)).sum().item<double>();
    if (!arguments.out.empty()) VITRINE_CHECK(save_steered(*changed, common.model, arguments.out));
    std::optional<Steerability> curve;
    if (arguments.curve >= 0) {
        SteerabilityOptions options;
        options.index = arguments.curve;
        options.unit = arguments.unit;
        options.seed = common.seed;
        options.progress = [](std::int64_t done, std::int64_t total) { progress({done, total, "curves"}); };
        curve = VITRINE_TRY(steerability(*model, steering, input.pixels, options));
    }

    if (common.json) {
        const auto answers = [](const std::vector<Answer>& all) {
            auto out = nlohmann::json::array();
            for (const Answer& answer : all) out.push_back(describe(answer));
            return out;
        };
        auto edits = nlohmann::json::array();
        for (const ConceptEdit& edit : steering.edits) {
            edits.push_back({{"concept", edit.index}, {"mode", name_of(edit.mode)}, {"value", edit.value}});
            if (const std::string name = name_of_concept(edit.index); !name.empty()) edits.back()["name"] = name;
        }
        nlohmann::json out{{"image", arguments.image},  {"point", steering.autoencoder.config().point},
                           {"edits", std::move(edits)}, {"tokens", tokens_text(*steering_of(*changed))},
                           {"before", answers(was)},    {"after", answers(is)},
                           {"divergence", divergence}};
        if (!arguments.out.empty()) out["file"] = arguments.out;
        if (!doubt.empty()) out["notes"] = {doubt};
        if (curve) {
            out["curve"] = describe_curve(curve->latent);
            out["curve"]["unit"] = curve->unit;
            if (const std::string name = name_of_concept(curve->latent.index); !name.empty())
                out["curve"]["name"] = name;
            out["curve"]["random_concepts"] = describe_curves(curve->random_latents);
            out["curve"]["random_directions"] = describe_curves(curve->random_directions);
        }
        fmt::print("{}\n", json_text(out, 2));
        return {};
    }
    std::set<std::int64_t> said;
    for (const ConceptEdit& edit : steering.edits) said.insert(edit.index);
    if (curve) said.insert(curve->latent.index);
    for (const std::int64_t index : said)
        if (const std::string name = name_of_concept(index); !name.empty()) fmt::print("concept {}: {}\n", index, name);
    const auto line = [&](const std::vector<Answer>& all, std::size_t i) {
        if (i >= all.size()) return std::string();
        return fmt::format("{:>6.2f} %  {:>8.3f}  {:<.24}", 100 * all[i].probability, all[i].logit,
                           all[i].label.empty() ? std::to_string(all[i].index) : all[i].label);
    };
    // Who asks for a curve alone wants no comparison of an answer with itself.
    if (!curve || !steering.edits.empty()) {
        fmt::print("{}\n", sentence_of(*steering_of(*changed)));
        fmt::print("{:<46}{}\n", "before", "steered");
        for (std::size_t i = 0; i < was.size(); ++i) fmt::print("{:<46}{}\n", line(was, i), line(is, i));
        fmt::print("KL of the two answers: {:.4f} nats\n", divergence);
    }
    if (curve) {
        fmt::print(
            "concept {} set to so many times {:.4g}; KL from the answer before, beside {} random concepts and {} "
            "random directions (mean, largest)\n",
            curve->latent.index, curve->unit, curve->random_latents.size(), curve->random_directions.size());
        fmt::print("{:>6} {:>10} {:>8}  {:>20}  {:>20}\n", "times", "KL", "of top 5", "concepts", "directions");
        for (std::size_t i = 0; i < curve->latent.points.size(); ++i) {
            const SteeredAnswer& at = curve->latent.points[i];
            const auto concepts = of_controls(curve->random_latents, i),
                       directions = of_controls(curve->random_directions, i);
            fmt::print("{:>6.3g} {:>10.4f} {:>8}  {:>9.4f} {:>10.4f}  {:>9.4f} {:>10.4f}  {}\n", at.value,
                       at.divergence, at.changed == 0 ? "0" : fmt::format("-{}", at.changed), concepts.first,
                       concepts.second, directions.first, directions.second, model->labels().name(at.top));
        }
    }
    if (!arguments.out.empty()) fmt::print("{}: opens as a model\n", arguments.out);
    return {};
}

}  // namespace vitrine::cli
