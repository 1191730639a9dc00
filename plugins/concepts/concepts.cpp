// Concepts of a sparse autoencoder on one picture: where a concept is, and which are strongest.
#include "concepts.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/topk.h>

#include <vitrine/autoencoder.h>
#include <vitrine/concept_doubt.h>
#include <vitrine/concept_names.h>
#include <vitrine/engine.h>
#include <vitrine/torch_errors.h>

namespace vitrine::plugin::concepts {

namespace {

namespace fs = std::filesystem;

/// A table of more tokens than this nobody reads.
constexpr std::int64_t kMostTokensInTable = 1024;
constexpr std::int64_t kConceptsOfToken = 3;

/// What was read last and compared with the model: another concept or picture does not read it again.
struct Read {
    std::string name;
    fs::file_time_type written;
    const Model* model = nullptr;
    at::Tensor first_weight;  // held, so that another model at the same place is told apart
    std::shared_ptr<const Autoencoder> autoencoder;
};
std::mutex guard;
/// Never destroyed: at the program's end a device's memory is gone before what is static.
std::optional<Read>& last() {
    static auto& kept = *new std::optional<Read>;
    return kept;
}

Result<std::map<std::string, std::string>> settings_of(const std::string& text) {
    std::map<std::string, std::string> out;
    std::istringstream list(text);
    for (std::string item; std::getline(list, item, ',');) {
        const std::size_t equals = item.find('=');
        if (equals == std::string::npos)
            return fail(ErrorCode::BadInput, "'{}' in concepts.given is not NAME=VALUE", item);
        out[item.substr(0, equals)] = item.substr(equals + 1);
    }
    return out;
}

class Concepts final : public Explainer {
  public:
    Description description() const override {
        return {
            "concepts",
            "Concepts",
            "Where a concept of a sparse autoencoder is active, and which concepts are strongest in the picture",
            "T. Bricken et al., Towards Monosemanticity, 2023; as in P. Suresh et al., From Noise to Narrative, 2025",
            56,
            "Inner views",
            "f = act((x - b_dec) W_enc + b_enc) for the tokens x of one point; the map is one f_i over the patches",
            "A concept has no name of its own, and autoencoders of untrained models look sensible too (Heap et al., "
            "2025)"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"autoencoder",
                 std::string(),
                 "the file, as vitrine train-concepts, SAELens, ViT-Prisma, saev or OpenAI write it; empty: the one "
                 "that came with the model",
                 "",
                 "",
                 {},
                 {},
                 {}},
                {"index",
                 std::int64_t{-1},
                 "which concept; -1: the strongest of the picture, by its sum over patches",
                 "",
                 "",
                 -1,
                 {},
                 {}},
                {"count", std::int64_t{10}, "how many concepts of the picture the table lists", "", "", 1, 1000, {}},
                {"given",
                 std::string(),
                 "what a file of another library does not say: NAME=VALUE with commas between, such as "
                 "point=blocks.9,kind=relu",
                 "",
                 "",
                 {},
                 {},
                 {}}};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (model.points().empty()) return model.info().name + " has no named points whose tokens could be read";
        return std::nullopt;
    }
    bool class_specific() const override { return false; }
    // The run that keeps the point; the shared capture does not have it.
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 0}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        return guarded([&] { return explained(context, settings); });
    }

  private:
    static Result<Attribution> explained(ExplainContext& context, const Settings& settings) {
        const at::NoGradGuard no_grad;
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        Model& model = context.model;
        const std::string named = settings.text("autoencoder");
        const fs::path file = named.empty() ? built_in_concepts() : fs::path(named);
        const auto autoencoder = VITRINE_TRY(read(model, file, named.empty(), settings.text("given")));
        const AutoencoderConfig& config = autoencoder->config();
        if (config.tokens == "class")
            return fail(ErrorCode::Unsupported, "these concepts are of the class token alone: they have no map");
        const std::int64_t index = settings.integer("index");
        if (index >= config.latents)
            return fail(ErrorCode::BadInput, "there is no concept {}, the file has 0 to {}", index, config.latents - 1);

        const auto parameters = model.parameters();
        const at::Tensor pixels = context.input.pixels.to(
            model.device(), parameters.empty() ? at::kFloat : parameters.front().second.scalar_type());
        auto read_tokens = point_tokens(model, pixels, config, context.stop);
        if (!read_tokens)
            return tl::make_unexpected(std::move(read_tokens.error()).with_context(file.filename().string()));
        const PointTokens point = std::move(*read_tokens);
        if (point.rows == 0)
            return fail(ErrorCode::Unsupported, "which tokens of {} are patches is not known, so there is no map",
                        config.point);
        const std::int64_t patches = point.rows * point.cols, before = std::ssize(point.prefix);
        const bool all = config.tokens == "all";  // else prefix tokens are nothing it was trained on
        const at::Tensor tokens =
            (all ? point.tokens[0] : point.tokens[0].narrow(0, before, patches)).to(model.device(), at::kFloat);
        const Codes codes = autoencoder->encode(tokens);
        const at::Tensor active = codes.active.narrow(0, all ? before : 0, patches);
        const at::Tensor sums = active.sum(0);

        std::int64_t shown = index;
        if (shown < 0) {
            shown = largest(sums.unsqueeze(0), 1).item<std::int64_t>();
            if (active.select(1, shown).count_nonzero().item<std::int64_t>() == 0)
                return fail(ErrorCode::Unsupported, "no concept is active on the patches of this picture");
        }
        Attribution out;
        out.method = "concepts";
        out.map = active.select(1, shown).reshape({point.rows, point.cols}).to(at::kCPU, at::kFloat).contiguous();
        out.is_signed = out.map.min().item<float>() < 0;
        auto names = ConceptNames::of(file, concepts_mark(*autoencoder));
        // They help to read, and a broken file of them stops nothing.
        if (!names) out.notes.push_back("the concepts' names were not read: " + names.error().message);
        const ConceptNames called = names ? std::move(*names) : ConceptNames();
        out.explained = fmt::format("{} at {}", called.called(shown), config.point);
        out.tables.push_back(of_picture(active, sums, settings.integer("count"), called));
        if (tokens.size(0) <= kMostTokensInTable)
            out.tables.push_back(of_tokens(codes.active, all ? point.prefix : std::vector<std::string>(), point.cols));
        notes(out, model, *autoencoder, tokens, codes, active);
        if (active.select(1, shown).count_nonzero().item<std::int64_t>() == 0)
            out.notes.push_back(called.called(shown) + " is silent on the patches of this picture");
        return out;
    }

    /// The picture's strongest concepts, by their sums over patches.
    static Table of_picture(const at::Tensor& active, const at::Tensor& sums, std::int64_t count,
                            const ConceptNames& names) {
        Table out;
        out.name = "concepts_of_the_picture";
        out.cols = {"sum over patches", "strongest patch", "patches"};
        const auto [values, order] = at::topk(sums, std::min(count, sums.size(0)));
        const at::Tensor columns = active.index_select(1, order);
        const at::Tensor greatest = columns.amax(0).to(at::kCPU, at::kDouble),
                         where = (columns != 0).sum(0).to(at::kCPU, at::kDouble),
                         sum = values.to(at::kCPU, at::kDouble), which = order.to(at::kCPU);
        for (std::int64_t i = 0; i < which.size(0); ++i) {
            if (where[i].item<double>() == 0) continue;
            out.rows.push_back(names.called(which[i].item<std::int64_t>()));
            out.values.push_back({sum[i].item<double>(), greatest[i].item<double>(), where[i].item<double>()});
        }
        return out;
    }

    /// Each token's strongest concepts; rows of tokens with fewer are shorter.
    static Table of_tokens(const at::Tensor& active, const std::vector<std::string>& prefix, std::int64_t cols) {
        Table out;
        out.name = "concepts_of_tokens";
        out.cols = {"concept", "strength", "second", "its strength", "third", "its strength"};
        const auto [values, order] = at::topk(active, std::min(kConceptsOfToken, active.size(1)), 1);
        const at::Tensor strength = values.to(at::kCPU, at::kDouble).contiguous(),
                         which = order.to(at::kCPU).contiguous();
        for (std::int64_t t = 0; t < active.size(0); ++t) {
            const std::int64_t patch = t - std::ssize(prefix);
            out.rows.push_back(patch < 0 ? prefix[static_cast<std::size_t>(t)]
                                         : fmt::format("patch {}, {}", patch / cols, patch % cols));
            std::vector<double> row;
            for (std::int64_t i = 0; i < strength.size(1); ++i) {
                const double value = strength.const_data_ptr<double>()[t * strength.size(1) + i];
                if (value == 0) continue;
                row.push_back(double(which.const_data_ptr<std::int64_t>()[t * strength.size(1) + i]));
                row.push_back(value);
            }
            out.values.push_back(std::move(row));
        }
        return out;
    }

    static void notes(Attribution& out, Model& model, const Autoencoder& autoencoder, const at::Tensor& tokens,
                      const Codes& codes, const at::Tensor& active) {
        const at::Tensor error = autoencoder.decode(codes.active, codes) - tokens;
        const double left = error.to(at::kDouble).square().sum().item<double>(),
                     whole = (tokens - tokens.mean(0, true)).to(at::kDouble).square().sum().item<double>();
        const double each = (codes.active != 0).to(at::kDouble).sum(1).mean().item<double>();
        const auto distinct = (active != 0).any(0).sum().item<std::int64_t>();
        out.notes.push_back(fmt::format("{:.1f} of {} concepts are active in a token, {} somewhere on the patches",
                                        each, autoencoder.config().latents, distinct));
        if (whole > 0)
            out.notes.push_back(fmt::format("the concepts explain {:.1f} % of this picture's variance at {}",
                                            100 * (1 - left / whole), autoencoder.config().point));
        if (whole > 0 && left > 0.5 * whole)
            out.notes.push_back("less than half is explained: what these concepts say of this picture is unreliable");
        if (std::string doubt = doubt_of(autoencoder, model); !doubt.empty()) out.notes.push_back(std::move(doubt));
    }

    static Result<std::shared_ptr<const Autoencoder>> read(Model& model, const fs::path& file, bool built_in,
                                                           const std::string& given) {
        const auto untrained = [&] {
            return fail(ErrorCode::Unsupported,
                        "no concepts were trained for {} yet: make some with vitrine train-concepts and name them with "
                        "concepts.autoencoder",
                        model.info().name);
        };
        if (file.empty()) return untrained();
        std::error_code failed;
        const auto written = fs::last_write_time(file, failed);
        const auto parameters = model.parameters();
        const at::Tensor first = parameters.empty() ? at::Tensor() : parameters.front().second;
        const std::string name = file.string() + '\n' + given;
        {
            const std::lock_guard lock(guard);
            const auto& kept = last();
            if (kept && kept->name == name && kept->written == written && kept->model == &model &&
                kept->first_weight.is_same(first))
                return kept->autoencoder;
        }
        auto loaded = Autoencoder::load(file, VITRINE_TRY(settings_of(given)));
        const Status fits = loaded ? loaded->fits_weights(model) : Status(tl::make_unexpected(loaded.error()));
        if (!fits && built_in) return untrained();
        VITRINE_CHECK(fits);
        loaded->to(model.device());
        auto autoencoder = std::make_shared<const Autoencoder>(std::move(*loaded));
        const std::lock_guard lock(guard);
        last() = Read{name, written, &model, first, autoencoder};
        return autoencoder;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_concepts() { return std::make_unique<Concepts>(); }

}  // namespace vitrine::plugin::concepts
