// vitrine attention: attention maps as an array, or the tokens that are read most.
#include <ATen/ops/einsum.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <charconv>

#include <vitrine/device.h>

#include "cli/commands.h"
#include "cli/may_write.h"

#include <fmt/ranges.h>

namespace vitrine::cli {

namespace {

Result<std::int64_t> whole_number(const std::string& text, const std::string& what) {
    std::int64_t value = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc() || end != text.data() + text.size())
        return fail(ErrorCode::BadInput, "--{} is '{}', expected a number", what, text);
    return value;
}

Result<std::int64_t> from_either_end(std::int64_t index, std::int64_t count, const std::string& what) {
    const std::int64_t found = index < 0 ? index + count : index;
    if (found < 0 || found >= count)
        return fail(ErrorCode::BadInput, "--{} is {}, but there are {} (0 to {})", what, index, count, count - 1);
    return found;
}

/// The rows that are asked for: a distribution over queries, one query, or all (neither).
struct Query {
    at::Tensor weights;  ///< [tokens]; undefined when one row or all
    std::optional<std::int64_t> token;
};

/// One list of tokens a row of `map`: [keys] or [heads, keys].
Result<nlohmann::json> most_read(const FlowStep& step, const at::Tensor& map, const std::string& head,
                                 std::int64_t top) {
    const auto [values, indices] =
        VITRINE_TRY(top_entries(map.dim() == 1 ? map.unsqueeze(0) : map, std::min(top, map.size(-1))));
    const TokenLayout& layout = step.mixing->key_layout;
    nlohmann::json lists = nlohmann::json::array();
    for (std::int64_t h = 0; h < values.size(0); ++h) {
        nlohmann::json tokens = nlohmann::json::array();
        for (std::int64_t t = 0; t < values.size(1); ++t) {
            const auto token = indices[h][t].item<std::int64_t>();
            tokens.push_back(
                {{"token", token}, {"name", layout.name_of(token)}, {"value", values[h][t].item<float>()}});
            if (layout.known() && token >= layout.prefix_count() && layout.cols > 0) {
                tokens.back()["row"] = (token - layout.prefix_count()) / layout.cols;
                tokens.back()["col"] = (token - layout.prefix_count()) % layout.cols;
            }
        }
        nlohmann::json list{{"layer", step.layer}, {"head", head}, {"tokens", std::move(tokens)}};
        if (head == "all")
            list["head"] = h;
        else if (head != "mean")
            list["head"] = (VITRINE_TRY(whole_number(head, "head")) + step.mixing->heads) % step.mixing->heads;
        lists.push_back(std::move(list));
    }
    return lists;
}

}  // namespace

