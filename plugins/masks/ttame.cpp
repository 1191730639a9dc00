// T-TAME: one run of the model gives the masks of all classes, by an attention module that was trained beside it.
#include "masks.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <sstream>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <c10/core/StorageImpl.h>

#include <fmt/ranges.h>

#include <vitrine/capture.h>
#include <vitrine/engine.h>
#include <vitrine/mask_module.h>
#include <vitrine/model_mark.h>
#include <vitrine/torch_errors.h>

namespace vitrine::plugin::masks {

namespace {

namespace fs = std::filesystem;

/// The module beside the built-in model, which fits no other.
constexpr const char* kBuiltIn = "starter/ttame.safetensors";

/// What the last picture's run gave: another class of the same picture costs a look into it.
struct Seen {
    std::string file;
    fs::file_time_type written;
    const Model* model = nullptr;
    at::Tensor first_weight;  // held, so that another model at the same place is told apart
    ModelMark mark;           // measures shuffle weights for a while, and concepts are steered
    at::Tensor pixels;
    std::shared_ptr<const MaskModule> mask;
    MaskFeatures features;
    at::Tensor logits;  // [classes, rows, cols]
};
std::mutex guard;
/// Never destroyed: at the program's end a device's memory is gone before what is static.
std::optional<Seen>& last() {
    static auto& kept = *new std::optional<Seen>;
    return kept;
}

class TTame final : public Explainer {
  public:
    Description description() const override {
        return {"ttame",
                "T-TAME",
                "A mask of every class from feature maps of a few layers, by a small module trained beside the model",
                "M. Ntrougkas et al., T-TAME: Trainable Attention Mechanism for Explaining Convolutional Networks and "
                "Vision "
                "Transformers, IEEE Access 2024",
                38,
                "Learned masks",
                "c_k = sum over layers of w_k relu(BN(conv F) + F), resized bilinearly; mask sigmoid(c_k), map c_k "
                "from 0 to 1",
                "Masks of classes that are rarely predicted on the training pictures are weakly trained (a consequence "
                "of the "
                "training objective)"};
    }
    std::vector<Parameter> parameters() const override {
        return {
            {"mask",
             std::string(),
             "the trained module, as vitrine train-mask writes it; empty: the one that came with the model",
             "",
             "",
             {},
             {},
             {}},
            {"show",
             std::string("map"),
             "map: the module's numbers from their least to their greatest; mask: what covered the pictures in "
             "training",
             "",
             "T-TAME",
             {},
             {},
             {"map", "mask"}},
            {"part",
             std::string(),
             "empty: what `show` says; sum: the module's own numbers, signed; one of the mask's layers, or bias: what "
             "it adds to them",
             "",
             "",
             {},
             {},
             {}},
            {"layers",
             std::string(),
             "for a checkpoint of the authors': layers to be taken in place of those it names, with commas between",
             "",
             "",
             {},
             {},
             {}}};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (model.info().classes < 1) return model.info().name + " has no classes, whose masks are trained";
        return std::nullopt;
    }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override { return "its masks are trained for classes"; }
    // The run that keeps the layers; the shared capture does not have them. A mask with statistics of its own needs one
    // more.
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 0}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        return guarded([&] { return explained(context, settings); });
    }

  private:
    static Result<Attribution> explained(ExplainContext& context, const Settings& settings) {
        const at::NoGradGuard no_grad;
        Model& model = context.model;
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        fs::path file = settings.text("mask");
        const bool built_in = file.empty();
        if (built_in) file = resource(kBuiltIn).value_or(fs::path());
        const Seen seen = VITRINE_TRY(see(context, file, settings.text("layers"), built_in));
        if (!context.target.index) context.target.index = seen.features.answer[0].argmax().item<std::int64_t>();
        const Objective objective = VITRINE_TRY(context.objective(Scale::Probability));
        if (objective.index < 0)
            return fail(ErrorCode::Unsupported, "T-TAME has masks of classes, and {} is asked for",
                        objective.explained);
        if (!objective.also.empty())
            return fail(ErrorCode::Unsupported, "T-TAME has a mask for each class, none for {}; ask for one class",
                        objective.explained);

        const std::int64_t k = objective.index;
        const at::Tensor c = seen.logits[k];
        Attribution out;
        out.method = "ttame";
        out.class_specific = true;
        out.explained = objective.explained;
        VITRINE_CHECK(draw(out, seen, k, objective.versus, settings.text("show") == "mask", settings.text("part")));
        out.notes.push_back(fmt::format(
            "mask {}: {} of {}, its own mask covers {:.0f} %", file.filename().string(), seen.mask->config().version,
            seen.mask->facts.count("model") != 0 ? seen.mask->facts.at("model") : "a checkpoint",
            100 * at::sigmoid(c).mean().item<double>()));
        for (const std::int64_t one : objective.versus ? std::vector{k, *objective.versus} : std::vector{k}) {
            const double probability = at::softmax(seen.features.answer[0], 0)[one].item<double>();
            if (probability >= 0.01) continue;
            out.notes.push_back(
                fmt::format("weakly trained: the model gives {} {:.2g} %, and masks of improbable classes "
                            "have seen little of them",
                            one == k ? "this class" : "the class compared with", 100 * probability));
        }
        if (!seen.mask->backbone.empty())
            out.notes.push_back(fmt::format(
                "the layers were read with the {} running statistics of batch norms that training left, not with the "
                "opened model's; its answers are its own",
                seen.mask->backbone.size()));
        if (std::string doubt = seen.mask->doubt(model); !doubt.empty()) out.notes.push_back(std::move(doubt));
        return out;
    }

