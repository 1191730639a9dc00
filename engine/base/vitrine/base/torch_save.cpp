// Files of torch.save, zip and legacy, and what TorchScript archives are as containers.
#include <algorithm>
#include <functional>
#include <limits>
#include <unordered_map>
#include <unordered_set>

#include <vitrine/base/bytes.h>
#include <vitrine/base/file.h>
#include <vitrine/base/pickle.h>
#include <vitrine/base/readers.h>
#include <vitrine/base/zip.h>

namespace vitrine {
namespace {

using pickle::Kind;
using pickle::Pickle;
using pickle::Ref;
using pickle::Value;

constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxVisits = 500'000;       // values met on the way to the tensors, shared ones counted each time
constexpr std::size_t kMaxNameBytes = 64u << 20;  // of all names together
constexpr std::size_t kMaxNameLength = 4096;
constexpr std::size_t kMaxScalarText = 64u << 10;

/// A storage's bytes, aligned for its elements.
struct Storage {
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> keep_alive;
};
using StorageSource = std::function<Result<Storage>(const pickle::StorageRecord&)>;

// Walks the unpickled value and names each tensor by its path. Sharing and cycles cost a pickle nothing to write down,
// so the walk counts what it meets, not what there is.
class Collector {
  public:
    Collector(const Pickle& pickle, std::size_t file_bytes, StorageSource storage_of, TensorFile& out)
        : pickle_(pickle),
          storage_of_(std::move(storage_of)),
          out_(out),
          logical_left_(4 * static_cast<std::uint64_t>(file_bytes) + (std::uint64_t{1} << 30)) {}

    Status collect() {
        // A file that is one tensor has no name for it.
        if (pickle_[pickle_.root].kind == Kind::Tensor) path_ = "tensor";
        return visit(pickle_.root, 0);
    }

  private:
    Status visit(Ref ref, int depth) {
        if (++visits_ > kMaxVisits)
            return fail(ErrorCode::BadInput, "the file unfolds into more than {} values", kMaxVisits);
        if (depth > kMaxDepth)
            return fail(ErrorCode::BadInput, "the file's containers nest deeper than {}, or contain themselves",
                        kMaxDepth);
        const Value& value = pickle_[ref];
        switch (value.kind) {
            case Kind::Tensor:
                return add_tensor(pickle_.tensors[value.record]);
            case Kind::Dict:
                for (std::size_t i = 0; i + 1 < value.items.size(); i += 2)
                    VITRINE_CHECK(visit_named(value.items[i], value.items[i + 1], i / 2, depth));
                return {};
            case Kind::List:
            case Kind::Tuple:
            case Kind::Set:
                for (std::size_t i = 0; i < value.items.size(); ++i) {
                    // Numbers in lists (an optimiser's parameter numbers, a schedule) say nothing by their position;
                    // words do: the layers that a training script was given.
                    const Kind kind = pickle_[value.items[i]].kind;
                    if (kind != Kind::Tensor && kind != Kind::Dict && kind != Kind::List && kind != Kind::Tuple &&
                        kind != Kind::Set && kind != Kind::Text)
                        continue;
                    VITRINE_CHECK(visit_below(fmt::format("{}", i), value.items[i], depth));
                }
                return {};
            default:
                return {};
        }
    }

    Status visit_named(Ref key, Ref item, std::size_t position, int depth) {
        const Value& k = pickle_[key];
        switch (k.kind) {
            case Kind::Text:
                return visit_below(bytes::to_utf8(k.text), item, depth);
            case Kind::Int:
                return visit_below(fmt::format("{}", k.integer), item, depth);
            case Kind::Bool:
                return visit_below(k.integer ? "True" : "False", item, depth);
            default:
                return visit_below(fmt::format("#{}", position), item, depth);
        }
    }

    Status visit_below(const std::string& name, Ref item, int depth) {
        const std::size_t length = path_.size();
        if (name.size() > kMaxNameLength || length + name.size() > kMaxNameLength)
            return fail(ErrorCode::BadInput, "a name in the file is longer than {} bytes", kMaxNameLength);
        if (length > 0) path_ += '.';
        path_ += name;
        const Kind kind = pickle_[item].kind;
        if (kind == Kind::Tensor || kind == Kind::Dict || kind == Kind::List || kind == Kind::Tuple ||
            kind == Kind::Set) {
            VITRINE_CHECK(visit(item, depth + 1));
        } else {
            VITRINE_CHECK(add_scalar(pickle_[item]));
        }
        path_.resize(length);
        return {};
    }

