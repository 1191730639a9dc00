// The restricted unpickler: a stack machine over plain values, with every global spelt out.
#include <vitrine/base/pickle.h>

#include <charconv>
#include <limits>
#include <optional>
#include <unordered_map>

#include <vitrine/base/bytes.h>

namespace vitrine::pickle {
namespace {

constexpr std::size_t kMaxBytes = 256u << 20;
constexpr std::size_t kMaxValues = 4'000'000;
constexpr std::size_t kMaxCopied =
    16'000'000;  // items copied by calls such as OrderedDict(list): a pickle can ask often for little
constexpr std::size_t kMaxRank = 64;

enum Callable : std::uint8_t {
    kRebuildTensor,
    kRebuildTensorV2,
    kRebuildTensorV3,
    kRebuildParameter,
    kRebuildFromType,
    kTensorClass,
    kStorageClass,
    kOrderedDict,
    kDefaultDict,
    kDict,
    kNamespace,
    kSequence,  // list, tuple, torch.Size
    kSet,       // set, frozenset
    kDevice,
    kEncode,
    kByteArray,
    kComplex,
    kPlainType,  // int, float, str, bool: seen as the factory of a defaultdict, never called
    kNumpyScalar,
    kNumpyDType,
};

struct Known {
    Kind kind = Kind::Global;
    Callable callable = kPlainType;
    DType dtype = DType::U8;
};

std::optional<DType> storage_class(std::string_view name) {
    static const std::unordered_map<std::string_view, DType> kClasses = {
        {"DoubleStorage", DType::F64},    {"FloatStorage", DType::F32},        {"HalfStorage", DType::F16},
        {"BFloat16Storage", DType::BF16}, {"LongStorage", DType::I64},         {"IntStorage", DType::I32},
        {"ShortStorage", DType::I16},     {"CharStorage", DType::I8},          {"ByteStorage", DType::U8},
        {"BoolStorage", DType::Bool},     {"ComplexFloatStorage", DType::C64}, {"ComplexDoubleStorage", DType::C128},
        {"QInt8Storage", DType::QI8},     {"QUInt8Storage", DType::QU8},       {"QInt32Storage", DType::QI32},
        {"UntypedStorage", DType::U8},    {"_UntypedStorage", DType::U8},
    };
    const auto found = kClasses.find(name);
    return found == kClasses.end() ? std::nullopt : std::optional(found->second);
}

std::optional<DType> torch_dtype(std::string_view name) {
    static const std::unordered_map<std::string_view, DType> kNames = {
        {"float64", DType::F64},        {"double", DType::F64},    {"float32", DType::F32},
        {"float", DType::F32},          {"float16", DType::F16},   {"half", DType::F16},
        {"bfloat16", DType::BF16},      {"int64", DType::I64},     {"long", DType::I64},
        {"int32", DType::I32},          {"int", DType::I32},       {"int16", DType::I16},
        {"short", DType::I16},          {"int8", DType::I8},       {"uint8", DType::U8},
        {"uint16", DType::U16},         {"uint32", DType::U32},    {"uint64", DType::U64},
        {"bool", DType::Bool},          {"complex64", DType::C64}, {"cfloat", DType::C64},
        {"complex128", DType::C128},    {"cdouble", DType::C128},  {"float8_e4m3fn", DType::F8E4M3},
        {"float8_e5m2", DType::F8E5M2}, {"qint8", DType::QI8},     {"quint8", DType::QU8},
        {"qint32", DType::QI32},
    };
    const auto found = kNames.find(name);
    return found == kNames.end() ? std::nullopt : std::optional(found->second);
}

std::optional<Known> known(std::string_view module, std::string_view name) {
    const auto is = [&](std::string_view m, std::string_view n) { return module == m && name == n; };
    const auto call = [](Callable callable) { return Known{Kind::Global, callable, DType::U8}; };
    if (module == "torch._utils") {
        if (name == "_rebuild_tensor") return call(kRebuildTensor);
        if (name == "_rebuild_tensor_v2") return call(kRebuildTensorV2);
        if (name == "_rebuild_tensor_v3") return call(kRebuildTensorV3);
        if (name == "_rebuild_parameter" || name == "_rebuild_parameter_with_state") return call(kRebuildParameter);
        return std::nullopt;
    }
    if (module == "torch" || module == "torch.cuda" || module == "torch.storage") {
        if (const auto dtype = storage_class(name)) return Known{Kind::Global, kStorageClass, *dtype};
        if (is("torch.storage", "TypedStorage") || is("torch.storage", "_TypedStorage")) return call(kPlainType);
    }
    if (module == "torch") {
        if (const auto dtype = torch_dtype(name)) return Known{Kind::TorchDType, kPlainType, *dtype};
        if (name == "Size") return call(kSequence);
        if (name == "device") return call(kDevice);
        if (name == "Tensor") return call(kTensorClass);
        return std::nullopt;
    }
    if (is("torch._tensor", "_rebuild_from_type_v2") || is("torch._tensor", "_rebuild_from_type"))
        return call(kRebuildFromType);
    if (is("torch._tensor", "Tensor") || is("torch.nn.parameter", "Parameter") || is("torch.nn.parameter", "Buffer"))
        return call(kTensorClass);
    if (module == "collections") {
        if (name == "OrderedDict") return call(kOrderedDict);
        if (name == "defaultdict") return call(kDefaultDict);
        if (name == "Counter") return call(kDict);
        return std::nullopt;
    }
    if (module == "builtins" || module == "__builtin__") {
        if (name == "dict") return call(kDict);
        if (name == "list" || name == "tuple") return call(kSequence);
        if (name == "set" || name == "frozenset") return call(kSet);
        if (name == "bytearray") return call(kByteArray);
        if (name == "complex") return call(kComplex);
        if (name == "int" || name == "float" || name == "str" || name == "bool" || name == "long" || name == "unicode")
            return call(kPlainType);
        return std::nullopt;
    }
    // The second is a dataclass of plain values, which ViT-Prisma keeps beside its autoencoders.
    if (is("argparse", "Namespace") || is("vit_prisma.sae.config", "VisionModelSAERunnerConfig"))
        return call(kNamespace);
    if (is("_codecs", "encode")) return call(kEncode);
    if (is("numpy.core.multiarray", "scalar") || is("numpy._core.multiarray", "scalar")) return call(kNumpyScalar);
    if (is("numpy", "dtype")) return call(kNumpyDType);
    return std::nullopt;
}

class Machine {
  public:
    explicit Machine(std::span<const std::byte> bytes) : bytes_(bytes) {
        // The values most often meant: shared, so that a pickle of them alone costs nothing.
        make(Kind::None);
        make(Kind::Bool);
        make(Kind::Bool).integer = 1;
    }

