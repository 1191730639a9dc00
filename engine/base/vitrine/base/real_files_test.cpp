// The readers on real files: values against Python's own readers, by tests/parity/data/checkpoint_values.tsv.
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include <gmock/gmock.h>
#include <vitrine/base/file.h>
#include <vitrine/base/image_file.h>
#include <vitrine/base/readers.h>

namespace vitrine {
namespace {

std::filesystem::path test_data() {
    const char* const folder = std::getenv("VITRINE_TEST_DATA");
    return folder != nullptr ? std::filesystem::path(folder)
                             : std::filesystem::path(VITRINE_SOURCE_DIR) / "../shared/data";
}

std::vector<std::vector<std::string>> rows(const std::string& kind) {
    std::ifstream file(VITRINE_SOURCE_DIR "/tests/parity/data/checkpoint_values.tsv");
    EXPECT_TRUE(file) << "tests/parity/data/checkpoint_values.tsv is missing";
    std::vector<std::vector<std::string>> out;
    for (std::string line; std::getline(file, line);) {
        std::istringstream in(line);
        std::vector<std::string> fields;
        for (std::string field; std::getline(in, field, '\t');) fields.push_back(field);
        if (fields.at(0) == kind) out.push_back(fields);
    }
    return out;
}

Result<TensorFile> read(const std::filesystem::path& file) {
    const FileKind kind = VITRINE_TRY(sniff(file));
    if (kind == FileKind::Safetensors) return read_safetensors(file);
    EXPECT_EQ(kind, FileKind::TorchSaveLegacy);
    return read_torch_save(file);
}

#define SKIP_WITHOUT_TEST_DATA()               \
    if (!std::filesystem::exists(test_data())) \
    GTEST_SKIP() << "no test data at " << test_data() << " (set VITRINE_TEST_DATA)"

TEST(RealFiles, CheckpointsHoldWhatPythonReadsFromThem) {
    SKIP_WITHOUT_TEST_DATA();
    std::map<std::string, TensorFile> files;
    for (const auto& row : rows("count")) {
        auto file = read(test_data() / row.at(1));
        ASSERT_TRUE(file) << row[1] << ": " << file.error().message;
        EXPECT_EQ(std::to_string(file->tensors.size()), row.at(2)) << row[1];
        files.emplace(row[1], std::move(*file));
    }
    const auto tensors = rows("tensor");
    EXPECT_GE(tensors.size(), 40u);
    for (const auto& row : tensors) {
        const auto found = files.at(row.at(1)).tensors.find(row.at(2));
        ASSERT_NE(found, files.at(row[1]).tensors.end()) << row[2];
        const TensorEntry& tensor = found->second;
        EXPECT_EQ(name_of(tensor.dtype), row.at(3));
        EXPECT_EQ(fmt::format("{}", fmt::join(tensor.shape, "x")), row.at(4)) << row[2];
        ASSERT_TRUE(tensor.contiguous());
        const std::int64_t at[] = {0, tensor.count() / 2, tensor.count() - 1};
        for (std::size_t i = 0; i < 3; ++i) {
            const double value = tensor.dtype == DType::F32
                                     ? reinterpret_cast<const float*>(tensor.data)[at[i]]
                                     : static_cast<double>(reinterpret_cast<const std::int64_t*>(tensor.data)[at[i]]);
            EXPECT_EQ(value, std::strtod(row.at(5 + i).c_str(), nullptr)) << row[1] << " " << row[2] << " " << at[i];
        }
    }
}

TEST(RealFiles, TheTwoFormatsOfOneModelAgree) {
    SKIP_WITHOUT_TEST_DATA();
    const auto legacy = read_torch_save(test_data() / "resnet_cifar10/resnet20_legacy_format.th");
    const auto plain = read_safetensors(test_data() / "resnet_cifar10/resnet20.safetensors");
    ASSERT_TRUE(legacy) << legacy.error().message;
    ASSERT_TRUE(plain) << plain.error().message;
    EXPECT_EQ(legacy->metadata.at("best_prec1").substr(0, 5), "91.78");
    int compared = 0;
    for (const auto& [name, tensor] : plain->tensors) {
        const auto found = legacy->tensors.find("state_dict.module." + name);
        if (found == legacy->tensors.end()) continue;
        ASSERT_EQ(found->second.shape, tensor.shape);
        EXPECT_EQ(std::memcmp(found->second.data, tensor.data,
                              static_cast<std::size_t>(tensor.count()) * size_of(tensor.dtype)),
                  0)
            << name;
        ++compared;
    }
    EXPECT_GE(compared, 90);
}

TEST(RealFiles, ATorchScriptFileIsKnownAsAProgram) {
    SKIP_WITHOUT_TEST_DATA();
    const auto file = test_data() / "mobilenet_v2_torchscript_quantised/mobilenet_quantized.pt";
    if (!std::filesystem::exists(file)) GTEST_SKIP() << "no " << file;
    EXPECT_EQ(sniff(file), FileKind::TorchScript);
    const Status container = check_torchscript_container(file);
    EXPECT_TRUE(container) << container.error().message;
    const auto read = read_torch_save(file);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, ErrorCode::Unsupported);
}

TEST(RealFiles, PhotographsHaveTheSizeThatPillowSees) {
    SKIP_WITHOUT_TEST_DATA();
    for (const auto& row : rows("image")) {
        const auto mapped = map_file(test_data() / row.at(1));
        ASSERT_TRUE(mapped);
        const auto info = inspect_image(mapped->bytes);
        ASSERT_TRUE(info) << info.error().message;
        EXPECT_EQ(std::to_string(info->width), row.at(2)) << row[1];
        EXPECT_EQ(std::to_string(info->height), row.at(3)) << row[1];
    }
}

// Files that torch 2.11 wrote (tests/fuzz/make_corpus.py), and what was put into them.
TEST(RealFiles, TorchSaveInEveryProtocolAndBothFormats) {
    const std::filesystem::path corpus = VITRINE_SOURCE_DIR "/tests/fuzz/corpus/torch_save";
    for (const char* name : {"zip_protocol2.pt", "zip_protocol5.pt", "legacy_protocol2.pt", "legacy_protocol4.pt"}) {
        const auto file = read_torch_save(corpus / name);
        ASSERT_TRUE(file) << name << ": " << file.error().message;
        ASSERT_EQ(file->tensors.size(), 7u) << name;
        const TensorEntry& weight = file->tensors.at("model.weight");
        EXPECT_EQ(weight.shape, (std::vector<std::int64_t>{2, 3}));
        EXPECT_EQ(reinterpret_cast<const float*>(weight.data)[5], 5);
        const TensorEntry& turned = file->tensors.at("model.turned");
        EXPECT_EQ(turned.shape, (std::vector<std::int64_t>{3, 2}));
        EXPECT_EQ(turned.strides, (std::vector<std::int64_t>{1, 3}));
        EXPECT_EQ(reinterpret_cast<const float*>(file->tensors.at("model.slice").data)[0], 4);
        EXPECT_EQ(file->tensors.at("model.parameter").dtype, DType::BF16);
        EXPECT_EQ(file->tensors.at("model.steps").count(), 1);
        EXPECT_EQ(*reinterpret_cast<const std::int64_t*>(file->tensors.at("model.steps").data), 12);
        EXPECT_EQ(file->tensors.at("model.mask").dtype, DType::Bool);
        EXPECT_EQ(file->tensors.at("model.small").dtype, DType::F8E4M3);
        EXPECT_EQ(file->metadata,
                  (std::map<std::string, std::string>{
                      {"epoch", "300"}, {"best", "0.5"}, {"args.lr", "0.1"}, {"args.model", "vit_tiny"}}))
            << name;
    }
}

}  // namespace
}  // namespace vitrine
