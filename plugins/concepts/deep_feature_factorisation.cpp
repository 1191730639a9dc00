// Deep feature factorisation: the parts that the activations of a few pictures have in common, and where each is.
#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/relu.h>

#include <vitrine/concept_factors.h>
#include <vitrine/picture_draw.h>
#include <vitrine/preprocess.h>
#include <vitrine/torch_errors.h>

#include "concepts.h"

namespace vitrine::plugin::concepts {

namespace {

/// A table of more columns than this nobody reads.
constexpr std::int64_t kMostCellsInTable = 1024;

class DeepFeatureFactorisation final : public Explainer {
  public:
    Description description() const override {
        return {
            "deep_feature_factorisation",
            "Deep feature factorisation",
            "The non-negative parts that the activations of a few pictures have in common, and where each is",
            "E. Collins, R. Achanta, S. Süsstrunk, Deep Feature Factorization For Concept Discovery, ECCV 2018",
            0,
            "Inner views",
            "relu(A) = H W over all positions of all pictures, all of zero or more; the map is one column of H",
            "It says what the activations have in common, not what the answer hangs on (Collins et al., 2018, explain "
            "no class)"};
    }
    std::vector<Parameter> parameters() const override {
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
                 "a folder of pictures that are factorised together with this one; empty: this one alone",
                 "",
                 "",
                 {},
                 {},
                 {}},
                {"most", std::int64_t{16}, "of these, drawn where there are more", "pictures", "", 1, 1000, {}},
                {"seed", std::int64_t{0}, "of that draw; the same for all explained pictures", "", "", 0, {}, {}},
                {"factors", std::int64_t{4}, "parts", "", "", 1, 64, {}},
                {"index",
                 std::int64_t{-1},
                 "which part is shown; -1: the one with the largest sum in this picture",
                 "",
                 "",
                 -1,
                 {},
                 {}}};
    }
    std::optional<std::string> why_not(const Model& model) const override { return needs_points(model); }
    bool class_specific() const override { return false; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        return guarded([&]() -> Result<Attribution> {
            const at::NoGradGuard no_grad;
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            Model& model = context.model;
            const std::string point = VITRINE_TRY(point_of(model, settings.text("point")));
            const Seen own = VITRINE_TRY(see(model, context.input.pixels, point, context.stop));
            std::vector<at::Tensor> cells{at::relu(own.cells[0])};
            std::int64_t skipped = 0;
            std::vector<std::string> files, left_out;
            if (const std::string folder = settings.text("pictures"); !folder.empty()) {
                files = VITRINE_TRY(pictures_of(folder, left_out));
                draw_some(files, settings.integer("most"), static_cast<std::uint64_t>(settings.integer("seed")),
                          "pictures of " + folder, left_out);
            }
            for (const std::string& file : files) {
                if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
                const auto input = load_input(file, model.preprocess());
                if (!input) {
                    ++skipped;
                    continue;
                }
                const Seen seen = VITRINE_TRY(see(model, input->pixels, point, context.stop));
                cells.push_back(at::relu(seen.cells[0]));
            }
            const at::Tensor x = at::cat(cells);
            const std::int64_t count = std::min({settings.integer("factors"), x.size(0), x.size(1)}),
                               patches = own.rows * own.cols;
            const std::int64_t index = settings.integer("index");
            if (index >= count)
                return fail(ErrorCode::BadInput, "there is no part {}, there are 0 to {}", index, count - 1);
            NonNegativeOptions options;
            options.stop = context.stop;
            if (context.progress)
                options.progress = [&](std::int64_t i) { context.progress({i, options.iterations, "iterations"}); };
            const NonNegativeFactors found = VITRINE_TRY(non_negative_factors(x, count, options));
            // Rows of length 1: the maps are in the activation's unit and can be compared.
            const at::Tensor lengths = found.rows.norm(2, 1).unsqueeze(0);
            const at::Tensor maps = found.codes.narrow(0, 0, patches) * lengths, sums = maps.sum(0);
            const std::int64_t shown = index >= 0 ? index : sums.argmax().item<std::int64_t>();

            Attribution out;
            out.method = "deep_feature_factorisation";
            out.map = maps.select(1, shown).reshape({own.rows, own.cols}).to(at::kFloat).contiguous();
            out.explained = fmt::format("part {} of {} at {}", shown, count, point);
            out.implementation = fmt::format("{} iterations on {} positions", found.iterations, x.size(0));
            Table parts;
            parts.name = "parts";
            parts.cols = {"sum over patches", "strongest patch", "sum over all pictures"};
            const at::Tensor all = found.codes.sum(0) * lengths[0];
            Table each;
            each.name = "maps_of_parts";
            for (std::int64_t c = 0; c < patches; ++c)
                each.cols.push_back(fmt::format("patch {}, {}", c / own.cols, c % own.cols));
            for (std::int64_t i = 0; i < count; ++i) {
                const at::Tensor map = maps.select(1, i).contiguous();
                const auto* value = map.const_data_ptr<double>();
                parts.rows.push_back(fmt::format("part {}", i));
                parts.values.push_back({sums[i].item<double>(), map.max().item<double>(), all[i].item<double>()});
                each.rows.push_back(fmt::format("part {}", i));
                each.values.emplace_back(value, value + patches);
            }
            out.tables.push_back(std::move(parts));
            if (patches <= kMostCellsInTable) out.tables.push_back(std::move(each));
            const double whole = x.square().sum().item<double>(),
                         left = (x - at::matmul(found.codes, found.rows)).square().sum().item<double>();
            if (whole > 0)
                out.notes.push_back(
                    fmt::format("{} parts explain {:.1f} % of the squares of what is above zero in {} pictures{}",
                                count, 100 * (1 - left / whole), cells.size(),
                                skipped > 0 ? fmt::format("; {} could not be read", skipped) : ""));
            out.notes.insert(out.notes.end(), left_out.begin(), left_out.end());
            const double negative = (own.cells - at::relu(own.cells)).square().sum().item<double>();
            if (negative > 0)
                out.notes.push_back(
                    fmt::format("{:.1f} % of this picture's squares at {} is of negative numbers, which are left out",
                                100 * negative / own.cells.square().sum().item<double>(), point));
            return out;
        });
    }
};

}  // namespace

std::unique_ptr<Explainer> make_deep_feature_factorisation() { return std::make_unique<DeepFeatureFactorisation>(); }

}  // namespace vitrine::plugin::concepts
