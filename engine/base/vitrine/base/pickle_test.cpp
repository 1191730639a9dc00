// The restricted unpickler opcode by opcode, and what it refuses.
#include <vitrine/base/pickle.h>

#include <bitset>

#include <gmock/gmock.h>
#include <vitrine/base/bytes.h>
#include <vitrine/base/test_bytes.h>

namespace vitrine::pickle {
namespace {

using namespace vitrine::testing;
using ::testing::HasSubstr;

// The value as Python would write it, near enough to compare by eye.
std::string describe(const Pickle& pickle, Ref ref) {
    const Value& v = pickle[ref];
    const auto list = [&](const char* open, const char* close) {
        std::string out = open;
        for (std::size_t i = 0; i < v.items.size(); ++i) out += (i > 0 ? ", " : "") + describe(pickle, v.items[i]);
        return out + close;
    };
    switch (v.kind) {
        case Kind::None:
            return "None";
        case Kind::Bool:
            return v.integer ? "True" : "False";
        case Kind::Int:
            return fmt::format("{}", v.integer);
        case Kind::BigInt:
            return fmt::format("big({} bytes)", v.text.size());
        case Kind::Float:
            return fmt::format("{:.1f}", v.real);
        case Kind::Text:
            return "'" + std::string(v.text) + "'";
        case Kind::Bytes:
            return "b'" + bytes::printable(v.text) + "'";
        case Kind::Tuple:
            return list("(", ")");
        case Kind::List:
            return list("[", "]");
        case Kind::Set:
            return list("{", "}");
        case Kind::Dict: {
            std::string out = "{";
            for (std::size_t i = 0; i < v.items.size(); i += 2)
                out += (i > 0 ? ", " : "") + describe(pickle, v.items[i]) + ": " + describe(pickle, v.items[i + 1]);
            return out + "}";
        }
        case Kind::Global:
            return "<" + std::string(v.text) + ">";
        case Kind::TorchDType:
            return std::string(name_of(v.dtype));
        case Kind::NumpyDType:
            return "dtype " + std::string(v.text);
        case Kind::Storage:
            return fmt::format("storage {} of {} {}", pickle.storages[v.record].key, pickle.storages[v.record].count,
                               name_of(pickle.storages[v.record].dtype));
        case Kind::Tensor: {
            const TensorRecord& t = pickle.tensors[v.record];
            return fmt::format("tensor {} [{}] by [{}] from {}", name_of(t.dtype), fmt::join(t.shape, ", "),
                               fmt::join(t.strides, ", "), t.offset);
        }
    }
    return "?";
}

std::string run(std::string_view text) {
    const Bytes bytes(text);
    const auto pickle = unpickle(bytes.span);
    return pickle ? describe(*pickle, pickle->root) : "refused: " + pickle.error().message;
}

struct Case {
    int opcode;
    const char* name;
    std::string pickle;
    std::string expected;
};

std::string raw(const char* text, std::size_t size) { return {text, size}; }

const std::vector<Case>& cases() {
    using namespace pkl;
    const std::string od = global("collections", "OrderedDict"), ns = global("argparse", "Namespace");
    static const std::vector<Case> kCases = {
        {'(', "MARK", "(K\1t.", "(1)"},
        {'.', "STOP", "N.", "None"},
        {'0', "POP",
         "K\1K\2"
         "0.",
         "1"},
        {'0', "POP", "K\1(0.", "1"},
        {'1', "POP_MARK",
         "K\1(K\2K\3"
         "1.",
         "1"},
        {'2', "DUP",
         "K\1"
         "2\x86.",
         "(1, 1)"},
        {'F', "FLOAT", "F-2.5\n.", "-2.5"},
        {'I', "INT", "I-12\n.", "-12"},
        {'I', "INT", "I01\n.", "True"},
        {'I', "INT", "I00\n.", "False"},
        {'J', "BININT", raw("J\xfe\xff\xff\xff.", 6), "-2"},
        {'K', "BININT1", "K\xff.", "255"},
        {'L', "LONG", "L123456789012L\n.", "123456789012"},
        {'M', "BININT2", raw("M\x01\x02.", 4), "513"},
        {'N', "NONE", "N.", "None"},
        {'Q', "BINPERSID", storage("FloatStorage", "7", 3) + ".", "storage 7 of 3 F32"},
        {'R', "REDUCE", od + ")R.", "{}"},
        {'R', "REDUCE", od + "(](](K\1K\2eetR.", "{1: 2}"},
        {'S', "STRING", "S'a\\'b\\x41\\n'\n.", "'a'bA\n'"},
        {'T', "BINSTRING", raw("T\x03\0\0\0abc.", 9), "'abc'"},
        {'U', "SHORT_BINSTRING", "U\3abc.", "'abc'"},
        {'V', "UNICODE", "Va\\u00e9\\U0001F600\n.", "'a\xc3\xa9\xf0\x9f\x98\x80'"},
        {'X', "BINUNICODE", raw("X\x02\0\0\0\xc3\xa9.", 8), "'\xc3\xa9'"},
        {'a', "APPEND", "]K\1aK\2a.", "[1, 2]"},
        {'b', "BUILD", ns + ")R}U\1aK\1sb.", "{'a': 1}"},
        {'b', "BUILD", od + ")R}U\1aK\1sb.", "{}"},
        {'c', "GLOBAL", global("torch", "float16") + ".", "F16"},
        {'d', "DICT", "(K\1K\2d.", "{1: 2}"},
        {'}', "EMPTY_DICT", "}.", "{}"},
        {'e', "APPENDS", "](K\1K\2e.", "[1, 2]"},
        {'g', "GET", "K\5p12\n0g12\n.", "5"},
        {'h', "BINGET",
         "K\5q\7"
         "0h\7.",
         "5"},
        {'i', "INST", "(iargparse\nNamespace\n}U\1aNsb.", "{'a': None}"},
        {'j', "LONG_BINGET",
         raw("K\5r\0\1\0\0"
             "0j\0\1\0\0.",
             14),
         "5"},
        {'l', "LIST", "(K\1K\2l.", "[1, 2]"},
        {']', "EMPTY_LIST", "].", "[]"},
        {'o', "OBJ", "(" + od + "o.", "{}"},
        {'p', "PUT", "K\5p0\n.", "5"},
        {'q', "BINPUT", raw("K\5q\0.", 5), "5"},
        {'r', "LONG_BINPUT", raw("K\5r\0\0\0\0.", 8), "5"},
        {'s', "SETITEM", "}U\1aK\1s.", "{'a': 1}"},
        {'t', "TUPLE", "(K\1K\2K\3K\4t.", "(1, 2, 3, 4)"},
        {')', "EMPTY_TUPLE", ").", "()"},
        {'u', "SETITEMS", "}(K\1K\2K\3K\4u.", "{1: 2, 3: 4}"},
        {'G', "BINFLOAT", raw("G\x40\x04\0\0\0\0\0\0.", 10), "2.5"},
        {0x80, "PROTO", "\x80\x05N.", "None"},
        {0x81, "NEWOBJ", ns + ")\x81.", "{}"},
        {0x85, "TUPLE1", "K\1\x85.", "(1)"},
        {0x86, "TUPLE2", "K\1K\2\x86.", "(1, 2)"},
        {0x87, "TUPLE3", "K\1K\2K\3\x87.", "(1, 2, 3)"},
        {0x88, "NEWTRUE", "\x88.", "True"},
        {0x89, "NEWFALSE", "\x89.", "False"},
        {0x8a, "LONG1", raw("\x8a\x02\x00\xff.", 5), "-256"},
        {0x8a, "LONG1", raw("\x8a\x00.", 3), "0"},
        {0x8a, "LONG1", raw("\x8a\x0a\1\2\3\4\5\6\7\x08\x09\x0a.", 13), "big(10 bytes)"},
        {0x8b, "LONG4", raw("\x8b\x02\0\0\0\x00\x01.", 8), "256"},
        {'B', "BINBYTES", raw("B\x02\0\0\0ab.", 8), "b'ab'"},
        {'C', "SHORT_BINBYTES", "C\2ab.", "b'ab'"},
        {0x8c, "SHORT_BINUNICODE", "\x8c\2ab.", "'ab'"},
        {0x8d, "BINUNICODE8", raw("\x8d\2\0\0\0\0\0\0\0ab.", 12), "'ab'"},
        {0x8e, "BINBYTES8", raw("\x8e\2\0\0\0\0\0\0\0ab.", 12), "b'ab'"},
        {0x8f, "EMPTY_SET", "\x8f.", "{}"},
        {0x90, "ADDITEMS", "\x8f(K\1K\2\x90.", "{1, 2}"},
        {0x91, "FROZENSET", "(K\1K\2\x91.", "{1, 2}"},
        {0x92, "NEWOBJ_EX", ns + ")}\x92.", "{}"},
        {0x93, "STACK_GLOBAL",
         "\x8c\5torch\x8c\7"
         "float32\x93.",
         "F32"},
        {0x94, "MEMOIZE",
         raw("K\5\x94"
             "0h\0.",
             7),
         "5"},
        {0x95, "FRAME", raw("\x80\4\x95\2\0\0\0\0\0\0\0N.", 13), "None"},
        {0x96, "BYTEARRAY8", raw("\x96\2\0\0\0\0\0\0\0ab.", 12), "b'ab'"},
        // Opcodes that no tensor needs.
        {'P', "PERSID", "Pkey\n.", "refused: this file names storages in lines of text, as torch.save never did"},
        {0x82, "EXT1", "\x82\1.",
         "refused: this file uses pickle's extension codes, whose meaning lies in another program"},
        {0x83, "EXT2", "\x83\1\1.",
         "refused: this file uses pickle's extension codes, whose meaning lies in another program"},
        {0x84, "EXT4", "\x84\1\1\1\1.",
         "refused: this file uses pickle's extension codes, whose meaning lies in another program"},
        {0x97, "NEXT_BUFFER", "\x97.",
         "refused: this file keeps a buffer outside its pickle, where it cannot be found"},
        {0x98, "READONLY_BUFFER", "N\x98.",
         "refused: this file keeps a buffer outside its pickle, where it cannot be found"},
    };
    return kCases;
}

TEST(Pickle, EveryOpcodeOfProtocols0To5DoesWhatPythonDoes) {
    for (const Case& c : cases()) EXPECT_EQ(run(c.pickle), c.expected) << c.name;
}

TEST(Pickle, EveryByteIsAnOpcodeOfTheTableOrRefused) {
    std::bitset<256> listed;
    for (const Case& c : cases()) listed.set(static_cast<std::size_t>(c.opcode));
    EXPECT_EQ(listed.count(), 68u) << "protocols 0 to 5 have 68 opcodes";
    for (int opcode = 0; opcode < 256; ++opcode) {
        const std::string message = run(std::string(1, static_cast<char>(opcode)));
        EXPECT_EQ(message.find("is no opcode") == std::string::npos, listed.test(static_cast<std::size_t>(opcode)))
            << opcode << " " << message;
    }
}

TEST(Pickle, EveryOpcodeCutShortIsRefused) {
    for (const Case& c : cases()) {
        for (std::size_t length = 0; length < c.pickle.size(); ++length) {
            const std::string answer = run(std::string_view(c.pickle).substr(0, length));
            EXPECT_TRUE(answer.starts_with("refused: ")) << c.name << " cut to " << length << ": " << answer;
        }
    }
}

TEST(Pickle, EveryOpcodeOnAnEmptyStackIsRefusedOrPushes) {
    for (int opcode = 0; opcode < 256; ++opcode) {
        // Zero operands of every length, then STOP; nothing may be popped that is not there.
        run(std::string(1, static_cast<char>(opcode)) + std::string(16, '\0') + ".");
        run(std::string(1, static_cast<char>(opcode)) + ".");
        run(std::string(1, static_cast<char>(opcode)) + "0\n0\n.");
        run("(" + std::string(1, static_cast<char>(opcode)) + ".");
        run("N(" + std::string(1, static_cast<char>(opcode)) + ".");
    }
}

TEST(Pickle, OtherGlobalsAreRefusedAndNamed) {
    EXPECT_EQ(run("\x80\x02"
                  "cos\nsystem\n(U\4trueutR."),
              "refused: this file asks for os.system; only tensors and plain containers are read");
    for (const auto& [module, name] :
         std::vector<std::pair<std::string, std::string>>{{"builtins", "eval"},
                                                          {"builtins", "getattr"},
                                                          {"builtins", "__import__"},
                                                          {"__builtin__", "exec"},
                                                          {"torch", "load"},
                                                          {"torch.serialization", "load"},
                                                          {"torch.hub", "load"},
                                                          {"torch._utils", "__dict__"},
                                                          {"torch", "_utils._rebuild_tensor_v2"},
                                                          {"posix", "system"},
                                                          {"subprocess", "Popen"},
                                                          {"collections", "namedtuple"},
                                                          {"numpy", "ndarray"},
                                                          {"numpy.core.multiarray", "_reconstruct"},
                                                          {"copyreg", "_reconstructor"},
                                                          {"copy_reg", "_reconstructor"},
                                                          {"_codecs", "decode"},
                                                          {"torch", "QUInt4x2Storage"},
                                                          {"torch.nn.modules.linear", "Linear"},
                                                          {"torch._utils", "_rebuild_sparse_tensor"},
                                                          {"", ""},
                                                          {"torch", ""}}) {
        EXPECT_EQ(run(pkl::global(module, name) + "."), "refused: this file asks for " + module + "." + name +
                                                            "; only tensors and plain containers are read");
        EXPECT_EQ(
            run(pkl::text(module) + pkl::text(name) + "\x93."),
            "refused: this file asks for " + module + "." + name + "; only tensors and plain containers are read");
        EXPECT_EQ(run("(i" + module + "\n" + name + "\n."), "refused: this file asks for " + module + "." + name +
                                                                "; only tensors and plain containers are read");
    }
    const Bytes bytes("cos\nsystem\n.");
    EXPECT_EQ(unpickle(bytes.span).error().code, ErrorCode::Unsupported);
}

TEST(Pickle, ARefusedNameIsShownWithoutItsControlCharactersAndCut) {
    EXPECT_EQ(run("ca\x1b[31m\nb\n."),
              "refused: this file asks for a\\x1b[31m.b; only tensors and plain containers are read");
    EXPECT_LT(run("c" + std::string(100000, 'm') + "\nb\n.").size(), 300u);
}

TEST(Pickle, AcceptedGlobalsBecomePlainValues) {
    using namespace pkl;
    const std::string one = storage("LongStorage", "0", 6);
    EXPECT_EQ(run(tensor(one, 1, {2, 3}, {3, 1}) + "."), "tensor I64 [2, 3] by [3, 1] from 1");
    EXPECT_EQ(run(global("torch._utils", "_rebuild_tensor") + "(" + one + "K\1" + tuple({2}) + tuple({1}) + "tR."),
              "tensor I64 [2] by [1] from 1");
    EXPECT_EQ(run(global("torch._utils", "_rebuild_tensor_v3") + "(" + storage("UntypedStorage", "0", 8) + "K\1" +
                  tuple({2}) + tuple({1}) + "\x89N" + global("torch", "uint16") + "}tR."),
              "tensor U16 [2] by [1] from 1");
    const std::string t = tensor(one, 0, {6}, {1});
    EXPECT_EQ(run(global("torch._utils", "_rebuild_parameter") + "(" + t + "\x88NtR."), "tensor I64 [6] by [1] from 0");
    EXPECT_EQ(run(global("torch._utils", "_rebuild_parameter_with_state") + "(" + t + "\x88NNtR."),
              "tensor I64 [6] by [1] from 0");
    EXPECT_EQ(run(global("torch.nn.parameter", "Parameter") + "(" + t + "\x88tR."), "tensor I64 [6] by [1] from 0");
    EXPECT_EQ(
        run(global("torch._tensor", "_rebuild_from_type_v2") + "(" + global("torch._utils", "_rebuild_tensor") +
            global("torch.nn.parameter", "Parameter") + "(" + one + integer(0) + tuple({2}) + tuple({1}) + "t}tR."),
        "tensor I64 [2] by [1] from 0");
    EXPECT_EQ(run(global("torch", "Size") + tuple({3, 4}) + "\x85R."), "(3, 4)");
    EXPECT_EQ(run(global("torch", "device") + text("cuda") + "K\1\x86R."), "'cuda'");
    EXPECT_EQ(run(global("_codecs", "encode") + text("a\xc3\xbf") + text("latin1") + "\x86R."), "b'a\xc3\xbf'");
    EXPECT_EQ(run(global("collections", "defaultdict") + global("__builtin__", "list") + "\x85R."), "{}");
    EXPECT_EQ(run(global("collections", "Counter") + "}K\1K\2s\x85R."), "{1: 2}");
    EXPECT_EQ(run(global("builtins", "set") + "](K\1K\2e\x85R."), "{1, 2}");
    EXPECT_EQ(run(global("builtins", "bytearray") + "C\1a\x85R."), "b'a'");
    EXPECT_EQ(run(global("builtins", "complex") + "G" + std::string(8, '\0') + "G" + std::string(8, '\0') + "\x86R."),
              "(0.0, 0.0)");
    const auto scalar = [](const std::string& type, const std::string& bytes) {
        return global("numpy.core.multiarray", "scalar") + global("numpy", "dtype") + text(type) + integer(0) +
               "K\1\x87R(K\3U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff" + integer(0) + "tb" + "C" +
               static_cast<char>(bytes.size()) + bytes + "\x86R.";
    };
    EXPECT_EQ(run(scalar("f8", values<double>({2.5}))), "2.5");
    EXPECT_EQ(run(scalar("f4", values<float>({2.5f}))), "2.5");
    EXPECT_EQ(run(scalar("i8", values<std::int64_t>({-7}))), "-7");
    EXPECT_EQ(run(scalar("b1", "\1")), "True");
    EXPECT_THAT(run(scalar("f8", "abc")), HasSubstr("numpy scalar of the type f8 in 3 bytes"));
    EXPECT_THAT(run(scalar("O8", values<double>({2.5}))), HasSubstr("numpy scalar of the type O8"));
}

TEST(Pickle, CallsOfTheWrongKindAreRefused) {
    using namespace pkl;
    const std::string one = storage("FloatStorage", "0", 6), t = tensor(one, 0, {6}, {1});
    const std::string v2 = global("torch._utils", "_rebuild_tensor_v2"),
                      from_type = global("torch._tensor", "_rebuild_from_type_v2"),
                      parameter = global("torch.nn.parameter", "Parameter");
    for (const std::string& pickle : std::vector<std::string>{
             v2 + ")R.",
             global("collections", "OrderedDict") + "(](](K\1eetR.",
             v2 + "(NNNNtR.",
             v2 + "(" + one + "N))tR.",
             v2 + "(" + one + integer(0) + "N)tR.",
             v2 + "(" + one + integer(0) + "(NtNtR.",
             "K\1)R.",
             v2 + "NR.",
             "}K\1R.",
             t + ")R.",
             global("torch", "FloatStorage") + ")R.",
             global("builtins", "int") + ")R.",
             from_type + "(" + from_type + parameter + ")NtR.",
             from_type + "(" + v2 + v2 + ")NtR.",
             from_type + "(NNNtR.",
             parameter + "(NtR.",
             global("torch", "Size") + "(K\1tR.",
             global("_codecs", "encode") + text("a") + text("zip") + "\x86R.",
             global("_codecs", "encode") + text("\xe2\x82\xac") + text("latin1") + "\x86R.",
             global("argparse", "Namespace") + "(NtR.",
             global("argparse", "Namespace") + ")}U\1aNs\x92.",
             global("collections", "OrderedDict") + "(NNtR.",
             t + "}b.",
             "]Nb.",
             "Nb.",
             v2 + "(" + one + integer(0) + tuple(std::vector<std::int64_t>(65, 1)) + tuple({1}) + "tR.",
             "(" + text("storage") + "NNNNtQ.",
             "(" + text("module") + global("torch", "FloatStorage") + text("0") + text("cpu") + "K\1tQ.",
             storage("FloatStorage", "0", -1) + ".",
             "NQ.",
             "(NtQ.",
             storage("FloatStorage", "0", 4, "(" + text("v") + "K\3K\2t") + ".",
             storage("FloatStorage", "0", 4, "K\1") + "."}) {
        EXPECT_TRUE(run(pickle).starts_with("refused: ")) << bytes::printable(pickle) << " -> " << run(pickle);
    }
}

TEST(Pickle, QuantisedTensorsAreRefusedByName) {
    EXPECT_THAT(run(pkl::global("torch._utils", "_rebuild_qtensor") + "."), HasSubstr("quantised tensors"));
}

TEST(Pickle, LengthsBeyondTheFileAllocateNothing) {
    for (const std::string& pickle : std::vector<std::string>{
             raw("X\xff\xff\xff\xff.", 6), raw("\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", 10),
             raw("B\xff\xff\xff\x7f.", 6), raw("T\xff\xff\xff\xff.", 6), raw("\x8b\xff\xff\xff\x7f.", 6),
             raw("\x8b\xff\xff\xff\xff.", 6), raw("\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.", 11)}) {
        EXPECT_TRUE(run(pickle).starts_with("refused: "));
    }
}

TEST(Pickle, NumbersOutsideTheirRangeAreRefused) {
    for (const char* pickle :
         {"I99999999999999999999\n.", "Ix\n.", "I\n.", "L99999999999999999999L\n.", "F1.5x\n.", "F\n.",
          "g99999999999\n.", "gx\n.", "p-1\n.", "S'abc\n.", "S\n.", "V\\u12\n.", "V\\U00110000\n.", "\x80\x06N."})
        EXPECT_TRUE(run(pickle).starts_with("refused: ")) << pickle;
}

TEST(Pickle, WhatAPickleMayMakeIsLimited) {
    const std::string many = std::string(4'100'000, ']') + ".";
    EXPECT_THAT(run(many), HasSubstr("more than 4000000 values"));
    // One long list, copied again and again by a call of five bytes.
    std::string copies = "](" + std::string(100'000, 'N') +
                         "e\x85q\1"
                         "0";
    for (int i = 0; i < 1000; ++i) copies += pkl::global("torch", "Size") + "h\1R0";
    EXPECT_THAT(run(copies + "N."), HasSubstr("copies more than"));
}

TEST(Pickle, ACyclicPickleEndsAndKeepsItsShape) {
    const Bytes bytes(raw("]q\0h\0a.", 7));
    const auto pickle = unpickle(bytes.span);
    ASSERT_TRUE(pickle);
    EXPECT_EQ((*pickle)[pickle->root].items.at(0), pickle->root);
}

TEST(Pickle, ReadsOneOfSeveralAndSaysWhereItEnds) {
    const Bytes bytes("\x80\x02K\1.\x80\x02K\2.");
    const auto pickle = unpickle(bytes.span);
    ASSERT_TRUE(pickle);
    EXPECT_EQ(pickle->end, 5u);
}

}  // namespace
}  // namespace vitrine::pickle
