// Finds the pictures of a training, and tells whether they are those of before.
#include "training_pictures.h"

#include <algorithm>
#include <map>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <vitrine/base/picture_files.h>
#include <vitrine/base/random.h>
#include <vitrine/pack.h>

#include "augment.h"

namespace vitrine {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kHalf = (std::uint64_t{1} << 24) - 1;  // a float counts exactly up to here

std::uint64_t bytes_of(const fs::path& file) {
    std::error_code failed;
    const auto size = fs::file_size(file, failed);
    return failed ? 0 : size;
}

std::uint64_t key_of_file(const fs::path& file) {
    return hash_of(fmt::format("{}\n{}", file.filename().string(), bytes_of(file)));
}

std::uint64_t key_in_pack(const std::string& stem, std::int64_t index) {
    return hash_of(fmt::format("{}#{}", stem, index));
}

}  // namespace

std::vector<std::uint64_t> keys_of(const PictureSet& pictures) {
    std::vector<std::uint64_t> out;
    for (std::int64_t i = 0; i < pictures.count(); ++i) {
        const PictureSet::Picture& one = pictures.picture(i);
        out.push_back(one.file.empty() ? key_in_pack(one.name.substr(0, one.name.rfind('#')), one.index)
                                       : key_of_file(one.file));
    }
    return out;
}

std::string fingerprint_of(std::vector<std::uint64_t> keys) {
    std::sort(keys.begin(), keys.end());
    std::uint64_t all = keys.size();
    for (const std::uint64_t key : keys) all = mix64(all ^ key);
    return fmt::format("{:016x}", all);
}

Result<TrainingPictures> TrainingPictures::open(const fs::path& data, const PictureSet* set,
                                                const Preprocess& preprocess) {
    std::error_code ignored;
    TrainingPictures out(preprocess);
    std::vector<std::uint64_t> identities;
    const auto finish = [&] {
        out.identities_ = at::empty({2, out.count()});
        auto* to = out.identities_.mutable_data_ptr<float>();
        for (std::size_t i = 0; i < identities.size(); ++i) {
            to[i] = static_cast<float>(identities[i] & kHalf);
            to[identities.size() + i] = static_cast<float>(identities[i] >> 24 & kHalf);
        }
        return std::move(out);
    };
    if (set != nullptr) {
        if (set->count() == 0) return fail(ErrorCode::BadInput, "there are no pictures to train on");
        out.set_ = set;
        out.keys_ = identities = keys_of(*set);
        return finish();
    }
    out.data_ = data;
    VITRINE_CHECK(is_there(data));
    if (!fs::is_directory(data, ignored)) {
        out.pack_files_.push_back(data);
        out.data_ = data.parent_path();
    } else {
        PicturesBelow found = VITRINE_TRY(pictures_and_packs_below(data));
        out.pack_files_ = std::move(found.packs);
        out.files_ = std::move(found.pictures);
        out.notes_ = std::move(found.notes);
    }
    const auto known = [&](const fs::path& file, const std::string& number) {
        identities.push_back(hash_of(
            fmt::format("{}{}\n{}", file.lexically_relative(out.data_).generic_string(), number, bytes_of(file))));
    };
    const std::int64_t input = std::max(preprocess.input_height, preprocess.input_width);
    for (const auto& file : out.pack_files_) {
        const Pack pack = VITRINE_TRY(read_pack(file));
        if (pack.size() < input)
            return fail(ErrorCode::BadInput, "the pack from {} has pictures of {} pixels, the model needs {}",
                        pack.source, pack.size(), input);
        for (std::int64_t i = 0; i < pack.count(); ++i) {
            known(file, fmt::format("#{}", i));
            out.keys_.push_back(key_in_pack(file.stem().string(), i));
        }
        out.packs_.push_back(pack.images);
    }
    for (const auto& file : out.files_) {
        known(file, "");
        out.keys_.push_back(key_of_file(file));
    }
    if (out.count() == 0) return fail(ErrorCode::BadInput, "{} has no pictures in it", data.string());
    return finish();
}

std::string TrainingPictures::name(std::int64_t index) const {
    if (set_ != nullptr) return set_->picture(index).name;
    for (std::size_t i = 0; i < packs_.size(); ++i) {
        if (index < packs_[i].size(0)) return fmt::format("{}#{}", pack_files_[i].stem().string(), index);
        index -= packs_[i].size(0);
    }
    return files_[static_cast<std::size_t>(index)].lexically_relative(data_).generic_string();
}

std::string TrainingPictures::changes_since(const at::Tensor& then) const {
    const at::Tensor before = then.contiguous();
    const auto pair_at = [](const at::Tensor& of, std::int64_t i) {
        const auto* value = of.const_data_ptr<float>();
        return std::pair(value[i], value[of.size(1) + i]);
    };
    std::map<std::pair<float, float>, std::int64_t> left;
    for (std::int64_t i = 0; i < before.size(1); ++i) ++left[pair_at(before, i)];
    std::int64_t fresh = 0, first = -1;
    for (std::int64_t i = 0; i < count(); ++i)
        if (auto found = left.find(pair_at(identities_, i)); found != left.end() && found->second > 0)
            --found->second;
        else if (fresh++ == 0)
            first = i;
    const std::int64_t gone = before.size(1) - (count() - fresh);
    if (gone == 0 && fresh == 0) return {};
    const auto are = [](std::int64_t n) { return n == 1 ? "is" : "are"; };
    std::string out = fmt::format("of {} pictures ", before.size(1));
    if (gone > 0) out += fmt::format("{} {} gone or changed", gone, are(gone));
    if (fresh > 0)
        out += fmt::format("{}{} {} new (the first: {})", gone > 0 ? " and " : "", fresh, are(fresh), name(first));
    return out;
}

void TrainingPictures::set_rung(Rung rung, std::uint64_t seed) {
    rung_ = std::move(rung);
    seed_ = seed;
}

Result<at::Tensor> TrainingPictures::pixels(std::int64_t index, std::int64_t pass) const {
    const at::Tensor picture = VITRINE_TRY(as_it_is(index));
    // Its own stream: what a ladder draws by the same seed was never seen in training.
    const std::uint64_t drawn = random_bits(seed_, hash_of("training"), static_cast<std::uint64_t>(pass));
    return rung_pixels(rung_, picture, preprocess_, drawn, name(index));
}

Result<at::Tensor> TrainingPictures::as_it_is(std::int64_t index) const {
    if (set_ != nullptr) return set_->pixels(index);
    for (const at::Tensor& images : packs_) {
        if (index >= images.size(0)) {
            index -= images.size(0);
            continue;
        }
        const std::int64_t top = (images.size(1) - preprocess_.input_height) / 2,
                           left = (images.size(2) - preprocess_.input_width) / 2;
        const at::Tensor cut = images.narrow(0, index, 1)
                                   .narrow(1, top, preprocess_.input_height)
                                   .narrow(2, left, preprocess_.input_width);
        return normalised(cut.permute({0, 3, 1, 2}).to(at::kFloat) / 255.0, preprocess_.mean, preprocess_.std);
    }
    Input input = VITRINE_TRY(load_input(files_[static_cast<std::size_t>(index)], preprocess_));
    return input.pixels;
}

}  // namespace vitrine
