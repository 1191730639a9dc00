// A model with other weights for a while: what a measure compares the sound model with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <vitrine/model.h>

namespace vitrine {

/// Swaps parameters of a model for others and puts the very tensors back when it ends, however it ends. No weight is
/// written to: those of a file may be mapped.
class ParametersAside {
  public:
    explicit ParametersAside(Model& model);
    ~ParametersAside();
    ParametersAside(const ParametersAside&) = delete;
    ParametersAside& operator=(const ParametersAside&) = delete;
    /// Permutes the entries of one parameter, by its place in the model's list.
    void shuffle(std::size_t parameter, at::Generator random);
    /// Each of them, its own way by the seed: what ladders and autoencoders call a model of shuffled weights.
    void shuffle_all(std::uint64_t seed);
    void restore();
    const std::vector<std::string>& names() const { return names_; }

  private:
    std::vector<std::string> names_;
    std::vector<at::Tensor> live_, kept_;
};

}  // namespace vitrine