    /// The map, and the table and check of what the layers add to it.
    static Status draw(Attribution& out, const Seen& seen, std::int64_t k, std::optional<std::int64_t> versus,
                       bool as_mask, const std::string& part) {
        // The fuser is linear: differences of classes split among the layers as classes do.
        const auto of = [&](const auto& numbers) {
            return (versus ? numbers(k) - numbers(*versus) : numbers(k)).to(at::kCPU, at::kFloat).contiguous();
        };
        const at::Tensor c = of([&](std::int64_t i) { return seen.logits[i]; });
        const bool splits = !seen.mask->config().mixes_layers();
        const at::Tensor layers =
            splits ? of([&](std::int64_t i) { return seen.mask->contributions(seen.features.maps, i)[0]; })
                   : at::Tensor();
        const at::Tensor bias = of([&](std::int64_t i) {
            for (const auto& [name, tensor] : seen.mask->parameters())
                if (name == "fuser.bias") return tensor[i].to(at::kFloat);
            return at::zeros({});
        });
        std::vector<std::pair<std::string, at::Tensor>> parts;
        for (std::size_t s = 0; splits && s < seen.mask->config().layers.size(); ++s)
            parts.emplace_back(seen.mask->config().layers[s], layers[static_cast<std::int64_t>(s)]);
        if (splits) parts.emplace_back("bias", bias.expand_as(c).contiguous());
        parts.emplace_back("sum", c);

        Table adds;
        adds.name = "what_each_layer_adds";
        adds.cols = {"mean", "deviation"};
        const at::Tensor* chosen = nullptr;
        for (const auto& [name, map] : parts) {
            adds.rows.push_back(name);
            adds.values.push_back({map.mean().item<double>(), map.std(false).item<double>()});
            if (name == part) chosen = &map;
        }
        if (!part.empty() && chosen == nullptr)
            return fail(ErrorCode::BadInput, "the mask has no part '{}'; it has {}", part, fmt::join(adds.rows, ", "));
        if (part.empty() && as_mask && versus)
            return fail(
                ErrorCode::Unsupported,
                "a training mask is of one class: take the other class away, or show the map, which is then the "
                "difference");
        if (splits) {
            const double off = (layers.sum(0) + bias - c).abs().max().item<double>(),
                         reach = std::max(1.0, c.abs().max().item<double>());
            out.checks.push_back({"layers and bias add up", off <= 1e-5 * reach, fmt::format("within {:.0e}", off)});
        }
        out.tables.push_back(std::move(adds));

        out.is_signed = chosen != nullptr || versus.has_value();
        out.map = chosen != nullptr ? *chosen : versus ? c : as_mask ? at::sigmoid(c) : min_max(c);
        const std::string classes =
            versus ? fmt::format("class {} minus class {}", k, *versus) : fmt::format("class {}", k);
        if (part == "sum" || (part.empty() && versus))
            out.explained = "the mask's numbers for " + classes;
        else if (chosen != nullptr)
            out.explained =
                fmt::format("what {} adds to the mask's numbers for {}", part == "bias" ? "the bias" : part, classes);
        return {};
    }

    static Result<Seen> see(ExplainContext& context, const fs::path& file, const std::string& names, bool built_in) {
        std::error_code failed;
        const auto written = fs::last_write_time(file, failed);
        const auto parameters = context.model.parameters();
        const at::Tensor first = parameters.empty() ? at::Tensor() : parameters.front().second;
        const ModelMark mark(context.model);
        std::shared_ptr<const MaskModule> mask;
        {
            const std::lock_guard lock(guard);
            const auto& kept = last();
            if (kept && kept->file == file.string() + names && kept->written == written &&
                kept->model == &context.model && kept->first_weight.is_same(first)) {
                if (kept->pixels.is_same(context.input.pixels) && kept->mark == mark) return *kept;
                mask = kept->mask;  // neither read nor compared again
            }
        }
        if (!mask) {
            std::vector<std::string> layers;
            std::istringstream list(names);
            for (std::string name; std::getline(list, name, ',');)
                if (!name.empty()) layers.push_back(name);
            auto read = MaskModule::load(file, layers);
            const Status fits = read ? read->fits(context.model) : Status(tl::make_unexpected(read.error()));
            if (!fits && built_in)
                return fail(
                    ErrorCode::Unsupported,
                    "no mask was trained for {} yet: make one with vitrine train-mask and name it with ttame.mask",
                    context.model.info().name);
            VITRINE_CHECK(fits);
            read->to(context.model.device());
            mask = std::make_shared<const MaskModule>(std::move(*read));
        }
        const at::ScalarType type = first.defined() ? first.scalar_type() : at::kFloat;
        Seen seen{file.string() + names, written, &context.model, first, mark, context.input.pixels, {}, {}, {}};
        const at::Tensor pixels = context.input.pixels.to(context.model.device(), type);
        {
            const WithStatistics scope(mask->backbone);
            seen.features = VITRINE_TRY(mask_features(context.model, pixels, mask->config(), context.stop));
        }
        // What is explained is the model as it was opened.
        if (!mask->backbone.empty())
            seen.features.answer = VITRINE_TRY(run(context.model, pixels, context.stop)).to(at::kFloat);
        for (std::size_t s = 0; s < seen.features.maps.size(); ++s)
            if (const auto found = mask->config().channels_of(seen.features.maps[s]);
                found != mask->config().channels[s])
                return fail(ErrorCode::BadInput, "the mask expects {} channels at {}, {} has {}",
                            mask->config().channels[s], mask->config().layers[s], context.model.info().name, found);
        seen.logits = mask->logits(seen.features.maps)[0];
        seen.mask = mask;
        const std::lock_guard lock(guard);
        last() = seen;
        return seen;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_ttame() { return std::make_unique<TTame>(); }

}  // namespace vitrine::plugin::masks
