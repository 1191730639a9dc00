// vitrine tcav: whether concepts that pictures show move the answer towards a class.
#include <vitrine/tcav.h>

#include <fmt/ranges.h>

#include "cli/commands.h"

namespace vitrine::cli {

Status tcav(const Common& common, const TcavArguments& arguments) {
    VITRINE_CHECK(check_owners(common, {"preprocess"}));
    TcavOptions options;
    options.examples = arguments.examples;
    options.random = arguments.random;
    options.point = arguments.point;
    options.features = arguments.features;
    options.runs = arguments.runs;
    options.most = arguments.most;
    options.regularisation = arguments.regularisation;
    options.seed = common.seed;
    options.progress = [](const Progress& p) { progress(p); };
    for (const std::string& text : arguments.concepts) {
        const auto equals = text.find('=');
        if (equals == std::string::npos || equals == 0 || equals + 1 == text.size())
            return fail(ErrorCode::BadInput, "--concept is '{}', expected NAME=FOLDER or NAME=TEXTFILE", text);
        options.concepts.emplace_back(text.substr(0, equals), text.substr(equals + 1));
    }
    const auto model = VITRINE_TRY(open(common));
    options.index = VITRINE_TRY(class_of(*model, arguments.target));
    const TcavResult found = VITRINE_TRY(vitrine::tcav(*model, options));
    for (const auto& sentence : found.skipped) say("skipped: " + sentence);
    for (const auto& note : found.notes) say(note);
    if (common.json) {
        auto concepts = nlohmann::json::array();
        for (const TcavScore& c : found.concepts)
            concepts.push_back({{"name", c.name},
                                {"features", c.features},
                                {"examples", c.examples},
                                {"drawn", c.drawn},
                                {"score", c.score},
                                {"scores", c.scores},
                                {"random_score", c.random_score},
                                {"random_scores", c.random},
                                {"magnitude", c.magnitude},
                                {"accuracy", c.accuracy},
                                {"random_accuracy", c.random_accuracy},
                                {"t", c.t},
                                {"p", c.p},
                                {"p_corrected", c.p_corrected}});
        fmt::print("{}\n", json_text({{"point", found.point},
                                      {"explained", found.explained},
                                      {"examples", found.examples},
                                      {"random", found.random},
                                      {"random_left_out", found.left_out},
                                      {"most", options.most},
                                      {"seed", options.seed},
                                      {"runs", options.runs},
                                      {"classifier", "squared loss, ridge"},
                                      {"regularisation", options.regularisation},
                                      {"test", "Welch, two-sided, Bonferroni"},
                                      {"concepts", concepts},
                                      {"notes", found.notes},
                                      {"skipped", found.skipped}},
                                     2));
        return {};
    }
    fmt::print("{} at {}: {} examples, {} random pictures, {} runs\n", found.explained, found.point, found.examples,
               found.random, options.runs);
    fmt::print("{:<20} {:>8} {:>8} {:>9} {:>10} {:>10}  {}\n", "concept", "score", "random", "accuracy", "p",
               "corrected", "");
    for (const TcavScore& c : found.concepts) {
        const char* verdict = c.p_corrected >= 0.05      ? "not told from chance"
                              : c.score > c.random_score ? "moves towards the class"
                                                         : "moves away from it";
        fmt::print("{:<20} {:>8.3f} {:>8.3f} {:>7.1f} % {:>10.2g} {:>10.2g}  {}\n", c.name, c.score, c.random_score,
                   100 * c.accuracy, c.p, c.p_corrected, verdict);
    }
    return {};
}

}  // namespace vitrine::cli
