// What a training run draws from: packs side by side under one list of classes, and which picture comes at which step.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/pack.h>

namespace vitrine {

/// Random numbers that follow from a few words alone, so that step 900 is the same whether or not the run was
/// interrupted before it. xoshiro256** seeded through splitmix64. Source: D. Blackman, S. Vigna, "Scrambled Linear
/// Pseudorandom Number Generators", 2021.
class StepRandom {
  public:
    StepRandom(std::uint64_t seed, std::uint64_t step, std::uint64_t purpose);
    std::uint64_t next();
    double uniform();  ///< [0, 1)
    double uniform(double low, double high) { return low + (high - low) * uniform(); }
    bool chance(double probability) { return uniform() < probability; }
    std::int64_t below(std::int64_t count);  ///< 0 to count - 1
    double normal();                         ///< mean 0, deviation 1
    double gamma(double shape);              ///< for beta(), shape > 0
    double beta(double a, double b);
    std::vector<std::int64_t> permutation(std::int64_t count);

  private:
    std::array<std::uint64_t, 4> state_{};
};

/// One pack with its labels translated to the common classes.
struct DataSet {
    std::string name;        ///< the file's or folder's name without extension
    at::Tensor images;       ///< uint8 [n, side, side, 3]
    at::Tensor labels;       ///< int64 [n], common classes
    std::int64_t batch = 0;  ///< pictures it gives to every step

    /// The last order made, kept because most steps need it again.
    struct Order {
        std::int64_t round = -1;
        std::uint64_t seed = 0, salt = 0;
        std::vector<std::int64_t> pictures;
    };
    mutable Order order{};

    std::int64_t count() const { return labels.size(0); }
    std::int64_t side() const { return images.size(1); }
    /// The pictures of one step: every picture once before any comes again, in a new order each time. [batch]
    std::vector<std::int64_t> draw(std::uint64_t seed, std::uint64_t salt, std::int64_t step) const;
};

struct Data {
    std::vector<DataSet> sets;
    std::vector<std::string> classes;
    std::int64_t count() const;
};

/// Opens a pack, a folder of packs, or a folder of class folders (packed at `size`).
/// `classes` is extended with the names not yet in it when `grow` is set; otherwise an unknown name is an error.
Result<Data> open_data(const std::filesystem::path& path, std::int64_t size, std::vector<std::string> classes = {},
                       bool grow = true);

/// Splits a batch by shares ("0.3,0.7" in the order of the sets; empty: by the number of pictures). Every set gives at
/// least one.
Status share_batch(Data& data, std::int64_t batch, const std::string& shares);

}  // namespace vitrine
