// NumPy's .npy, format 1.0: the one array format every tool reads.
#include <bit>
#include <limits>

#include <vitrine/base/file.h>
#include <vitrine/base/readers.h>

namespace vitrine {

static_assert(std::endian::native == std::endian::little, "files are written as the memory lies");

Status write_npy(const std::filesystem::path& file, const float* data, std::span<const std::int64_t> shape) {
    std::uint64_t count = 1;
    std::string extents;
    for (const std::int64_t extent : shape) {
        if (extent < 0) return fail(ErrorCode::BadInput, "an array cannot have the extent {}", extent);
        if (__builtin_mul_overflow(count, static_cast<std::uint64_t>(extent), &count))
            return fail(ErrorCode::BadInput, "the array is too large to count");
        extents += fmt::format("{}, ", extent);
    }
    // Python writes (3,) for one axis and (2, 3) for more.
    if (shape.size() == 1) extents.pop_back();
    if (shape.size() > 1) extents.resize(extents.size() - 2);
    if (count > std::numeric_limits<std::size_t>::max() / sizeof(float))
        return fail(ErrorCode::BadInput, "the array is too large to count");
    if (count > 0 && data == nullptr) return fail(ErrorCode::BadInput, "the array has no data");

    std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", extents);
    constexpr std::size_t kPreamble = 10;  // magic, version, length
    header.append(63 - (kPreamble + header.size()) % 64, ' ');
    header += '\n';
    if (header.size() > 0xFFFF) return fail(ErrorCode::BadInput, "{} axes are too many for a .npy file", shape.size());
    std::string preamble("\x93NUMPY\x01\x00", 8);
    preamble += static_cast<char>(header.size() & 0xFF);
    preamble += static_cast<char>(header.size() >> 8);

    FileBeside out = VITRINE_TRY(FileBeside::create(file));
    VITRINE_CHECK(out.append(preamble));
    VITRINE_CHECK(out.append(header));
    if (count > 0) VITRINE_CHECK(out.append(std::as_bytes(std::span(data, count))));
    return out.commit();
}

}  // namespace vitrine
