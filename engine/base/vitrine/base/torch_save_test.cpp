// Files of torch.save, zip and legacy, honest and hostile; archives as containers; what a file is by its bytes.
#include <gmock/gmock.h>
#include <vitrine/base/bytes.h>
#include <vitrine/base/readers.h>
#include <vitrine/base/test_bytes.h>
#include <vitrine/base/zip.h>

namespace vitrine {
namespace {

using namespace vitrine::testing;
using namespace vitrine::testing::pkl;
using ::testing::HasSubstr;

// Reads one element of every row that shape and strides reach, so that the address sanitizer sees a wrong promise.
void touch(const TensorEntry& tensor) {
    if (tensor.count() == 0) return;
    ASSERT_EQ(tensor.shape.size(), tensor.strides.size());
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data) % size_of(tensor.dtype), 0u);
    std::int64_t last = 0;
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) last += (tensor.shape[i] - 1) * tensor.strides[i];
    const auto size = static_cast<std::int64_t>(size_of(tensor.dtype));
    volatile unsigned sum =
        std::to_integer<unsigned>(tensor.data[0]) + std::to_integer<unsigned>(tensor.data[last * size + size - 1]);
    (void)sum;
}

Result<TensorFile> parse(const std::string& text) {
    const Bytes bytes(text);
    auto file = parse_torch_save(bytes.span, bytes.copy);
    if (file) {
        for (const auto& [name, tensor] : file->tensors) touch(tensor);
    }
    return file;
}

std::string refusal(const std::string& text) {
    const auto file = parse(text);
    return file ? "accepted" : file.error().message;
}

std::string with_tensor(const std::string& pickle_of_tensor) {
    return torch_zip(whole(dict({{"w", pickle_of_tensor}})), {{"0", values<float>({0, 1, 2, 3, 4, 5})}});
}

const std::string kSix = storage("FloatStorage", "0", 6);

TEST(TorchSave, ReadsATensorWithItsOffsetAndStrides) {
    const auto file = parse(with_tensor(tensor(kSix, 1, {2, 2}, {1, 2})));
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->format, "torch.save zip");
    const TensorEntry& w = file->tensors.at("w");
    EXPECT_EQ(w.shape, (std::vector<std::int64_t>{2, 2}));
    EXPECT_EQ(w.strides, (std::vector<std::int64_t>{1, 2}));
    EXPECT_FALSE(w.contiguous());
    const auto* const p = reinterpret_cast<const float*>(w.data);
    EXPECT_EQ(p[0], 1);
    EXPECT_EQ(p[1 * 1 + 1 * 2], 4);
}

TEST(TorchSave, NestedContainersAreJoinedWithDotsAndScalarsBecomeMetadata) {
    const std::string t = tensor(kSix, 0, {6}, {1});
    const auto file = parse(
        torch_zip(whole(dict({{"model", dict({{"a.b", t}, {"c", "](" + t + "K\5" + text("layer4") + "e"}})},
                              {"epoch", integer(300)},
                              {"best", "G\x40\x04" + std::string(6, '\0')},
                              {"name", text("vit")},
                              {"flag", "\x88"},
                              {"nothing", "N"},
                              {"state", "}K\7" + t + "s"},
                              {"args", global("argparse", "Namespace") + ")\x81" + dict({{"lr", integer(1)}}) + "b"}})),
                  {{"0", values<float>({0, 1, 2, 3, 4, 5})}}));
    ASSERT_TRUE(file) << file.error().message;
    std::vector<std::string> names;
    for (const auto& [name, entry] : file->tensors) names.push_back(name);
    EXPECT_EQ(names, (std::vector<std::string>{"model.a.b", "model.c.0", "state.7"}));
    EXPECT_EQ(file->metadata, (std::map<std::string, std::string>{{"epoch", "300"},
                                                                  {"best", "2.5"},
                                                                  {"name", "vit"},
                                                                  {"flag", "true"},
                                                                  {"args.lr", "1"},
                                                                  {"model.c.2", "layer4"}}));
    EXPECT_EQ(file->tensors.at("model.a.b").data, file->tensors.at("state.7").data) << "a shared storage is shared";
}

