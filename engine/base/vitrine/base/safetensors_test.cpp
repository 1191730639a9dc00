// Safetensors, honest and hostile; the round trip; the sharded index; .npy.
#include <gmock/gmock.h>
#include <vitrine/base/bytes.h>
#include <vitrine/base/file.h>
#include <vitrine/base/readers.h>
#include <vitrine/base/test_bytes.h>

namespace vitrine {
namespace {

using namespace vitrine::testing;
using ::testing::HasSubstr;

Result<TensorFile> parse(const std::string& text) {
    const Bytes bytes(text);
    auto file = parse_safetensors(bytes.span, bytes.copy);
    if (!file) return file;
    // Every element that an entry promises is read, so that the address sanitizer sees a wrong promise.
    for (const auto& [name, tensor] : file->tensors) {
        EXPECT_TRUE(tensor.contiguous());
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data) % size_of(tensor.dtype), 0u) << name;
        unsigned sum = 0;
        for (std::size_t i = 0; i < static_cast<std::size_t>(tensor.count()) * size_of(tensor.dtype); ++i)
            sum += std::to_integer<unsigned>(tensor.data[i]);
        EXPECT_GE(sum, 0u);
    }
    return file;
}

std::string refusal(const std::string& text) {
    const auto file = parse(text);
    return file ? "accepted" : file.error().message;
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, std::uint64_t begin,
                  std::uint64_t end) {
    return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name, dtype, shape, begin, end);
}

TEST(Safetensors, ReadsNamesShapesMetadataAndValues) {
    const auto file =
        parse(safetensors(R"({"__metadata__":{"format":"pt"},)" + entry("b", "I64", "[]", 8, 16) + "," +
                              entry("a", "F32", "[2,1]", 0, 8) + "," + entry("none", "F32", "[0,3]", 16, 16) + "}  ",
                          values<float>({1.5f, -2}) + values<std::int64_t>({7})));
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->format, "safetensors");
    EXPECT_EQ(file->metadata.at("format"), "pt");
    ASSERT_EQ(file->tensors.size(), 3u);
    const TensorEntry& a = file->tensors.at("a");
    EXPECT_EQ(a.dtype, DType::F32);
    EXPECT_EQ(a.shape, (std::vector<std::int64_t>{2, 1}));
    EXPECT_EQ(a.strides, (std::vector<std::int64_t>{1, 1}));
    EXPECT_EQ(reinterpret_cast<const float*>(a.data)[1], -2);
    EXPECT_EQ(*reinterpret_cast<const std::int64_t*>(file->tensors.at("b").data), 7);
    EXPECT_EQ(file->tensors.at("none").count(), 0);
}

TEST(Safetensors, AHeaderOfAnyLengthGivesAlignedNumbers) {
    for (int spaces = 0; spaces < 8; ++spaces) {
        const auto file = parse(safetensors(
            "{" + entry("a", "F64", "[2]", 0, 16) + "}" + std::string(static_cast<std::size_t>(spaces), ' '),
            values<double>({1.5, -2})));
        ASSERT_TRUE(file) << file.error().message;
        EXPECT_EQ(reinterpret_cast<const double*>(file->tensors.at("a").data)[1], -2);
    }
}

TEST(Safetensors, EveryTruncationAndEveryExtensionIsRefused) {
    const std::string whole =
        safetensors(R"({"__metadata__":{"k":"v"},)" + entry("a", "F32", "[2,1]", 0, 8) + "}", values<float>({1, 2}));
    EXPECT_EQ(refusal(whole), "accepted");
    for (std::size_t length = 0; length < whole.size(); ++length)
        EXPECT_NE(refusal(whole.substr(0, length)), "accepted") << length;
    EXPECT_EQ(refusal(whole + "x"), "1 bytes follow the last tensor, none belong there");
}

TEST(Safetensors, EveryChangedByteIsReadWithinTheFile) {
    const std::string whole = safetensors("{" + entry("a", "F32", "[2,1]", 0, 8) + "}", values<float>({1, 2}));
    for (std::size_t i = 0; i < whole.size(); ++i) {
        for (int value = 0; value < 256; ++value) {
            std::string changed = whole;
            changed[i] = static_cast<char>(value);
            parse(changed);
        }
    }
}

TEST(Safetensors, AHeaderLengthBeyondTheFileIsRefusedBeforeAnythingIsAllocated) {
    EXPECT_EQ(refusal(""), "the file has 0 bytes, a safetensors file begins with 8 for its header's length");
    EXPECT_EQ(refusal(little<std::uint64_t>(50) + "{}"),
              "the header claims 50 bytes, the file has 2 behind its first 8");
    EXPECT_EQ(refusal(little<std::uint64_t>(~0ull) + "{}"),
              "the header claims 18446744073709551615 bytes, at most 100000000 are read");
    EXPECT_EQ(refusal(little<std::uint64_t>(0) + "{}"),
              "the header does not begin with '{', so this is no safetensors file");
}