    Result<Pickle> run() {
        if (bytes_.size() > kMaxBytes) bytes_ = bytes_.first(kMaxBytes);
        while (true) {
            if (at_ >= bytes_.size())
                return fail(ErrorCode::BadInput,
                            "the pickle ends at byte {} without its stop sign, so the file is cut short or damaged",
                            at_);
            const auto opcode = std::to_integer<std::uint8_t>(bytes_[at_++]);
            if (opcode == '.') break;
            VITRINE_CHECK(step(opcode));
            if (out_.values.size() > kMaxValues)
                return fail(ErrorCode::BadInput, "the pickle makes more than {} values", kMaxValues);
        }
        out_.root = VITRINE_TRY(pop());
        out_.end = at_;
        return std::move(out_);
    }

  private:
    static constexpr Ref kNone = 0, kFalse = 1, kTrue = 2;

    Value& make(Kind kind) {
        out_.values.emplace_back();
        out_.values.back().kind = kind;
        return out_.values.back();
    }
    Ref last() const { return static_cast<Ref>(out_.values.size() - 1); }
    Value& value(Ref ref) { return out_.values[ref]; }

    Status push(Ref ref) {
        stack_.push_back(ref);
        return {};
    }
    Status push_new() { return push(last()); }
    Status push_int(std::int64_t integer) {
        make(Kind::Int).integer = integer;
        return push_new();
    }
    Status push_text(Kind kind, std::string_view text) {
        make(kind).text = text;
        return push_new();
    }
    Status push_owned(Kind kind, std::string text) {
        out_.texts.push_back(std::move(text));
        return push_text(kind, out_.texts.back());
    }

    tl::unexpected<Error> damaged(std::string_view what) const {
        return fail(ErrorCode::BadInput, "the pickle is damaged near byte {}: {}", at_, what);
    }

    // What may be popped: nothing below the last mark.
    std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
    Result<Ref> pop() {
        if (stack_.size() <= floor()) return damaged("a value is missing");
        const Ref ref = stack_.back();
        stack_.pop_back();
        return ref;
    }
    Result<Ref> top() const {
        if (stack_.size() <= floor()) return damaged("a value is missing");
        return stack_.back();
    }
    Result<std::vector<Ref>> pop_to_mark() {
        if (marks_.empty()) return damaged("a mark is missing");
        const auto from = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
        std::vector<Ref> items(from, stack_.end());
        stack_.erase(from, stack_.end());
        marks_.pop_back();
        return items;
    }

