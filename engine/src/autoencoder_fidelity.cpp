// Runs pictures as they are, with the reconstruction and with zeros in the activation's place, and adds up the figures.
#include <vitrine/autoencoder_fidelity.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cosine_similarity.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <vitrine/base/random.h>
#include <vitrine/capture.h>
#include <vitrine/checkpoint.h>
#include <vitrine/torch_errors.h>
#include <vitrine/train_concepts.h>

#include "statistics.h"

namespace vitrine {

namespace {

constexpr std::uint64_t kResampling = 0x66696465;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN(), kRounding = 1e-9;
constexpr std::int64_t kBatch = 32, kCodesAtOnce = std::int64_t{1} << 27;

/// Sums of one kind of token over a picture; `Sum` of x, width numbers, follows.
enum TokenSum : std::int64_t {
    kTokens,
    kActive,
    kErrors,
    kSquares,
    kTokenVariance,
    kVaried,
    kCosines,
    kNorms,
    kTokenSums
};
/// Sums over pictures of what is one number a picture.
enum PictureSum : std::int64_t {
    kPictures,
    kDistinct,
    kAnswered,
    kAgreed,
    kDivergence,
    kZeroed,
    kLabelled,
    kLoss,
    kLossPut,
    kLossZeroed,
    kPictureSums
};

struct KindOfToken {
    std::string name;
    std::int64_t from = 0, count = 0;  ///< among the tokens that are read
};

std::vector<KindOfToken> kinds_of(const PointTokens& point, const AutoencoderConfig& config) {
    const std::int64_t prefix = std::ssize(point.prefix), patches = point.rows * point.cols,
                       has_class = prefix > 0 && point.prefix.front() == "cls" ? 1 : 0;
    if (config.tokens == "class") return {{"class", 0, 1}};
    if (config.tokens == "patches") return {{"patches", 0, patches}};
    std::vector<KindOfToken> out{{"all", 0, point.tokens.size(1)}};
    if (patches == 0 || prefix == 0) return out;
    if (has_class) out.push_back({"class", 0, 1});
    if (prefix > has_class) out.push_back({"registers", has_class, prefix - has_class});
    out.push_back({"patches", prefix, patches});
    return out;
}

/// How often a picture is in a resample: Poisson of mean 1, from its own bits.
double weight_of(std::uint64_t seed, std::int64_t picture, std::int64_t resample) {
    const std::uint64_t bits =
        random_bits(seed, kResampling + static_cast<std::uint64_t>(picture), static_cast<std::uint64_t>(resample));
    double left = static_cast<double>(bits >> 11) * 0x1p-53, probability = std::exp(-1.0);
    int count = 0;
    while (left >= probability && count < 20) {
        left -= probability;
        probability /= ++count;
    }
    return count;
}

/// Sums over all pictures in row 0, over each resample in the others. [1 + resamples, figures]
class Sums {
  public:
    Sums(std::int64_t resamples, std::uint64_t seed) : resamples_(resamples), seed_(seed) {}
    /// @param figures  float64 [pictures, figures], on the CPU; @param pictures  their numbers
    void add(const at::Tensor& figures, const std::vector<std::int64_t>& pictures) {
        if (!sums_.defined()) sums_ = at::zeros({1 + resamples_, figures.size(1)}, at::kDouble);
        at::Tensor weights = at::zeros({1 + resamples_, figures.size(0)}, at::kDouble);
        double* weight = weights.mutable_data_ptr<double>();
        const auto n = static_cast<std::int64_t>(pictures.size());
        for (std::int64_t i = 0; i < n; ++i) weight[i] = 1;
        for (std::int64_t r = 1; r <= resamples_; ++r)
            for (std::int64_t i = 0; i < n; ++i)
                weight[r * n + i] = weight_of(seed_, pictures[static_cast<std::size_t>(i)], r);
        sums_.addmm_(weights, figures);
    }
    at::Tensor operator[](std::int64_t figure) const { return sums_.select(1, figure); }
    at::Tensor vector(std::int64_t from, std::int64_t count) const { return sums_.narrow(1, from, count); }

