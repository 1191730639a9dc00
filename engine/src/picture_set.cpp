// Finds pictures and packs, and gives each picture as the model wants it.
#include <vitrine/picture_set.h>

#include <algorithm>
#include <set>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <vitrine/base/picture_files.h>
#include <vitrine/pack.h>

namespace vitrine {

namespace fs = std::filesystem;

Status PictureSet::add(const fs::path& file) {
    if (file.extension() != ".safetensors") {
        pictures_.push_back({(file.parent_path().filename() / file.filename()).generic_string(), file, "", 0, 0});
        return {};
    }
    const Pack pack = VITRINE_TRY(read_pack(file));
    if (pack.size() < preprocess_.input_height || pack.size() < preprocess_.input_width)
        return fail(ErrorCode::BadInput, "the pack {} has pictures of {} pixels, the model needs {}", file.string(),
                    pack.size(), std::max(preprocess_.input_height, preprocess_.input_width));
    const at::Tensor labels = pack.labels.contiguous();
    for (std::int64_t i = 0; i < pack.count(); ++i)
        pictures_.push_back({fmt::format("{}#{}", file.stem().string(), i), "",
                             pack.classes[std::size_t(labels.const_data_ptr<std::int64_t>()[i])], packs_.size(), i});
    packs_.push_back(pack.images);
    return {};
}

Result<PictureSet> PictureSet::open(const std::vector<fs::path>& places, const Preprocess& preprocess) {
    PictureSet out;
    out.preprocess_ = preprocess;
    std::set<fs::path> known;
    for (const fs::path& place : places) {
        std::error_code failed;
        VITRINE_CHECK(is_there(place));
        if (!fs::is_directory(place, failed)) {
            if (known.insert(place).second) VITRINE_CHECK(out.add(place));
            continue;
        }
        PicturesBelow below = VITRINE_TRY(pictures_and_packs_below(place));
        out.notes_.insert(out.notes_.end(), below.notes.begin(), below.notes.end());
        std::vector<fs::path> found = std::move(below.pictures);
        found.insert(found.end(), below.packs.begin(), below.packs.end());
        if (found.empty()) return fail(ErrorCode::NotFound, "the folder {} holds no pictures", place.string());
        std::sort(found.begin(), found.end());
        for (const fs::path& file : found)
            if (known.insert(file).second) VITRINE_CHECK(out.add(file));
    }
    // Two folders of one name, or two packs: what is drawn follows from the name, so each has another.
    std::set<std::string> names;
    for (Picture& one : out.pictures_) {
        const std::string name = one.name;
        for (int again = 2; !names.insert(one.name).second; ++again) one.name = fmt::format("{} ({})", name, again);
    }
    return out;
}

Result<at::Tensor> PictureSet::pixels(std::int64_t i) const {
    const Picture& one = picture(i);
    if (!one.file.empty()) return VITRINE_TRY(load_input(one.file, preprocess_)).pixels;
    const at::NoGradGuard no_grad;
    const at::Tensor& images = packs_[one.pack];
    const std::int64_t height = preprocess_.input_height, width = preprocess_.input_width;
    const at::Tensor cut = images[one.index]
                               .narrow(0, (images.size(1) - height) / 2, height)
                               .narrow(1, (images.size(2) - width) / 2, width);
    return normalise(cut.permute({2, 0, 1}).unsqueeze(0).to(at::kDouble) / 255.0, preprocess_).contiguous();
}

}  // namespace vitrine