    Result<std::span<const std::byte>> take(std::uint64_t length) {
        if (length > bytes_.size() - at_)
            return damaged(fmt::format("{} bytes are announced, {} are left", length, bytes_.size() - at_));
        const auto span = bytes_.subspan(at_, static_cast<std::size_t>(length));
        at_ += static_cast<std::size_t>(length);
        return span;
    }
    template <class T>
    Result<T> number() {
        return bytes::little<T>(VITRINE_TRY(take(sizeof(T))).data());
    }
    Result<std::string_view> line() {
        const std::string_view rest = bytes::text(bytes_.subspan(at_));
        const std::size_t end = rest.find('\n');
        if (end == std::string_view::npos) return damaged("a line does not end");
        at_ += end + 1;
        return rest.substr(0, end);
    }
    template <class Length>
    Status sized(Kind kind) {
        const auto length = VITRINE_TRY(number<Length>());
        return push_text(kind, bytes::text(VITRINE_TRY(take(length))));
    }
    Status sized_signed(Kind kind) {
        const auto length = static_cast<std::int32_t>(VITRINE_TRY(number<std::uint32_t>()));
        if (length < 0) return damaged("a length below zero");
        return push_text(kind, bytes::text(VITRINE_TRY(take(static_cast<std::uint64_t>(length)))));
    }
    Status push_long(std::string_view digits) {
        if (digits.size() > 8) return push_text(Kind::BigInt, digits);
        std::uint64_t bits = 0;
        for (std::size_t i = 0; i < digits.size(); ++i)
            bits |= static_cast<std::uint64_t>(static_cast<unsigned char>(digits[i])) << (8 * i);
        if (!digits.empty() && digits.size() < 8 && (static_cast<unsigned char>(digits.back()) & 0x80))
            bits |= ~std::uint64_t{0} << (8 * digits.size());
        return push_int(static_cast<std::int64_t>(bits));
    }
    Status push_decimal(std::string_view text) {
        if (text.ends_with('L')) text.remove_suffix(1);
        if (text.starts_with('+')) text.remove_prefix(1);
        std::int64_t integer = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), integer);
        if (error != std::errc{} || end != text.data() + text.size())
            return damaged("a whole number of 64 bits is wanted");
        return push_int(integer);
    }
    Status push_float(double real) {
        make(Kind::Float).real = real;
        return push_new();
    }

    // Python 2's and protocol 0's quoted strings.
    Status push_quoted(std::string_view text) {
        while (!text.empty() && (text.back() == '\r' || text.back() == ' ')) text.remove_suffix(1);
        if (text.size() < 2 || text.front() != text.back() || (text.front() != '\'' && text.front() != '"'))
            return damaged("a string without its quotes");
        text = text.substr(1, text.size() - 2);
        std::string out;
        for (std::size_t i = 0; i < text.size(); ++i) {
            if (text[i] != '\\' || i + 1 >= text.size()) {
                out += text[i];
                continue;
            }
            const char c = text[++i];
            switch (c) {
                case 'n':
                    out += '\n';
                    break;
                case 't':
                    out += '\t';
                    break;
                case 'r':
                    out += '\r';
                    break;
                case 'x': {
                    unsigned code = 0;
                    if (i + 2 >= text.size() ||
                        std::from_chars(&text[i + 1], &text[i + 1] + 2, code, 16).ptr != &text[i + 1] + 2)
                        return damaged("a broken escape");
                    out += static_cast<char>(code);
                    i += 2;
                    break;
                }
                default:
                    out += c;
            }
        }
        return push_owned(Kind::Text, std::move(out));
    }
    // Protocol 0's unicode: \uXXXX and \UXXXXXXXX, all else Latin-1.
    Status push_raw_unicode(std::string_view text) {
        std::string out;
        for (std::size_t i = 0; i < text.size(); ++i) {
            std::uint32_t code = static_cast<unsigned char>(text[i]);
            if (text[i] == '\\' && i + 1 < text.size() && (text[i + 1] == 'u' || text[i + 1] == 'U')) {
                const std::size_t digits = text[i + 1] == 'u' ? 4 : 8;
                if (text.size() - i - 2 < digits) return damaged("a broken escape");
                const char* const from = text.data() + i + 2;
                if (std::from_chars(from, from + digits, code, 16).ptr != from + digits || code > 0x10FFFF)
                    return damaged("a broken escape");
                i += digits + 1;
            }
            if (code < 0x80) {
                out += static_cast<char>(code);
            } else if (code < 0x800) {
                out += static_cast<char>(0xC0 | (code >> 6));
                out += static_cast<char>(0x80 | (code & 0x3F));
            } else if (code < 0x10000) {
                out += static_cast<char>(0xE0 | (code >> 12));
                out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
                out += static_cast<char>(0x80 | (code & 0x3F));
            } else {
                out += static_cast<char>(0xF0 | (code >> 18));
                out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
                out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
                out += static_cast<char>(0x80 | (code & 0x3F));
            }
        }
        return push_owned(Kind::Text, std::move(out));
    }