  private:
    std::int64_t resamples_;
    std::uint64_t seed_;
    at::Tensor sums_;
};

/// @param values  [1 + resamples]: of all pictures, then of each resample; those that are no numbers say nothing
Measured measured(const at::Tensor& values) {
    const at::Tensor host = values.contiguous();
    const double* value = host.const_data_ptr<double>();
    Measured out;
    out.value = value[0];
    std::vector<double> drawn;
    for (std::int64_t r = 1; r < host.numel(); ++r)
        if (std::isfinite(value[r])) drawn.push_back(value[r]);
    if (!std::isfinite(out.value) || drawn.empty()) return out;
    out.low = quantile_of(drawn, 0.025);
    out.high = quantile_of(drawn, 0.975);
    return out;
}

at::Tensor unit(const at::Tensor& rows) {
    return rows / at::linalg_vector_norm(rows, 2, at::IntArrayRef{1}, /*keepdim=*/true).clamp_min(1e-12);
}

class Fidelities {
  public:
    Fidelities(Model& model, const Autoencoder& autoencoder, const FidelityOptions& options)
        : model_(model),
          autoencoder_(autoencoder),
          options_(options),
          config_(autoencoder.config()),
          whole_(options.resamples, options.seed),
          heard_(at::zeros({config_.latents}, at::kDouble)) {}

    Status run() {
        VITRINE_CHECK(autoencoder_.fits(model_));
        batch_ = options_.batch;
        if (options_.class_rows.defined()) {
            if (model_.info().classes > 0)
                return fail(ErrorCode::BadInput, "{} has classes of its own; leave the class rows out",
                            model_.info().name);
            rows_ = unit(options_.class_rows.to(at::kFloat)).to(model_.device());
        }
        for (std::int64_t from = 0; from < options_.pictures;) {
            if (options_.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            if (kinds_.empty()) VITRINE_CHECK(look_at(from));
            const std::int64_t count = kinds_.empty() ? 1 : std::min(batch_, options_.pictures - from);
            if (!kinds_.empty()) VITRINE_CHECK(add(from, count));
            from += count;
            if (options_.progress) options_.progress({from, options_.pictures, "pictures"});
        }
        if (out_.pictures > 0) return {};
        return fail(ErrorCode::BadInput, "none of the {} pictures can be read{}", options_.pictures,
                    out_.skipped.empty() ? "" : ": " + out_.skipped.front());
    }

    Fidelity result() {
        out_.batch = batch_;
        for (std::size_t k = 0; k < kinds_.size(); ++k) out_.tokens.push_back(of_tokens(k));
        const auto mean = [&](PictureSum sum, PictureSum over) { return measured(whole_[sum] / whole_[over]); };
        out_.distinct = mean(kDistinct, kPictures);
        if (answers_) {
            out_.agreement = mean(kAgreed, kAnswered);
            out_.divergence = mean(kDivergence, kAnswered);
            out_.zeroed = mean(kZeroed, kAnswered);
            out_.substitution = measured(1 - whole_[kDivergence] / whole_[kZeroed]);
            out_.labelled = std::llround(whole_[kLabelled][0].item<double>());
        }
        if (out_.labelled > 0) {
            out_.loss = mean(kLoss, kLabelled);
            out_.loss_substituted = mean(kLossPut, kLabelled);
            out_.loss_zeroed = mean(kLossZeroed, kLabelled);
            out_.loss_recovered =
                measured((whole_[kLossZeroed] - whole_[kLossPut]) / (whole_[kLossZeroed] - whole_[kLoss]));
        }
        densities();
        return std::move(out_);
    }

  private:
    Result<at::Tensor> answers(const at::Tensor& output) const {
        if (!rows_.defined()) return at::log_softmax(output.to(at::kFloat), 1);
        if (output.size(1) != rows_.size(1))
            return fail(
                ErrorCode::BadInput,
                "the class rows are {} wide and {} answers with {} features; give rows of this model's own text",
                rows_.size(1), model_.info().name, output.size(1));
        return at::log_softmax(at::matmul(unit(output.to(at::kFloat)), rows_.t()) * options_.logit_scale, 1);
    }

    Result<at::Tensor> answered(const at::Tensor& pixels, const TokenLayout& layout,
                                const std::function<at::Tensor(const at::Tensor&)>& change) {
        CaptureOptions options;
        options.mixings = false;
        options.stop = options_.stop;
        Edit edit;
        edit.kind = Edit::Kind::ReplacePoint;
        edit.where = config_.point;
        edit.replace = [&](const at::Tensor& activation) {
            return with_changed_tokens(activation, layout, config_, change);
        };
        options.edits = {edit};
        const auto run = VITRINE_TRY(run_captured(model_, pixels, options));
        return answers(run->output);
    }

    Result<at::Tensor> load(std::int64_t from, std::int64_t count, std::vector<std::int64_t>& kept) {
        std::vector<std::optional<Result<at::Tensor>>> found(static_cast<std::size_t>(count));
        at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) found[static_cast<std::size_t>(i)] = options_.pixels(from + i);
        });
        std::vector<at::Tensor> read;
        for (std::int64_t i = 0; i < count; ++i) {
            auto& one = *found[static_cast<std::size_t>(i)];
            if (one) {
                read.push_back(std::move(*one));
                kept.push_back(from + i);
            } else {
                out_.skipped.push_back(one.error().message);
            }
        }
        if (read.empty()) return at::Tensor();
        return at::cat(read).to(model_.device());
    }

