// Ranks, quantiles and resampled means.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

namespace vitrine {

/// Linear interpolation between the sorted values, as NumPy's default.
double quantile_of(std::vector<double> values, double share);
/// Ranks from 1, equal values sharing their mean rank.
std::vector<double> ranks_of(const std::vector<double>& values);
/// How often a positive has the larger value, ties counting half; nothing without both.
std::optional<double> auroc_of(const std::vector<double>& values, const std::vector<bool>& positive);
/// Spearman's correlation; nothing where either is constant.
std::optional<double> spearman_of(const std::vector<double>& a, const std::vector<double>& b);

/// Draws pictures with replacement; a picture comes with all of its seeds. Seeds are not drawn again within it: means
/// of pictures vary by their seeds too, which would then be counted twice.
/// @source A. Davison, D. Hinkley, Bootstrap Methods and their Application, 1997, section 3.8
class PictureResampling {
  public:
    PictureResampling(std::int64_t pictures, std::int64_t resamples, std::uint64_t seed);
    /// Means over each resample. float64 [resamples, figures]
    ///
    /// @param of_pictures  float64 [pictures, figures]: each the mean of its seeds
    at::Tensor means(const at::Tensor& of_pictures) const;
    /// How often each picture was drawn by one resample.
    std::span<const double> times(std::int64_t resample) const {
        const std::int64_t pictures = weights_.size(1);
        return {weights_.const_data_ptr<double>() + resample * pictures, static_cast<std::size_t>(pictures)};
    }
    /// The middle 95 % of each column. float64 [2, figures]
    static at::Tensor middle(const at::Tensor& resampled);

  private:
    at::Tensor weights_;  // float64 [resamples, pictures]: how often each was drawn
};

/// Which part of a latent's variance lies between pictures, read one picture at a time.
class BetweenPictures {
  public:
    /// @param members  [members, latents]: means over tokens, of one picture's seeds and shuffles; as many for each
    void add(const at::Tensor& members);
    /// The same of sums over one picture's members. float64 [latents] each
    void add(const at::Tensor& sum, const at::Tensor& squares, std::int64_t members);
    /// 1 - variance of the pictures' means / variance of all; NaN where nothing varies. float64 [latents], on the CPU
    at::Tensor insensitivity() const;
    std::int64_t pictures() const { return pictures_; }

  private:
    at::Tensor sum_, squares_, squared_means_;
    std::int64_t pictures_ = 0, members_ = 0;
};

}  // namespace vitrine
