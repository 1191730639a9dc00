// Zip archives as torch.save writes them: members found and bounded through the central directory, nothing extracted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine {

/// One member. Names and data borrow the archive's bytes.
struct ZipMember {
    std::string_view name;
    std::span<const std::byte> data;  ///< as it lies in the archive; the contents themselves when stored()
    std::uint64_t size = 0;           ///< once unpacked, as the directory claims
    std::uint16_t method = 0;         ///< 0 stored, 8 deflated
    bool stored() const { return method == 0; }
};

struct Zip {
    std::vector<ZipMember> members;  ///< in the directory's order
    std::unordered_map<std::string_view, std::size_t> index;

    const ZipMember* find(std::string_view name) const {
        const auto found = index.find(name);
        return found == index.end() ? nullptr : &members[found->second];
    }
};

/// Reads the directory of a zip (zip64 too) and checks it against the local headers.
///
/// @error BadInput  no or a damaged directory, more than one volume, encryption, members that overlap or end beyond the
/// file,
///                  doubled names, names that leave the folder, a local header that says something else
/// @source          PKWARE, APPNOTE.TXT 6.3.10, sections 4.3 to 4.5
Result<Zip> open_zip(std::span<const std::byte> bytes);

}  // namespace vitrine
