// Safetensors: reading one file or a sharded set without trusting a number in it, and writing.
#include <algorithm>
#include <limits>
#include <optional>
#include <unordered_set>

#include <vitrine/base/bytes.h>
#include <vitrine/base/file.h>
#include <vitrine/base/readers.h>

#include <nlohmann/json.hpp>

namespace vitrine {
namespace {

constexpr std::uint64_t kMaxHeader = 100'000'000;  // as the reference implementation
constexpr std::size_t kMaxRank = 64;               // as c10's and NumPy's
constexpr std::size_t kMaxTensors = 500'000;       // the largest models have a tenth of it
constexpr std::size_t kMaxShards = 10'000;

std::optional<DType> dtype_named(std::string_view name) {
    static constexpr DType kWritten[] = {DType::Bool, DType::U8,     DType::I8,     DType::I16, DType::U16,  DType::I32,
                                         DType::U32,  DType::I64,    DType::U64,    DType::F16, DType::BF16, DType::F32,
                                         DType::F64,  DType::F8E4M3, DType::F8E5M2, DType::C64};
    for (const DType dtype : kWritten) {
        if (name_of(dtype) == name) return dtype;
    }
    return std::nullopt;
}

struct HeaderTensor {
    std::string name;
    std::string dtype;
    std::vector<std::uint64_t> shape;
    std::vector<std::uint64_t> offsets;
    bool has_dtype = false, has_shape = false, has_offsets = false;
};

// Takes the header in while it is parsed. A tree of it would let 100 MB of brackets become gigabytes, and would hide
// doubled keys.
class HeaderReader : public nlohmann::json::json_sax_t {
  public:
    std::vector<HeaderTensor> tensors;
    std::map<std::string, std::string> metadata;
    std::string problem;

    bool null() override { return scalar("null"); }
    bool boolean(bool) override { return scalar("a truth value"); }
    bool number_integer(number_integer_t) override {
        return where_ == Where::List ? refuse("a negative number in " + place()) : scalar("a number");
    }
    bool number_unsigned(number_unsigned_t value) override {
        if (where_ != Where::List) return scalar("a number");
        auto& list = field_ == "shape" ? tensors.back().shape : tensors.back().offsets;
        if (list.size() >= kMaxRank) return refuse("more than 64 numbers in " + place());
        list.push_back(value);
        return true;
    }
    bool number_float(number_float_t, const string_t&) override {
        return where_ == Where::List ? refuse("a number that is no whole number of 64 bits in " + place())
                                     : scalar("a number");
    }
    bool string(string_t& value) override {
        if (where_ == Where::Metadata) {
            metadata.emplace(metadata_key_, std::move(value));
            return true;
        }
        if (where_ == Where::Tensor && field_ == "dtype") {
            tensors.back().dtype = std::move(value);
            tensors.back().has_dtype = true;
            return true;
        }
        return scalar("a text");
    }
    bool binary(binary_t&) override { return refuse("binary data"); }
    bool start_object(std::size_t) override {
        switch (where_) {
            case Where::Outside:
                where_ = Where::Top;
                return true;
            case Where::Top:
                where_ = top_key_ == "__metadata__" ? Where::Metadata : Where::Tensor;
                return true;
            default:
                return refuse("an object inside " + place());
        }
    }
    bool key(string_t& key) override {
        switch (where_) {
            case Where::Top:
                if (!names_.insert(key).second) return refuse("the name " + bytes::printable(key) + " twice");
                top_key_ = key;
                if (key != "__metadata__") {
                    tensors.emplace_back();
                    tensors.back().name = std::move(key);
                }
                return true;
            case Where::Metadata:
                if (metadata.contains(key)) return refuse("the metadata key " + bytes::printable(key) + " twice");
                metadata_key_ = std::move(key);
                return true;
            default: {
                HeaderTensor& tensor = tensors.back();
                const bool twice = (key == "dtype" && tensor.has_dtype) || (key == "shape" && tensor.has_shape) ||
                                   (key == "data_offsets" && tensor.has_offsets);
                field_ = std::move(key);
                return twice ? refuse(place() + " twice") : true;
            }
        }
    }
    bool end_object() override {
        if (where_ == Where::Tensor) {
            // Here and not at the end, so that a header of empty entries costs no memory.
            const HeaderTensor& tensor = tensors.back();
            const char* const lacking = !tensor.has_dtype     ? "dtype"
                                        : !tensor.has_shape   ? "shape"
                                        : !tensor.has_offsets ? "data_offsets"
                                                              : nullptr;
            if (lacking != nullptr) return refuse(bytes::printable(top_key_) + " without its " + lacking);
            if (tensors.size() > kMaxTensors) return refuse(fmt::format("more than {} tensors", kMaxTensors));
        }
        where_ = where_ == Where::Top ? Where::Done : Where::Top;
        return true;
    }
    bool start_array(std::size_t) override {
        if (where_ != Where::Tensor) return refuse("a list instead of " + place());
        if (field_ == "shape") {
            tensors.back().has_shape = true;
        } else if (field_ == "data_offsets") {
            tensors.back().has_offsets = true;
        } else {
            return refuse("a list in " + place());
        }
        where_ = Where::List;
        return true;
    }
    bool end_array() override {
        where_ = Where::Tensor;
        return true;
    }
    bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
        problem = fmt::format("is no JSON at byte {}", position);
        return false;
    }

