// Fuzz target: bytes as an index of concepts of which everything is asked; behind a "J", as a block of its journal.
#include <vitrine/base/concept_records.h>
#include <vitrine/base/test_bytes.h>

#include <cstdlib>

using namespace vitrine;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    if (text.starts_with('J')) {
        std::string block(text.substr(1));
        if (block.size() < 8) return 0;
        ConceptRecords::seal_block(std::as_writable_bytes(std::span(block)));
        (void)ConceptRecords::parse_block(std::as_bytes(std::span(block)));
        return 0;
    }
    const testing::Bytes bytes(text);
    const auto index = ConceptIndex::parse(bytes.span, bytes.copy);
    if (!index) return 0;
    const auto check = [](bool holds) {
        if (!holds) std::abort();
    };
    for (std::int64_t i = -1; i <= index->latents(); ++i) {
        for (const auto& top : index->tops(i)) check(top.picture < index->pictures());
        for (const auto& top : index->class_tops(i)) check(top.picture < index->pictures());
        for (const auto& one : index->neighbours(i)) check(one.latent < index->latents());
        (void)index->histogram(i);
    }
    for (std::int64_t i = -1; i <= index->pictures(); ++i) {
        const IndexedPicture one = index->picture(i);
        index->find(one.name);
        for (const auto& strong : index->strongest(i)) check(strong.latent < index->latents());
    }
    for (const auto& name : ConceptIndex::column_names())
        check(index->order(name).size() == index->column(name).size());
    return 0;
}
