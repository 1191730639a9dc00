// Opens packs for training and decides which pictures a step sees.
#include "dataset.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>
#include <numeric>

#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include <vitrine/base/picture_files.h>

namespace vitrine {

namespace fs = std::filesystem;

StepRandom::StepRandom(std::uint64_t seed, std::uint64_t step, std::uint64_t purpose) {
    std::uint64_t x = seed * 0x9e3779b97f4a7c15ULL ^ (step + 0x632be59bd9b4e019ULL) * 0xbf58476d1ce4e5b9ULL ^
                      (purpose + 0x2545f4914f6cdd1dULL) * 0x94d049bb133111ebULL;
    for (auto& word : state_) {
        x += 0x9e3779b97f4a7c15ULL;
        std::uint64_t z = x;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        word = z ^ (z >> 31);
    }
}

std::uint64_t StepRandom::next() {
    const auto turn = [](std::uint64_t v, int by) { return (v << by) | (v >> (64 - by)); };
    const std::uint64_t result = turn(state_[1] * 5, 7) * 9;
    const std::uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = turn(state_[3], 45);
    return result;
}

double StepRandom::uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

std::int64_t StepRandom::below(std::int64_t count) {
    return std::min<std::int64_t>(count - 1, static_cast<std::int64_t>(uniform() * static_cast<double>(count)));
}

double StepRandom::normal() {
    const double u = 1.0 - uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * uniform());
}

// G. Marsaglia, W. W. Tsang, "A Simple Method for Generating Gamma Variables", 2000; shapes below 1 by their boost.
double StepRandom::gamma(double shape) {
    if (shape < 1.0) return gamma(shape + 1.0) * std::pow(1.0 - uniform(), 1.0 / shape);
    const double d = shape - 1.0 / 3.0;
    const double c = 1.0 / std::sqrt(9.0 * d);
    for (;;) {
        const double x = normal();
        const double v = std::pow(1.0 + c * x, 3.0);
        if (v <= 0) continue;
        const double u = 1.0 - uniform();
        if (std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
    }
}

double StepRandom::beta(double a, double b) {
    const double x = gamma(a);
    const double y = gamma(b);
    return x + y > 0 ? x / (x + y) : 0.5;
}

std::vector<std::int64_t> StepRandom::permutation(std::int64_t count) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    for (std::int64_t i = count - 1; i > 0; --i)
        std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(below(i + 1))]);
    return order;
}

std::vector<std::int64_t> DataSet::draw(std::uint64_t seed, std::uint64_t salt, std::int64_t step) const {
    std::vector<std::int64_t> chosen;
    chosen.reserve(static_cast<std::size_t>(batch));
    std::int64_t position = step * batch;
    for (std::int64_t i = 0; i < batch; ++i, ++position) {
        const std::int64_t round = position / count();
        if (order.round != round || order.seed != seed || order.salt != salt ||
            static_cast<std::int64_t>(order.pictures.size()) != count())
            order = {round, seed, salt,
                     StepRandom(seed, static_cast<std::uint64_t>(round), 0x6f72646572ULL + salt).permutation(count())};
        chosen.push_back(order.pictures[static_cast<std::size_t>(position % count())]);
    }
    return chosen;
}

std::int64_t Data::count() const {
    std::int64_t n = 0;
    for (const auto& set : sets) n += set.count();
    return n;
}

namespace {

Status add(Data& data, Pack pack, const std::string& name, bool grow) {
    std::vector<std::int64_t> translated;
    for (const auto& label : pack.classes) {
        auto found = std::find(data.classes.begin(), data.classes.end(), label);
        if (found == data.classes.end()) {
            if (!grow)
                return fail(ErrorCode::BadInput,
                            "{} has the class '{}', which the training data has not; its classes are {}", name, label,
                            fmt::join(data.classes, ", "));
            data.classes.push_back(label);
            found = data.classes.end() - 1;
        }
        translated.push_back(found - data.classes.begin());
    }
    DataSet set;
    set.name = name;
    set.images = pack.images;
    set.labels = at::index_select(at::tensor(translated), 0, pack.labels);
    data.sets.push_back(std::move(set));
    return {};
}

}  // namespace