  private:
    enum class Where { Outside, Top, Metadata, Tensor, List, Done };

    std::string place() const {
        if (where_ == Where::Outside || where_ == Where::Done) return "the object of tensors";
        if (where_ == Where::Top || where_ == Where::Metadata) return "the entry " + bytes::printable(top_key_);
        return bytes::printable(field_) + " of " + bytes::printable(top_key_);
    }
    bool refuse(const std::string& found) {
        problem = "holds " + found;
        return false;
    }
    // A field the format does not know is passed over, as the reference does; a known one must have its own type.
    bool scalar(const char* found) {
        if (where_ == Where::Tensor && field_ != "dtype" && field_ != "shape" && field_ != "data_offsets") return true;
        return refuse(std::string(found) + " as " + place());
    }

    Where where_ = Where::Outside;
    std::string top_key_, field_, metadata_key_;
    std::unordered_set<std::string> names_;
};

// True when brackets nest at most `limit` deep; so a parsed tree cannot be deeper.
bool nests_at_most(std::string_view json, int limit) {
    int depth = 0;
    bool quoted = false;
    for (std::size_t i = 0; i < json.size(); ++i) {
        const char c = json[i];
        if (quoted) {
            if (c == '\\') ++i;
            if (c == '"') quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '[' || c == '{') {
            if (++depth > limit) return false;
        } else if (c == ']' || c == '}') {
            --depth;
        }
    }
    return true;
}

std::string join(std::span<const std::int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace

Result<TensorFile> parse_safetensors(std::span<const std::byte> bytes, std::shared_ptr<const void> keep_alive) {
    if (bytes.size() < 8)
        return fail(ErrorCode::BadInput,
                    "the file has {} bytes, a safetensors file begins with 8 for its header's length", bytes.size());
    const auto length = bytes::little<std::uint64_t>(bytes.data());
    if (length > kMaxHeader)
        return fail(ErrorCode::BadInput, "the header claims {} bytes, at most {} are read", length, kMaxHeader);
    if (length > bytes.size() - 8)
        return fail(ErrorCode::BadInput, "the header claims {} bytes, the file has {} behind its first 8", length,
                    bytes.size() - 8);
    const std::string_view header = bytes::text(bytes.subspan(8, length));
    if (header.empty() || header.front() != '{')
        return fail(ErrorCode::BadInput, "the header does not begin with '{{', so this is no safetensors file");

    HeaderReader reader;
    if (!nlohmann::json::sax_parse(header, &reader)) return fail(ErrorCode::BadInput, "the header {}", reader.problem);

    const std::span<const std::byte> data = bytes.subspan(8 + length);
    struct Range {
        std::uint64_t begin, end;
        const std::string* name;
    };
    std::vector<Range> ranges;
    ranges.reserve(reader.tensors.size());
    TensorFile file;
    file.format = "safetensors";
    file.metadata = std::move(reader.metadata);
    for (const HeaderTensor& tensor : reader.tensors) {
        const std::string name = bytes::printable(tensor.name);
        const std::optional<DType> dtype = dtype_named(tensor.dtype);
        if (!dtype)
            return fail(ErrorCode::BadInput, "{} has the unknown dtype {}", name, bytes::printable(tensor.dtype));
        if (tensor.offsets.size() != 2)
            return fail(ErrorCode::BadInput, "{} has {} data offsets, 2 are wanted", name, tensor.offsets.size());
        const std::uint64_t begin = tensor.offsets[0], end = tensor.offsets[1];
        if (begin > end) return fail(ErrorCode::BadInput, "{} runs backwards from byte {} to {}", name, begin, end);
        if (end > data.size())
            return fail(ErrorCode::BadInput, "{} ends at byte {} of {}, so the file is cut short or damaged", name, end,
                        data.size());
        TensorEntry entry;
        entry.dtype = *dtype;
        std::optional<std::uint64_t> size = size_of(*dtype);
        bool none = false;
        for (const std::uint64_t extent : tensor.shape) none = none || extent == 0;
        for (const std::uint64_t extent : tensor.shape) {
            if (extent > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
                return fail(ErrorCode::BadInput, "{} has an extent of {}", name, extent);
            // An empty tensor is held to the same: its other extents must be countable.
            size = size ? bytes::multiply(*size, std::max<std::uint64_t>(extent, 1)) : size;
            entry.shape.push_back(static_cast<std::int64_t>(extent));
        }
        if (!size || *size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
            return fail(ErrorCode::BadInput, "{} has the shape {}, too large to count", name, join(entry.shape));
        if (none) size = 0;
        if (*size != end - begin)
            return fail(ErrorCode::BadInput, "{} is {} of {} and needs {} bytes, its offsets give {}", name,
                        join(entry.shape), name_of(*dtype), *size, end - begin);
        entry.strides.resize(entry.shape.size());
        std::int64_t stride = 1;
        for (std::size_t i = entry.shape.size(); i-- > 0;) {
            entry.strides[i] = stride;
            stride *= std::max<std::int64_t>(entry.shape[i], 1);
        }
        entry.data = data.data() + begin;
        entry.keep_alive = keep_alive;
        ranges.push_back({begin, end, &tensor.name});
        file.tensors.emplace(tensor.name, std::move(entry));
    }
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
    std::uint64_t expected = 0;
    for (const Range& range : ranges) {
        if (range.begin < expected)
            return fail(ErrorCode::BadInput, "{} overlaps another tensor at byte {}", bytes::printable(*range.name),
                        range.begin);
        if (range.begin > expected)
            return fail(ErrorCode::BadInput, "there is a hole of {} bytes before {}", range.begin - expected,
                        bytes::printable(*range.name));
        expected = range.end;
    }
    if (expected != data.size())
        return fail(ErrorCode::BadInput, "{} bytes follow the last tensor, none belong there", data.size() - expected);
    // Only now, with overlaps ruled out, are copies bounded by the size of the file.
    for (auto& [name, entry] : file.tensors) {
        const std::span<const std::byte> span(entry.data,
                                              static_cast<std::size_t>(entry.count()) * size_of(entry.dtype));
        bytes::Held held = bytes::aligned(span, size_of(entry.dtype), keep_alive);
        entry.data = held.data;
        entry.keep_alive = std::move(held.keep_alive);
    }
    return file;
}

Result<TensorFile> read_safetensors(const std::filesystem::path& file) {
    MappedFile mapped = VITRINE_TRY(map_file(file));
    return parse_safetensors(mapped.bytes, std::move(mapped.keep_alive));
}

Result<TensorFile> read_sharded_safetensors(const std::filesystem::path& index) {
    const std::string text = VITRINE_TRY(read_text(index, 32u << 20));
    if (!nests_at_most(text, 16)) return fail(ErrorCode::BadInput, "the index nests deeper than 16 brackets");
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    if (json.is_discarded() || !json.is_object()) return fail(ErrorCode::BadInput, "the index is no JSON object");
    const auto map = json.find("weight_map");
    if (map == json.end() || !map->is_object())
        return fail(ErrorCode::BadInput, "the index has no object \"weight_map\"");

    std::map<std::string, std::vector<std::string>> shards;
    for (const auto& [tensor, shard] : map->items()) {
        if (!shard.is_string())
            return fail(ErrorCode::BadInput, "the index names no file for {}", bytes::printable(tensor));
        const auto& name = shard.get_ref<const std::string&>();
        if (!stays_inside(name))
            return fail(ErrorCode::BadInput, "the index names the shard {}, which leaves its folder",
                        bytes::printable(name));
        shards[name].push_back(tensor);
        if (shards.size() > kMaxShards)
            return fail(ErrorCode::BadInput, "the index names more than {} shards", kMaxShards);
    }
    TensorFile all;
    if (const auto metadata = json.find("metadata"); metadata != json.end() && metadata->is_object()) {
        for (const auto& [key, value] : metadata->items()) {
            if (value.is_primitive()) all.metadata[key] = value.is_string() ? value.get<std::string>() : value.dump();
        }
    }
    for (const auto& [name, tensors] : shards) {
        auto shard = read_safetensors(index.parent_path() / name);
        if (!shard)
            return tl::make_unexpected(std::move(shard).error().with_context("shard " + bytes::printable(name)));
        for (const std::string& tensor : tensors) {
            const auto found = shard->tensors.find(tensor);
            if (found == shard->tensors.end())
                return fail(ErrorCode::BadInput, "the index says that {} holds {}, it does not", bytes::printable(name),
                            bytes::printable(tensor));
            all.tensors.emplace(tensor, std::move(found->second));
        }
        for (auto& [key, value] : shard->metadata) all.metadata.emplace(key, value);
    }
    all.format = fmt::format("safetensors ({} shard{})", shards.size(), shards.size() == 1 ? "" : "s");
    return all;
}

Status write_safetensors(const std::filesystem::path& file, std::span<const NamedTensor> tensors,
                         const std::map<std::string, std::string>& metadata) {
    // The widest elements come first, so that every tensor starts at a multiple of its element's size.
    std::vector<std::size_t> order(tensors.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return size_of(tensors[a].tensor.dtype) > size_of(tensors[b].tensor.dtype);
    });

    std::vector<std::uint64_t> sizes(tensors.size()), begins(tensors.size());
    std::unordered_set<std::string_view> names;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const auto& [name, tensor] = tensors[i];
        if (name == "__metadata__") return fail(ErrorCode::BadInput, "a tensor cannot be called __metadata__");
        if (!names.insert(name).second)
            return fail(ErrorCode::BadInput, "two tensors are called {}", bytes::printable(name));
        if (!dtype_named(name_of(tensor.dtype)))
            return fail(ErrorCode::Unsupported, "{} is {}, which safetensors cannot hold", bytes::printable(name),
                        name_of(tensor.dtype));
        if (tensor.shape.size() != tensor.strides.size() || !tensor.contiguous())
            return fail(ErrorCode::BadInput, "{} is not contiguous", bytes::printable(name));
        sizes[i] = static_cast<std::uint64_t>(tensor.count()) * size_of(tensor.dtype);
        if (sizes[i] > 0 && tensor.data == nullptr)
            return fail(ErrorCode::BadInput, "{} has no data", bytes::printable(name));
    }
    std::uint64_t at = 0;
    for (const std::size_t i : order) {
        begins[i] = at;
        at += sizes[i];
    }
    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    // push_back of a pair would search for the key every time; thousands of tensors deserve better.
    auto& object = header.get_ref<nlohmann::ordered_json::object_t&>();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        nlohmann::ordered_json entry;
        entry["dtype"] = name_of(tensors[i].tensor.dtype);
        entry["shape"] = tensors[i].tensor.shape;
        entry["data_offsets"] = {begins[i], begins[i] + sizes[i]};
        object.emplace_back(tensors[i].name, std::move(entry));
    }
    std::string text;
    try {
        text = header.dump();
    } catch (const nlohmann::json::exception&) {
        return fail(ErrorCode::BadInput, "a name or a metadata value is no valid UTF-8");
    }
    text.append((8 - text.size() % 8) % 8, ' ');
    if (text.size() > kMaxHeader)
        return fail(ErrorCode::BadInput, "the header would take {} bytes, at most {} are allowed", text.size(),
                    kMaxHeader);

    FileBeside out = VITRINE_TRY(FileBeside::create(file));
    std::byte length[8];
    for (int i = 0; i < 8; ++i) length[i] = static_cast<std::byte>(text.size() >> (8 * i));
    VITRINE_CHECK(out.append(length));
    VITRINE_CHECK(out.append(text));
    for (const std::size_t i : order) {
        if (sizes[i] > 0) VITRINE_CHECK(out.append(std::span(tensors[i].tensor.data, sizes[i])));
    }
    return out.commit();
}

}  // namespace vitrine
