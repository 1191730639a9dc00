// Building an index of a folder by the concepts of an autoencoder: `vitrine index-concepts`.
//
//     IndexConceptsOptions options{.folder = "photographs", .autoencoder = "concepts.safetensors"};
//     IndexConceptsSummary summary = VITRINE_TRY(index_concepts(*model, options));
//     ConceptIndex index = VITRINE_TRY(ConceptIndex::open(summary.file));
//
// What each picture says is written, picture by picture, to OUT.records; the index is put together from that at the end
// and written beside and renamed. So a stopped run goes on where it was, and where the folder has changed only new and
// changed pictures are run: what was found in removed ones is left out, and other pictures move up in the lists. The
// index is then the one that a fresh run would make: the same bytes on the CPU (same threads), where pictures are run
// one by one, and the same up to rounding elsewhere. Without OUT.records every picture is run again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <vitrine/autoencoder.h>
#include <vitrine/base/concept_index.h>
#include <vitrine/explainer.h>
#include <vitrine/settings.h>

namespace vitrine {

struct IndexConceptsOptions {
    std::filesystem::path folder;       ///< pictures at any depth
    std::filesystem::path autoencoder;  ///< its file
    std::filesystem::path out;          ///< empty: kept_beside(concept_index_file(autoencoder))
    std::vector<std::pair<std::string, std::string>> settings = {};  ///< names of index_parameters()
    std::map<std::string, std::string> given = {};  ///< what the autoencoder's file does not say, as Autoencoder::load
    std::stop_token stop = {};                      ///< looked at between pictures: what is done stays
    std::function<void(const Progress&)> progress = {};  ///< unit "pictures", on the calling thread
};

struct IndexConceptsSummary {
    bool finished = false;  ///< false after a stop: run it again to go on
    std::filesystem::path file;
    std::int64_t pictures = 0, latents = 0;
    std::int64_t run = 0;                              ///< pictures that were run now
    std::int64_t added = 0, changed = 0, removed = 0;  ///< beside the index that was there
    std::int64_t size_bytes = 0, records_bytes = 0;
    double seconds = 0, pictures_per_second = 0;  ///< of the pictures that were run, decoding included
    double assembly_seconds = 0;                  ///< neighbours, map and file
    std::vector<std::string> skipped;             ///< one sentence for each picture that could not be read
    std::vector<std::string> notes;
};

/// What can be set, with defaults, ranges and meanings.
std::vector<Parameter> index_parameters();

/// Builds the index or brings it up to date. The model is not changed.
///
/// @error NotFound     no such folder or autoencoder
/// @error BadInput     no readable picture; concepts of another model, point or width
/// @error Unsupported  a patch grid of more than 65,535 cells
/// @error Io           the disk is full: the index before stays
Result<IndexConceptsSummary> index_concepts(Model& model, const IndexConceptsOptions& options);

/// What concepts are ranked and shown by: the codes, and of k_means, whose codes are 1 or 0, how close a token is to
/// its centroid: s^2 / (s^2 + |x - centroid|^2), with s^2 the mean squared length of all centroids less b_dec. [n,
/// latents]
///
/// @param tokens  [n, width], as they were encoded to `codes`
at::Tensor concept_strength(const Autoencoder& autoencoder, const at::Tensor& tokens, const Codes& codes);

/// "point=blocks.9,k=32" as a map, and back.
/// @error BadInput  a part that is not NAME=VALUE
Result<std::map<std::string, std::string>> given_of(const std::string& text);
std::string text_of_given(const std::map<std::string, std::string>& given);

/// FILE.index
std::filesystem::path concept_index_file(const std::filesystem::path& autoencoder);

/// A number for an autoencoder, the same on every device: 16 hexadecimal digits.
std::string concepts_hash(const Autoencoder& autoencoder);

/// Why the index cannot be shown beside these: built with another autoencoder, or other weights of the model.
Status index_fits(const ConceptIndex& index, Model& model, const Autoencoder& autoencoder);

}  // namespace vitrine
