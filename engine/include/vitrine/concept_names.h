// Names and tags that people give to concepts, in a text file beside the autoencoder that merges well.
//
//     const std::string mark = concepts_mark(autoencoder);
//     ConceptNames names = VITRINE_TRY(ConceptNames::to_change("concepts.safetensors", mark));
//     VITRINE_CHECK(names.rename(12, "dog's snout"));
//     VITRINE_CHECK(names.save(kept_beside(concept_names_file("concepts.safetensors"))));
//
// UTF-8, one concept a line, sorted by number, so that two people's changes meet only where they changed the same
// concept: NUMBER<TAB>name<TAB>tag, tag<TAB>note. Lines that begin otherwise are kept and come first. With the line
// "*.names merge=union" in .gitattributes git also joins what two people add between the same two lines; lines in any
// order are read, and one concept named twice is refused.
//
// The line "# concepts of MARK" says whose concepts they are: an autoencoder that was trained anew under the same file
// name has others, and the names of those before are not shown beside them. A file without it is taken as it is.
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

class Autoencoder;

/// What tells an autoencoder's concepts from another's, in 12 hexadecimal digits: of its decoder's rows alone, so that
/// neither its settings nor what else its file says counts.
std::string concepts_mark(const Autoencoder& autoencoder);

class ConceptNames {
  public:
    /// A file that is not there gives no names.
    ///
    /// @error Io        unreadable
    /// @error BadInput  over 16 MB, no UTF-8, control characters, a line of a merge that was not settled, a concept
    ///                  twice; the line is named
    static Result<ConceptNames> load(const std::filesystem::path& file);
    static Result<ConceptNames> parse(std::string_view text);
    /// Those that go with an autoencoder's file, wherever they are kept (beside.h).
    ///
    /// @param mark  concepts_mark of what the file holds now; empty: that is not known, and the names are taken as
    ///              they are, here and in what follows
    /// @error       as load; BadInput where they were given to another autoencoder: what to do to use them
    static Result<ConceptNames> of(const std::filesystem::path& autoencoder, const std::string& mark);
    /// The same to be changed and saved, with the mark. Those that were given to another autoencoder are put aside, and
    /// these are none. @error  as load; Io
    static Result<ConceptNames> to_change(const std::filesystem::path& autoencoder, const std::string& mark);
    /// Those that were given to another autoencoder are this one's from now on. @error  as load; Io
    static Status adopt(const std::filesystem::path& autoencoder, const std::string& mark);
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

    /// The mark in the file that is not this one; empty where all are of this autoencoder, or it does not say.
    std::string given_to_another(const std::string& mark) const;
    /// In place of all others; an empty one changes nothing.
    void set_mark(const std::string& mark);

  private:
    Status change(std::int64_t latent, const std::function<void(ConceptName&)>& how);
    std::vector<std::string> kept_;  // lines that are no concept's, in order
    std::map<std::int64_t, ConceptName> names_;
};

/// FILE.names
std::filesystem::path concept_names_file(const std::filesystem::path& autoencoder);
/// Renames such a file to FILE.names.before1, or the next number that is free. @return  the new name @error  Io
Result<std::filesystem::path> put_names_aside(const std::filesystem::path& names);

}  // namespace vitrine
