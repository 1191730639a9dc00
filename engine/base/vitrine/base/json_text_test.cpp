// Texts that are no UTF-8 in JSON.
#include "json_text.h"

#include <gtest/gtest.h>

namespace vitrine {
namespace {

TEST(JsonText, OfNamesThatAreNoUtf8IsValidJson) {
    const nlohmann::json document{{"br\xe9k.jpg", {"a\xff", 1}}};
    const auto read = nlohmann::json::parse(json_text(document, 2), nullptr, false);
    ASSERT_TRUE(read.is_object());
    EXPECT_EQ(read.begin().key(), "br\xef\xbf\xbdk.jpg");
    EXPECT_EQ(read.begin().value()[1], 1);
}

TEST(JsonText, BytesComeBack) {
    for (const std::string text : {"", "plain", "caf\xc3\xa9", "br\xe9k.jpg: it is no picture", "\xff\x00z"}) {
        const std::string kept = nlohmann::json(json_bytes(text)).dump();
        std::string back = "other";
        ASSERT_TRUE(from_json_bytes(nlohmann::json::parse(kept), back)) << kept;
        EXPECT_EQ(back, text);
    }
    std::string back;
    for (const char* wrong : {"3", "null", "[256]", "[-1]", "[\"a\"]", "[1.5]", "{}"})
        EXPECT_FALSE(from_json_bytes(nlohmann::json::parse(wrong), back)) << wrong;
}

}  // namespace
}  // namespace vitrine