    Status push_items(Kind kind, std::vector<Ref> items) {
        make(kind).items = std::move(items);
        return push_new();
    }
    Status push_tuple(std::size_t count) {
        if (stack_.size() - floor() < count) return damaged("a value is missing");
        std::vector<Ref> items(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
        stack_.resize(stack_.size() - count);
        return push_items(Kind::Tuple, std::move(items));
    }
    Status extend(Kind kind, std::span<const Ref> items) {
        const Ref target = VITRINE_TRY(top());
        if (kind == Kind::Dict && items.size() % 2 != 0) return damaged("a key without a value");
        if (value(target).kind != kind) return damaged("items for what holds none of the kind");
        auto& list = value(target).items;
        list.insert(list.end(), items.begin(), items.end());
        return {};
    }
    Status charge(std::size_t items) {
        copied_ += items;
        if (copied_ > kMaxCopied) return fail(ErrorCode::BadInput, "the pickle copies more than {} values", kMaxCopied);
        return {};
    }

    Status put(std::uint64_t key) {
        if (key > 0xFFFFFFFFu) return damaged("a memo number beyond 32 bits");
        memo_[static_cast<std::uint32_t>(key)] = VITRINE_TRY(top());
        return {};
    }
    Status get(std::uint64_t key) {
        const auto found = key > 0xFFFFFFFFu ? memo_.end() : memo_.find(static_cast<std::uint32_t>(key));
        if (found == memo_.end()) return damaged(fmt::format("memo {} is read before it is written", key));
        return push(found->second);
    }
    Result<std::uint64_t> line_number() {
        const std::string_view text = VITRINE_TRY(line());
        std::uint64_t key = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), key);
        if (error != std::errc{} || end != text.data() + text.size()) return damaged("a memo number is wanted");
        return key;
    }

    Status push_global(std::string_view module, std::string_view name) {
        if (module == "torch._utils" && name == "_rebuild_qtensor")
            return fail(ErrorCode::Unsupported,
                        "this file holds quantised tensors, which are not read; save the model before quantising it");
        const std::optional<Known> entry = known(module, name);
        if (!entry) {
            return fail(ErrorCode::Unsupported, "this file asks for {}.{}; only tensors and plain containers are read",
                        bytes::printable(module), bytes::printable(name));
        }
        Value& made = make(entry->kind);
        made.global = entry->callable;
        made.dtype = entry->dtype;
        // The name is kept for messages; module and name are not always neighbours in the bytes.
        made.text = name;
        return push_new();
    }

    Result<std::int64_t> integer(Ref ref, std::string_view what) {
        const Value& v = value(ref);
        if (v.kind != Kind::Int && v.kind != Kind::Bool) return damaged(fmt::format("{} is no whole number", what));
        return v.integer;
    }
    Result<std::vector<std::int64_t>> extents(Ref ref, std::string_view what) {
        if (value(ref).kind != Kind::Tuple && value(ref).kind != Kind::List)
            return damaged(fmt::format("{} is no tuple", what));
        const auto& items = value(ref).items;
        if (items.size() > kMaxRank)
            return damaged(fmt::format("{} has {} entries, at most {} are read", what, items.size(), kMaxRank));
        std::vector<std::int64_t> out;
        for (const Ref item : items) out.push_back(VITRINE_TRY(integer(item, what)));
        return out;
    }

    Status persistent() {
        const Ref id = VITRINE_TRY(pop());
        const Value& tuple = value(id);
        if (tuple.kind != Kind::Tuple || tuple.items.size() < 5 || tuple.items.size() > 6)
            return damaged("a persistent id that names no storage");
        const Value& tag = value(tuple.items[0]);
        if (tag.kind != Kind::Text || tag.text != "storage") return damaged("a persistent id that names no storage");
        const Value& type = value(tuple.items[1]);
        if (type.kind != Kind::Global || type.global != kStorageClass)
            return damaged("a storage without a storage class");
        const Value& key = value(tuple.items[2]);
        if (key.kind != Kind::Text) return damaged("a storage whose key is no text");
        const std::int64_t count = VITRINE_TRY(integer(tuple.items[4], "a storage's size"));
        if (count < 0) return damaged("a storage of negative size");
        StorageRecord record{
            type.dtype, key.text, static_cast<std::uint64_t>(count), 0, static_cast<std::uint64_t>(count), false};
        if (tuple.items.size() == 6 && value(tuple.items[5]).kind != Kind::None) {
            const Value& view = value(tuple.items[5]);
            if (view.kind != Kind::Tuple || view.items.size() != 3) return damaged("a storage view that is no triple");
            const std::int64_t offset = VITRINE_TRY(integer(view.items[1], "a view's offset"));
            const std::int64_t size = VITRINE_TRY(integer(view.items[2], "a view's size"));
            if (offset < 0 || size < 0 ||
                !bytes::fits(static_cast<std::uint64_t>(offset), static_cast<std::uint64_t>(size), record.count))
                return damaged("a storage view beyond its storage");
            record.view = true;
            record.view_offset = static_cast<std::uint64_t>(offset);
            record.view_count = static_cast<std::uint64_t>(size);
        }
        out_.storages.push_back(record);
        make(Kind::Storage).record = static_cast<std::uint32_t>(out_.storages.size() - 1);
        return push_new();
    }

    Result<Ref> tensor(std::span<const Ref> arguments, std::optional<DType> dtype) {
        if (arguments.size() < 4) return damaged("a tensor needs storage, offset, size and stride");
        if (value(arguments[0]).kind != Kind::Storage) return damaged("a tensor without a storage");
        TensorRecord record;
        record.storage = value(arguments[0]).record;
        record.dtype = dtype.value_or(out_.storages[record.storage].dtype);
        record.offset = VITRINE_TRY(integer(arguments[1], "a tensor's offset"));
        record.shape = VITRINE_TRY(extents(arguments[2], "a tensor's size"));
        record.strides = VITRINE_TRY(extents(arguments[3], "a tensor's stride"));
        out_.tensors.push_back(std::move(record));
        make(Kind::Tensor).record = static_cast<std::uint32_t>(out_.tensors.size() - 1);
        return last();
    }

    // The items of pairs, as dict(list of pairs) takes them.
    Result<std::vector<Ref>> pairs(Ref ref) {
        const Value& from = value(ref);
        VITRINE_CHECK(charge(from.items.size()));
        if (from.kind == Kind::Dict) return from.items;
        if (from.kind != Kind::List && from.kind != Kind::Tuple) return damaged("a dictionary made of something else");
        std::vector<Ref> items;
        for (const Ref pair : from.items) {
            const Value& p = value(pair);
            if ((p.kind != Kind::List && p.kind != Kind::Tuple) || p.items.size() != 2)
                return damaged("a dictionary made of something else");
            items.insert(items.end(), p.items.begin(), p.items.end());
        }
        return items;
    }

    Result<Ref> call(Ref callable, Ref argument_tuple) {
        if (value(callable).kind != Kind::Global) return damaged("a call of what cannot be called");
        if (value(argument_tuple).kind != Kind::Tuple) return damaged("a call without a tuple of arguments");
        const auto which = static_cast<Callable>(value(callable).global);
        // A copy: making values moves the table that holds the tuple. Charged, since one long tuple can be used again
        // and again.
        VITRINE_CHECK(charge(value(argument_tuple).items.size()));
        const std::vector<Ref> arguments = value(argument_tuple).items;
        const auto wrong = [&] {
            return damaged(fmt::format("{} is called with {} arguments of the wrong kind or number",
                                       bytes::printable(value(callable).text), arguments.size()));
        };
        const auto is = [&](std::size_t i, Kind kind) {
            return i < arguments.size() && value(arguments[i]).kind == kind;
        };
        switch (which) {
            case kRebuildTensor:
            case kRebuildTensorV2:
                return tensor(arguments, std::nullopt);
            case kRebuildTensorV3:
                if (!is(6, Kind::TorchDType)) return wrong();
                return tensor(arguments, value(arguments[6]).dtype);
            case kRebuildParameter:
            case kTensorClass:
                if (!is(0, Kind::Tensor)) return wrong();
                return arguments[0];
            case kRebuildFromType:
                // (function, type, arguments, state): the type is one of ours, so the state holds attributes only.
                if (arguments.size() < 3 || !is(0, Kind::Global) || !is(1, Kind::Global) ||
                    value(arguments[1]).global != kTensorClass || value(arguments[0]).global == kRebuildFromType)
                    return wrong();
                return call(arguments[0], arguments[2]);
            case kOrderedDict:
            case kDict: {
                if (arguments.size() > 1) return wrong();
                std::vector<Ref> items;
                if (arguments.size() == 1) items = VITRINE_TRY(pairs(arguments[0]));
                make(Kind::Dict).items = std::move(items);
                return last();
            }
            case kDefaultDict: {
                if (arguments.size() > 2) return wrong();
                std::vector<Ref> items;
                if (arguments.size() == 2) items = VITRINE_TRY(pairs(arguments[1]));
                make(Kind::Dict).items = std::move(items);
                return last();
            }
            case kNamespace:
                if (!arguments.empty()) return wrong();
                make(Kind::Dict);
                return last();
            case kSequence:
            case kSet: {
                if (arguments.size() > 1) return wrong();
                std::vector<Ref> items;
                if (arguments.size() == 1) {
                    const Kind kind = value(arguments[0]).kind;
                    if (kind != Kind::List && kind != Kind::Tuple && kind != Kind::Set) return wrong();
                    VITRINE_CHECK(charge(value(arguments[0]).items.size()));
                    items = value(arguments[0]).items;
                }
                make(which == kSet                    ? Kind::Set
                     : value(callable).text == "list" ? Kind::List
                                                      : Kind::Tuple)
                    .items = std::move(items);
                return last();
            }
            case kDevice:
                if (!is(0, Kind::Text)) return wrong();
                return arguments[0];
            case kEncode: {
                // Protocol 2 writes bytes as encode(text, "latin1"); no other codec is a plain value.
                if (arguments.size() != 2 || !is(0, Kind::Text) || !is(1, Kind::Text)) return wrong();
                const std::string_view codec = value(arguments[1]).text;
                if (codec != "latin1" && codec != "latin-1")
                    return fail(ErrorCode::Unsupported, "this file asks for the codec {}; only latin1 is read",
                                bytes::printable(codec));
                return latin1(value(arguments[0]).text);
            }
            case kByteArray: {
                if (arguments.empty()) {
                    make(Kind::Bytes);
                    return last();
                }
                if (is(0, Kind::Bytes) && arguments.size() == 1) return arguments[0];
                if (is(0, Kind::Text) && is(1, Kind::Text) && arguments.size() == 2)
                    return latin1(value(arguments[0]).text);
                return wrong();
            }
            case kComplex:
                if (arguments.size() != 2) return wrong();
                make(Kind::Tuple).items = arguments;
                return last();
            case kNumpyDType: {
                if (!is(0, Kind::Text)) return wrong();
                const std::string_view text = value(arguments[0]).text;
                make(Kind::NumpyDType).text = text;
                return last();
            }
            case kNumpyScalar:
                if (arguments.size() != 2 || !is(0, Kind::NumpyDType) || !(is(1, Kind::Bytes) || is(1, Kind::Text)))
                    return wrong();
                return numpy_scalar(value(arguments[0]).text, value(arguments[1]).text);
            case kStorageClass:
            case kPlainType:
                break;
        }
        return fail(ErrorCode::Unsupported, "this file calls {}; only tensors and plain containers are read",
                    bytes::printable(value(callable).text));
    }

    Result<Ref> latin1(std::string_view text) {
        VITRINE_CHECK(charge(text.size() / sizeof(Ref)));
        std::string out;
        for (std::size_t i = 0; i < text.size(); ++i) {
            const auto byte = static_cast<unsigned char>(text[i]);
            if (byte < 0x80) {
                out += text[i];
            } else if ((byte == 0xC2 || byte == 0xC3) && i + 1 < text.size()) {
                out += static_cast<char>(((byte & 3u) << 6) | (static_cast<unsigned char>(text[++i]) & 0x3Fu));
            } else {
                return damaged("bytes that are no latin1");
            }
        }
        out_.texts.push_back(std::move(out));
        make(Kind::Bytes).text = out_.texts.back();
        return last();
    }

    Result<Ref> numpy_scalar(std::string_view dtype, std::string_view raw) {
        const auto* const p = reinterpret_cast<const std::byte*>(raw.data());
        const auto sized = [&](std::string_view name, std::size_t size) { return dtype == name && raw.size() == size; };
        const auto whole = [&](std::int64_t value) {
            make(Kind::Int).integer = value;
            return last();
        };
        if (sized("f8", 8) || sized("f4", 4)) {
            double real = 0;
            if (raw.size() == 8) {
                std::memcpy(&real, p, 8);
            } else {
                float single = 0;
                std::memcpy(&single, p, 4);
                real = single;
            }
            make(Kind::Float).real = real;
            return last();
        }
        if (sized("i8", 8)) return whole(static_cast<std::int64_t>(bytes::little<std::uint64_t>(p)));
        if (sized("i4", 4)) return whole(static_cast<std::int32_t>(bytes::little<std::uint32_t>(p)));
        if (sized("i2", 2)) return whole(static_cast<std::int16_t>(bytes::little<std::uint16_t>(p)));
        if (sized("i1", 1)) return whole(static_cast<std::int8_t>(bytes::little<std::uint8_t>(p)));
        if (sized("u8", 8) && bytes::little<std::uint64_t>(p) >> 63 == 0)
            return whole(static_cast<std::int64_t>(bytes::little<std::uint64_t>(p)));
        if (sized("u4", 4)) return whole(bytes::little<std::uint32_t>(p));
        if (sized("u2", 2)) return whole(bytes::little<std::uint16_t>(p));
        if (sized("u1", 1)) return whole(bytes::little<std::uint8_t>(p));
        if (sized("b1", 1)) return p[0] == std::byte{0} ? kFalse : kTrue;
        return fail(ErrorCode::Unsupported,
                    "this file holds a numpy scalar of the type {} in {} bytes; whole numbers, floats and truth values "
                    "are read",
                    bytes::printable(dtype), raw.size());
    }

    Status build() {
        const Ref state = VITRINE_TRY(pop());
        const Ref target = VITRINE_TRY(top());
        const Value& s = value(state);
        switch (value(target).kind) {
            case Kind::Dict:
                // A Namespace's state is its contents. An OrderedDict's is attributes (a state_dict's _metadata): taken
                // in alike they would look like entries, so only a dictionary made by Namespace takes them.
                if (namespaces_.contains(target)) {
                    if (s.kind != Kind::Dict) return damaged("a Namespace without a dictionary");
                    VITRINE_CHECK(charge(s.items.size()));
                    const std::vector<Ref> items = s.items;
                    value(target).items.insert(value(target).items.end(), items.begin(), items.end());
                }
                return {};
            case Kind::NumpyDType:
                if (s.kind != Kind::Tuple || s.items.size() < 2 || value(s.items[1]).kind != Kind::Text)
                    return damaged("a numpy type without its state");
                if (value(s.items[1]).text == ">")
                    return fail(ErrorCode::Unsupported, "this file holds big-endian numbers, which are not read");
                return {};
            default:
                return fail(ErrorCode::Unsupported,
                            "this file changes an object after making it; only tensors and plain containers are read");
        }
    }

    Status make_object(Ref type, Ref arguments) {
        const bool is_namespace = value(type).kind == Kind::Global && value(type).global == kNamespace;
        const Ref made = VITRINE_TRY(call(type, arguments));
        if (is_namespace) namespaces_.emplace(made, true);
        return push(made);
    }

    Status step(std::uint8_t opcode) {
        switch (opcode) {
            // The stack.
            case '(':
                marks_.push_back(stack_.size());
                return {};
            case '0':
                // pickle allows POP on a mark.
                if (!marks_.empty() && marks_.back() == stack_.size()) {
                    marks_.pop_back();
                    return {};
                }
                VITRINE_TRY(pop());
                return {};
            case '1':
                VITRINE_TRY(pop_to_mark());
                return {};
            case '2':
                return push(VITRINE_TRY(top()));
            // Numbers.
            case 'N':
                return push(kNone);
            case 0x88:
                return push(kTrue);
            case 0x89:
                return push(kFalse);
            case 'I': {
                const std::string_view text = VITRINE_TRY(line());
                if (text == "00") return push(kFalse);
                if (text == "01") return push(kTrue);
                return push_decimal(text);
            }
            case 'L':
                return push_decimal(VITRINE_TRY(line()));
            case 'J':
                return push_int(static_cast<std::int32_t>(VITRINE_TRY(number<std::uint32_t>())));
            case 'K':
                return push_int(VITRINE_TRY(number<std::uint8_t>()));
            case 'M':
                return push_int(VITRINE_TRY(number<std::uint16_t>()));
            case 0x8a: {
                const auto length = VITRINE_TRY(number<std::uint8_t>());
                return push_long(bytes::text(VITRINE_TRY(take(length))));
            }
            case 0x8b: {
                const auto length = static_cast<std::int32_t>(VITRINE_TRY(number<std::uint32_t>()));
                if (length < 0) return damaged("a length below zero");
                return push_long(bytes::text(VITRINE_TRY(take(static_cast<std::uint64_t>(length)))));
            }
            case 'F': {
                const std::string_view text = VITRINE_TRY(line());
                double real = 0;
                const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), real);
                if (error != std::errc{} || end != text.data() + text.size()) return damaged("a float is wanted");
                return push_float(real);
            }
            case 'G': {
                const auto bits = bytes::big<std::uint64_t>(VITRINE_TRY(take(8)).data());
                double real = 0;
                std::memcpy(&real, &bits, 8);
                return push_float(real);
            }
            // Texts and bytes.
            case 'S':
                return push_quoted(VITRINE_TRY(line()));
            case 'T':
                return sized_signed(Kind::Text);
            case 'U':
                return sized<std::uint8_t>(Kind::Text);
            case 'V':
                return push_raw_unicode(VITRINE_TRY(line()));
            case 'X':
                return sized<std::uint32_t>(Kind::Text);
            case 0x8c:
                return sized<std::uint8_t>(Kind::Text);
            case 0x8d:
                return sized<std::uint64_t>(Kind::Text);
            case 'B':
                return sized<std::uint32_t>(Kind::Bytes);
            case 'C':
                return sized<std::uint8_t>(Kind::Bytes);
            case 0x8e:
                return sized<std::uint64_t>(Kind::Bytes);
            case 0x96:
                return sized<std::uint64_t>(Kind::Bytes);
            // Containers.
            case ')':
                return push_items(Kind::Tuple, {});
            case 0x85:
                return push_tuple(1);
            case 0x86:
                return push_tuple(2);
            case 0x87:
                return push_tuple(3);
            case 't':
                return push_items(Kind::Tuple, VITRINE_TRY(pop_to_mark()));
            case ']':
                return push_items(Kind::List, {});
            case 'l':
                return push_items(Kind::List, VITRINE_TRY(pop_to_mark()));
            case 'a': {
                const Ref item = VITRINE_TRY(pop());
                return extend(Kind::List, {&item, 1});
            }
            case 'e':
                return extend(Kind::List, VITRINE_TRY(pop_to_mark()));
            case '}':
                return push_items(Kind::Dict, {});
            case 'd': {
                std::vector<Ref> items = VITRINE_TRY(pop_to_mark());
                if (items.size() % 2 != 0) return damaged("a key without a value");
                return push_items(Kind::Dict, std::move(items));
            }
            case 's': {
                Ref pair[2];
                pair[1] = VITRINE_TRY(pop());
                pair[0] = VITRINE_TRY(pop());
                return extend(Kind::Dict, pair);
            }
            case 'u':
                return extend(Kind::Dict, VITRINE_TRY(pop_to_mark()));
            case 0x8f:
                return push_items(Kind::Set, {});
            case 0x90:
                return extend(Kind::Set, VITRINE_TRY(pop_to_mark()));
            case 0x91:
                return push_items(Kind::Set, VITRINE_TRY(pop_to_mark()));
            // The memo.
            case 'p':
                return put(VITRINE_TRY(line_number()));
            case 'q':
                return put(VITRINE_TRY(number<std::uint8_t>()));
            case 'r':
                return put(VITRINE_TRY(number<std::uint32_t>()));
            case 0x94:
                return put(memo_.size());
            case 'g':
                return get(VITRINE_TRY(line_number()));
            case 'h':
                return get(VITRINE_TRY(number<std::uint8_t>()));
            case 'j':
                return get(VITRINE_TRY(number<std::uint32_t>()));
            // Globals and what is made of them.
            case 'c': {
                const std::string_view module = VITRINE_TRY(line());
                const std::string_view name = VITRINE_TRY(line());
                return push_global(module, name);
            }
            case 0x93: {
                const Ref name = VITRINE_TRY(pop()), module = VITRINE_TRY(pop());
                if (value(name).kind != Kind::Text || value(module).kind != Kind::Text)
                    return damaged("a global whose name is no text");
                return push_global(value(module).text, value(name).text);
            }
            case 'R': {
                const Ref arguments = VITRINE_TRY(pop()), callable = VITRINE_TRY(pop());
                return make_object(callable, arguments);
            }
            case 0x81: {
                const Ref arguments = VITRINE_TRY(pop()), type = VITRINE_TRY(pop());
                return make_object(type, arguments);
            }
            case 0x92: {
                const Ref named = VITRINE_TRY(pop()), arguments = VITRINE_TRY(pop()), type = VITRINE_TRY(pop());
                if (value(named).kind != Kind::Dict || !value(named).items.empty())
                    return fail(
                        ErrorCode::Unsupported,
                        "this file makes an object by named arguments; only tensors and plain containers are read");
                return make_object(type, arguments);
            }
            case 'i': {
                const std::string_view module = VITRINE_TRY(line());
                const std::string_view name = VITRINE_TRY(line());
                std::vector<Ref> arguments = VITRINE_TRY(pop_to_mark());
                VITRINE_CHECK(push_global(module, name));
                const Ref type = VITRINE_TRY(pop());
                make(Kind::Tuple).items = std::move(arguments);
                return make_object(type, last());
            }
            case 'o': {
                std::vector<Ref> items = VITRINE_TRY(pop_to_mark());
                if (items.empty()) return damaged("an object without a class");
                const Ref type = items.front();
                items.erase(items.begin());
                make(Kind::Tuple).items = std::move(items);
                return make_object(type, last());
            }
            case 'b':
                return build();
            case 'Q':
                return persistent();
            case 'P':
                return fail(ErrorCode::Unsupported,
                            "this file names storages in lines of text, as torch.save never did");
            // The frame.
            case 0x80: {
                const auto protocol = VITRINE_TRY(number<std::uint8_t>());
                if (protocol > 5)
                    return fail(ErrorCode::Unsupported, "this file is a pickle of protocol {}, 0 to 5 are read",
                                protocol);
                return {};
            }
            case 0x95: {
                const auto length = VITRINE_TRY(number<std::uint64_t>());
                if (length > bytes_.size() - at_) return damaged("a frame longer than the file");
                return {};
            }
            case 0x82:
            case 0x83:
            case 0x84:
                return fail(ErrorCode::Unsupported,
                            "this file uses pickle's extension codes, whose meaning lies in another program");
            case 0x97:
            case 0x98:
                return fail(ErrorCode::Unsupported,
                            "this file keeps a buffer outside its pickle, where it cannot be found");
            default:
                return damaged(fmt::format("0x{:02x} is no opcode", opcode));
        }
    }

    std::span<const std::byte> bytes_;
    std::size_t at_ = 0;
    std::vector<Ref> stack_;
    std::vector<std::size_t> marks_;
    std::unordered_map<std::uint32_t, Ref> memo_;
    std::unordered_map<Ref, bool> namespaces_;
    std::size_t copied_ = 0;
    Pickle out_;
};

}  // namespace

Result<Pickle> unpickle(std::span<const std::byte> bytes) { return Machine(bytes).run(); }

}  // namespace vitrine::pickle