TEST(Safetensors, WhatIsNoObjectOfTensorsIsRefused) {
    for (const char* header : {"{",
                               "{\"a\"}",
                               "{\"a\":1}",
                               "{\"a\":[]}",
                               "{\"a\":{}}",
                               "{\"a\":null}",
                               "{}{}",
                               "{} x",
                               "{\"__metadata__\":{\"a\":1}}",
                               "{\"__metadata__\":{\"a\":{}}}",
                               "{\"__metadata__\":[]}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]}}",
                               "{\"a\":{\"dtype\":1,\"shape\":[],\"data_offsets\":[0,4]}}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[1e0],\"data_offsets\":[0,4]}}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[true],\"data_offsets\":[0,4]}}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":[]}}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":{}}}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"dtype\":\"F32\",\"data_offsets\":[0,4]}}",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}",
                               "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}",
                               "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}"}) {
        EXPECT_NE(refusal(safetensors(header, "1234")), "accepted") << header;
    }
    EXPECT_EQ(
        refusal(safetensors("{" + entry("a", "F32", "[1]", 0, 4) + "," + entry("a", "F32", "[1]", 0, 4) + "}", "1234")),
        "the header holds the name a twice");
    // An unknown plain field is passed over, as the reference implementation does.
    EXPECT_EQ(refusal(safetensors(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"note":"x"}})", "1234")),
              "accepted");
    EXPECT_EQ(refusal(safetensors("{}", "")), "accepted");
    // A hundred thousand brackets neither recurse nor take memory.
    EXPECT_NE(refusal(safetensors("{\"a\":" + std::string(100'000, '['), "")), "accepted");
    EXPECT_NE(refusal(safetensors(
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[" + std::string(200'000, '1') + "],\"data_offsets\":[0,4]}}",
                  "1234")),
              "accepted");
}

TEST(Safetensors, OffsetsThatLieAreRefused) {
    const std::string data(16, 'x');
    EXPECT_THAT(
        refusal(safetensors("{" + entry("a", "F32", "[4]", 0, 16) + "," + entry("b", "F32", "[2]", 8, 16) + "}", data)),
        HasSubstr("b overlaps another tensor at byte 8"));
    EXPECT_THAT(
        refusal(safetensors("{" + entry("a", "F32", "[4]", 0, 16) + "," + entry("b", "F32", "[4]", 0, 16) + "}", data)),
        HasSubstr("overlaps"));
    EXPECT_EQ(
        refusal(safetensors("{" + entry("a", "F32", "[1]", 0, 4) + "," + entry("b", "F32", "[2]", 8, 16) + "}", data)),
        "there is a hole of 4 bytes before b");
    EXPECT_EQ(refusal(safetensors("{" + entry("a", "F32", "[2]", 8, 0) + "}", data)),
              "a runs backwards from byte 8 to 0");
    EXPECT_EQ(refusal(safetensors("{" + entry("a", "F32", "[5]", 0, 20) + "}", data)),
              "a ends at byte 20 of 16, so the file is cut short or damaged");
    EXPECT_EQ(refusal(safetensors("{" + entry("a", "F32", "[3]", 0, 16) + "}", data)),
              "a is [3] of F32 and needs 12 bytes, its offsets give 16");
    EXPECT_EQ(refusal(safetensors("{" + entry("a", "F31", "[4]", 0, 16) + "}", data)), "a has the unknown dtype F31");
    EXPECT_EQ(refusal(safetensors("{" + entry("a", "QI8", "[16]", 0, 16) + "}", data)), "a has the unknown dtype QI8");
    EXPECT_THAT(refusal(safetensors("{" + entry("a", "F32", "[4611686018427387904,4]", 0, 16) + "}", data)),
                HasSubstr("too large to count"));
    EXPECT_THAT(refusal(safetensors("{" + entry("a", "F32", "[4611686018427387904,4,0]", 0, 0) + "}", "")),
                HasSubstr("too large to count"));
    EXPECT_THAT(refusal(safetensors("{" + entry("a", "F32", "[18446744073709551615]", 0, 16) + "}", data)),
                HasSubstr("an extent of"));
    EXPECT_THAT(refusal(safetensors("{" + entry("a", "F32", "[18446744073709551616]", 0, 16) + "}", data)),
                HasSubstr("no whole number of 64 bits"));
    std::string ones = "[1";
    for (int i = 0; i < 64; ++i) ones += ",1";
    EXPECT_THAT(refusal(safetensors("{" + entry("a", "F32", ones + "]", 0, 4) + "}", "1234")),
                HasSubstr("more than 64 numbers"));
}

TEST(Safetensors, FilesThatAreMissingOrNoFilesAreNamed) {
    const Folder folder;
    EXPECT_EQ(read_safetensors(folder / "gone.safetensors").error().message,
              "gone.safetensors cannot be opened: No such file or directory");
    EXPECT_EQ(read_safetensors(folder / "gone.safetensors").error().code, ErrorCode::NotFound);
    EXPECT_THAT(read_safetensors(folder.path()).error().message, HasSubstr("is a folder"));
    EXPECT_FALSE(read_safetensors(folder.put("empty.safetensors", "")));
}

TEST(SafetensorsWriter, WhatIsWrittenIsReadBack) {
    const Folder folder;
    const std::string f16 = values<std::uint16_t>({1, 2, 3}), f32 = values<float>({1, 2, 3, 4, 5, 6}), byte = "x",
                      i64 = values<std::int64_t>({-1});
    const auto tensor = [](DType dtype, std::vector<std::int64_t> shape, std::vector<std::int64_t> strides,
                           const std::string& data) {
        return TensorEntry{dtype, std::move(shape), std::move(strides), reinterpret_cast<const std::byte*>(data.data()),
                           nullptr};
    };
    const std::vector<NamedTensor> tensors = {{"odd", tensor(DType::U8, {1}, {1}, byte)},
                                              {"half", tensor(DType::BF16, {3}, {1}, f16)},
                                              {"grid \"1\"\n\xc3\xa9", tensor(DType::F32, {2, 3}, {3, 1}, f32)},
                                              {"one", tensor(DType::I64, {}, {}, i64)},
                                              {"none", tensor(DType::F32, {0, 4}, {4, 1}, byte)}};
    const auto file = folder / "out.safetensors";
    const Status written = write_safetensors(file, tensors, {{"made by", "a test"}, {"z", ""}});
    ASSERT_TRUE(written) << written.error().message;
    const auto back = read_safetensors(file);
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(back->metadata, (std::map<std::string, std::string>{{"made by", "a test"}, {"z", ""}}));
    ASSERT_EQ(back->tensors.size(), tensors.size());
    for (const auto& [name, expected] : tensors) {
        const TensorEntry& got = back->tensors.at(name);
        EXPECT_EQ(got.dtype, expected.dtype);
        EXPECT_EQ(got.shape, expected.shape);
        EXPECT_EQ(
            std::memcmp(got.data, expected.data, static_cast<std::size_t>(expected.count()) * size_of(expected.dtype)),
            0)
            << name;
    }
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "nothing is left beside";
}

TEST(SafetensorsWriter, RefusesWhatTheFormatCannotHold) {
    const Folder folder;
    const auto file = folder.put("kept", "before");
    const std::string data = values<float>({1, 2, 3, 4});
    const auto* const p = reinterpret_cast<const std::byte*>(data.data());
    const auto refused = [&](const std::vector<NamedTensor>& tensors,
                             const std::map<std::string, std::string>& metadata = {}) {
        const Status status = write_safetensors(file, tensors, metadata);
        return status ? "written" : status.error().message;
    };
    EXPECT_EQ(refused({{"a", {DType::F32, {2, 2}, {1, 2}, p, nullptr}}}), "a is not contiguous");
    EXPECT_EQ(refused({{"a", {DType::QI8, {4}, {1}, p, nullptr}}}), "a is QI8, which safetensors cannot hold");
    EXPECT_EQ(refused({{"a", {DType::F32, {1}, {1}, p, nullptr}}, {"a", {DType::F32, {1}, {1}, p, nullptr}}}),
              "two tensors are called a");
    EXPECT_EQ(refused({{"__metadata__", {DType::F32, {1}, {1}, p, nullptr}}}),
              "a tensor cannot be called __metadata__");
    EXPECT_EQ(refused({{"a\xff", {DType::F32, {1}, {1}, p, nullptr}}}), "a name or a metadata value is no valid UTF-8");
    EXPECT_EQ(refused({{"a", {DType::F32, {1}, {1}, nullptr, nullptr}}}), "a has no data");
    EXPECT_EQ(*read_text(file), "before") << "a refused write leaves the old file";
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
    EXPECT_THAT(write_safetensors(folder / "no/such/folder", {}, {}).error().message, HasSubstr("cannot be written"));
}

class Sharded : public ::testing::Test {
  protected:
    void SetUp() override {
        folder_.put("one.safetensors",
                    safetensors(R"({"__metadata__":{"format":"pt"},)" + entry("a", "F32", "[1]", 0, 4) + "," +
                                    entry("c", "F32", "[1]", 4, 8) + "}",
                                values<float>({1, 3})));
        folder_.put("two.safetensors", safetensors("{" + entry("b", "F32", "[1]", 0, 4) + "}", values<float>({2})));
    }
    std::string message(const std::string& index) {
        const auto file = read_sharded_safetensors(folder_.put("model.safetensors.index.json", index));
        return file ? "accepted" : file.error().message;
    }
    Folder folder_;
};

TEST_F(Sharded, GathersTheTensorsOfAllShards) {
    const auto index = folder_.put(
        "model.safetensors.index.json",
        R"({"metadata":{"total_size":12,"name":"x"},"weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"one.safetensors"}})");
    const auto file = read_sharded_safetensors(index);
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->format, "safetensors (2 shards)");
    ASSERT_EQ(file->tensors.size(), 3u);
    EXPECT_EQ(*reinterpret_cast<const float*>(file->tensors.at("b").data), 2);
    EXPECT_EQ(*reinterpret_cast<const float*>(file->tensors.at("c").data), 3);
    EXPECT_EQ(file->metadata.at("total_size"), "12");
    EXPECT_EQ(file->metadata.at("name"), "x");
    EXPECT_EQ(file->metadata.at("format"), "pt");
}

TEST_F(Sharded, ShardNamesMayNotLeaveTheFolder) {
    for (const char* name :
         {"../one.safetensors", "/etc/passwd", "a/../../one.safetensors", "..", "", "a\\u0000b", "..\\\\one", "C:/x"}) {
        EXPECT_THAT(message(std::string(R"({"weight_map":{"a":")") + name + "\"}}"), HasSubstr("leaves its folder"))
            << name;
    }
}

TEST_F(Sharded, WhatTheIndexPromisesMustBeThere) {
    EXPECT_EQ(message(R"({"weight_map":{"a":"two.safetensors"}})"),
              "the index says that two.safetensors holds a, it does not");
    EXPECT_EQ(message(R"({"weight_map":{"a":"three.safetensors"}})"),
              "shard three.safetensors: three.safetensors cannot be opened: No such file or directory");
    EXPECT_EQ(message(R"({"weight_map":{"a":1}})"), "the index names no file for a");
    EXPECT_EQ(message(R"({"weight_map":[]})"), "the index has no object \"weight_map\"");
    EXPECT_EQ(message("[]"), "the index is no JSON object");
    EXPECT_EQ(message("{"), "the index is no JSON object");
    EXPECT_EQ(message(std::string(100'000, '[')), "the index nests deeper than 16 brackets");
    EXPECT_EQ(message(R"({"weight_map":{}})"), "accepted");
}

TEST(Npy, HasTheHeaderThatNumpyWrites) {
    const Folder folder;
    const std::vector<float> data = {1, 2, 3, 4, 5, 6};
    const auto header_for = [&](const std::vector<std::int64_t>& shape) {
        const Status written = write_npy(folder / "a.npy", data.data(), shape);
        EXPECT_TRUE(written);
        const std::string text = *read_text(folder / "a.npy");
        const std::size_t length = bytes::little<std::uint16_t>(reinterpret_cast<const std::byte*>(text.data()) + 8);
        EXPECT_TRUE(text.starts_with(std::string_view("\x93NUMPY\x01\x00", 8)));
        EXPECT_EQ((10 + length) % 64, 0u);
        EXPECT_EQ(text[9 + length], '\n');
        EXPECT_EQ(std::memcmp(text.data() + 10 + length, data.data(), text.size() - 10 - length), 0);
        return text.substr(10, text.find('}') - 9);
    };
    EXPECT_EQ(header_for(std::vector<std::int64_t>{2, 3}),
              "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
    EXPECT_EQ(header_for(std::vector<std::int64_t>{6}), "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }");
    EXPECT_EQ(header_for(std::vector<std::int64_t>{}), "{'descr': '<f4', 'fortran_order': False, 'shape': (), }");
    EXPECT_EQ(header_for(std::vector<std::int64_t>{4, 0}),
              "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 0), }");
    const std::int64_t negative[] = {-1}, huge[] = {std::int64_t{1} << 40, std::int64_t{1} << 40};
    EXPECT_FALSE(write_npy(folder / "b.npy", data.data(), negative));
    EXPECT_FALSE(write_npy(folder / "b.npy", data.data(), huge));
    EXPECT_FALSE(std::filesystem::exists(folder / "b.npy"));
}

}  // namespace
}  // namespace vitrine