    Status charge_name(std::size_t bytes) {
        name_bytes_ += bytes;
        if (name_bytes_ > kMaxNameBytes)
            return fail(ErrorCode::BadInput, "the names in the file unfold into more than {} bytes", kMaxNameBytes);
        return {};
    }

    Status add_scalar(const Value& value) {
        std::string text;
        switch (value.kind) {
            case Kind::Bool:
                text = value.integer ? "true" : "false";
                break;
            case Kind::Int:
                text = fmt::format("{}", value.integer);
                break;
            case Kind::Float:
                text = fmt::format("{}", value.real);
                break;
            case Kind::TorchDType:
                text = name_of(value.dtype);
                break;
            case Kind::Text:
                if (value.text.size() > kMaxScalarText) return {};
                text = bytes::to_utf8(value.text);
                break;
            default:
                return {};
        }
        if (++visits_ > kMaxVisits)
            return fail(ErrorCode::BadInput, "the file unfolds into more than {} values", kMaxVisits);
        VITRINE_CHECK(charge_name(path_.size() + text.size()));
        out_.metadata.insert_or_assign(path_, std::move(text));
        return {};
    }

    Status add_tensor(const pickle::TensorRecord& record) {
        const pickle::StorageRecord& storage = pickle_.storages[record.storage];
        const std::string name = bytes::printable(path_);
        if (record.dtype == DType::QI8 || record.dtype == DType::QU8 || record.dtype == DType::QI32)
            return fail(ErrorCode::Unsupported,
                        "{} is quantised ({}), which is not read; save the model before quantising it", name,
                        name_of(record.dtype));
        if (record.shape.size() != record.strides.size())
            return fail(ErrorCode::BadInput, "{} has {} extents and {} strides", name, record.shape.size(),
                        record.strides.size());
        const std::uint64_t element = size_of(record.dtype);
        std::uint64_t count = 1, furthest = 0;
        if (record.offset < 0)
            return fail(ErrorCode::BadInput, "{} begins {} elements before its storage", name, -(record.offset + 1));
        bool none = false;
        for (const std::int64_t extent : record.shape) none = none || extent == 0;
        for (std::size_t i = 0; i < record.shape.size(); ++i) {
            if (record.shape[i] < 0 || record.strides[i] < 0)
                return fail(ErrorCode::BadInput, "{} has the extent {} with the stride {}, neither may be negative",
                            name, record.shape[i], record.strides[i]);
            const auto extent = static_cast<std::uint64_t>(std::max<std::int64_t>(record.shape[i], 1)),
                       stride = static_cast<std::uint64_t>(record.strides[i]);
            const auto product = bytes::multiply(count, extent);
            const auto reach = bytes::multiply(extent - 1, stride);
            const auto sum = reach ? bytes::add(furthest, *reach) : reach;
            if (!product || *product > (std::uint64_t{1} << 58) || !sum)
                return fail(ErrorCode::BadInput, "{} has a shape too large to count", name);
            count = *product;
            furthest = *sum;
        }
        VITRINE_CHECK(charge_name(path_.size()));

        Storage held = VITRINE_TRY(storage_of_(storage));
        const std::uint64_t view_begin = storage.view_offset * size_of(storage.dtype),
                            view_bytes = storage.view_count * size_of(storage.dtype);
        if (!bytes::fits(view_begin, view_bytes, held.bytes.size()))
            return fail(ErrorCode::BadInput, "the storage of {} has {} bytes, {} are wanted", name, held.bytes.size(),
                        view_begin + view_bytes);
        const std::span<const std::byte> span = held.bytes.subspan(view_begin, view_bytes);
        const auto first = bytes::multiply(static_cast<std::uint64_t>(record.offset), element);
        const auto reach = bytes::multiply(furthest, element);
        TensorEntry entry;
        if (none) {
            // Nothing is read, so where it would be does not matter.
            entry.data = span.data();
        } else {
            if (!first || !reach || !bytes::fits(*first, *reach, span.size()) ||
                span.size() - *first - *reach < element)
                return fail(ErrorCode::BadInput, "{} reaches beyond its storage of {} bytes", name, span.size());
            const std::uint64_t logical = count * element;
            if (logical > logical_left_)
                return fail(ErrorCode::BadInput, "{} unfolds few bytes of the file into {}", name, logical);
            logical_left_ -= logical;
            entry.data = span.data() + *first;
        }
        entry.dtype = record.dtype;
        entry.shape = record.shape;
        entry.strides = record.strides;
        entry.keep_alive = std::move(held.keep_alive);
        if (reinterpret_cast<std::uintptr_t>(entry.data) % element != 0) {
            // A view that starts between elements. Rare enough to copy what is reached.
            const std::span<const std::byte> reached = none ? span.first(0) : span.subspan(*first, *reach + element);
            bytes::Held copy = bytes::aligned(reached, element, entry.keep_alive);
            copied_ += reached.size();
            if (copied_ > (std::uint64_t{1} << 30))
                return fail(ErrorCode::BadInput, "the file's tensors start between elements");
            entry.data = copy.data;
            entry.keep_alive = std::move(copy.keep_alive);
        }
        if (!out_.tensors.emplace(path_, std::move(entry)).second)
            return fail(ErrorCode::BadInput, "two tensors of the file would be called {}", name);
        return {};
    }

