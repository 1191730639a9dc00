// Puts into words what the file of some concepts leaves open about the model that they are of.
#include <vitrine/concept_doubt.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <vector>

#include <vitrine/model_identity.h>
#include <vitrine/steering.h>

namespace vitrine {

namespace {

std::string fact_of(const Autoencoder& autoencoder, const char* name) {
    const auto found = autoencoder.facts.find(name);
    return found == autoencoder.facts.end() ? std::string() : found->second;
}

/// Runs of letters that say what a model is, lower case: "gpt", "clip". Sizes are those of any.
std::vector<std::string> words_of(const std::string& name) {
    static const std::set<std::string> sizes = {"tiny", "small", "medium", "base", "large", "huge", "giant",     "mini",
                                                "nano", "patch", "model",  "open", "hub",   "the",  "pretrained"};
    std::vector<std::string> out(1);
    for (const char c : name + ' ')
        if (std::isalpha(static_cast<unsigned char>(c)) != 0)
            out.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        else if (!out.back().empty())
            out.emplace_back();
    std::erase_if(out, [](const std::string& word) { return word.size() < 3 || sizes.count(word) != 0; });
    return out;
}

/// Whether no word of a name is one of the model's. "vitb" is "vit" with a letter.
bool names_another(const std::string& said, const ModelInfo& info) {
    const auto theirs = words_of(said),
               ours = words_of(fmt::format("{} {} {} {}", info.name, info.title, info.architecture, info.dialect));
    return !theirs.empty() && std::none_of(theirs.begin(), theirs.end(), [&](const std::string& a) {
        return std::any_of(ours.begin(), ours.end(),
                           [&](const std::string& b) { return a.starts_with(b) || b.starts_with(a); });
    });
}

}  // namespace

std::string doubt_of(const Autoencoder& autoencoder, Model& model) {
    const std::string said = fact_of(autoencoder, "model");
    if (const std::string steering = fact_of(autoencoder, "steering");
        !steering.empty() && steering != steering_identity(model)) {
        const std::string changes = changes_of(model);
        return fmt::format(
            "these concepts were trained on {} while some were steered in it ({}), and now {}: they are of other "
            "activations",
            said, fact_of(autoencoder, "steered"), changes.empty() ? "none is" : "it is " + changes);
    }
    if (fact_of(autoencoder, "weights").empty()) {
        std::string out = "the file does not say which weights these concepts were trained on";
        if (names_another(said, model.info()))
            out += fmt::format("; the file says {}, and this model is {}", said, model.info().name);
        return out;
    }
    if (model.parameters().empty())
        return fmt::format("the weights of {} cannot be compared with those that these concepts were trained on",
                           model.info().name);
    return {};
}

}  // namespace vitrine
