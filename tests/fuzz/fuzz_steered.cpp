// Fuzz target: bytes as a file of a steered model; behind a "T", as what someone writes for tokens, behind an "E" for
// edits.
#include <vitrine/base/file.h>
#include <vitrine/base/steered_file.h>

#include <cstdlib>

using namespace vitrine;

namespace {

void check(bool holds) {
    if (!holds) std::abort();
}

/// What was read of tokens is written so that it is read again.
void check_tokens(SteeredTokens tokens, const std::vector<PatchBox>& boxes) {
    check((tokens == SteeredTokens::Chosen) == !boxes.empty());
    for (const PatchBox& box : boxes)
        check(box.row0 >= 0 && box.col0 >= 0 && box.row1 >= box.row0 && box.col1 >= box.col0);
    const auto again = read_tokens(tokens_text(tokens, boxes));
    check(again && again->first == tokens && again->second == boxes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    if (text.starts_with('T')) {
        if (const auto read = read_tokens(text.substr(1))) check_tokens(read->first, read->second);
        return 0;
    }
    if (text.starts_with('E')) {
        for (const auto mode : {ConceptEdit::Mode::Set, ConceptEdit::Mode::Suppress})
            if (const auto edits = concept_edits(mode, text.substr(1)))
                for (const ConceptEdit& edit : *edits) check(edit.mode == mode);
        return 0;
    }
    const std::filesystem::path place = "/somewhere/x.steered.json";
    const auto file = parse_steered_file(text, place);
    if (!file) {
        check(!file.error().message.empty() && file.error().message.size() < 2000);
        return 0;
    }
    check_tokens(file->tokens, file->boxes);
    // Relative to the file, or a plain name: nothing of the machine at large.
    check(!file->model.empty() && file->model.find('\0') == std::string::npos);
    check(file->file.empty() != file->built_in.empty());
    check(file->built_in.empty() || stays_inside(file->built_in));
    for (const ConceptEdit& edit : file->edits) {
        check(edit.value == edit.value && edit.value - edit.value == 0);
        check(edit.mode != ConceptEdit::Mode::Suppress || edit.value == 0);
    }
    return 0;
}