    const Pickle& pickle_;
    StorageSource storage_of_;
    TensorFile& out_;
    std::string path_;
    std::size_t visits_ = 0, name_bytes_ = 0;
    std::uint64_t logical_left_, copied_ = 0;
};

std::uint64_t bytes_of(const pickle::StorageRecord& storage) {
    return bytes::multiply(storage.count, size_of(storage.dtype)).value_or(std::numeric_limits<std::uint64_t>::max());
}

// The folder that all members lie in: "archive" in archive/data.pkl.
std::string_view top_folder(const Zip& zip) {
    if (zip.members.empty()) return {};
    const std::string_view first = zip.members.front().name;
    return first.substr(0, first.find('/'));
}

bool is_torchscript(const Zip& zip) {
    const std::string folder(top_folder(zip));
    if (zip.find(folder + "/constants.pkl") != nullptr) return true;
    return std::any_of(zip.members.begin(), zip.members.end(),
                       [&](const ZipMember& m) { return m.name.starts_with(folder + "/code/"); });
}

bool is_zip(std::span<const std::byte> bytes) {
    return bytes.size() >= 4 && bytes::little<std::uint32_t>(bytes.data()) == 0x04034b50;
}

// 0x1950a86a20f9469cfc6c, the first pickle of a legacy file.
constexpr std::string_view kLegacyMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);

Result<TensorFile> parse_zip(std::span<const std::byte> bytes, const std::shared_ptr<const void>& keep_alive) {
    const Zip zip = VITRINE_TRY(open_zip(bytes));
    const std::string folder(top_folder(zip));
    if (is_torchscript(zip))
        return fail(ErrorCode::Unsupported,
                    "this is a TorchScript archive, which is a program: it is opened only with consent (--trust)");
    if (zip.find(folder + "/.data/extern_modules") != nullptr)
        return fail(ErrorCode::Unsupported,
                    "this is a torch.package archive, which is a program; save the model's state_dict() instead");
    for (const ZipMember& member : zip.members) {
        if (!member.stored())
            return fail(ErrorCode::BadInput, "the archive's member {} is compressed, which torch.save never does",
                        bytes::printable(member.name));
    }
    const ZipMember* const main = zip.find(folder + "/data.pkl");
    if (main == nullptr)
        return fail(ErrorCode::BadInput, "the archive has no data.pkl, so it is no file of torch.save");
    if (const ZipMember* const order = zip.find(folder + "/byteorder")) {
        if (bytes::text(order->data) != "little")
            return fail(ErrorCode::Unsupported, "the file's byte order is {}, only little is read",
                        bytes::printable(bytes::text(order->data)));
    }
    const Pickle pickle = VITRINE_TRY(pickle::unpickle(main->data));

    TensorFile out;
    out.format = "torch.save zip";
    std::unordered_map<std::string_view, Storage> seen;
    const auto storage_of = [&](const pickle::StorageRecord& record) -> Result<Storage> {
        if (const auto found = seen.find(record.key); found != seen.end()) {
            if (found->second.bytes.size() < bytes_of(record))
                return fail(ErrorCode::BadInput, "storage {} has {} bytes, {} elements of {} are wanted",
                            bytes::printable(record.key), found->second.bytes.size(), record.count,
                            name_of(record.dtype));
            return found->second;
        }
        const ZipMember* const member = zip.find(folder + "/data/" + std::string(record.key));
        if (member == nullptr)
            return fail(ErrorCode::BadInput, "the archive has no storage {}", bytes::printable(record.key));
        if (member->data.size() < bytes_of(record))
            return fail(ErrorCode::BadInput, "storage {} has {} bytes, {} elements of {} are wanted",
                        bytes::printable(record.key), member->data.size(), record.count, name_of(record.dtype));
        bytes::Held held = bytes::aligned(member->data, 16, keep_alive);
        return seen.emplace(record.key, Storage{{held.data, member->data.size()}, std::move(held.keep_alive)})
            .first->second;
    };
    VITRINE_CHECK(Collector(pickle, bytes.size(), storage_of, out).collect());
    return out;
}

const Value* entry_named(const Pickle& pickle, std::string_view key) {
    const Value& root = pickle[pickle.root];
    if (root.kind != Kind::Dict) return nullptr;
    for (std::size_t i = 0; i + 1 < root.items.size(); i += 2) {
        if (pickle[root.items[i]].kind == Kind::Text && pickle[root.items[i]].text == key)
            return &pickle[root.items[i + 1]];
    }
    return nullptr;
}

// Magic number, protocol, system, the object, the keys of its storages: five pickles. Then for each key 8 bytes of
// count and the elements.
Result<TensorFile> parse_legacy(std::span<const std::byte> bytes, const std::shared_ptr<const void>& keep_alive) {
    std::size_t at = 0;
    const auto next = [&]() -> Result<Pickle> {
        auto pickle = pickle::unpickle(bytes.subspan(at));
        if (pickle) at += pickle->end;
        return pickle;
    };
    {
        const Pickle magic = VITRINE_TRY(next());
        const Value& value = magic[magic.root];
        if (value.kind != Kind::BigInt || value.text != kLegacyMagic)
            return fail(ErrorCode::Unsupported, "this is a pickle, but none that torch.save wrote");
        const Pickle version = VITRINE_TRY(next());
        const Value& number = version[version.root];
        if (number.kind != Kind::Int || number.integer != 1001)
            return fail(ErrorCode::Unsupported,
                        "the file is of an unknown version of torch.save's legacy format, 1001 is read");
        const Pickle system = VITRINE_TRY(next());
        const Value* const little = entry_named(system, "little_endian");
        if (little == nullptr || little->kind != Kind::Bool)
            return fail(ErrorCode::BadInput, "the file does not say its byte order");
        if (little->integer == 0)
            return fail(ErrorCode::Unsupported, "the file's byte order is big, only little is read");
    }
    const Pickle pickle = VITRINE_TRY(next());
    const Pickle keys = VITRINE_TRY(next());
    if (keys[keys.root].kind != Kind::List) return fail(ErrorCode::BadInput, "the file has no list of its storages");

    // The element size of a storage is said only where a tensor asks for it.
    std::unordered_map<std::string_view, DType> dtypes;
    for (const pickle::StorageRecord& record : pickle.storages) {
        const auto [found, fresh] = dtypes.emplace(record.key, record.dtype);
        if (!fresh && size_of(found->second) != size_of(record.dtype))
            return fail(ErrorCode::BadInput, "storage {} is asked for with elements of two sizes",
                        bytes::printable(record.key));
    }
    std::unordered_map<std::string_view, Storage> storages;
    for (const Ref ref : keys[keys.root].items) {
        const Value& key = keys[ref];
        const auto dtype = key.kind == Kind::Text ? dtypes.find(key.text) : dtypes.end();
        if (dtype == dtypes.end()) return fail(ErrorCode::BadInput, "the file lists a storage that nothing asks for");
        if (!bytes::fits(at, 8, bytes.size()))
            return fail(ErrorCode::BadInput, "the file ends before storage {}, so it is cut short",
                        bytes::printable(key.text));
        const auto count = bytes::little<std::uint64_t>(&bytes[at]);
        at += 8;
        const auto length = bytes::multiply(count, size_of(dtype->second));
        if (!length || !bytes::fits(at, *length, bytes.size()))
            return fail(
                ErrorCode::BadInput,
                "storage {} claims {} elements of {}, the file has {} bytes left, so it is cut short or damaged",
                bytes::printable(key.text), count, name_of(dtype->second), bytes.size() - at);
        bytes::Held held = bytes::aligned(bytes.subspan(at, *length), size_of(dtype->second), keep_alive);
        at += *length;
        if (!storages.emplace(key.text, Storage{{held.data, *length}, std::move(held.keep_alive)}).second)
            return fail(ErrorCode::BadInput, "the file lists storage {} twice", bytes::printable(key.text));
    }
    const auto storage_of = [&](const pickle::StorageRecord& record) -> Result<Storage> {
        const auto found = storages.find(record.key);
        if (found == storages.end())
            return fail(ErrorCode::BadInput, "the file has no storage {}", bytes::printable(record.key));
        if (found->second.bytes.size() < bytes_of(record))
            return fail(ErrorCode::BadInput, "storage {} has {} bytes, {} elements of {} are wanted",
                        bytes::printable(record.key), found->second.bytes.size(), record.count, name_of(record.dtype));
        return found->second;
    };
    TensorFile out;
    out.format = "torch.save legacy";
    VITRINE_CHECK(Collector(pickle, bytes.size(), storage_of, out).collect());
    return out;
}

// A model of ONNX is a protobuf message: field 1 is its version, field 7 its graph.
bool is_onnx(std::span<const std::byte> bytes) {
    std::uint64_t at = 0;
    const auto varint = [&](std::uint64_t& value) {
        value = 0;
        for (int shift = 0; shift < 64 && at < bytes.size(); shift += 7) {
            const auto byte = std::to_integer<std::uint64_t>(bytes[at++]);
            value |= (byte & 0x7F) << shift;
            if ((byte & 0x80) == 0) return true;
        }
        return false;
    };
    bool version = false;
    for (int fields = 0; fields < 64 && at < bytes.size(); ++fields) {
        std::uint64_t tag = 0, value = 0;
        if (!varint(tag)) return false;
        const std::uint64_t field = tag >> 3;
        if (field == 0 || field > 100) return false;
        switch (tag & 7) {
            case 0:
                if (!varint(value)) return false;
                if (field == 1) version = value > 0 && value < 1000;
                break;
            case 2:
                if (!varint(value)) return false;
                if (field == 7) return version;
                if (!bytes::fits(at, value, bytes.size())) return false;
                at += value;
                break;
            default:
                return false;
        }
    }
    return false;
}

bool is_image(std::string_view head) {
    const auto starts = [&](std::string_view magic) { return head.starts_with(magic); };
    return starts("\xFF\xD8\xFF") || starts("\x89PNG\r\n\x1A\n") || starts("GIF87a") || starts("GIF89a") ||
           starts("BM") || starts(std::string_view("II*\0", 4)) || starts(std::string_view("MM\0*", 4)) ||
           starts(std::string_view("II+\0", 4)) || starts(std::string_view("MM\0+", 4)) ||
           (starts("RIFF") && head.substr(0, 12).ends_with("WEBP")) ||
           (head.size() > 2 && head[0] == 'P' && head[1] >= '1' && head[1] <= '7' &&
            (head[2] == '\n' || head[2] == ' ' || head[2] == '\r' || head[2] == '\t' || head[2] == '#'));
}

}  // namespace

