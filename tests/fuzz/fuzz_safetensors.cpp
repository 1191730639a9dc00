// Fuzz target: bytes as a safetensors file.
#include <vitrine/base/readers.h>

#include "touch.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto file = vitrine::parse_safetensors({reinterpret_cast<const std::byte*>(data), size}, nullptr);
    if (file) vitrine::fuzz::touch(*file);
    return 0;
}
