// Names and tags that people give to concepts, in a text file beside the autoencoder that merges well.
//
//     ConceptNames names = VITRINE_TRY(ConceptNames::of("concepts.safetensors"));
//     VITRINE_CHECK(names.rename(12, "dog's snout"));
//     VITRINE_CHECK(names.save(kept_beside(concept_names_file("concepts.safetensors"))));
//
// UTF-8, one concept a line, sorted by number, so that two people's changes meet only where they changed the same
// concept: NUMBER<TAB>name<TAB>tag, tag<TAB>note. Lines that begin otherwise are kept and come first. With the line
// "*.names merge=union" in .gitattributes git also joins what two people add between the same two lines; lines in any
// order are read, and one concept named twice is refused.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine {

struct ConceptName {
    std::string name;
    std::vector<std::string> tags;  ///< sorted, each once
    std::string note;
    std::string rest;  ///< further fields of a newer program, kept as they are
    bool empty() const { return name.empty() && tags.empty() && note.empty() && rest.empty(); }
};

class ConceptNames {
  public:
    /// A file that is not there gives no names.
    ///
    /// @error Io        unreadable
    /// @error BadInput  over 16 MB, no UTF-8, control characters, a line of a merge that was not settled, a concept
    ///                  twice; the line is named
    static Result<ConceptNames> load(const std::filesystem::path& file);
    static Result<ConceptNames> parse(std::string_view text);
    /// Those that go with an autoencoder's file, wherever they are kept (beside.h). @error as load
    static Result<ConceptNames> of(const std::filesystem::path& autoencoder);
    /// Beside and renamed.
    Status save(const std::filesystem::path& file) const;
    std::string text() const;

    /// Null where the concept has neither name, tags nor note.
    const ConceptName* find(std::int64_t latent) const;
    /// For people: "concept 12 (dog's snout)", or "concept 12".
    std::string called(std::int64_t latent) const;
    const std::map<std::int64_t, ConceptName>& all() const { return names_; }
    /// Every tag with how many concepts have it.
    std::map<std::string, std::int64_t> tags() const;

    /// An empty text takes the name away. Spaces at both ends go.
    /// @error BadInput  a negative number, tabs, line ends or other control characters, no UTF-8, over 1000 bytes
    Status rename(std::int64_t latent, std::string_view name);
    /// All tags of a concept. @error BadInput  as rename, or a comma
    Status set_tags(std::int64_t latent, const std::vector<std::string>& tags);
    Status tag(std::int64_t latent, std::string_view tag);
    Status untag(std::int64_t latent, std::string_view tag);
    Status set_note(std::int64_t latent, std::string_view note);

  private:
    Status change(std::int64_t latent, const std::function<void(ConceptName&)>& how);
    std::vector<std::string> kept_;  // lines that are no concept's, in order
    std::map<std::int64_t, ConceptName> names_;
};

/// FILE.names
std::filesystem::path concept_names_file(const std::filesystem::path& autoencoder);

}  // namespace vitrine