    /// What the tokens are, by the first picture that can be read; how many pictures' codes are held at once.
    Status look_at(std::int64_t picture) {
        std::vector<std::int64_t> kept;
        const at::Tensor pixels = VITRINE_TRY(load(picture, 1, kept));
        if (kept.empty()) return {};
        kinds_ = kinds_of(VITRINE_TRY(point_tokens(model_, pixels, config_, options_.stop)), config_);
        for (std::size_t k = 0; k < kinds_.size(); ++k) by_kind_.emplace_back(options_.resamples, options_.seed);
        const std::int64_t of_picture = kinds_.front().count * config_.latents;
        if (batch_ <= 0) batch_ = std::clamp<std::int64_t>(kCodesAtOnce / of_picture, 1, kBatch);
        return {};
    }

    Status add(std::int64_t from, std::int64_t count) {
        std::vector<std::int64_t> kept;
        const at::Tensor pixels = VITRINE_TRY(load(from, count, kept));
        if (kept.empty()) return {};
        const at::Tensor read = VITRINE_TRY(concept_tokens(model_, pixels, config_, options_.stop));
        const auto n = read.size(0), tokens = read.size(1), width = read.size(2);
        const at::Tensor x = read.reshape({-1, width}).to(at::kFloat);
        const Codes codes = autoencoder_.encode(x);
        const at::Tensor again = autoencoder_.decode(codes.active, codes);
        const at::Tensor on = codes.active.ne(0).view({n, tokens, -1});
        heard_ += on.sum(at::IntArrayRef{0, 1}).to(at::kCPU, at::kDouble);
        tokens_ += n * tokens;
        const at::Tensor whole = x.view({n, tokens, width}), wrong = (again - x).view(whole.sizes());
        const at::Tensor alike = at::cosine_similarity(x, again, 1).view({n, tokens});
        for (std::size_t k = 0; k < kinds_.size(); ++k) {
            const auto& [name, first, some] = kinds_[k];
            const at::Tensor of = whole.narrow(1, first, some).to(at::kDouble),
                             errors = wrong.narrow(1, first, some).to(at::kDouble).square().sum(2);
            const at::Tensor spread = (of - of.mean(at::IntArrayRef{0, 1}, true)).square().sum(2);
            // A batch of one token has no spread: it says nothing of this figure.
            const at::Tensor varied =
                spread.gt(0).logical_and(at::full({1}, n * some > 1, spread.options().dtype(at::kBool)));
            const at::Tensor sums =
                at::stack({at::full({n}, static_cast<double>(some), of.options()),
                           on.narrow(1, first, some).sum(at::IntArrayRef{1, 2}).to(at::kDouble), errors.sum(1),
                           of.square().sum(at::IntArrayRef{1, 2}),
                           at::where(varied, 1 - errors / spread, at::zeros_like(errors)).sum(1),
                           varied.sum(1).to(at::kDouble), alike.narrow(1, first, some).sum(1, false, at::kDouble),
                           at::linalg_vector_norm(of, 2, at::IntArrayRef{2}).sum(1)},
                          1);
            by_kind_[k].add(at::cat({sums, of.sum(1)}, 1).to(at::kCPU), kept);
        }

        at::Tensor of_pictures = at::zeros({n, kPictureSums}, at::kDouble);
        of_pictures.select(1, kPictures).fill_(1);
        of_pictures.select(1, kDistinct).copy_(on.any(1).sum(1));
        answers_ = model_.info().classes > 0 || rows_.defined();
        if (answers_) VITRINE_CHECK(add_answers(pixels, kept, of_pictures));
        whole_.add(of_pictures, kept);
        out_.pictures += n;
        return {};
    }

