// CRAFT: concepts of a class from crops of its pictures, how much the answer hangs on each, and where each is.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/ranges.h>

#include <vitrine/autoencoder.h>
#include <vitrine/concept_factors.h>
#include <vitrine/concept_importance.h>
#include <vitrine/model_mark.h>
#include <vitrine/picture_draw.h>
#include <vitrine/preprocess.h>
#include <vitrine/torch_errors.h>

#include "concepts.h"

namespace vitrine::plugin::concepts {

namespace {

namespace fs = std::filesystem;

/// Non-negative parts of a class.
struct Bank {
    std::shared_ptr<const Autoencoder> parts;
    std::vector<std::string> notes;
};
/// What was made last: another concept or picture of the same class does not make it again.
struct Made {
    std::string name;
    ModelMark mark;
    Bank bank;
};
std::mutex made_guard;
/// Never destroyed: at the program's end a device's memory is gone before what is static.
std::optional<Made>& last_made() {
    static auto& kept = *new std::optional<Made>;
    return kept;
}

/// Squares of `side` pixels, four fifths of it apart, each enlarged to the whole input. [n, 3, height, width]
at::Tensor crops_of(const at::Tensor& pixels, std::int64_t side) {
    const std::int64_t step = std::max<std::int64_t>(1, static_cast<std::int64_t>(0.8 * static_cast<double>(side)));
    std::vector<at::Tensor> out;
    for (std::int64_t top = 0; top + side <= pixels.size(2); top += step)
        for (std::int64_t left = 0; left + side <= pixels.size(3); left += step)
            out.push_back(at::upsample_bilinear2d(pixels.narrow(2, top, side).narrow(3, left, side),
                                                  {pixels.size(2), pixels.size(3)}, /*align_corners=*/false));
    return at::cat(out);
}

class Craft final : public Explainer {
  public:
    Description description() const override {
        return {
            "craft",
            "CRAFT",
            "The parts that crops of a class's pictures are made of, how much the answer hangs on each, and where "
            "in the picture each is",
            "T. Fel et al., CRAFT: Concept Recursive Activation FacTorization for Explainability, CVPR 2023; "
            "settings of xplique 2.0.2",
            0,
            "Inner views",
            "relu(A) = U W, all of zero or more; the map is one column of U; its weight the total Sobol index of the "
            "answer to (U * mask) W",
            "With few crops the parts follow the pictures that were chosen, and where U W rebuilds the activation "
            "badly "
            "the weights are of another answer (Fel et al., 2023, ask for both to be looked at)"};
    }
    std::vector<Parameter> parameters() const override {
        const char* xplique = "xplique";
        return {{"point",
                 std::string(),
                 "the named point; empty: the block three quarters deep, or the model's cam_point",
                 "",
                 "",
                 {},
                 {},
                 {}},
                {"pictures",
                 std::string(),
                 "a folder: crops of those of its pictures that are answered with the explained class; empty: of this "
                 "picture alone",
                 "",
                 "",
                 {},
                 {},
                 {}},
                {"most",
                 std::int64_t{1000},
                 "pictures of the folder that are looked at, drawn where it has more",
                 "pictures",
                 "",
                 1,
                 100000,
                 {}},
                {"enough",
                 std::int64_t{64},
                 "of those that are answered with the explained class; no more are looked at then",
                 "pictures",
                 "",
                 1,
                 10000,
                 {}},
                {"seed", std::int64_t{0}, "of that draw; the same for all explained pictures", "", "", 0, {}, {}},
                {"bank",
                 std::string(),
                 "a file of vitrine train-concepts --set kind=nmf in the place of the pictures",
                 "",
                 "",
                 {},
                 {},
                 {}},
                {"concepts", std::int64_t{20}, "parts; no more than half of the crops", "", xplique, 1, 256, {}},
                {"crop",
                 64.0 / 224,
                 "side of a crop as a share of the input's shorter side",
                 "",
                 "xplique: 64 of 224 pixels",
                 0.05,
                 1,
                 {}},
                {"regularisation",
                 0.01,
                 "on the squares of codes and parts (scikit-learn's alpha_W)",
                 "",
                 xplique,
                 0,
                 1e6,
                 {}},
                {"designs",
                 std::int64_t{32},
                 "points of the design; designs (1 + concepts) runs behind the point",
                 "",
                 xplique,
                 2,
                 4096,
                 {}},
                {"sequence",
                 std::string("halton"),
                 "of the masks: halton, or sobol, which fills many dimensions more evenly",
                 "",
                 xplique,
                 {},
                 {},
                 {"halton", "sobol"}},
                {"rest",
                 std::string("negative"),
                 "what stays of the activation beside the parts: its negative numbers; all that the parts do not "
                 "explain; nothing",
                 "",
                 "xplique has nothing, and no negative numbers",
                 {},
                 {},
                 {"negative", "all", "nothing"}},
                {"index",
                 std::int64_t{-1},
                 "which concept is shown; -1: the one that the answer hangs on most",
                 "",
                 "",
                 -1,
                 {},
                 {}}};
    }
    std::optional<std::string> why_not(const Model& model) const override { return needs_points(model); }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override {
        return "CRAFT weighs concepts by a class's answer, and a region's activation may lie before them";
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        return guarded([&] { return explained(context, settings); });
    }

