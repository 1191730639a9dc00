// The variant `steered`: a model with concepts of a sparse autoencoder set, added to, scaled or silenced.
#include "steered.h"

#include <sstream>

#include <vitrine/engine.h>
#include <vitrine/steering.h>

namespace vitrine::plugin::concepts {
namespace {

using Mode = ConceptEdit::Mode;

class Steered final : public Variant {
  public:
    Description description() const override {
        return {"steered",
                "Steered by concepts",
                "The model with chosen concepts set, added to, scaled or silenced at one of its points",
                "P. Suresh et al., From Noise to Narrative, 2025; as A. Templeton et al., Scaling Monosemanticity, "
                "2024, clamps features",
                56,
                "",
                "x' = x + c (f' - f) W_dec, c what the normalisation of the token took off",
                "What the autoencoder does not explain is not steered, and a large value takes the tokens where no "
                "picture takes them"};
    }
    std::vector<Parameter> parameters() const override {
        const auto text = [](const char* name, const char* standard, const char* meaning) {
            return Parameter{name, std::string(standard), meaning, "", "", {}, {}, {}};
        };
        return {text("autoencoder", "", "the file of the concepts; empty: the one that came with the model"),
                text("given", "",
                     "what a file of another library does not say: NAME=VALUE with commas between, such as "
                     "point=blocks.9,kind=relu"),
                text("set", "", "concepts and what they become: 12=2.5,40=0.5"),
                text("add", "", "concepts and what is added to them"),
                text("scale", "", "concepts and what they are multiplied by"),
                text("suppress", "", "concepts that are silenced: 12,40"),
                text("tokens", "all",
                     "which tokens: all, class, patches, or ROW,COL-ROW,COL of the grid, several with semicolons")};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (model.points().empty()) return model.info().name + " has no named points whose tokens could be steered";
        return std::nullopt;
    }

    Result<std::unique_ptr<Model>> make(std::shared_ptr<Model> model, const Settings& settings) const override {
        if (!model) return fail(ErrorCode::BadInput, "there is no model to steer");
        Steering steering;
        for (const Mode mode : {Mode::Set, Mode::Add, Mode::Scale, Mode::Suppress}) {
            const auto edits = VITRINE_TRY(concept_edits(mode, settings.text(std::string(name_of(mode)))));
            steering.edits.insert(steering.edits.end(), edits.begin(), edits.end());
        }
        VITRINE_CHECK(set_tokens(steering, settings.text("tokens")));
        steering.file = settings.text("autoencoder");
        if (steering.file.empty() && steering.edits.empty()) return steered(std::move(model), {});
        const bool built_in = steering.file.empty();
        if (built_in) {
            steering.file = built_in_concepts();
            if (steering.file.empty())
                return fail(ErrorCode::Unsupported,
                            "no concepts were trained for {} yet: make some with vitrine train-concepts and name them "
                            "with autoencoder",
                            model->info().name);
        }
        std::istringstream list(settings.text("given"));
        for (std::string item; std::getline(list, item, ',');) {
            const std::size_t equals = item.find('=');
            if (equals == std::string::npos) return fail(ErrorCode::BadInput, "'{}' in given is not NAME=VALUE", item);
            steering.given[item.substr(0, equals)] = item.substr(equals + 1);
        }
        steering.autoencoder = VITRINE_TRY(Autoencoder::load(steering.file, steering.given));
        return steered(std::move(model), std::move(steering));
    }
};

}  // namespace

std::unique_ptr<Variant> make_steered() { return std::make_unique<Steered>(); }

}  // namespace vitrine::plugin::concepts
