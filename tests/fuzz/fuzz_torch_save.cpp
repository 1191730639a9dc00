// Fuzz target: bytes as a file of torch.save; behind an "R", a bare pickle in an archive with one storage.
#include <vitrine/base/readers.h>
#include <vitrine/base/test_bytes.h>

#include "touch.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::string_view text(reinterpret_cast<const char*>(data), size);
    if (text.starts_with('R')) {
        const vitrine::testing::Bytes bytes(
            vitrine::testing::torch_zip(std::string(text.substr(1)), {{"0", std::string(64, '\1')}}));
        const auto file = vitrine::parse_torch_save(bytes.span, bytes.copy);
        if (file) vitrine::fuzz::touch(*file);
        return 0;
    }
    const auto file = vitrine::parse_torch_save({reinterpret_cast<const std::byte*>(data), size}, nullptr);
    if (file) vitrine::fuzz::touch(*file);
    return 0;
}
