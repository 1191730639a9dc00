// Reads a trainer's checkpoint and compares its settings with those of now.
#include "training_checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include <nlohmann/json.hpp>

#include <vitrine/base/readers.h>
#include <vitrine/checkpoint.h>

namespace vitrine {

namespace {

/// The first setting that is not what it was.
Status compared(const nlohmann::json& then, const nlohmann::json& now, const std::string& file,
                const std::vector<std::string>& free) {
    for (const auto& [name, value] : now.items()) {
        if (std::find(free.begin(), free.end(), name) != free.end()) continue;
        const nlohmann::json before = then.is_object() ? then.value(name, nlohmann::json()) : nlohmann::json();
        if (value.is_object()) {
            VITRINE_CHECK(compared(before, value, file, free));
        } else if (before != value) {
            return fail(
                ErrorCode::BadInput,
                "{} was trained with {} = {}, now it is {}; use the same settings or start anew without the checkpoint",
                file, name, before.dump(), value.dump());
        }
    }
    return {};
}

}  // namespace

std::string TrainingCheckpoint::fact(const std::string& key) const {
    const auto found = facts.find(key);
    return found == facts.end() ? std::string() : found->second;
}

std::int64_t TrainingCheckpoint::whole(const std::string& key) const {
    std::int64_t value = -1;
    const std::string text = fact(key);
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
}

double TrainingCheckpoint::number(const std::string& key) const {
    double value = 0;
    const std::string text = fact(key);
    std::from_chars(text.data(), text.data() + text.size(), value);
    return std::isfinite(value) ? value : 0;
}

Status can_train_into(const std::filesystem::path& out) {
    std::error_code failed;
    const auto folder = out.has_parent_path() ? out.parent_path() : std::filesystem::path(".");
    if (!std::filesystem::is_directory(folder, failed))
        return fail(ErrorCode::Io, "{} cannot be written: there is no folder {}", out.filename().string(),
                    folder.string());
    if (access(folder.c_str(), W_OK) != 0)
        return fail(ErrorCode::Io, "{} cannot be written: the folder {} is read-only", out.filename().string(),
                    folder.string());
    if (std::filesystem::is_directory(out, failed))
        return fail(ErrorCode::BadInput, "{} is a folder, expected the name of a file", out.string());
    return {};
}

Result<std::optional<TrainingCheckpoint>> read_training_checkpoint(const std::filesystem::path& file,
                                                                   const CheckpointWanted& wanted) {
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) return std::optional<TrainingCheckpoint>();
    auto contents = read_safetensors(file);
    if (!contents)
        return tl::make_unexpected(std::move(contents.error()).with_context("resuming from " + file.string()));
    TrainingCheckpoint out;
    out.facts = std::move(contents->metadata);
    if (out.fact("format") != wanted.format)
        return fail(ErrorCode::BadInput, "{} is no checkpoint of {}; move it away or choose another file",
                    file.string(), wanted.of);
    const auto then = nlohmann::json::parse(out.fact("settings"), nullptr, false);
    if (!then.is_object())
        return fail(ErrorCode::BadInput, "{} does not say its settings; remove it to start anew", file.string());
    VITRINE_CHECK(compared(then, nlohmann::json::parse(wanted.settings), file.string(), wanted.free));
    out.step = out.whole("step");
    if (out.step < 0 || out.step > wanted.steps)
        return fail(ErrorCode::BadInput, "{} stands at step '{}', expected 0 to {}", file.string(), out.fact("step"),
                    wanted.steps);
    for (const auto& [name, entry] : contents->tensors) out.state.emplace_back(name, VITRINE_TRY(to_tensor(entry)));
    return std::optional(std::move(out));
}

}  // namespace vitrine