TEST(TorchSave, ATensorAloneIsCalledTensor) {
    const auto file = parse(torch_zip(whole(tensor(kSix, 0, {}, {})), {{"0", values<float>({7, 1, 2, 3, 4, 5})}}));
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(*reinterpret_cast<const float*>(file->tensors.at("tensor").data), 7);
}

TEST(TorchSave, EveryDtypeHasItsSize) {
    const std::vector<std::pair<const char*, DType>> types = {
        {"DoubleStorage", DType::F64},    {"FloatStorage", DType::F32},        {"HalfStorage", DType::F16},
        {"BFloat16Storage", DType::BF16}, {"LongStorage", DType::I64},         {"IntStorage", DType::I32},
        {"ShortStorage", DType::I16},     {"CharStorage", DType::I8},          {"ByteStorage", DType::U8},
        {"BoolStorage", DType::Bool},     {"ComplexFloatStorage", DType::C64}, {"ComplexDoubleStorage", DType::C128},
        {"UntypedStorage", DType::U8}};
    for (const auto& [type, dtype] : types) {
        const auto text = [&](std::size_t bytes) {
            return torch_zip(whole(dict({{"w", tensor(storage(type, "0", 3), 0, {3}, {1})}})),
                             {{"0", std::string(bytes, '\1')}});
        };
        const auto file = parse(text(3 * size_of(dtype)));
        ASSERT_TRUE(file) << type << file.error().message;
        EXPECT_EQ(file->tensors.at("w").dtype, dtype);
        EXPECT_THAT(refusal(text(3 * size_of(dtype) - 1)), HasSubstr("3 elements of")) << type;
    }
    for (const char* type : {"QInt8Storage", "QUInt8Storage", "QInt32Storage"}) {
        const auto file = parse(torch_zip(whole(dict({{"w", tensor(storage(type, "0", 3), 0, {3}, {1})}})),
                                          {{"0", std::string(12, '\1')}}));
        ASSERT_FALSE(file);
        EXPECT_EQ(file.error().code, ErrorCode::Unsupported);
        EXPECT_THAT(file.error().message, HasSubstr("w is quantised"));
    }
}

TEST(TorchSave, ShapesAndStridesThatReachBeyondTheStorageAreRefused) {
    EXPECT_EQ(refusal(with_tensor(tensor(kSix, 0, {6}, {1}))), "accepted");
    EXPECT_EQ(refusal(with_tensor(tensor(kSix, 5, {1}, {100}))), "accepted");
    EXPECT_EQ(refusal(with_tensor(tensor(kSix, 100, {0, 9}, {9, 1}))), "accepted")
        << "nothing is read of an empty tensor";
    const std::int64_t big = std::int64_t{1} << 62;
    for (const auto& [offset, shape, strides] :
         std::vector<std::tuple<std::int64_t, std::vector<std::int64_t>, std::vector<std::int64_t>>>{
             {0, {7}, {1}},
             {1, {6}, {1}},
             {6, {1}, {1}},
             {-1, {1}, {1}},
             {0, {-1}, {1}},
             {0, {2}, {-1}},
             {0, {2, 2}, {5, 1}},
             {0, {2}, {big}},
             {0, {big}, {big}},
             {0, {big, 4}, {0, 0}},
             {0, {big, 4, 0}, {0, 0, 0}},
             {big, {1}, {1}},
             {std::numeric_limits<std::int64_t>::max(), {2}, {1}},
             {std::numeric_limits<std::int64_t>::min(), {2}, {1}},
             {0, {2}, {1, 1}},
             {0, {2}, {}},
             {0, {1 << 20, 1 << 20}, {0, 0}}}) {
        EXPECT_NE(refusal(with_tensor(tensor(kSix, offset, shape, strides))), "accepted")
            << offset << " " << shape.size();
    }
    EXPECT_THAT(refusal(with_tensor(tensor(kSix, 0, {1 << 20, 1 << 20}, {0, 0}))), HasSubstr("unfolds few bytes"));
    EXPECT_EQ(refusal(with_tensor(tensor(kSix, 0, {100, 6}, {0, 1}))), "accepted")
        << "a modest expansion is a tensor like another";
}