  private:
    static Result<Attribution> explained(ExplainContext& context, const Settings& settings) {
        const at::NoGradGuard no_grad;
        Model& model = context.model;
        if (!context.target.region.empty())
            return fail(ErrorCode::Unsupported, "CRAFT weighs concepts by a class's answer: explain a class");
        const Objective objective = VITRINE_TRY(context.objective(Scale::Logit));
        Bank bank;
        std::string point;
        if (const std::string file = settings.text("bank"); !file.empty()) {
            bank = VITRINE_TRY(read_bank(model, file));
            point = bank.parts->config().point;
        } else {
            point = VITRINE_TRY(point_of(model, settings.text("point")));
            bank = VITRINE_TRY(find_bank(context, objective, point, settings));
        }
        const Autoencoder& parts = *bank.parts;
        const std::int64_t count = parts.config().latents, designs = settings.integer("designs");
        const std::int64_t index = settings.integer("index");
        if (index >= count)
            return fail(ErrorCode::BadInput, "there is no concept {}, there are 0 to {}", index, count - 1);

        const Seen seen = VITRINE_TRY(see(model, context.input.pixels, point, context.stop));
        const at::Tensor x = seen.cells[0];
        if (x.size(1) != parts.config().width)
            return fail(ErrorCode::BadInput,
                        "the concepts are of activations {} wide, and {} of {} is {} wide; name a bank that was made "
                        "of this model",
                        parts.config().width, point, model.info().name, x.size(1));
        const at::Tensor rows = parts.tensor("W_dec").to(at::kCPU, at::kDouble);
        const Codes codes = parts.encode(x);
        const at::Tensor u = codes.active.to(at::kCPU, at::kDouble), rebuilt = at::matmul(u, rows);
        if (u.max().item<double>() == 0)
            return fail(ErrorCode::Unsupported,
                        "none of {} concepts is active on this picture, so none has a map: lower craft.regularisation, "
                        "or find them in pictures like it (craft.pictures)",
                        count);
        const std::string keep = settings.text("rest");
        const at::Tensor rest = keep == "all" ? x - rebuilt : keep == "negative" ? x - at::relu(x) : at::zeros_like(x);
        const at::Tensor masks =
            VITRINE_TRY(replicated_design(count, designs, settings.text("sequence"))).to(at::kDouble);
        // Of the design's three parts the second one's answers are not looked at; the last run has all parts whole.
        const std::int64_t runs = designs * (1 + count) + 1;
        const auto activation = [&](std::int64_t from, std::int64_t some) {
            std::vector<at::Tensor> out;
            for (std::int64_t i = from; i < from + some; ++i) {
                const std::int64_t row = i < designs ? i : i + designs;
                out.push_back((i == runs - 1 ? rebuilt : at::matmul(u * masks[row], rows)) + rest);
            }
            return whole_of(at::stack(out), seen);
        };
        const at::Tensor answers = VITRINE_TRY(answers_with(context, objective, point, runs, activation));
        const at::Tensor a = answers.narrow(0, 0, designs);
        const at::Tensor importance =
            total_indices(at::cat({a, a, answers.narrow(0, designs, designs * count)}), count, designs);

        const at::Tensor order = at::argsort(importance, /*stable=*/true, 0, /*descending=*/true);
        // Where the answer hangs on none, rounding may put a silent one first: that has no map.
        std::int64_t shown = index, place = 0;
        while (index < 0 && u.select(1, shown = order[place].item<std::int64_t>()).max().item<double>() == 0) ++place;
        Attribution out;
        out.method = "craft";
        out.map = u.select(1, shown).reshape({seen.rows, seen.cols}).to(at::kFloat).contiguous();
        out.class_specific = true;
        out.explained = fmt::format("concept {} of {} at {}", shown, objective.explained, point);
        out.implementation = fmt::format("{} runs of what is behind {}", runs, point);
        Table table;
        table.name = "concepts";
        table.cols = {"total Sobol index", "sum over patches", "strongest patch"};
        for (std::int64_t i = 0; i < count; ++i) {
            const auto which = order[i].item<std::int64_t>();
            const at::Tensor column = u.select(1, which);
            table.rows.push_back(fmt::format("concept {}", which));
            table.values.push_back(
                {importance[which].item<double>(), column.sum().item<double>(), column.max().item<double>()});
        }
        out.tables.push_back(std::move(table));

        out.notes = bank.notes;
        const double whole = x.square().sum().item<double>(),
                     negative = (x - at::relu(x)).square().sum().item<double>(),
                     left = (at::relu(x) - rebuilt).square().sum().item<double>();
        if (negative > 0)
            out.notes.push_back(fmt::format(
                "{:.1f} % of the activation's squares at {} is of negative numbers, which the concepts do not have{}",
                100 * negative / whole, point, keep == "nothing" ? "" : "; they stay as they are"));
        if (whole > negative)
            out.notes.push_back(fmt::format("the concepts explain {:.1f} % of the squares of what is above zero",
                                            100 * (1 - left / (whole - negative))));
        const double own = objective.of(seen.answer)[0].item<double>();
        out.notes.push_back(fmt::format("the {} is {:.3f}, with the concepts in the activation's place {:.3f}",
                                        objective.explained, own, answers[runs - 1].item<double>()));
        if (a.var().item<double>() < 1e-12)
            out.notes.push_back("the answer does not move with these concepts: their weights mean nothing");
        return out;
    }

