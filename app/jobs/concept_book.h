// The concepts of an autoencoder as the gallery shows them: the index of a folder, names, pictures, and how an index is
// built. Plain structs in and out; no torch, no Qt in sight.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include <vitrine/base/concept_index.h>
#include <vitrine/base/image.h>
#include <vitrine/base/result.h>

#include "concept_choice.h"
#include "concepts_of_picture.h"

namespace vitrine {
class Model;
struct Preprocess;
}  // namespace vitrine

namespace vitrine::app {

/// Decodes a picture as the model sees it. From any thread, whatever becomes of the model.
using SeePicture = std::function<Result<ImageView>(const std::filesystem::path& file)>;
SeePicture seer(const Preprocess& preprocess);

struct ConceptBook {
    std::filesystem::path autoencoder;
    std::map<std::string, std::string> given;   ///< what its file does not say; of the index where nothing was given
    std::filesystem::path folder;               ///< where the indexed pictures are now
    std::shared_ptr<const ConceptIndex> index;  ///< null: none that can be used. Mapped, never loaded whole
    std::string index_trouble;                  ///< why not; empty: none was built yet
    CalledConcepts called;
    std::string called_trouble;  ///< why there are no names; empty when there is nothing wrong with them
    bool called_another = false;  ///< that is: they were given to another autoencoder
    std::string mark;             ///< what names of these concepts are known by
    SeePicture see;
};

/// @error  what opening the autoencoder says; it does not say its point; it is of another model
Result<ConceptBook> open_book(Model& model, const ConceptSource& source);

/// What a person is to be asked for where concepts do not open, by AutoencoderConfig's names; empty: nothing would mend
/// it.
///
/// @param index  whether what its index knows counts as given, as it does for open_book()
std::vector<std::string> asked_by(const ConceptSource& source, bool index = true);

/// Writes what a concept is called, beside the autoencoder, into what others may have written meanwhile. Names of
/// another autoencoder are put aside first.
/// @param mark  ConceptBook's
/// @return      all names, as they are now
Result<CalledConcepts> call_concept(const std::filesystem::path& autoencoder, const std::string& mark,
                                    std::int64_t latent, const std::string& name, const std::vector<std::string>& tags);
/// Takes the names that were given to another autoencoder for these concepts. @return  them
Result<CalledConcepts> adopt_names(const std::filesystem::path& autoencoder, const std::string& mark);

struct IndexPlan {
    std::string model;  ///< as ModelFacts::request: it is opened once more, so that the window keeps its own
    std::filesystem::path folder;
    ConceptSource source;
};

struct IndexMade {
    bool finished = false;  ///< false: stopped; it goes on where it was
    std::int64_t pictures = 0, run = 0;
    double pictures_per_second = 0;
    std::vector<std::string> skipped, notes;
};

/// Builds an index or brings it up to date, on the calling thread, which gives way to others from then on.
Result<IndexMade> build_index(
    const IndexPlan& plan, std::stop_token stop,
    const std::function<void(std::string doing, std::int64_t done, std::int64_t total)>& doing);

}  // namespace vitrine::app