Result<TensorFile> parse_torch_save(std::span<const std::byte> bytes, std::shared_ptr<const void> keep_alive) {
    if (is_zip(bytes)) return parse_zip(bytes, keep_alive);
    if (bytes.size() >= 2 && bytes[0] == std::byte{0x80} && std::to_integer<int>(bytes[1]) <= 5)
        return parse_legacy(bytes, keep_alive);
    if (bytes.empty()) return fail(ErrorCode::BadInput, "the file is empty");
    return fail(ErrorCode::BadInput, "this is no file of torch.save: it begins with neither a zip nor a pickle");
}

Result<TensorFile> read_torch_save(const std::filesystem::path& file) {
    MappedFile mapped = VITRINE_TRY(map_file(file));
    return parse_torch_save(mapped.bytes, std::move(mapped.keep_alive));
}

Result<FileKind> sniff(const std::filesystem::path& file) {
    const MappedFile mapped = VITRINE_TRY(map_file(file));
    const std::span<const std::byte> bytes = mapped.bytes;
    if (is_zip(bytes)) {
        const auto zip = open_zip(bytes);
        // A damaged archive goes to the reader that can say what is wrong with it.
        if (!zip) return FileKind::TorchSaveZip;
        if (is_torchscript(*zip)) return FileKind::TorchScript;
        return zip->find(std::string(top_folder(*zip)) + "/data.pkl") != nullptr ? FileKind::TorchSaveZip
                                                                                 : FileKind::Unknown;
    }
    const std::string_view head = bytes::text(bytes.first(std::min<std::size_t>(bytes.size(), 4096)));
    // Before pickles and pictures: a header of 128 bytes begins as a pickle does, one of 19,778 as a BMP, and neither
    // of those can have a plausible length here and a brace behind it.
    if (head.size() >= 9 && head[8] == '{' && bytes::little<std::uint64_t>(bytes.data()) <= 100'000'000)
        return FileKind::Safetensors;
    if (head.size() >= 2 && head[0] == '\x80' && static_cast<unsigned char>(head[1]) <= 5)
        return FileKind::TorchSaveLegacy;
    if (is_image(head)) return FileKind::Image;
    const std::size_t first = head.find_first_not_of(" \t\r\n");
    if (first != std::string_view::npos && (head[first] == '{' || head[first] == '[')) return FileKind::Json;
    return is_onnx(bytes) ? FileKind::Onnx : FileKind::Unknown;
}