Status attention(const Common& common, const AttentionOptions& options) {
    VITRINE_CHECK(check_owners(common, {"preprocess"}));
    if (options.top > 0 && options.query == "all")
        return fail(ErrorCode::BadInput, "--top lists what one query reads; --query all names all of them");
    if (!options.out.empty())
        VITRINE_CHECK(may_replace(options.out, "\x93NUMPY", "array of NumPy",
                                  {{common.model, "the model"}, {options.image, "the picture"}}));
    const auto model = VITRINE_TRY(open(common));
    if (model->info().layers == 0 && model->is_native())
        return fail(ErrorCode::Unsupported, "{} has no attention; try vitrine explain", model->info().name);
    const Input input = VITRINE_TRY(load_input(options.image, model->preprocess()));
    const auto capture = VITRINE_TRY(
        run_captured(*model, input.pixels, {.maps = options.query == "all", .memory_budget = common.memory_bytes}));
    const Flow& flow = capture->flow;
    const std::int64_t layers = flow.layers();
    if (layers == 0) return fail(ErrorCode::Unsupported, "no attention was seen while {} ran", model->info().name);

    std::vector<const FlowStep*> chosen;
    if (options.layer == "all") {
        for (std::int64_t i = 0; i < layers; ++i) chosen.push_back(flow.block(i));
    } else {
        const std::int64_t layer =
            VITRINE_TRY(from_either_end(VITRINE_TRY(whole_number(options.layer, "layer")), layers, "layer"));
        chosen.push_back(flow.block(layer));
    }

    std::vector<at::Tensor> maps;
    for (const FlowStep* step : chosen) {
        const Mixing& mixing = *step->mixing;
        const TokenLayout& layout = mixing.query_layout;
        std::vector<std::int64_t> heads;
        if (options.head != "mean" && options.head != "all")
            heads.push_back(
                VITRINE_TRY(from_either_end(VITRINE_TRY(whole_number(options.head, "head")), mixing.heads, "head")));

        Query query;
        if (options.query == "cls") {
            const auto cls = std::find(layout.prefix.begin(), layout.prefix.end(), "cls");
            if (!layout.known() || cls == layout.prefix.end())
                return fail(ErrorCode::Unsupported, "{} has no class token; use --query readout, ROW,COL or all",
                            model->info().name);
            query.token = cls - layout.prefix.begin();
        } else if (options.query == "readout") {
            query.weights = VITRINE_TRY(readout_of_blocks(flow));
            if (query.weights.size(0) != mixing.queries)
                return fail(ErrorCode::Unsupported, "the answer is read from {} tokens, layer {} has {}",
                            query.weights.size(0), step->layer, mixing.queries);
        } else if (options.query != "all") {
            const auto comma = options.query.find(',');
            if (comma == std::string::npos) {
                query.token = VITRINE_TRY(
                    from_either_end(VITRINE_TRY(whole_number(options.query, "query")), mixing.queries, "query"));
            } else {
                if (!layout.known())
                    return fail(ErrorCode::Unsupported, "patches cannot be named here: {}; give a token index",
                                layout.unknown);
                const auto row = VITRINE_TRY(from_either_end(
                    VITRINE_TRY(whole_number(options.query.substr(0, comma), "query")), layout.rows, "query row"));
                const auto col = VITRINE_TRY(from_either_end(
                    VITRINE_TRY(whole_number(options.query.substr(comma + 1), "query")), layout.cols, "query column"));
                query.token = layout.token_at(row, col);
            }
        }

        at::Tensor map;  // [heads, queries, keys], or [heads, keys] for one query
        if (query.weights.defined()) {
            map = VITRINE_TRY(mixing.left(query.weights.unsqueeze(0)));
            if (!heads.empty()) map = map.narrow(0, heads[0], 1);
        } else if (query.token) {
            map = VITRINE_TRY(mixing.rows(heads, std::vector<std::int64_t>{*query.token})).squeeze(1);
        } else {
            const std::int64_t bytes = static_cast<std::int64_t>(chosen.size()) * (heads.empty() ? mixing.heads : 1) *
                                       mixing.queries * mixing.keys * 4;
            if (common.memory_bytes > 0 && bytes > common.memory_bytes)
                return fail(ErrorCode::OutOfMemory,
                            "these maps take {}, the budget is {}; choose a layer, a head or a query", size_text(bytes),
                            size_text(common.memory_bytes));
            map = VITRINE_TRY(mixing.rows(heads, {}));
        }
        if (options.head == "mean")
            map = map.mean(0);
        else if (options.head != "all")
            map = map.squeeze(0);
        maps.push_back(std::move(map));
        progress({static_cast<std::int64_t>(maps.size()), static_cast<std::int64_t>(chosen.size()), "layers"});
    }
    nlohmann::json document{{"layers", layers}, {"implementation", chosen.back()->mixing->implementation()}};
    if (options.top > 0) {
        document["query"] = options.query;
        document["top"] = nlohmann::json::array();
        for (std::size_t l = 0; l < chosen.size(); ++l)
            for (auto& list : VITRINE_TRY(most_read(*chosen[l], maps[l], options.head, options.top)))
                document["top"].push_back(std::move(list));
        if (options.out.empty()) {
            fmt::print("{}\n", json_text(document, 2));
            return {};
        }
    }
    for (const auto& map : maps)
        if (map.sizes() != maps.front().sizes())
            return fail(ErrorCode::Unsupported,
                        "the layers have maps of different shapes; write them one by one with --layer");
    const at::Tensor out = options.layer == "all" ? at::stack(maps) : maps.front();
    VITRINE_CHECK(save_npy(options.out, out));
    if (common.json || options.top > 0) {
        document["file"] = options.out;
        document["shape"] = out.sizes().vec();
        document["capture_bytes"] = capture->size_bytes;
        if (const at::Device device = flow.steps.front().mixing->device(); !device.is_cpu())
            document["device_peak_bytes"] = peak_bytes(device);
        fmt::print("{}\n", json_text(document, 2));
    } else {
        say(fmt::format("wrote {} [{}]", options.out, fmt::join(out.sizes().vec(), ", ")));
    }
    return {};
}

}  // namespace vitrine::cli
