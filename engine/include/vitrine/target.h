// What is explained: one number of a model's answer, for every picture of a batch.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/model.h>

namespace vitrine {

/// Which number of a class. Standard is the method's own: the logit for gradient, CAM and attention-gradient methods,
/// the probability for masking methods.
enum class Scale : std::uint8_t { Standard, Logit, Probability };

/// What is asked to be explained. With none of it: the predicted class, or for class-agnostic methods nothing.
struct Target {
    std::optional<std::int64_t> index = {};   ///< a class
    std::optional<std::int64_t> versus = {};  ///< explains index minus versus
    std::vector<std::int64_t> also = {};      ///< further classes, whose numbers are added to that of `index`
    Scale scale = Scale::Standard;
    /// Features of another picture, [width]: the cosine of the model's answer to them is explained. For models without
    /// classes.
    at::Tensor reference = {};
    std::string reference_name = {};
    /// Tokens of the layout, or cells of a CNN's map in row-major order: the mean length of the activation there is
    /// explained, at `point` (the model's cam_point where that is empty).
    std::vector<std::int64_t> region = {};
    std::string point = {};
};

/// A target that was checked against a model: a function from the model's answer to one number a picture.
struct Objective {
    std::int64_t index = -1;  ///< the explained class; -1 when it is no class
    std::optional<std::int64_t> versus;
    std::vector<std::int64_t> also;
    bool probability = false;
    at::Tensor reference;
    std::vector<std::int64_t> region;
    std::string point;      ///< non-empty: `of` reads the activation there instead of the answer
    std::string explained;  ///< "logit of class 281", "probability of class 281 minus that of class 3"

    /// @param answer  [batch, classes], or the activation at `point`: [batch, tokens, width], [batch, channels, rows, cols]
    /// @return        [batch], float32, with the graph
    at::Tensor of(const at::Tensor& answer) const;
};

/// @param standard  the number that the method explains when the target leaves it open
/// @param answer    [1, classes], from which the predicted class is read where the target names none; may be undefined
///                  when target.index is set
/// @error BadInput     a class or token that is not there, a reference of another width, a picture compared with itself
/// @error Unsupported  a model without classes and no reference or region
Result<Objective> objective_of(const Model& model, const Target& target, const at::Tensor& answer,
                               Scale standard = Scale::Logit);

}  // namespace vitrine
