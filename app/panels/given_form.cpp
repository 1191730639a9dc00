// The lines of the form that asks for what an autoencoder's file leaves open.
#include "given_form.h"

namespace vitrine::app {

std::vector<SettingFacts> given_settings(const std::vector<std::string>& points) {
    std::vector<SettingFacts> lines;
    const auto words = [&lines](const std::string& name, const std::string& caption, const std::string& meaning) {
        auto& facts = lines.emplace_back();
        facts.name = name;
        facts.caption = caption;
        facts.meaning = meaning;
    };
    const auto choice = [&](const std::string& name, const std::string& caption, const std::string& meaning,
                            const std::vector<std::string>& choices) {
        words(name, caption, meaning);
        auto& facts = lines.back();
        facts.kind = SettingFacts::Kind::Choice;
        facts.standard = kAsFile;
        facts.choices.emplace_back(kAsFile);
        for (const auto& one : choices) facts.choices.push_back(one);
    };
    choice("point", "Point", "whose activations it reads", points);
    choice("kind", "Kind", "how concepts are made active", {"relu", "gated", "top_k", "batch_top_k", "jump_relu"});
    words("k", "k", "how many concepts a token has, of the two top-k kinds");
    choice("normalise", "Normalised", "what is done to a token before it is encoded",
           {"none", "layer_norm", "constant_norm", "expected_average"});
    words("scale", "Scale", "the factor of expected_average");
    choice("tokens", "Tokens", "which it was trained on", {"all", "class", "patches"});
    return lines;
}

}  // namespace vitrine::app
