// Resize in 8 bit as Pillow does, crop with torchvision's rounding, normalise; and the exact way back to the
// photograph.
#include <vitrine/preprocess.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text.h"

namespace vitrine {

namespace {

/// Python's round(): halves go to the even neighbour. torchvision's and timm's centre crop rounds so.
std::int64_t round_half_even(double value) {
    const double below = std::floor(value);
    const double rest = value - below;
    auto whole = static_cast<std::int64_t>(below);
    if (rest > 0.5 || (rest == 0.5 && (whole % 2) != 0)) ++whole;
    return whole;
}

/// Python's floor division by 2.
std::int64_t half_floor(std::int64_t value) { return value >= 0 ? value / 2 : -((-value + 1) / 2); }

std::string number(double value) { return fmt::format("{:.6g}", value); }

std::string triple(const std::array<double, 3>& v) {
    if (v[0] == v[1] && v[1] == v[2]) return number(v[0]);
    return fmt::format("({}, {}, {})", number(v[0]), number(v[1]), number(v[2]));
}

Result<std::vector<double>> numbers(const std::string& key, const std::string& text) {
    std::vector<double> out;
    std::size_t at = 0;
    while (at <= text.size()) {
        std::size_t end = text.find_first_of(",x", at);
        if (end == std::string::npos) end = text.size();
        double value = 0;
        const char* first = text.data() + at;
        const char* last = text.data() + end;
        while (first < last && *first == ' ') ++first;
        const auto [stop, code] = std::from_chars(first, last, value);
        if (code != std::errc() || stop != last || !std::isfinite(value))
            return fail(ErrorCode::BadInput, "preprocess.{} is '{}', expected numbers separated by commas", key, text);
        out.push_back(value);
        at = end + 1;
    }
    return out;
}

}  // namespace

std::string Preprocess::summary() const {
    std::string text;
    switch (resize) {
        case Resize::ShortSide:
            text = fmt::format("short side {} {}, ", resize_to, name_of(interpolation));
            break;
        case Resize::Exact:
            text = fmt::format("resize to {} x {} {}, ", resize_height, resize_width, name_of(interpolation));
            break;
        case Resize::Cover:
            text = fmt::format("resize to cover {} x {} {}, ", resize_height, resize_width, name_of(interpolation));
            break;
        case Resize::Contain:
            text = fmt::format("resize to fit in {} x {} {}, ", resize_height, resize_width, name_of(interpolation));
            break;
        case Resize::None:
            break;
    }
    const bool crops = resize != Resize::Exact || resize_height != input_height || resize_width != input_width;
    if (crops)
        text += input_height == input_width ? fmt::format("centre crop {}, ", input_height)
                                            : fmt::format("centre crop {} x {}, ", input_height, input_width);
    if (resize == Resize::Contain) text += fmt::format("padded with colour {}, ", fmt::join(padding, " "));
    text += fmt::format("mean {} std {}", triple(mean), triple(std));
    if (!apply_exif) text += ", EXIF orientation ignored";
    return text;
}

Status Preprocess::set(const std::string& key, const std::string& value) {
    const auto whole = [&](double v) -> Result<std::int64_t> {
        if (v != std::floor(v) || v < 1 || v > 16384)
            return fail(ErrorCode::BadInput, "preprocess.{} is '{}', expected whole numbers from 1 to 16384", key,
                        value);
        return static_cast<std::int64_t>(v);
    };
    if (key == "mean" || key == "std") {
        const auto v = VITRINE_TRY(numbers(key, value));
        if (v.size() != 1 && v.size() != 3)
            return fail(ErrorCode::BadInput, "preprocess.{} is '{}', expected one number or three", key, value);
        const std::array<double, 3> given =
            v.size() == 3 ? std::array<double, 3>{v[0], v[1], v[2]} : std::array<double, 3>{v[0], v[0], v[0]};
        if (key == "std")
            for (const double s : given)
                if (std::abs(s) < 1e-12)
                    return fail(ErrorCode::BadInput, "preprocess.std is '{}', expected numbers other than 0", value);
        (key == "mean" ? mean : std) = given;
    } else if (key == "interpolation") {
        const auto found = interpolation_named(lower(value));
        if (!found)
            return fail(
                ErrorCode::BadInput,
                "preprocess.interpolation is '{}', expected nearest, box, bilinear, hamming, bicubic or lanczos",
                value);
        interpolation = *found;
    } else if (key == "crop_pct") {
        const auto v = VITRINE_TRY(numbers(key, value));
        if (v.size() != 1 || !(v[0] > 0.01) || v[0] > 4)
            return fail(ErrorCode::BadInput, "preprocess.crop_pct is '{}', expected a number from 0.01 to 4", value);
        const auto scaled = [&](std::int64_t side) {
            return static_cast<std::int64_t>(std::floor(static_cast<double>(side) / v[0]));
        };
        if (resize != Resize::Exact && resize != Resize::Contain)
            resize = input_height == input_width ? Resize::ShortSide : Resize::Cover;
        resize_to = scaled(input_height);
        resize_height = scaled(input_height);
        resize_width = scaled(input_width);
        assumed.erase("crop_pct");
    } else if (key == "input_size") {
        auto v = VITRINE_TRY(numbers(key, value));
        if (v.size() == 3 && v[0] == 3) v.erase(v.begin());
        if (v.empty() || v.size() > 2)
            return fail(ErrorCode::BadInput, "preprocess.input_size is '{}', expected 224, 224x192 or 3,224,192",
                        value);
        const std::int64_t height = VITRINE_TRY(whole(v[0]));
        const std::int64_t width = VITRINE_TRY(whole(v.back()));
        // The crop keeps the share of the picture that it had.
        const auto scaled = [](std::int64_t side, std::int64_t now, std::int64_t before) {
            return std::max<std::int64_t>(
                1, static_cast<std::int64_t>(std::llround(static_cast<double>(side) * static_cast<double>(now) /
                                                          static_cast<double>(before))));
        };
        if (resize == Resize::ShortSide && height == width) {
            resize_to = scaled(resize_to, height, input_height);
        } else if (resize == Resize::ShortSide) {
            resize = Resize::Cover;
            resize_height = scaled(resize_to, height, input_height);
            resize_width = scaled(resize_to, width, input_width);
        } else {
            resize_height = scaled(resize_height, height, input_height);
            resize_width = scaled(resize_width, width, input_width);
        }
        input_height = height;
        input_width = width;
    } else if (key == "exif") {
        if (value == "apply" || value == "true")
            apply_exif = true;
        else if (value == "ignore" || value == "false")
            apply_exif = false;
        else
            return fail(ErrorCode::BadInput, "preprocess.exif is '{}', expected apply or ignore", value);
    } else if (key == "crop") {
        if (value == "floor")
            floor_crop = true;
        else if (value == "even" || value == "round")
            floor_crop = false;
        else
            return fail(ErrorCode::BadInput, "preprocess.crop is '{}', expected even (round half to even) or floor",
                        value);
    } else if (key == "resize") {
        if (value == "none") {
            resize = Resize::None;
        } else if (value == "exact" || value == "squash") {
            resize = Resize::Exact;
            resize_height = input_height;
            resize_width = input_width;
        } else {
            const auto v = VITRINE_TRY(numbers(key, value));
            if (v.size() > 2)
                return fail(ErrorCode::BadInput, "preprocess.resize is '{}', expected none, squash, 256 or 256x192",
                            value);
            resize_to = resize_height = VITRINE_TRY(whole(v[0]));
            resize_width = VITRINE_TRY(whole(v.back()));
            resize = v.size() == 1 ? Resize::ShortSide : Resize::Exact;
        }
        assumed.erase("crop_pct");
    } else {
        return fail(ErrorCode::BadInput, "there is no setting preprocess.{}{}", key,
                    suggest(key, {"mean", "std", "interpolation", "crop_pct", "input_size", "exif", "crop", "resize"}));
    }
    assumed.erase(key);
    return {};
}

at::Tensor normalise(const Image& image, const Preprocess& preprocess) {
    const std::int64_t area = image.width * image.height;
    auto pixels = at::empty({1, 3, image.height, image.width}, at::kFloat);
    float* out = pixels.mutable_data_ptr<float>();
    for (std::size_t c = 0; c < 3; ++c) {
        // In float32 and in this order, as torchvision's ToTensor and Normalize do.
        const auto mean = static_cast<float>(preprocess.mean[c]);
        const auto std_dev = static_cast<float>(preprocess.std[c]);
        const std::uint8_t* in = image.pixels.data() + c;
        for (std::int64_t i = 0; i < area; ++i) *out++ = (static_cast<float>(in[3 * i]) / 255.0f - mean) / std_dev;
    }
    return pixels;
}

namespace {

at::Tensor per_channel(const std::array<double, 3>& values) {
    return at::tensor(at::ArrayRef<double>(values), at::kDouble).reshape({1, 3, 1, 1});
}

}  // namespace

at::Tensor normalise(const at::Tensor& colours, const Preprocess& preprocess) {
    return ((colours.to(at::kCPU, at::kDouble) - per_channel(preprocess.mean)) / per_channel(preprocess.std))
        .to(at::kFloat);
}

at::Tensor colours_of(const at::Tensor& pixels, const Preprocess& preprocess) {
    return (pixels.to(at::kCPU, at::kDouble) * per_channel(preprocess.std) + per_channel(preprocess.mean))
        .to(at::kFloat);
}

Result<Input> prepare(Image photo, const Preprocess& p) {
    if (photo.empty() || photo.width < 1 || photo.height < 1)
        return fail(ErrorCode::BadInput, "the picture has no pixels");
    std::int64_t width = photo.width, height = photo.height;
    switch (p.resize) {
        case Preprocess::Resize::ShortSide: {
            // torchvision.transforms.functional._compute_resized_output_size: the long side is truncated.
            const std::int64_t shorter = std::min(width, height);
            const std::int64_t longer = std::max(width, height);
            const auto long_to =
                static_cast<std::int64_t>(static_cast<double>(p.resize_to * longer) / static_cast<double>(shorter));
            (width <= height ? width : height) = p.resize_to;
            (photo.width <= photo.height ? height : width) = long_to;
            break;
        }
        case Preprocess::Resize::Exact:
            width = p.resize_width;
            height = p.resize_height;
            break;
        case Preprocess::Resize::Cover:
        case Preprocess::Resize::Contain: {
            // timm.data.transforms.ResizeKeepRatio with longest = 0, and with longest = 1.
            const auto [least, most] = std::minmax({static_cast<double>(height) / static_cast<double>(p.resize_height),
                                                    static_cast<double>(width) / static_cast<double>(p.resize_width)});
            const double ratio = p.resize == Preprocess::Resize::Cover ? least : most;
            width = round_half_even(static_cast<double>(width) / ratio);
            height = round_half_even(static_cast<double>(height) / ratio);
            break;
        }
        case Preprocess::Resize::None:
            break;
    }
    if (width < 1 || height < 1)
        return fail(ErrorCode::BadInput,
                    "the picture is {} x {}; made ready for this model its short side would have no pixels",
                    photo.width, photo.height);
    // A strip 1 pixel high and 50,000 long would become billions of pixels when its short side grows.
    if (width > 65500 || height > 65500 || width * height > 1'000'000'000)
        return fail(ErrorCode::BadInput,
                    "the picture is {} x {}; made ready for this model it would be {} x {}, which is too large",
                    photo.width, photo.height, width, height);
    Input input;
    InputGeometry& g = input.geometry;
    g.photo_width = photo.width;
    g.photo_height = photo.height;
    g.input_width = p.input_width;
    g.input_height = p.input_height;
    g.scale_x = static_cast<double>(width) / static_cast<double>(photo.width);
    g.scale_y = static_cast<double>(height) / static_cast<double>(photo.height);
    const auto start = [&](std::int64_t side, std::int64_t wanted) {
        // transformers.image_transforms.center_crop: an odd pixel of padding goes before, by the same floor.
        if (p.floor_crop) return half_floor(side - wanted);
        // torchvision pads first where the picture is smaller, then crops what is larger.
        const std::int64_t before = wanted > side ? (wanted - side) / 2 : 0;
        const std::int64_t after = wanted > side ? (wanted - side + 1) / 2 : 0;
        const std::int64_t spare = side + before + after - wanted;
        return round_half_even(static_cast<double>(spare) / 2.0) - before;
    };
    const std::int64_t left = start(width, p.input_width);
    const std::int64_t top = start(height, p.input_height);
    g.offset_x = -static_cast<double>(left);
    g.offset_y = -static_cast<double>(top);
    const bool same = width == photo.width && height == photo.height;
    if (same) {
        input.seen = crop(photo, left, top, p.input_width, p.input_height, p.padding);
    } else {
        const Image resized = VITRINE_TRY(resize(photo, width, height, p.interpolation));
        input.seen = crop(resized, left, top, p.input_width, p.input_height, p.padding);
    }
    input.pixels = normalise(input.seen, p);
    input.photo = std::move(photo);
    return input;
}

Result<Input> load_input(const std::filesystem::path& file, const Preprocess& preprocess) {
    Photo photo = VITRINE_TRY(read_photo(file, preprocess.apply_exif));
    auto input = prepare(std::move(photo.image), preprocess);
    if (!input) return tl::make_unexpected(std::move(input.error()).with_context(file.string()));
    input->file = file;
    input->name = file.filename().string();
    input->note = photo.note;
    input->geometry.orientation = photo.orientation;
    return input;
}

}  // namespace vitrine