Status check_torchscript_container(const std::filesystem::path& file) {
    // libtorch allocates what a member claims before it unpacks, so the claims are bounded here. Code compresses well,
    // but 200 times and 256 MB are far beyond what models of any size carry.
    constexpr std::uint64_t kMaxUnpacked = 256u << 20, kMaxRatio = 200, kMaxTotal = std::uint64_t{1} << 30;
    const MappedFile mapped = VITRINE_TRY(map_file(file));
    if (!is_zip(mapped.bytes))
        return fail(ErrorCode::BadInput, "this is no TorchScript archive: it does not begin with a zip");
    const Zip zip = VITRINE_TRY(open_zip(mapped.bytes));
    const std::string folder(top_folder(zip));
    std::uint64_t total = 0;
    for (const ZipMember& member : zip.members) {
        const std::string name = bytes::printable(member.name);
        if (!member.name.starts_with(folder + "/"))
            return fail(ErrorCode::BadInput, "the archive's member {} lies outside its folder {}", name,
                        bytes::printable(folder));
        if (member.stored()) continue;
        if (member.method != 8)
            return fail(ErrorCode::BadInput,
                        "the archive's member {} is packed by method {}, which libtorch does not know", name,
                        member.method);
        if (member.size > kMaxUnpacked || member.size > kMaxRatio * std::max<std::uint64_t>(member.data.size(), 64))
            return fail(ErrorCode::BadInput,
                        "the archive's member {} claims to unpack {} bytes into {}, which no model needs", name,
                        member.data.size(), member.size);
        total += member.size;
        if (total > kMaxTotal)
            return fail(ErrorCode::BadInput, "the archive claims to unpack into more than {} bytes", kMaxTotal);
    }
    for (const char* const needed : {"/constants.pkl", "/data.pkl"}) {
        if (zip.find(folder + needed) == nullptr)
            return fail(ErrorCode::BadInput, "the archive has no {}, so it is no TorchScript archive", needed + 1);
    }
    // libtorch looks for ".data/version" first, as caffe2/serialize/inline_container.cc does: large programs are
    // written so.
    const ZipMember* version = zip.find(folder + "/.data/version");
    if (version == nullptr) version = zip.find(folder + "/version");
    if (version == nullptr)
        return fail(ErrorCode::BadInput, "the archive has no version, so it is no TorchScript archive");
    if (version->size > 64)
        return fail(ErrorCode::BadInput, "the archive's version takes {} bytes, a number is wanted", version->size);
    return {};
}

}  // namespace vitrine
