// Testing with concept activation vectors: does a concept that pictures show move the answer towards a class?
//
//     TcavOptions options{.index = 340, .examples = "zebras", .random = "anything"};
//     options.concepts = {{"striped", "stripes"}, {"grass", "grass.txt"}};
//     TcavResult found = VITRINE_TRY(tcav(*model, options));
//
// Source: B. Kim et al., "Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation
// Vectors (TCAV)", ICML 2018. A concept vector is the normal of a linear classifier between activations with the
// concept and random ones; the score is the share of a class's examples whose logit grows along it. Each of `runs` runs
// draws other random pictures; as many runs between two sets of random pictures say what a score is worth. The two
// lists are compared by Welch's t test, two-sided, and its p is multiplied by the number of concepts tried
// (Bonferroni). Pictures that are a concept's are in no random set.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/explainer.h>

namespace vitrine {

struct TcavOptions {
    std::int64_t index = 0;                  ///< the class
    std::filesystem::path examples, random;  ///< folders of pictures
    /// A folder of pictures; or a list of regions (vitrine/base/region_list.h), cells of the point's grid as
    /// region_tokens has them.
    std::vector<std::pair<std::string, std::filesystem::path>> concepts;
    std::string point;  ///< empty: the block three quarters deep, or the model's cam_point
    /// What a folder's pictures are told apart by: "whole", all numbers at the point, as published; "mean", its mean
    /// over the grid, so that it does not matter where. Regions are always told apart by their mean.
    std::string features = "whole";
    std::int64_t runs = 30;
    double regularisation = 0.01;  ///< of concept_vector
    std::int64_t most = 500;       ///< pictures of a folder, drawn where there are more
    std::uint64_t seed = 0;
    std::stop_token stop = {};
    std::function<void(const Progress&)> progress = {};
};

struct TcavScore {
    std::string name, features;
    std::int64_t examples = 0;                 ///< pictures or regions of the concept
    std::int64_t drawn = 0;                    ///< of each side a run
    std::vector<double> scores, random;        ///< of every run; between random sets
    double score = 0, random_score = 0;        ///< means
    double magnitude = 0;                      ///< mean slope along the vector of length 1
    double accuracy = 0, random_accuracy = 0;  ///< on the third that the classifiers did not see
    double t = 0, p = 1, p_corrected = 1;
};
struct TcavResult {
    std::string point, explained;
    std::int64_t examples = 0, random = 0;  ///< pictures
    std::int64_t left_out = 0;              ///< of the random folder: those that are also a concept's
    std::vector<TcavScore> concepts;
    std::vector<std::string> notes, skipped;
};

/// The point that is read where none is chosen.
std::string tcav_point(const Model& model);

/// @error NotFound, BadInput  a folder or file that is not there or has too few pictures, a line that is no region,
///                            fewer than 30 runs, no such class or point, regions of another grid than the point's
/// @error Unsupported         no grid at this point
Result<TcavResult> tcav(Model& model, const TcavOptions& options);

/// The classifier: squared loss on +1 (with) and -1 (without), features centred on their mean, `regularisation` times
/// their mean squared length on the square of the normal. One system of linear equations, nothing drawn.
struct ConceptVector {
    at::Tensor direction;  ///< [features], float64, of length 1, towards `with`
    double offset = 0;     ///< x has the concept where x direction > offset
};
/// @param with, without  [n, features], at least one each
Result<ConceptVector> concept_vector(const at::Tensor& with, const at::Tensor& without, double regularisation);

/// d number of the class / d activation at the point, of each picture. [n, ...] as the point's
Result<at::Tensor> class_slopes(Model& model, const at::Tensor& pixels, const std::string& point, std::int64_t index,
                                std::stop_token stop = {});

/// Share of slopes that are above zero along a direction, and their mean.
struct SignCount {
    double share = 0, magnitude = 0;
};
/// @param slopes  [n, ...], flattened; direction [features]
SignCount count_signs(const at::Tensor& slopes, const at::Tensor& direction);

/// Whether two lists have the same mean: B. L. Welch, 1947, two-sided. Lists without spread: p is 1 where they are
/// equal, else 0.
struct Welch {
    double t = 0, degrees = 0, p = 1;
};
Welch welch(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace vitrine