Result<Data> open_data(const fs::path& path, std::int64_t size, std::vector<std::string> classes, bool grow) {
    Data data;
    data.classes = std::move(classes);
    std::error_code ignored;
    if (!fs::exists(path, ignored)) return fail(ErrorCode::NotFound, "there is nothing at {}", path.string());
    if (!fs::is_directory(path, ignored)) {
        VITRINE_CHECK(add(data, VITRINE_TRY(read_pack(path)), path.stem().string(), grow));
        return data;
    }
    std::vector<fs::path> packs;
    bool folders = false;
    for (const auto& entry : fs::directory_iterator(path, ignored)) {
        if (entry.is_directory(ignored)) folders = true;
        if (entry.path().extension() == ".safetensors" && other_format_of_ours(entry.path()).empty())
            packs.push_back(entry.path());
    }
    std::sort(packs.begin(), packs.end());
    for (const auto& file : packs) VITRINE_CHECK(add(data, VITRINE_TRY(read_pack(file)), file.stem().string(), grow));
    if (packs.empty()) {
        if (!folders)
            return fail(ErrorCode::BadInput,
                        "{} holds neither packs (*.safetensors) nor class folders with photographs", path.string());
        VITRINE_CHECK(add(data, VITRINE_TRY(pack_in_memory({.folder = path, .size = size, .out = {}})),
                          path.filename().string(), grow));
    }
    if (data.classes.size() < 2)
        return fail(ErrorCode::BadInput, "{} has {} class, a classifier needs at least 2", path.string(),
                    data.classes.size());
    return data;
}

Status share_batch(Data& data, std::int64_t batch, const std::string& shares) {
    const auto sets = static_cast<std::int64_t>(data.sets.size());
    if (batch < sets)
        return fail(ErrorCode::BadInput, "batch is {}, but there are {} sets and each gives at least one picture",
                    batch, sets);
    std::vector<double> weight;
    if (shares.empty()) {
        for (const auto& set : data.sets) weight.push_back(static_cast<double>(set.count()));
    } else {
        const char* at = shares.data();
        const char* const end = at + shares.size();
        while (at < end) {
            double value = 0;
            const auto [stop, code] = std::from_chars(at, end, value);
            if (code != std::errc() || !(value > 0) || !std::isfinite(value))
                return fail(ErrorCode::BadInput,
                            "share is '{}', expected positive numbers with commas between, one for each set", shares);
            weight.push_back(value);
            at = stop < end && *stop == ',' ? stop + 1 : stop;
            if (stop < end && *stop != ',')
                return fail(ErrorCode::BadInput, "share is '{}', expected numbers with commas between", shares);
        }
        if (static_cast<std::int64_t>(weight.size()) != sets) {
            std::vector<std::string> names;
            for (const auto& set : data.sets) names.push_back(set.name);
            return fail(ErrorCode::BadInput, "share has {} numbers, expected {}, one for each of {}", weight.size(),
                        sets, fmt::join(names, ", "));
        }
    }
    const double sum = std::accumulate(weight.begin(), weight.end(), 0.0);
    std::int64_t left = batch;
    for (std::size_t i = 0; i < weight.size(); ++i) {
        const auto later = static_cast<std::int64_t>(weight.size() - i - 1);
        std::int64_t mine =
            later == 0 ? left : static_cast<std::int64_t>(std::llround(static_cast<double>(batch) * weight[i] / sum));
        mine = std::clamp<std::int64_t>(mine, 1, left - later);
        data.sets[i].batch = mine;
        left -= mine;
    }
    return {};
}

}  // namespace vitrine
