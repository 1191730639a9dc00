// Hashes bytes, files and models.
#include "cli/fingerprint.h"

#include <vitrine/base/file.h>
#include <vitrine/base/hash_bytes.h>
#include <vitrine/base/random.h>

#include <algorithm>
#include <vector>

namespace vitrine::cli {

namespace fs = std::filesystem;

std::uint64_t fingerprint(std::span<const std::byte> bytes, std::uint64_t key) {
    return hash_bytes(key, bytes.data(), bytes.size());
}

Result<std::uint64_t> fingerprint(const fs::path& file, std::uint64_t key) {
    return fingerprint(VITRINE_TRY(map_file(file)).bytes, key);
}

namespace {

/// Of a model's file, or of the files of its folder; of its parameters where it was opened by a name.
Result<std::string> fingerprint_of_model(Model& model, const std::string& name) {
    const fs::path place = name == "starter" ? VITRINE_TRY(resource(name)) : fs::path(name);
    std::vector<fs::path> files;
    std::error_code failed;
    if (fs::is_directory(place, failed)) {
        for (fs::directory_iterator it(place, failed), end; !failed && it != end; it.increment(failed))
            if (it->is_regular_file(failed)) files.push_back(it->path());
        std::sort(files.begin(), files.end());
    } else if (fs::exists(place, failed)) {
        files.push_back(place);
    }
    std::uint64_t key = 0;
    for (const fs::path& file : files) key = VITRINE_TRY(fingerprint(file, key));
    if (files.empty()) {
        for (const auto& [parameter, tensor] : model.parameters()) {
            const at::Tensor plain = tensor.detach().to(at::kCPU).contiguous();
            key = fingerprint({static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()},
                              key ^ hash_of(parameter));
        }
    }
    return fmt::format("{:016x}", key);
}

}  // namespace

Result<nlohmann::json> all_hangs_on(const Common& common, Model& model) {
    return nlohmann::json{{"vitrine", version()},
                          {"model", VITRINE_TRY(fingerprint_of_model(model, common.model))},
                          {"preprocessing", describe(model.preprocess())},
                          {"precision", common.dtype},
                          {"device", std::string(common.device.starts_with("cuda") ? "cuda" : common.device)},
                          {"seed", common.seed}};
}

}  // namespace vitrine::cli
