// Plugin kind: a measure of a model over a folder of pictures, which no explanation enters.
#pragma once

#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include <vitrine/folder_journal.h>
#include <vitrine/measure.h>
#include <vitrine/picture_set.h>

namespace vitrine {

struct FolderSubject {
    Model& model;
    const PictureSet& pictures;
    /// The true class of a picture, where it is known.
    std::function<Result<std::int64_t>(const PictureSet::Picture&)> label;
    std::uint64_t seed = 0;
    std::int64_t batch = 0;  ///< pictures that the model runs at once; 0: what suits it
    std::stop_token stop = {};
    std::function<void(const Progress&)> progress = {};
    FolderJournal* journal = nullptr;  ///< of a measure that goes_on(); null: nothing is kept
};

/// A table whose empty cells are NaN.
struct FolderFindings {
    std::string document;       ///< everything, as one JSON object
    std::vector<Table> tables;  ///< the same for people and spreadsheets
    std::vector<std::string> notes, skipped;
};

/// Asked for by name as every measure is, but of a folder: it has nothing to say of one map.
class FolderMeasure : public Measure {
  public:
    std::optional<std::string> why_not(const Model&, const Explainer&) const override {
        return "it measures a model over a folder of pictures and reads no map";
    }
    std::optional<bool> higher_is_better() const override { return std::nullopt; }
    Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings&) const override {
        return fail(ErrorCode::Unsupported, "{}", *why_not(context.model, subject.explainer));
    }
    /// Whether it keeps what it found of each picture, where there is a journal.
    virtual bool goes_on() const { return false; }
    virtual Result<FolderFindings> measure_folder(const FolderSubject& subject, const Settings& settings) const = 0;
};

}  // namespace vitrine
