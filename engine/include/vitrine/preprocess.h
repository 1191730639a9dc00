// From a photograph to what the model is fed, equal to what timm, transformers and torchvision do with Pillow.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>

#include <ATen/core/Tensor.h>

#include <vitrine/base/geometry.h>
#include <vitrine/base/image.h>
#include <vitrine/base/resize.h>
#include <vitrine/base/result.h>

namespace vitrine {

/// How a photograph is resized, cropped and normalised.
struct Preprocess {
    enum class Resize : std::uint8_t {
        ShortSide,  ///< the short side becomes `resize_to`, aspect kept (the long side rounds as torchvision does: truncated)
        Exact,      ///< squashed to `resize_height` x `resize_width`
        Cover,      ///< the smallest size with the picture's aspect that covers `resize_height` x `resize_width` (timm, non-square inputs)
        Contain,    ///< the largest size with the picture's aspect inside `resize_height` x `resize_width` (timm's border)
        None
    };
    Resize resize = Resize::ShortSide;
    std::int64_t resize_to = 248;
    std::int64_t resize_height = 0, resize_width = 0;
    std::int64_t input_height = 224, input_width = 224;  ///< centre crop; smaller pictures are padded with `padding`
    std::array<std::uint8_t, 3> padding{};  ///< black, except where a border of another colour is asked for
    Interpolation interpolation = Interpolation::Bicubic;
    std::array<double, 3> mean{0.485, 0.456, 0.406};
    std::array<double, 3> std{0.229, 0.224, 0.225};
    bool floor_crop = false;   ///< crop and padding by floor((side - crop) / 2) as transformers, not rounded half to even
    bool apply_exif = true;    ///< turn upright first; timm does not
    std::string source;        ///< "timm config.json", "preprocessor_config.json", "torchvision preset", "assumed"
    std::set<std::string> assumed;  ///< names of the fields that were guessed

    std::string summary() const;  ///< "short side 248 bicubic, centre crop 224, mean 0.5 std 0.5"
    /// Overrides one field by name: mean, std, interpolation, crop_pct, input_size, exif, crop, resize.
    Status set(const std::string& key, const std::string& value);
};

/// One photograph made ready for one model.
struct Input {
    std::filesystem::path file;  ///< empty for built-in pictures
    std::string name;            ///< shown to people
    Image photo;                 ///< upright
    Image seen;                  ///< what the model sees, 8 bit, input_height x input_width
    InputGeometry geometry;
    at::Tensor pixels;           ///< float32 [1, 3, input_height, input_width], normalised
    std::string note;            ///< "16 bit reduced to 8", "first of 12 frames", ...; empty when nothing was done
};

/// Resizes, crops and normalises an upright photograph.
Result<Input> prepare(Image photo, const Preprocess& preprocess);

/// Normalises an 8-bit picture that is already of the input size. float32 [1, 3, H, W].
at::Tensor normalise(const Image& image, const Preprocess& preprocess);
/// The same for colours from 0 to 1. [count, 3, height, width], float32, on the CPU.
at::Tensor normalise(const at::Tensor& colours, const Preprocess& preprocess);
/// And back: what is shown for normalised pixels, 0 to 1 for those of a picture.
at::Tensor colours_of(const at::Tensor& pixels, const Preprocess& preprocess);

/// Reads a picture file and prepares it. Decoding needs OpenCV; PPM files are read without it.
///
/// @error NotFound, Io  the file is missing or unreadable
/// @error BadInput      not a picture, truncated, zero or huge size; says what was found
/// @error Unsupported   this build has no decoder for the format
Result<Input> load_input(const std::filesystem::path& file, const Preprocess& preprocess);

/// Decodes a picture file to upright RGB; CMYK, 16 bit, alpha (over white) and animations (first frame) are converted and noted.
struct Photo {
    Image image;
    Orientation orientation = 1;  ///< what was undone
    std::string note;
};
Result<Photo> read_photo(const std::filesystem::path& file, bool apply_exif = true);

/// Writes an 8-bit RGB picture as PNG (OpenCV) or PPM, by extension.
Status write_picture(const std::filesystem::path& file, const Image& image);

}  // namespace vitrine
