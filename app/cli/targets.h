// What is asked to be explained, as a command line says it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cli/common.h"

namespace vitrine::cli {

struct TargetOptions {
    std::vector<std::string> targets;  ///< each INDEX, NAME, A+B, label, top5 or top10
    std::string versus;
    std::string reference;  ///< a picture
    std::string region;     ///< ROW,COL or ROW,COL-ROW,COL, several with semicolons
};

struct NamedTarget {
    std::string label;  ///< a folder's name: "281-tabby"; empty where nothing was asked
    Target target;
};

/// What was asked, checked against a model once; then one list of targets a picture.
class TargetMaker {
  public:
    /// Reads "--set target.scale=logit|probability" and "target.point=NAME" too.
    static Result<TargetMaker> make(const Common& common, Model& model, const TargetOptions& options);

    /// @param answers     the picture's most likely classes, five of them; empty where the model has none
    /// @param true_label  the picture's class where a table names it; otherwise `label` looks for one
    Result<std::vector<NamedTarget>> of(const std::filesystem::path& picture, const std::vector<Answer>& answers,
                                        std::optional<std::int64_t> true_label = std::nullopt) const;

  private:
    const Model* model_ = nullptr;
    std::vector<std::string> targets_;
    Target common_;  ///< what all share: versus, scale, reference, region
};

/// For manifests and results; null where nothing was asked.
nlohmann::json describe(const Target& target, const Model& model);

/// A part of a folder's name: letters, digits, dots and dashes.
std::string slug(const std::string& text);

}  // namespace vitrine::cli