    static Result<Bank> read_bank(Model& model, const std::string& file) {
        Autoencoder read = VITRINE_TRY(Autoencoder::load(file));
        if (read.config().kind != "nmf")
            return fail(ErrorCode::BadInput, "the concepts of {} are of the kind {}, expected nmf", file,
                        read.config().kind);
        if (auto fits = read.fits(model); !fits) return tl::make_unexpected(std::move(fits.error()).with_context(file));
        return Bank{std::make_shared<const Autoencoder>(std::move(read)), {"the concepts are those of " + file}};
    }

    static Result<Bank> find_bank(ExplainContext& context, const Objective& objective, const std::string& point,
                                  const Settings& settings) {
        Model& model = context.model;
        const std::string folder = settings.text("pictures");
        std::string name = fmt::format("{}|{}|{}|{}|{}|{}", point, objective.explained, settings.integer("concepts"),
                                       settings.number("crop"), settings.number("regularisation"), folder);
        const auto seed = static_cast<std::uint64_t>(settings.integer("seed"));
        std::vector<std::string> files, left_out;
        std::vector<std::int64_t> order;  // in which they are looked at
        if (!folder.empty()) {
            files = VITRINE_TRY(pictures_of(folder, left_out));
            order = picture_order(std::ssize(files), seed);
            order.resize(std::min(order.size(), static_cast<std::size_t>(settings.integer("most"))));
            name += fmt::format("|{}", settings.integer("enough"));
            std::error_code ignored;
            for (const std::int64_t i : order) {
                const std::string& file = files[static_cast<std::size_t>(i)];
                name += fmt::format("|{} {}", file, fs::last_write_time(file, ignored).time_since_epoch().count());
            }
        }
        const ModelMark mark(model);
        if (!folder.empty()) {
            const std::lock_guard lock(made_guard);
            const auto& kept = last_made();
            if (kept && kept->name == name && kept->mark == mark) return kept->bank;
        }

        std::map<std::int64_t, at::Tensor> found_pictures;  // by their place in the folder
        std::int64_t skipped = 0, looked = 0;
        for (const std::int64_t i : order) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            if (std::ssize(found_pictures) == settings.integer("enough")) break;
            ++looked;
            if (context.progress) context.progress({looked, std::ssize(order), "pictures"});
            const auto input = load_input(files[static_cast<std::size_t>(i)], model.preprocess());
            if (!input) {
                ++skipped;
                continue;
            }
            const at::Tensor answer = VITRINE_TRY(run(model, input->pixels, context.stop));
            if (objective.index < 0 || answer.argmax(1).item<std::int64_t>() == objective.index)
                found_pictures[i] = input->pixels;
        }
        std::vector<at::Tensor> pictures;
        for (auto& [i, pixels] : found_pictures) pictures.push_back(std::move(pixels));
        Bank bank;
        bank.notes = std::move(left_out);
        if (folder.empty()) {
            pictures.push_back(context.input.pixels);
            bank.notes.push_back(
                "the concepts are of this picture alone: craft.pictures names a folder of pictures of the class");
        } else if (pictures.empty()) {
            return fail(
                ErrorCode::Unsupported,
                "none of {} pictures that were looked at, of {} in {}, is answered with the explained class, "
                "so there is nothing to find its concepts in: {}",
                looked, files.size(), folder,
                order.size() < files.size()
                    ? fmt::format("raise craft.most (now {}), or name a folder of the class", settings.integer("most"))
                    : "name a folder with pictures of the class (craft.pictures)");
        } else {
            const std::string of = "pictures of " + folder;
            bank.notes.push_back(fmt::format("looked at {}: {} answered with the explained class",
                                             looked < std::ssize(files)
                                                 ? drawn_in_words(looked, std::ssize(files), of, seed)
                                                 : fmt::format("all {} {}", looked, of),
                                             pictures.size()));
        }
        std::vector<at::Tensor> means;
        for (const at::Tensor& pixels : pictures) {
            const auto side = std::max<std::int64_t>(
                1,
                std::llround(settings.number("crop") * static_cast<double>(std::min(pixels.size(2), pixels.size(3)))));
            const at::Tensor crops = crops_of(pixels.to(at::kFloat), side);
            for (std::int64_t i = 0; i < crops.size(0); i += context.batch_size()) {
                if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
                const Seen seen = VITRINE_TRY(see(
                    model, crops.narrow(0, i, std::min(context.batch_size(), crops.size(0) - i)), point, context.stop));
                means.push_back(at::relu(seen.cells).mean(1));
            }
        }
        const at::Tensor x = at::cat(means);  // [crops, width]
        const std::int64_t most = std::max<std::int64_t>(1, std::min(x.size(0) / 2, x.size(1)));
        const std::int64_t count = std::min(settings.integer("concepts"), most);
        if (count < settings.integer("concepts"))
            bank.notes.push_back(
                fmt::format("{} crops give {} concepts, not {}", x.size(0), count, settings.integer("concepts")));
        const double alpha = settings.number("regularisation");
        NonNegativeOptions options;
        options.ridge_codes = alpha * static_cast<double>(x.size(1));
        options.ridge_rows = alpha * static_cast<double>(x.size(0));
        options.stop = context.stop;
        const NonNegativeFactors found = VITRINE_TRY(non_negative_factors(x, count, options));
        if (found.rows.abs().max().item<double>() == 0)
            return fail(
                ErrorCode::Unsupported,
                "at this regularisation ({}) nothing is left of the activations at {}: lower craft.regularisation",
                alpha, point);
        AutoencoderConfig config;
        config.kind = "nmf";
        config.ridge = options.ridge_codes;
        config.point = point;
        config.tokens = "patches";
        bank.parts = std::make_shared<const Autoencoder>(
            VITRINE_TRY(Autoencoder::of_rows(config, found.rows, at::zeros({x.size(1)}, at::kDouble))));
        bank.notes.push_back(fmt::format("{} concepts of {} crops of {} pictures{}", count, x.size(0), pictures.size(),
                                         skipped > 0 ? fmt::format("; {} could not be read", skipped) : ""));
        if (!folder.empty()) {
            const std::lock_guard lock(made_guard);
            last_made() = Made{name, mark, bank};
        }
        return bank;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_craft() { return std::make_unique<Craft>(); }

}  // namespace vitrine::plugin::concepts