TEST(TorchSave, MissingAndShortStoragesAreRefused) {
    EXPECT_EQ(
        refusal(torch_zip(whole(dict({{"w", tensor(storage("FloatStorage", "9", 6), 0, {6}, {1})}})), {{"0", "abcd"}})),
        "the archive has no storage 9");
    EXPECT_EQ(refusal(torch_zip(whole(dict({{"w", tensor(kSix, 0, {6}, {1})}})), {{"0", "abcd"}})),
              "storage 0 has 4 bytes, 6 elements of F32 are wanted");
    EXPECT_THAT(refusal(with_tensor(
                    tensor(storage("FloatStorage", "0", std::numeric_limits<std::int64_t>::max()), 0, {6}, {1}))),
                HasSubstr("elements of F32 are wanted"));
    EXPECT_EQ(refusal(torch_zip(whole(dict({{"w", tensor(storage("FloatStorage", "../version", 1), 0, {1}, {1})}})),
                                {{"0", "abcd"}})),
              "the archive has no storage ../version");
    // The same storage, first modest and then greedy.
    EXPECT_THAT(refusal(torch_zip(whole(dict({{"a", tensor(storage("FloatStorage", "0", 1), 0, {1}, {1})},
                                              {"b", tensor(storage("FloatStorage", "0", 2), 0, {2}, {1})}})),
                                  {{"0", "abcd"}})),
                HasSubstr("2 elements of F32 are wanted"));
}

TEST(TorchSave, BigEndianFilesAreRefused) {
    const auto file = parse(torch_zip(whole("}"), {}, "big"));
    ASSERT_FALSE(file);
    EXPECT_EQ(file.error().message, "the file's byte order is big, only little is read");
    EXPECT_EQ(refusal(torch_legacy(whole("}"), {}, "", false)), "the file's byte order is big, only little is read");
}

TEST(TorchSave, OtherGlobalsAreRefusedAndNamed) {
    const std::string evil = whole("cos\nsystem\n" + text("true") + "\x85R");
    for (const std::string& file : {torch_zip(evil, {}), torch_legacy(evil, {}, "")}) {
        const auto read = parse(file);
        ASSERT_FALSE(read);
        EXPECT_EQ(read.error().message, "this file asks for os.system; only tensors and plain containers are read");
        EXPECT_EQ(read.error().code, ErrorCode::Unsupported);
    }
}

