// Inputs with less and less structure: shuffled, blended with noise, noise.
#include <vitrine/ladder.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>
#include <optional>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/fft_fftfreq.h>
#include <ATen/ops/fft_irfft2.h>
#include <ATen/ops/fft_rfft2.h>
#include <ATen/ops/fft_rfftfreq.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/where.h>

#include <vitrine/base/random.h>

#include "text.h"

namespace vitrine {

namespace {

constexpr std::string_view kLowPass = "low_pass_";

/// The deviation of a low-pass noise, in pixels.
std::optional<double> low_pass(const std::string& noise) {
    if (!noise.starts_with(kLowPass)) return std::nullopt;
    double sigma = 0;
    const char* end = noise.data() + noise.size();
    const auto [rest, code] = std::from_chars(noise.data() + kLowPass.size(), end, sigma);
    if (code != std::errc() || rest != end || !(sigma > 0) || sigma > 1000) return std::nullopt;
    return sigma;
}

at::Generator generator(std::uint64_t seed, const std::string& picture, const std::string& what) {
    return at::make_generator<at::CPUGeneratorImpl>(random_bits(seed, hash_of(picture), hash_of(what)));
}

at::Tensor shuffled(const at::Tensor& pixels, std::int64_t tiles, at::Generator random) {
    const std::int64_t height = pixels.size(2) / tiles, width = pixels.size(3) / tiles;
    const std::int64_t top = (pixels.size(2) - height * tiles) / 2, left = (pixels.size(3) - width * tiles) / 2;
    const at::Tensor order = at::randperm(tiles * tiles, random, at::kLong);
    at::Tensor out = pixels.clone();
    const at::Tensor inside = pixels.narrow(2, top, height * tiles).narrow(3, left, width * tiles);
    const at::Tensor pieces = inside.reshape({3, tiles, height, tiles, width}).permute({1, 3, 0, 2, 4});
    const at::Tensor mixed = pieces.reshape({tiles * tiles, 3, height, width}).index_select(0, order);
    out.narrow(2, top, height * tiles)
        .narrow(3, left, width * tiles)
        .copy_(mixed.view({tiles, tiles, 3, height, width})
                   .permute({2, 0, 3, 1, 4})
                   .reshape({1, 3, height * tiles, width * tiles}));
    return out;
}

/// Of deviation 1 again, by what the filter leaves of white noise: not by the numbers that were drawn.
at::Tensor smoothed_noise(const at::Tensor& white, double sigma) {
    const std::int64_t height = white.size(2), width = white.size(3);
    const at::Tensor rows = at::fft_fftfreq(height, 1.0, at::kDouble).square().unsqueeze(1);
    const auto gain = [&](const at::Tensor& cols) {
        return at::exp((rows + cols.square()) * (-2 * std::numbers::pi * std::numbers::pi * sigma * sigma));
    };
    const double kept = gain(at::fft_fftfreq(width, 1.0, at::kDouble)).square().mean().item<double>();
    const at::Tensor half = gain(at::fft_rfftfreq(width, 1.0, at::kDouble)) / std::sqrt(kept);
    const std::int64_t size[] = {height, width};
    return at::fft_irfft2(at::fft_rfft2(white.to(at::kDouble)) * half, size).to(at::kFloat);
}

/// Phases of white noise are even and odd where a real picture's have to be; the mean colour stays.
at::Tensor with_drawn_phases(const at::Tensor& pixels, at::Generator random) {
    const std::int64_t size[] = {pixels.size(2), pixels.size(3)};
    const at::Tensor picture = at::fft_rfft2(pixels.to(at::kDouble));
    at::Tensor drawn = at::fft_rfft2(at::randn({1, 1, size[0], size[1]}, random, at::kDouble));
    drawn = drawn / drawn.abs().clamp_min(1e-300);
    at::Tensor mixed = picture.abs() * drawn;
    mixed.select(3, 0).select(2, 0).copy_(picture.select(3, 0).select(2, 0));
    return at::fft_irfft2(mixed, size).to(at::kFloat);
}

at::Tensor noise_of(const std::string& noise, const at::Tensor& pixels, const Preprocess& preprocess,
                    at::Generator random) {
    if (noise == "uniform") return normalise(at::rand(pixels.sizes(), random, at::kFloat), preprocess);
    if (noise == "phase") return with_drawn_phases(pixels, random);
    const at::Tensor white = at::randn(pixels.sizes(), random, at::kFloat);
    if (noise == "clipped") return normalise(colours_of(white, preprocess).clamp(0, 1), preprocess);
    if (const auto sigma = low_pass(noise)) return smoothed_noise(white, *sigma);
    return white;
}

Status check_noise(const std::string& noise) {
    const std::vector<std::string> plain = {"gaussian", "uniform", "clipped", "phase"};
    if (std::find(plain.begin(), plain.end(), noise) != plain.end() || low_pass(noise)) return {};
    return fail(ErrorCode::BadInput,
                "there is no noise '{}', expected gaussian, uniform, clipped, phase or low_pass_ with a deviation in "
                "pixels, such as low_pass_4",
                noise);
}

}  // namespace

std::string Rung::name() const {
    switch (kind) {
        case Kind::Clean:
            return "clean";
        case Kind::Shuffle:
            return fmt::format("shuffle {}", tiles);
        case Kind::Blend:
            return fmt::format("blend {:g}", share);
        case Kind::Noise:
            break;
    }
    return noise;
}

bool Rung::is_clean() const {
    return kind == Kind::Clean || (kind == Kind::Shuffle && tiles == 1) || (kind == Kind::Blend && share == 0);
}

Result<Rung> rung_of(const std::string& name) {
    LadderOptions one;
    one.tiles.clear(), one.blends.clear(), one.noises.clear();
    const auto number = [&](std::string_view kind, auto& to) {
        if (!name.starts_with(kind)) return false;
        const char* end = name.data() + name.size();
        const auto [rest, code] = std::from_chars(name.data() + kind.size(), end, to.emplace_back());
        return code == std::errc() && rest == end;
    };
    const bool known = name == "clean" || number("shuffle ", one.tiles) || number("blend ", one.blends);
    if (!known) one.noises = {name};
    auto found = ladder_of(one);
    if (!found)
        return fail(ErrorCode::BadInput,
                    "'{}' is no step of the ladder, expected clean, shuffle 7, blend 0.3 or a noise: {}", name,
                    found.error().message);
    return found->back();
}

Result<std::vector<Rung>> ladder_of(const LadderOptions& options) {
    std::vector<Rung> out{Rung{}};
    for (const std::int64_t tiles : options.tiles) {
        if (tiles < 1)
            return fail(ErrorCode::BadInput, "a picture is cut into {0} x {0} tiles, expected 1 or more", tiles);
        out.push_back({Rung::Kind::Shuffle, tiles, 0, ""});
    }
    if (!options.blends.empty()) VITRINE_CHECK(check_noise(options.blend_noise));
    for (const double share : options.blends) {
        if (!(share >= 0 && share <= 1))
            return fail(ErrorCode::BadInput, "a share of noise is {}, expected 0 to 1", share);
        out.push_back({Rung::Kind::Blend, 1, share, options.blend_noise});
    }
    for (const std::string& noise : options.noises) {
        VITRINE_CHECK(check_noise(noise));
        out.push_back({Rung::Kind::Noise, 1, 1, noise});
    }
    return out;
}

Result<at::Tensor> rung_pixels(const Rung& rung, const at::Tensor& pixels, const Preprocess& preprocess,
                               std::uint64_t seed, const std::string& picture) {
    if (rung.is_clean()) return pixels;
    const at::NoGradGuard no_grad;
    // Normalisation is a line for every channel: tiles, blends and spectra are the same before it and after it, so that
    // what does not change keeps its very bits. Only the noises of colours go by way of them.
    if (rung.kind == Rung::Kind::Shuffle) {
        if (rung.tiles > std::min(pixels.size(2), pixels.size(3)))
            return fail(ErrorCode::BadInput, "{0} x {0} tiles are more than a picture of {1} x {2} pixels has",
                        rung.tiles, pixels.size(3), pixels.size(2));
        return shuffled(pixels, rung.tiles, generator(seed, picture, rung.name()));
    }
    const at::Tensor noise = noise_of(rung.noise, pixels, preprocess, generator(seed, picture, rung.noise));
    if (rung.kind == Rung::Kind::Noise || rung.share == 1) return noise;
    return pixels * (1 - rung.share) + noise * rung.share;
}

}  // namespace vitrine
