// Fuzz target: bytes as a picture file whose header is inspected.
#include <vitrine/base/image_file.h>

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto info = vitrine::inspect_image({reinterpret_cast<const std::byte*>(data), size});
    if (info && (info->width < 1 || info->height < 1 || info->width > 65'500 || info->height > 65'500 ||
                 info->orientation < 1 || info->orientation > 8))
        std::abort();
    return 0;
}
