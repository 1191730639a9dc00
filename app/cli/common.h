// What the commands share: options, model and picture opening, progress and output.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <vitrine/base/json_text.h>
#include <vitrine/engine.h>

namespace vitrine::cli {

struct Common {
    std::string model;
    std::string device = "cpu";
    std::string dtype = "fp32";
    std::string memory;
    std::int64_t threads = 0;
    std::int64_t batch = 1;
    std::uint64_t seed = 0;
    bool trust = false;
    bool json = false;
    std::vector<std::string> set;  ///< "preprocess.mean=...", "rollout.fusion=max"

    std::int64_t memory_bytes = 0;  ///< parsed from `memory`; 0 is no limit
};

/// One progress or message line on standard error.
void say(const std::string& text);
/// A progress line that replaces itself on a terminal and is silent elsewhere.
void progress(const Progress& progress);

/// "1.5GB", "512 MB", "1000000" -> bytes (powers of 1000; KiB, MiB, GiB are powers of 1024).
Result<std::int64_t> parse_size(const std::string& text);

/// The value part of every "--set owner.key=value" for one owner; what names no owner that is known is an error in
/// check_owners.
Result<std::map<std::string, std::string>> settings_of(const Common& common, const std::string& owner);
/// Refuses a key that is set twice: which of its values was meant nobody knows.
Status each_key_once(const std::vector<std::string>& set);
/// Refuses "--set" entries whose owner is none of these.
Status check_owners(const Common& common, const std::vector<std::string>& owners);

/// Opens the model with the common options (threads, device, precision, preprocessing overrides, consent).
Result<std::shared_ptr<Model>> open(const Common& common);

/// INDEX or NAME of a class.
Result<std::int64_t> class_of(const Model& model, const std::string& text);
/// The true class of a picture of a labelled folder: its folder's name, or its line in a labels.tsv beside it.
Result<std::int64_t> true_class(const Model& model, const std::filesystem::path& picture);

/// A tensor as a .npy file (float32).
Status save_npy(const std::filesystem::path& file, const at::Tensor& tensor);

/// "5.7 M", "12.3 MB" for people.
std::string count_text(std::int64_t count);
std::string size_text(std::int64_t bytes);

nlohmann::json describe(const Description& description);
nlohmann::json describe(const std::vector<Parameter>& parameters);
/// A line for each of these, for people: name, meaning, choices, default.
std::string settings_text(const nlohmann::json& parameters);
nlohmann::json describe(const Preprocess& preprocess);
nlohmann::json describe(const InputGeometry& geometry);
nlohmann::json describe(const Answer& answer);
/// All settings by name, defaults among them.
nlohmann::json values_of(const Settings& settings);

}  // namespace vitrine::cli