TEST(TorchSave, CyclesAndMemoBombsEnd) {
    const std::string self("]q\0h\0a", 6);
    EXPECT_THAT(refusal(torch_zip(whole(self), {})), HasSubstr("contain themselves"));
    EXPECT_THAT(refusal(torch_zip(whole(std::string("}q\0X\1\0\0\0ah\0s", 12)), {})), HasSubstr("contain themselves"));
    // Thirty lists, each holding the one before twice: a billion leaves in 200 bytes.
    std::string bomb = "]q\1";
    for (int i = 2; i < 32; ++i)
        bomb += "0](h" + std::string(1, static_cast<char>(i - 1)) + "h" + std::string(1, static_cast<char>(i - 1)) +
                "eq" + std::string(1, static_cast<char>(i));
    EXPECT_THAT(refusal(torch_zip(whole(bomb), {})), HasSubstr("unfolds into more than"));
    // The same with dictionaries whose long keys would multiply, and with a tensor at the end.
    std::string names = tensor(kSix, 0, {6}, {1}) + "q\1";
    for (int i = 2; i < 22; ++i) {
        names += "0}(";
        for (const char* key : {"a", "b"})
            names += text(std::string(200, *key)) + "h" + std::string(1, static_cast<char>(i - 1));
        names += "uq" + std::string(1, static_cast<char>(i));
    }
    EXPECT_THAT(refusal(torch_zip(whole(names), {{"0", values<float>({0, 1, 2, 3, 4, 5})}})), HasSubstr("more than"));
    // Deep but straight.
    EXPECT_THAT(refusal(torch_zip(whole(std::string(1000, ']') + std::string(999, 'a')), {})),
                HasSubstr("nest deeper than 64"));
    EXPECT_NE(refusal(torch_zip(whole(std::string(200'000, '(')), {})), "accepted");
    EXPECT_THAT(refusal(torch_zip(whole(dict({{std::string(5000, 'x'), "N"}})), {})), HasSubstr("longer than 4096"));
}

TEST(TorchSave, NamesThatWouldCollideAreRefused) {
    const std::string t = tensor(kSix, 0, {6}, {1});
    EXPECT_THAT(refusal(torch_zip(whole(dict({{"a.b", t}, {"a", dict({{"b", t}})}})),
                                  {{"0", values<float>({0, 1, 2, 3, 4, 5})}})),
                HasSubstr("would be called a.b"));
}

TEST(TorchSave, EveryTruncationIsRefused) {
    const std::string zip = with_tensor(tensor(kSix, 1, {2, 2}, {1, 2}));
    for (std::size_t length = 0; length < zip.size(); ++length)
        EXPECT_NE(refusal(zip.substr(0, length)), "accepted") << length;
    const std::string legacy = torch_legacy(whole(dict({{"w", tensor(storage("FloatStorage", "k", 2), 0, {2}, {1})}})),
                                            {"k"}, little<std::uint64_t>(2) + values<float>({1, 2}));
    ASSERT_EQ(refusal(legacy), "accepted");
    for (std::size_t length = 0; length < legacy.size(); ++length)
        EXPECT_NE(refusal(legacy.substr(0, length)), "accepted") << length;
}

TEST(TorchSave, EveryChangedByteIsReadWithinTheFile) {
    const std::string zip = with_tensor(tensor(kSix, 1, {2, 2}, {1, 2}));
    const std::string legacy = torch_legacy(whole(dict({{"w", tensor(storage("FloatStorage", "k", 2), 0, {2}, {1})}})),
                                            {"k"}, little<std::uint64_t>(2) + values<float>({1, 2}));
    for (const std::string& file : {zip, legacy}) {
        for (std::size_t i = 0; i < file.size(); ++i) {
            for (const int value : {0, 1, 2, 0x28, 0x2e, 0x7f, 0x80, 0xff, file[i] ^ 1, file[i] + 1, file[i] - 1}) {
                std::string changed = file;
                changed[i] = static_cast<char>(value);
                parse(changed);
            }
        }
    }
}

TEST(TorchSaveLegacy, ReadsStoragesAtOddAddressesAndViews) {
    const std::string view = "(" + text("v") + "K\1K\2t";
    const std::string pickle = whole(dict({{"all", tensor(storage("FloatStorage", "k", 3), 0, {3}, {1})},
                                           {"view", tensor(storage("FloatStorage", "k", 3, view), 1, {1}, {1})},
                                           {"half", tensor(storage("HalfStorage", "h", 1, "N"), 0, {1}, {1})}}));
    const auto file = parse(torch_legacy(
        pickle, {"h", "k"}, little<std::uint64_t>(1) + "ab" + little<std::uint64_t>(3) + values<float>({1, 2, 3})));
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->format, "torch.save legacy");
    EXPECT_EQ(reinterpret_cast<const float*>(file->tensors.at("all").data)[2], 3);
    EXPECT_EQ(*reinterpret_cast<const float*>(file->tensors.at("view").data), 3);
    EXPECT_EQ(file->tensors.at("half").dtype, DType::F16);
    const std::string beyond = whole(dict({{"view", tensor(storage("FloatStorage", "k", 3, view), 2, {1}, {1})}}));
    EXPECT_THAT(refusal(torch_legacy(beyond, {"k"}, little<std::uint64_t>(3) + values<float>({1, 2, 3}))),
                HasSubstr("reaches beyond its storage"));
}

TEST(TorchSaveLegacy, HeadersThatLieAreRefused) {
    const std::string pickle = whole(dict({{"w", tensor(storage("FloatStorage", "k", 2), 0, {2}, {1})}}));
    const std::string data = little<std::uint64_t>(2) + values<float>({1, 2});
    EXPECT_EQ(refusal(torch_legacy(pickle, {"k"}, data)), "accepted");
    EXPECT_THAT(refusal(torch_legacy(pickle, {"k"}, little<std::uint64_t>(~0ull) + values<float>({1, 2}))),
                HasSubstr("cut short or damaged"));
    EXPECT_THAT(refusal(torch_legacy(pickle, {"k"}, little<std::uint64_t>(1ull << 62) + values<float>({1, 2}))),
                HasSubstr("cut short or damaged"));
    EXPECT_EQ(refusal(torch_legacy(pickle, {"k"}, little<std::uint64_t>(1) + values<float>({1}))),
              "storage k has 4 bytes, 2 elements of F32 are wanted");
    EXPECT_EQ(refusal(torch_legacy(pickle, {}, "")), "the file has no storage k");
    EXPECT_EQ(refusal(torch_legacy(pickle, {"other"}, data)), "the file lists a storage that nothing asks for");
    EXPECT_EQ(refusal(torch_legacy(pickle, {"k", "k"}, data + data)), "the file lists storage k twice");
    const std::string two = whole(dict({{"a", tensor(storage("FloatStorage", "k", 1), 0, {1}, {1})},
                                        {"b", tensor(storage("DoubleStorage", "k", 1), 0, {1}, {1})}}));
    EXPECT_EQ(refusal(torch_legacy(two, {"k"}, data)), "storage k is asked for with elements of two sizes");
    EXPECT_EQ(refusal(whole("}")), "this is a pickle, but none that torch.save wrote");
    EXPECT_EQ(refusal(std::string("hello")),
              "this is no file of torch.save: it begins with neither a zip nor a pickle");
    EXPECT_EQ(refusal(""), "the file is empty");
}

std::string zip_refusal(const std::string& text) {
    const Bytes bytes(text);
    const auto zip = open_zip(bytes.span);
    return zip ? "accepted" : zip.error().message;
}

TEST(Zip, FindsMembersThroughBothKindsOfDirectory) {
    for (const bool zip64 : {false, true}) {
        const Bytes bytes(zip({{"a/x", "hello"}, {.name = "a/y", .data = "world", .wide = true}}, zip64));
        const auto zip = open_zip(bytes.span);
        ASSERT_TRUE(zip) << zip.error().message;
        ASSERT_NE(zip->find("a/y"), nullptr);
        EXPECT_EQ(bytes::text(zip->find("a/y")->data), "world");
        EXPECT_EQ(zip->find("a/z"), nullptr);
    }
    std::string commented = zip({{"a/x", "hello"}});
    commented[commented.size() - 2] = 3;
    const Bytes comment(commented + "abc");
    EXPECT_TRUE(open_zip(comment.span));
}

TEST(Zip, DirectoriesThatLieAreRefused) {
    const std::string data(100, 'x');
    EXPECT_EQ(zip_refusal(zip({{"a/x", data}, {"a/x", data}})), "the archive holds a/x twice");
    EXPECT_THAT(zip_refusal(zip({{"a/x", data}, {.name = "a/y", .data = data, .claimed_offset = 0}})),
                HasSubstr("called or packed otherwise"));
    EXPECT_THAT(zip_refusal(zip({{"a/x", data}, {.name = "a/y", .data = data, .claimed_packed = 1000}})),
                HasSubstr("ends beyond the file"));
    EXPECT_THAT(
        zip_refusal(zip({{.name = "a/x", .data = data, .claimed_size = 200, .claimed_packed = 200}, {"a/y", data}})),
        HasSubstr("overlap"));
    EXPECT_THAT(zip_refusal(zip({{.name = "a/x", .data = data, .claimed_size = 1u << 30}})),
                HasSubstr("has 100 bytes and claims"));
    EXPECT_THAT(
        zip_refusal(
            zip({{.name = "a/x", .data = data, .claimed_size = ~0ull - 1, .claimed_packed = ~0ull - 1, .wide = true}})),
        HasSubstr("ends beyond the file"));
    EXPECT_THAT(zip_refusal(zip({{.name = "a/x", .data = data, .claimed_offset = ~0ull - 1, .wide = true}})),
                HasSubstr("not where the directory says"));
    EXPECT_THAT(zip_refusal(zip({{.name = "a/x", .data = data, .local_name = "a/z"}})),
                HasSubstr("called or packed otherwise"));
    EXPECT_THAT(zip_refusal(zip({{.name = "a/x", .data = data, .flags = 1}})), HasSubstr("encrypted"));
    for (const char* name : {"../x", "/x", "a/../../x", "a\\..\\x", "C:x"})
        EXPECT_THAT(zip_refusal(zip({{name, data}})), HasSubstr("leaves its folder")) << name;
    EXPECT_THAT(zip_refusal(zip({{std::string("a\0b", 3), data}})), HasSubstr("leaves its folder"));
    EXPECT_THAT(zip_refusal("PK\3\4 and nothing more"), HasSubstr("no directory at its end"));
    // The end says more members than the directory holds.
    std::string many = zip({{"a/x", data}});
    many[many.size() - 22 + 8] = many[many.size() - 22 + 10] = 9;
    EXPECT_THAT(zip_refusal(many), HasSubstr("claims 9 members"));
    std::string volumes = zip({{"a/x", data}});
    volumes[volumes.size() - 22 + 8] = 0;
    EXPECT_THAT(zip_refusal(volumes), HasSubstr("several volumes"));
}

TEST(TorchSave, CompressedAndForeignArchivesAreRefused) {
    EXPECT_THAT(refusal(zip({{.name = "a/data.pkl", .data = "abc", .method = 8, .claimed_size = 1000}})),
                HasSubstr("is compressed"));
    EXPECT_EQ(refusal(zip({{"a/other", "abc"}})), "the archive has no data.pkl, so it is no file of torch.save");
    EXPECT_EQ(refusal(zip({})), "this is no file of torch.save: it begins with neither a zip nor a pickle")
        << "an archive of nothing";
    const auto script = parse(zip({{"m/data.pkl", whole("}")},
                                   {"m/code/__torch__.py", "x"},
                                   {"m/constants.pkl", whole(")")},
                                   {"m/version", "3"}}));
    ASSERT_FALSE(script);
    EXPECT_EQ(script.error().code, ErrorCode::Unsupported);
    EXPECT_THAT(script.error().message, HasSubstr("consent (--trust)"));
    EXPECT_THAT(refusal(zip({{"m/data.pkl", whole("}")}, {"m/.data/extern_modules", "x"}})),
                HasSubstr("torch.package"));
}

class TorchScriptContainer : public ::testing::Test {
  protected:
    std::string check(std::vector<Member> more) {
        std::vector<Member> members = {{"m/data.pkl", "x"}, {"m/constants.pkl", "x"}, {"m/version", "3\n"}};
        members.insert(members.end(), more.begin(), more.end());
        const Status status = check_torchscript_container(folder_.put("m.pt", zip(members)));
        return status ? "accepted" : status.error().message;
    }
    Folder folder_;
};

TEST_F(TorchScriptContainer, CompressedCodeIsFineAndBombsAreNot) {
    EXPECT_EQ(check({{"m/code/a.py", "x"}}), "accepted");
    EXPECT_EQ(check({{.name = "m/code/a.py", .data = std::string(100, 'x'), .method = 8, .claimed_size = 900}}),
              "accepted");
    EXPECT_THAT(
        check({{.name = "m/code/a.py", .data = std::string(1000, 'x'), .method = 8, .claimed_size = 4'000'000'000}}),
        HasSubstr("which no model needs"));
    EXPECT_THAT(check({{.name = "m/code/a.py", .data = std::string(1000, 'x'), .method = 8, .claimed_size = 201'000}}),
                HasSubstr("which no model needs"));
    EXPECT_THAT(check({{.name = "m/code/a.py", .data = "x", .method = 12}}), HasSubstr("method 12"));
    std::vector<Member> many;
    for (int i = 0; i < 6; ++i)
        many.push_back({.name = "m/code/" + std::to_string(i),
                        .data = std::string(1'400'000, 'x'),
                        .method = 8,
                        .claimed_size = 250u << 20});
    EXPECT_THAT(check(many), HasSubstr("more than 1073741824 bytes"));
    EXPECT_THAT(check({{"n/x", "x"}}), HasSubstr("outside its folder"));
    EXPECT_THAT(check({{"m/../x", "x"}}), HasSubstr("leaves its folder"));
}

TEST_F(TorchScriptContainer, WhatEveryArchiveHasMustBeThere) {
    const auto refused = [&](const std::string& bytes) {
        const Status status = check_torchscript_container(folder_.put("m.pt", bytes));
        return status ? "accepted" : status.error().message;
    };
    EXPECT_THAT(refused(zip({{"m/data.pkl", "x"}, {"m/version", "3"}})), HasSubstr("no constants.pkl"));
    EXPECT_THAT(refused(zip({{"m/constants.pkl", "x"}, {"m/version", "3"}})), HasSubstr("no data.pkl"));
    EXPECT_THAT(refused(zip({{"m/data.pkl", "x"}, {"m/constants.pkl", "x"}})), HasSubstr("no version"));
    EXPECT_EQ(refused(zip({{"m/data.pkl", "x"}, {"m/constants.pkl", "x"}, {"m/.data/version", "3"}})), "accepted");
    EXPECT_THAT(refused(zip({{"m/data.pkl", "x"}, {"m/constants.pkl", "x"}, {"m/version", std::string(65, '3')}})),
                HasSubstr("65 bytes"));
    EXPECT_THAT(refused("hello"), HasSubstr("does not begin with a zip"));
}

TEST(Sniff, KnowsFilesByTheirBytesNotTheirNames) {
    const Folder folder;
    const auto kind = [&](const std::string& bytes) { return sniff(folder.put("x.jpg", bytes)).value(); };
    EXPECT_EQ(kind(safetensors("{}", "")), FileKind::Safetensors);
    EXPECT_EQ(kind(torch_zip(whole("}"), {})), FileKind::TorchSaveZip);
    EXPECT_EQ(kind(torch_zip(whole("}"), {}).substr(0, 100)), FileKind::TorchSaveZip);
    EXPECT_EQ(kind(torch_legacy(whole("}"), {}, "")), FileKind::TorchSaveLegacy);
    EXPECT_EQ(kind(zip({{"m/data.pkl", "x"}, {"m/constants.pkl", "x"}})), FileKind::TorchScript);
    EXPECT_EQ(kind(zip({{"word/document.xml", "x"}})), FileKind::Unknown);
    EXPECT_EQ(kind(std::string("\xFF\xD8\xFF\xE0", 4)), FileKind::Image);
    EXPECT_EQ(kind("\x89PNG\r\n\x1A\n"), FileKind::Image);
    EXPECT_EQ(kind("P6\n1 1\n255\n"), FileKind::Image);
    EXPECT_EQ(kind(std::string("RIFF\0\0\0\0WEBPVP8 ", 16)), FileKind::Image);
    EXPECT_EQ(kind(" \n{\"a\": 1}"), FileKind::Json);
    EXPECT_EQ(kind("[1]"), FileKind::Json);
    EXPECT_EQ(kind("\x08\x08\x12\x07pytorch\x1a\x03"
                   "2.0\x3a\x02"
                   "ab"),
              FileKind::Onnx);
    EXPECT_EQ(kind("\x08\x08\x12\x7fpytorch"), FileKind::Unknown);
    EXPECT_EQ(kind("hello, world"), FileKind::Unknown);
    EXPECT_EQ(kind(""), FileKind::Unknown);
    EXPECT_EQ(sniff(folder / "gone").error().code, ErrorCode::NotFound);
}

}  // namespace
}  // namespace vitrine
