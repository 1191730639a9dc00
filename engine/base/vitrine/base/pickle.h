// The restricted unpickler: a pickle becomes plain values, tensors' descriptions and nothing else. No code of the file
// is run.
//
// Globals are not looked up anywhere: each one that may occur is a case in pickle.cpp with its meaning here, and any
// other is refused and named. Accepted are what torch.save writes for tensors (torch._utils._rebuild_tensor*,
// _rebuild_parameter*, the storage classes, torch.Size, dtypes and devices) and plain containers and values
// (collections.OrderedDict, defaultdict, Counter, set, frozenset, bytearray, complex, numpy's scalars, which become
// numbers, and argparse.Namespace, which training scripts save beside the weights and which becomes a dictionary).
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <vitrine/base/result.h>
#include <vitrine/base/tensor_file.h>

namespace vitrine::pickle {

using Ref = std::uint32_t;  ///< index of a value in Pickle::values; equal references are the same object

enum class Kind : std::uint8_t {
    None,
    Bool,
    Int,
    BigInt,
    Float,
    Text,
    Bytes,
    Tuple,
    List,
    Dict,
    Set,
    Global,
    TorchDType,
    NumpyDType,
    Storage,
    Tensor
};

struct Value {
    Kind kind = Kind::None;
    std::uint8_t global = 0;   ///< Global: which
    DType dtype = DType::U8;   ///< Global storage class, TorchDType
    std::uint32_t record = 0;  ///< Storage, Tensor: index of its record
    std::int64_t integer = 0;  ///< Bool, Int
    double real = 0;           ///< Float
    std::string_view text;     ///< Text, Bytes, BigInt (little-endian two's complement), NumpyDType
    std::vector<Ref> items;    ///< Tuple, List, Set; Dict: key, value, key, value
};

/// A storage as a persistent id describes it.
struct StorageRecord {
    DType dtype = DType::U8;
    std::string_view key;
    std::uint64_t count = 0;        ///< elements of dtype
    std::uint64_t view_offset = 0;  ///< legacy views: elements before this storage in the one it views
    std::uint64_t view_count = 0;
    bool view = false;
};

struct TensorRecord {
    DType dtype = DType::U8;
    std::uint32_t storage = 0;
    std::int64_t offset = 0;  ///< elements of dtype
    std::vector<std::int64_t> shape, strides;
};

struct Pickle {
    std::vector<Value> values;
    std::vector<StorageRecord> storages;
    std::vector<TensorRecord> tensors;
    std::deque<std::string> texts;  ///< what is not borrowed from the bytes
    Ref root = 0;
    std::size_t end = 0;  ///< bytes read, STOP included

    const Value& operator[](Ref ref) const { return values[ref]; }
};

/// Runs one pickle from the start of `bytes`, of any protocol from 0 to 5. Texts borrow `bytes`.
///
/// @error Unsupported  a refused global, named; a quantised tensor; extension codes, out-of-band buffers
/// @error BadInput     anything malformed; more than 4 million values, 256 MB of pickle
/// @cost               linear in the bytes: memory per opcode is bounded, and nothing in here recurses
/// @source             the opcodes: CPython, Lib/pickletools.py; the globals: PyTorch, torch/_utils.py,
/// torch/serialization.py
Result<Pickle> unpickle(std::span<const std::byte> bytes);

}  // namespace vitrine::pickle