    Status add_answers(const at::Tensor& pixels, const std::vector<std::int64_t>& kept, at::Tensor& of_pictures) {
        const TokenLayout layout = model_.layout(pixels.size(2), pixels.size(3));
        const at::Tensor whole = VITRINE_TRY(answers(model_.forward(pixels)));
        const at::Tensor put = VITRINE_TRY(answered(pixels, layout, [&](const at::Tensor& tokens) {
            const Codes of = autoencoder_.encode(tokens);
            return autoencoder_.decode(of.active, of);
        }));
        const at::Tensor none =
            VITRINE_TRY(answered(pixels, layout, [](const at::Tensor& tokens) { return at::zeros_like(tokens); }));
        const auto fill = [&](PictureSum sum, const at::Tensor& values) { of_pictures.select(1, sum).copy_(values); };
        const auto from_whole = [&](const at::Tensor& other) {
            return (whole.exp() * (whole - other)).sum(1, false, at::kDouble);
        };
        of_pictures.select(1, kAnswered).fill_(1);
        fill(kAgreed, at::argmax(whole, 1).eq(at::argmax(put, 1)));
        fill(kDivergence, from_whole(put));
        fill(kZeroed, from_whole(none));
        if (options_.labels.empty()) return {};
        std::vector<std::int64_t> labels;
        for (const std::int64_t picture : kept) {
            const std::int64_t label = options_.labels[static_cast<std::size_t>(picture)];
            if (label >= whole.size(1))
                return fail(ErrorCode::BadInput, "a picture is of class {}, and there are {} classes", label,
                            whole.size(1));
            labels.push_back(std::max<std::int64_t>(label, -1));
        }
        const at::Tensor label = at::tensor(labels, at::kLong);
        const at::Tensor known = label.ge(0).to(at::kDouble), place = label.clamp_min(0).unsqueeze(1);
        const auto loss = [&](const at::Tensor& of) {
            return -at::gather(of.to(at::kCPU, at::kDouble), 1, place).squeeze(1) * known;
        };
        fill(kLabelled, known);
        fill(kLoss, loss(whole));
        fill(kLossPut, loss(put));
        fill(kLossZeroed, loss(none));
        return {};
    }

