// What is known of tensor entries without reading them: element sizes, names, counts, contiguity.
#include <vitrine/base/tensor_file.h>

namespace vitrine {

std::size_t size_of(DType dtype) {
    switch (dtype) {
        case DType::Bool:
        case DType::U8:
        case DType::I8:
        case DType::F8E4M3:
        case DType::F8E5M2:
        case DType::QI8:
        case DType::QU8:
            return 1;
        case DType::I16:
        case DType::U16:
        case DType::F16:
        case DType::BF16:
            return 2;
        case DType::I32:
        case DType::U32:
        case DType::F32:
        case DType::QI32:
            return 4;
        case DType::I64:
        case DType::U64:
        case DType::F64:
        case DType::C64:
            return 8;
        case DType::C128:
            return 16;
    }
    return 1;
}

std::string_view name_of(DType dtype) {
    switch (dtype) {
        case DType::Bool:
            return "BOOL";
        case DType::U8:
            return "U8";
        case DType::I8:
            return "I8";
        case DType::I16:
            return "I16";
        case DType::U16:
            return "U16";
        case DType::I32:
            return "I32";
        case DType::U32:
            return "U32";
        case DType::I64:
            return "I64";
        case DType::U64:
            return "U64";
        case DType::F16:
            return "F16";
        case DType::BF16:
            return "BF16";
        case DType::F32:
            return "F32";
        case DType::F64:
            return "F64";
        case DType::F8E4M3:
            return "F8_E4M3";
        case DType::F8E5M2:
            return "F8_E5M2";
        case DType::C64:
            return "C64";
        case DType::C128:
            return "C128";
        case DType::QI8:
            return "QI8";
        case DType::QU8:
            return "QU8";
        case DType::QI32:
            return "QI32";
    }
    return "unknown";
}

std::int64_t TensorEntry::count() const {
    std::int64_t product = 1;
    for (const std::int64_t extent : shape) product *= extent;
    return product;
}

bool TensorEntry::contiguous() const {
    if (count() == 0) return true;
    std::int64_t expected = 1;
    for (std::size_t i = shape.size(); i-- > 0;) {
        if (shape[i] != 1 && strides[i] != expected) return false;
        expected *= shape[i];
    }
    return true;
}

}  // namespace vitrine