    FidelityOfTokens of_tokens(std::size_t k) const {
        const Sums& sums = by_kind_[k];
        FidelityOfTokens out;
        out.name = kinds_[k].name;
        const at::Tensor n = sums[kTokens];
        out.tokens = std::llround(n[0].item<double>());
        out.active = measured(sums[kActive] / n);
        const at::Tensor spread = sums[kSquares] - sums.vector(kTokenSums, config_.width).square().sum(1) / n;
        // One token, or one picture's drawn again and again, has no variance: what the sums leave of it is rounding.
        out.explained_variance = measured(at::where(spread > kRounding * sums[kSquares], 1 - sums[kErrors] / spread,
                                                    at::full({1}, kNaN, n.options())));
        out.token_variance = measured(sums[kTokenVariance] / sums[kVaried]);
        out.cosine = measured(sums[kCosines] / n);
        out.norm = (sums[kNorms] / n)[0].item<double>();
        return out;
    }

    void densities() {
        out_.latents = config_.latents;
        out_.densities.assign(static_cast<std::size_t>(std::llround(-kLeastDensity / kDensityStep)), 0);
        const double *heard = heard_.const_data_ptr<double>(), all = static_cast<double>(config_.latents);
        for (std::int64_t i = 0; i < config_.latents; ++i) {
            const double share = heard[i] / static_cast<double>(tokens_);
            out_.never += share == 0 ? 1 / all : 0;
            out_.rare += share < 1e-5 ? 1 / all : 0;
            out_.rarer += share < 1e-6 ? 1 / all : 0;
            out_.dense += share > 1e-2 ? 1 / all : 0;
            if (share == 0) continue;
            const auto bin = static_cast<std::int64_t>(std::floor((std::log10(share) - kLeastDensity) / kDensityStep));
            ++out_.densities[static_cast<std::size_t>(
                std::clamp<std::int64_t>(bin, 0, std::ssize(out_.densities) - 1))];
        }
    }

    Model& model_;
    const Autoencoder& autoencoder_;
    const FidelityOptions& options_;
    const AutoencoderConfig& config_;
    std::int64_t batch_ = 0, tokens_ = 0;
    bool answers_ = false;
    at::Tensor rows_;
    std::vector<KindOfToken> kinds_;
    std::vector<Sums> by_kind_;
    Sums whole_;
    at::Tensor heard_;
    Fidelity out_;
};

}  // namespace

Result<Fidelity> autoencoder_fidelity(Model& model, const Autoencoder& autoencoder, const FidelityOptions& options) {
    return guarded([&]() -> Result<Fidelity> {
        const at::NoGradGuard no_grad;
        if (!options.labels.empty() && std::ssize(options.labels) != options.pictures)
            return fail(ErrorCode::BadInput, "there are {} labels for {} pictures", options.labels.size(),
                        options.pictures);
        Fidelities all(model, autoencoder, options);
        VITRINE_CHECK(all.run());
        return all.result();
    });
}

Result<at::Tensor> class_rows_in(const std::filesystem::path& file) {
    return guarded([&]() -> Result<at::Tensor> {
        const Checkpoint checkpoint = VITRINE_TRY(read_checkpoint(file));
        std::vector<std::string> matrices;
        for (const auto& [name, entry] : checkpoint.file.tensors)
            if (entry.shape.size() == 2) matrices.push_back(name);
        if (matrices.size() != 1)
            return fail(ErrorCode::BadInput, "{} holds {} matrices; expected one, [classes, features]", file.string(),
                        matrices.size());
        const at::Tensor rows = VITRINE_TRY(checkpoint.tensor(matrices.front())).to(at::kFloat);
        if (rows.numel() == 0 || !at::isfinite(rows).all().item<bool>())
            return fail(ErrorCode::BadInput, "{} in {} has numbers that are not finite; write the embeddings again",
                        matrices.front(), file.string());
        return rows;
    });
}

}  // namespace vitrine
