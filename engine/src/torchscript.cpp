// TorchScript models: consent, the child that meets them first, running them, and probing how their layers hang
// together.
#include <vitrine/torchscript.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vitrine/base/readers.h>
#include <vitrine/configure.h>

#include "intercept.h"
#include <vitrine/torch_errors.h>
#include "windowed_mixing.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <set>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/csrc/jit/serialization/import.h>

extern char** environ;

namespace vitrine {
namespace {

namespace fs = std::filesystem;

// ---- the child
// ------------------------------------------------------------------------------------------------------------------

struct Probed {
    std::int64_t height = 0, width = 0;
    std::vector<std::int64_t> shape;
};

/// Loads and runs the file in a child process, which limits itself, and waits for it for at most two minutes.
Result<Probed> probe_in_child(const fs::path& file, std::int64_t height, std::int64_t width) {
    const fs::path program = probe_program();
    std::error_code ignored;
    if (!fs::exists(program, ignored))
        return fail(
            ErrorCode::NotFound,
            "{} is missing, without which TorchScript files are not opened; build it, or set VITRINE_PROBE_PROGRAM",
            program.string());
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return fail(ErrorCode::Io, "no pipe could be made for the child process");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    std::vector<std::string> words{program.string(), file.string()};
    if (height > 0) words.insert(words.end(), {std::to_string(height), std::to_string(width)});
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_t child = 0;
    const int failed = posix_spawn(&child, program.c_str(), &actions, nullptr, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (failed != 0) {
        close(ends[0]);
        return fail(ErrorCode::Io, "{} could not be started", program.string());
    }
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::minutes(2);
    std::string said;
    bool late = false;
    while (said.size() < 65536) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
        pollfd waiting{ends[0], POLLIN, 0};
        if (left <= 0 || poll(&waiting, 1, static_cast<int>(left)) == 0) {
            late = true;
            break;
        }
        char buffer[4096];
        const ssize_t got = read(ends[0], buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        said.append(buffer, static_cast<std::size_t>(got));
    }
    close(ends[0]);
    // Output that ended is an exit that is near; a child that lingers has nothing more to say.
    int status = 0;
    for (int waits = 0; waitpid(child, &status, WNOHANG) == 0; ++waits) {
        if (late || waits > 100) kill(child, SIGKILL);
        usleep(20000);
    }
    const std::string name = file.filename().string();
    if (late) return fail(ErrorCode::BadInput, "{} did not finish one run within two minutes", name);
    if (WIFSIGNALED(status)) {
        const int signal = WTERMSIG(status);
        return fail(ErrorCode::BadInput, "{} {} when it was tried in a child process", name,
                    signal == SIGXCPU   ? "used too much processor time"
                    : signal == SIGXFSZ ? "tried to write a file"
                                        : fmt::format("crashed (signal {})", signal));
    }
    const auto found = nlohmann::json::parse(said, nullptr, false);
    if (!found.is_object())
        return fail(ErrorCode::BadInput, "{} broke the child process that tried it (exit status {})", name,
                    WEXITSTATUS(status));
    if (found.contains("error")) {
        if (found.value("quantised", false))
            return fail(ErrorCode::Unsupported,
                        "{} is a quantised program, which cannot be explained here; export the float model", name);
        return fail(ErrorCode::BadInput, "{}: {}", name, found.value("error", "it failed"));
    }
    try {
        return Probed{found.at("height").get<std::int64_t>(), found.at("width").get<std::int64_t>(),
                      found.at("shape").get<std::vector<std::int64_t>>()};
    } catch (const nlohmann::json::exception&) {
        return fail(ErrorCode::Internal, "the child process that tried {} gave no answer", name);
    }
}

// ---- the model
// ------------------------------------------------------------------------------------------------------------------

/// "blocks.3.attn" of the running TorchScript function; empty for the outermost module.
std::string running_module() {
    // Entries are "TOP(VisionTransformer)::forward", "SELF(VisionTransformer)::forward_features" for a method of the
    // same module, "blocks(Sequential)::forward", "3(Block)::forward", ...
    std::string path;
    for (const std::string& entry : torch::jit::currentModuleHierarchy()) {
        std::string name = entry.substr(0, entry.find("::"));
        name = name.substr(0, name.find('('));
        if (name.empty() || name == "TOP" || name == "SELF") continue;
        if (!path.empty()) path += '.';
        path += name;
    }
    return path;
}

at::Tensor tensor_in(const c10::IValue& value) {
    if (value.isTensor()) return value.toTensor();
    if (value.isTuple() && !value.toTupleRef().elements().empty()) return tensor_in(value.toTupleRef().elements()[0]);
    if (value.isList() && !value.toList().empty()) return tensor_in(value.toList().get(0));
    if (value.isGenericDict()) {
        const auto entries = value.toGenericDict();
        if (const auto logits = entries.find("logits"); logits != entries.end()) return tensor_in(logits->value());
        for (const auto& entry : entries) return tensor_in(entry.value());
    }
    TORCH_CHECK(false, "the program answers with something that holds no tensor");
}

/// What the probes found out for one input size.
struct Findings {
    std::int64_t height = 0, width = 0;
    TokenLayout layout;
    struct Step {
        std::int64_t layer = 0;
        bool residual = true;
        TokenLayout queries, keys;
    };
    std::vector<Step> steps;         ///< one for each mixing; empty when their tokens' places could not be established
    std::vector<at::Tensor> orders;  ///< where the tokens of each mixing's windows are; undefined when it has none
    std::string unknown;             ///< why it is not known how the mixings are joined; empty when it is
    at::Tensor readout;
};

class TorchScriptModel final : public Model {
  public:
    explicit TorchScriptModel(torch::jit::Module module) : module_(std::move(module)) {
        module_.eval();
        for (const auto& parameter : module_.parameters()) {
            parameter.set_requires_grad(false);
            info_.parameters += parameter.numel();
        }
        info_.architecture = "torchscript";
    }

    at::Tensor forward(const at::Tensor& pixels) override {
        // With the optimiser on, gradients of inner tensors are undefined from the second run.
        const torch::jit::GraphOptimizerEnabledGuard plain(false);
        if (Recorder* recorder = Recorder::current()) attach(*recorder, pixels);
        const at::Tensor out = tensor_in(module_.forward({pixels.to(device_, dtype_)}));
        return out.to(at::kFloat);
    }

    TokenLayout layout(std::int64_t height, std::int64_t width) const override {
        if (height == found_.height && width == found_.width) return found_.layout;
        TokenLayout layout;
        layout.unknown = fmt::format("the tokens of this traced model were probed for {} x {} pixels only",
                                     found_.height, found_.width);
        return layout;
    }

    std::vector<NamedPoint> points() const override { return points_; }
    void to(at::Device device, at::ScalarType dtype) override {
        // Module::to() would make numbers of indices, which windows keep in their buffers.
        const auto moved = [&](const at::Tensor& x) {
            return x.to(device, x.is_floating_point() ? dtype : x.scalar_type());
        };
        for (at::Tensor parameter : module_.parameters()) parameter.set_data(moved(parameter));
        for (at::Tensor buffer : module_.buffers()) buffer.set_data(moved(buffer));
        device_ = device;
        dtype_ = dtype;
    }
    bool is_native() const override { return false; }

    /// Runs the model several times on noise to find out what its tokens are and how its layers are joined.
    Status probe(std::int64_t height, std::int64_t width);

  private:
    void attach(Recorder& recorder, const at::Tensor& pixels) {
        recorder.module_path = running_module;
        if (recorder.wants_points()) {
            register_point_operators();
            if (!recorder.point_name)
                recorder.point_name = [this](const std::string& path, const std::string& op, int occurrence) {
                    const auto name = point_names_.find(fmt::format("{}\n{}\n{}", path, op, occurrence));
                    return name == point_names_.end() ? std::string() : name->second;
                };
        }
        if (pixels.size(2) != found_.height || pixels.size(3) != found_.width) return;
        recorder.window_order = [this](std::size_t index) {
            return index < found_.orders.size() ? found_.orders[index] : at::Tensor();
        };
        if (found_.steps.empty()) return;
        recorder.unknown_flow = found_.unknown;
        recorder.facts = [this](std::size_t index, const Mixing& mixing) -> std::optional<MixingScope::Facts> {
            if (index >= found_.steps.size()) return {};
            const Findings::Step& step = found_.steps[index];
            return MixingScope::Facts{mixing.name, step.layer, step.residual, step.queries, step.keys};
        };
        recorder.readout = found_.readout;
    }

    Result<std::shared_ptr<Capture>> observe(const at::Tensor& pixels, const std::function<void(Recorder&)>& set = {},
                                             bool points = false);
    TokenLayout probe_layout(const at::Tensor& pixels, const Mixing& first);
    void probe_grids(const at::Tensor& pixels, const Capture& plain);
    void probe_flow(const at::Tensor& pixels, const Capture& plain);
    void probe_readout(const at::Tensor& pixels, const Capture& plain);
    void probe_points(const at::Tensor& pixels);

    torch::jit::Module module_;
    at::Device device_ = at::kCPU;
    at::ScalarType dtype_ = at::kFloat;
    Findings found_;
    std::vector<NamedPoint> points_;
    std::unordered_map<std::string, std::string> point_names_;
};

// ---- the probes
// -------------------------------------------------------------------------------------------------------------------

/// Of a probe, times what is usual in a layer: enough behind a layer scale of 1e-6, and far from what fp32 holds.
constexpr double kLargestImpulse = 1e8;

/// Tokens whose row differs between two [heads, tokens, dim] tensors. Untouched rows are computed by the same
/// operations on the same numbers; the threshold only forgives kernels that split their work by what they are given.
std::vector<std::int64_t> moved(const at::Tensor& before, const at::Tensor& after) {
    const at::Tensor by = (after - before).abs().amax(at::IntArrayRef{0, 2});
    const double most = by.max().item<double>();
    std::vector<std::int64_t> tokens;
    if (!(most > 1e-6 * (1e-6 + before.abs().max().item<double>()))) return tokens;
    const at::Tensor flags = (by > 1e-3 * most).to(at::kCPU).contiguous();
    for (std::int64_t token = 0; token < flags.numel(); ++token)
        if (flags.data_ptr<bool>()[token]) tokens.push_back(token);
    return tokens;
}

/// What shows that a key's token moved: its key, or its value where only the map was kept.
at::Tensor key_side(const Mixing& mixing) { return mixing.k().defined() ? mixing.k() : mixing.v(); }
at::Tensor query_side(const Mixing& mixing) {
    return mixing.q().defined() ? mixing.q() : mixing.queries == mixing.keys ? mixing.v() : at::Tensor();
}

/// Adds seeded noise to one cell of a grid over the pixels.
at::Tensor with_cell_changed(const at::Tensor& pixels, std::int64_t row, std::int64_t col, std::int64_t rows,
                             std::int64_t cols) {
    const std::int64_t h = pixels.size(2) / rows, w = pixels.size(3) / cols;
    at::Tensor changed = pixels.clone();
    const auto random = at::make_generator<at::CPUGeneratorImpl>(static_cast<std::uint64_t>(17 + row * cols + col));
    changed.slice(2, row * h, (row + 1) * h).slice(3, col * w, (col + 1) * w).add_(at::randn({1, 3, h, w}, random));
    return changed;
}

std::string list(const std::vector<std::int64_t>& tokens) {
    if (tokens.empty()) return "no token";
    if (tokens.size() > 4) return fmt::format("{} tokens", tokens.size());
    return fmt::format("token{} {}", tokens.size() == 1 ? "" : "s", fmt::join(tokens, ", "));
}

Result<std::shared_ptr<Capture>> TorchScriptModel::observe(const at::Tensor& pixels,
                                                           const std::function<void(Recorder&)>& set, bool points) {
    CaptureOptions options;
    if (points) options.points = {"*"};
    Recorder recorder(options);
    recorder.copy_inputs = true;
    if (set) set(recorder);
    return run_recorded(*this, pixels, recorder);
}

TokenLayout TorchScriptModel::probe_layout(const at::Tensor& pixels, const Mixing& first) {
    const std::int64_t height = pixels.size(2), width = pixels.size(3), tokens = first.keys;
    TokenLayout unknown;
    unknown.unknown =
        fmt::format("no grid of square patches over {} x {} pixels gives {} tokens", height, width, tokens);
    const auto keys = [&](const at::Tensor& x) -> at::Tensor {
        const auto run = observe(x, [](Recorder& recorder) { recorder.stop_after = 1; });
        return run && !(*run)->flow.steps.empty() ? key_side(*(*run)->flow.steps[0].mixing) : at::Tensor();
    };
    constexpr std::int64_t kMostPrefix = 16;
    for (std::int64_t patch = 1; patch <= std::min(height, width); ++patch) {
        if (height % patch != 0 || width % patch != 0) continue;
        const std::int64_t rows = height / patch, cols = width / patch, prefix = tokens - rows * cols;
        if (prefix < 0 || prefix > kMostPrefix) continue;
        // The corners and some in between: a shuffled or overlapping layout shows itself in the first that is changed.
        std::set<std::pair<std::int64_t, std::int64_t>> cells{
            {0, 0}, {0, cols - 1}, {rows - 1, 0}, {rows - 1, cols - 1}, {rows / 2, cols / 3}};
        for (std::int64_t i = 1; i <= 7; ++i) cells.insert({i * 5 % rows, i * 3 % cols});
        const at::Tensor before = keys(pixels);
        bool fits = before.defined();
        for (const auto& [row, col] : cells) {
            if (!fits) break;
            const at::Tensor after = keys(with_cell_changed(pixels, row, col, rows, cols));
            if (!after.defined()) return unknown;
            const auto which = moved(before, after);
            const std::int64_t expected = prefix + row * cols + col;
            if (which == std::vector<std::int64_t>{expected}) continue;
            fits = false;
            unknown.unknown = fmt::format(
                "changing the {} x {} pixels at row {}, column {} moves {} of the first attention, not token {}", patch,
                patch, row * patch, col * patch, list(which), expected);
        }
        if (!fits) continue;
        TokenLayout layout;
        for (std::int64_t i = 0; i < prefix; ++i) layout.prefix.push_back(fmt::format("extra{}", i));
        layout.rows = rows;
        layout.cols = cols;
        return layout;
    }
    return unknown;
}

/// Whether what lies at `coordinate` is changed by the run that asks for this bit: those of the cells where it is set,
/// or, with `complement`, those where it is not.
struct CodeRun {
    int axis;  ///< 0 rows, 1 columns
    int bit;
    bool complement;
    bool changes(std::int64_t coordinate) const { return (((coordinate >> bit) & 1) != 0) != complement; }
};

int bits_for(std::int64_t count) {
    int bits = 0;
    while ((std::int64_t{1} << bits) < count) ++bits;
    return bits;
}

/// Where each token of a coarser grid is, from which runs moved it. A token that is made of a block of 2^shift x
/// 2^shift cells, and of nothing else, moves in both runs of the low bits and in one run of each high bit.
///
/// @return  int64 [tokens]: for each place in row-major order the token there; undefined with the reason in `why`
at::Tensor decode(const std::vector<CodeRun>& runs, const std::vector<std::vector<bool>>& moved_in, std::int64_t rows,
                  std::int64_t cols, int shift, std::string& why) {
    const std::int64_t tokens = (rows >> shift) * (cols >> shift);
    std::vector<std::int64_t> at(static_cast<std::size_t>(tokens), -1);
    for (std::int64_t token = 0; token < tokens; ++token) {
        std::int64_t place[2] = {0, 0};
        for (int axis = 0; axis < 2; ++axis)
            for (int bit = 0; bit < bits_for(axis == 0 ? rows : cols); ++bit) {
                bool set = false, clear = false;
                for (std::size_t i = 0; i < runs.size(); ++i)
                    if (runs[i].axis == axis && runs[i].bit == bit && moved_in[i][static_cast<std::size_t>(token)])
                        (runs[i].complement ? clear : set) = true;
                if (!set && !clear) {
                    why = fmt::format("token {} moves with no pixel while attention is silenced", token);
                    return {};
                }
                if (bit >= shift && set == clear) {
                    why = fmt::format("token {} moves with the pixels of more than one place", token);
                    return {};
                }
                if (bit < shift && set != clear) {
                    why = fmt::format("token {} moves with a part of the pixels of its place only", token);
                    return {};
                }
                if (bit >= shift && set) place[axis] |= std::int64_t{1} << (bit - shift);
            }
        const std::int64_t index = place[0] * (cols >> shift) + place[1];
        if (place[1] >= (cols >> shift) || index >= tokens || at[static_cast<std::size_t>(index)] >= 0) {
            why = fmt::format("more than one token moves with the pixels at row {}, column {}", place[0], place[1]);
            return {};
        }
        at[static_cast<std::size_t>(index)] = token;
    }
    at::Tensor order = at::zeros({tokens}, at::kLong);
    std::copy(at.begin(), at.end(), order.data_ptr<std::int64_t>());
    return order;
}

/// Where the tokens of models with windows or with grids of several sizes are. Attention is silenced, so that every
/// token is made of its own pixels alone; a number of runs that grows with the logarithm of the grid changes the cells
/// whose row or column has a certain bit, and each token's place is read from the runs that moved it.
void TorchScriptModel::probe_grids(const at::Tensor& pixels, const Capture& plain) {
    const std::int64_t height = pixels.size(2), width = pixels.size(3);
    const auto& steps = plain.flow.steps;
    std::int64_t most = 0;
    for (const FlowStep& step : steps) most = std::max({most, step.mixing->queries, step.mixing->keys});
    std::int64_t patch = 1;
    while (patch <= std::min(height, width) &&
           (height % patch != 0 || width % patch != 0 || (height / patch) * (width / patch) != most))
        ++patch;
    if (patch > std::min(height, width)) {
        found_.layout.unknown =
            fmt::format("no grid of square patches over {} x {} pixels gives {} tokens", height, width, most);
        return;
    }
    const std::int64_t rows = height / patch, cols = width / patch;
    std::vector<CodeRun> runs;
    for (int axis = 0; axis < 2; ++axis)
        for (int bit = 0; bit < bits_for(axis == 0 ? rows : cols); ++bit)
            for (const bool complement : {false, true}) runs.push_back({axis, bit, complement});
    const auto silenced = [](Recorder& r) {
        r.output_hook = [](std::size_t, const at::Tensor& out) { return at::zeros_like(out); };
    };
    const auto quiet = observe(pixels, silenced);
    const at::Tensor noise = at::randn(pixels.sizes(), at::make_generator<at::CPUGeneratorImpl>(17));
    // For each mixing and run which of its queries and keys moved.
    std::vector<std::vector<std::vector<bool>>> queries(steps.size()), keys(steps.size());
    const auto flags = [](const at::Tensor& before, const at::Tensor& after) {
        std::vector<bool> out(static_cast<std::size_t>(before.size(1)), false);
        for (const std::int64_t token : moved(before, after)) out[static_cast<std::size_t>(token)] = true;
        return out;
    };
    for (const CodeRun& run : runs) {
        at::Tensor mask = at::zeros({1, 1, height, width});
        for (std::int64_t cell = 0; cell < (run.axis == 0 ? rows : cols); ++cell)
            if (run.changes(cell)) mask.slice(2 + run.axis, cell * patch, (cell + 1) * patch).fill_(1);
        const auto changed = observe(pixels + noise * mask, silenced);
        if (!quiet || !changed || (*quiet)->flow.steps.size() != steps.size() ||
            (*changed)->flow.steps.size() != steps.size()) {
            found_.layout.unknown = "the model takes another way when its attention is silenced";
            return;
        }
        for (std::size_t i = 0; i < steps.size(); ++i) {
            const Mixing &before = *(*quiet)->flow.steps[i].mixing, &after = *(*changed)->flow.steps[i].mixing;
            if (!query_side(before).defined() || !key_side(before).defined()) {
                found_.layout.unknown = fmt::format("the queries and keys of {} are not seen", steps[i].mixing->name);
                return;
            }
            queries[i].push_back(flags(query_side(before), query_side(after)));
            keys[i].push_back(flags(key_side(before), key_side(after)));
        }
    }
    std::vector<Findings::Step> found;
    std::vector<at::Tensor> orders(steps.size());
    for (std::size_t i = 0; i < steps.size(); ++i) {
        const Mixing& mixing = *steps[i].mixing;
        const bool windowed = dynamic_cast<const WindowedMixing*>(&mixing) != nullptr;
        std::string why;
        const auto grid = [&](std::int64_t tokens, const std::vector<std::vector<bool>>& moved_in,
                              TokenLayout& layout) {
            int shift = 0;
            while (shift < 16 && ((rows >> shift) * (cols >> shift) > tokens)) ++shift;
            const bool whole = (rows >> shift) << shift == rows && (cols >> shift) << shift == cols;
            if (!whole || (rows >> shift) * (cols >> shift) != tokens) {
                why = fmt::format("its {} tokens are no grid that halves one of {} x {}", tokens, rows, cols);
                return at::Tensor();
            }
            layout.rows = rows >> shift;
            layout.cols = cols >> shift;
            return decode(runs, moved_in, rows, cols, shift, why);
        };
        Findings::Step step;
        step.layer = static_cast<std::int64_t>(i);
        const at::Tensor of_queries = grid(mixing.queries, queries[i], step.queries);
        const at::Tensor of_keys = of_queries.defined() ? grid(mixing.keys, keys[i], step.keys) : at::Tensor();
        const auto in_order = [](const at::Tensor& order) {
            return (order.slice(0, 1) - order.slice(0, 0, -1) == 1).all().item<bool>();
        };
        if (of_keys.defined()) {
            if (windowed && mixing.queries == mixing.keys && of_queries.equal(of_keys))
                orders[i] = of_keys;
            else if (!in_order(of_queries) || !in_order(of_keys))
                why = "its tokens are not in the order of the picture";
        }
        if (!why.empty()) {
            found_.layout = {};
            found_.layout.unknown = fmt::format("{}: {}", mixing.name, why);
            return;
        }
        found.push_back(std::move(step));
    }
    found_.layout = found.front().keys;
    found_.orders = std::move(orders);
    for (std::size_t i = 1; i < found.size() && found_.unknown.empty(); ++i)
        if (const auto& before = found[i - 1].queries, &after = found[i].queries; before != after)
            found_.unknown = fmt::format(
                "between {} and {} the {} x {} tokens become {} x {}, and how much each weighs there is not known",
                steps[i - 1].mixing->name, steps[i].mixing->name, before.rows, before.cols, after.rows, after.cols);
    for (std::size_t i = 0; i < found.size() && found_.unknown.empty(); ++i)
        if (found[i].queries != found[i].keys)
            found_.unknown =
                fmt::format("{} reads a grid of {} x {} tokens into one of {} x {}", steps[i].mixing->name,
                            found[i].keys.rows, found[i].keys.cols, found[i].queries.rows, found[i].queries.cols);
    found_.steps = std::move(found);
}

/// One run with every attention silenced, and one with one token of the input and of every attention's output moved
/// besides. Which tokens move at the next attention tells whether there is a path around the one before, and whether
/// tokens keep their places.
void TorchScriptModel::probe_flow(const at::Tensor& pixels, const Capture& plain) {
    const auto& steps = plain.flow.steps;
    const std::size_t count = steps.size();
    const std::int64_t tokens = steps[0].mixing->keys;
    for (std::size_t i = 0; i < count; ++i) {
        const Mixing& mixing = *steps[i].mixing;
        const bool pools = i + 1 == count && i > 0 && mixing.queries != mixing.keys;
        if (mixing.keys != tokens || (mixing.queries != tokens && !pools)) {
            found_.unknown = fmt::format("{} has {} queries and {} keys where the first attention has {} tokens",
                                         mixing.name, mixing.queries, mixing.keys, tokens);
            return;
        }
    }
    if (plain.flow.unknown.find("groups") != std::string::npos && found_.orders.empty()) {
        found_.unknown = plain.flow.unknown;
        return;
    }
    const std::int64_t prefix = found_.layout.prefix_count(), patches = tokens - prefix;
    if (!found_.layout.known() || patches < static_cast<std::int64_t>(count) + 2) {
        found_.unknown = found_.layout.known() ? "there are too few tokens to probe how the layers are joined"
                                               : found_.layout.unknown;
        return;
    }
    // A different token for the input and for every layer.
    const auto probe_token = [&](std::size_t i) {
        return prefix +
               static_cast<std::int64_t>((i + 1) * static_cast<std::size_t>(patches - 1) / (count + 1)) % patches;
    };
    const auto silenced = [](std::size_t, const at::Tensor& out) { return at::zeros_like(out); };
    // A layer scale of 1e-5 hides an impulse of the size of what passes around it; a larger one than needed does no
    // harm, since the next norm brings it back. So it grows until the next attention sees it.
    std::vector<double> sizes(count, 1);
    const auto impulse = [&](std::size_t i, const at::Tensor& out) {
        at::Tensor moved_out = at::zeros_like(out);
        if (out.size(-2) == tokens)
            moved_out.select(-2, probe_token(i))
                .copy_(at::randn({out.size(-1)}, at::make_generator<at::CPUGeneratorImpl>(i + 1)) * sizes[i]);
        return moved_out;
    };
    const std::int64_t first_token = prefix;
    const auto quiet = observe(pixels, [&](Recorder& r) { r.output_hook = silenced; });
    const at::Tensor with_cell = with_cell_changed(pixels, 0, 0, found_.layout.rows, found_.layout.cols);
    Result<std::shared_ptr<Capture>> marked = fail(ErrorCode::Internal, "not run");
    for (bool hidden = true; hidden;) {
        marked = observe(with_cell, [&](Recorder& r) { r.output_hook = impulse; });
        if (!quiet || !marked || (*quiet)->flow.steps.size() != count || (*marked)->flow.steps.size() != count) {
            found_.unknown = "the model takes another way when its attention is silenced";
            return;
        }
        hidden = false;
        for (std::size_t i = 0; i + 1 < count; ++i) {
            const auto which =
                moved(key_side(*(*quiet)->flow.steps[i + 1].mixing), key_side(*(*marked)->flow.steps[i + 1].mixing));
            if (sizes[i] >= kLargestImpulse || std::count(which.begin(), which.end(), probe_token(i)) != 0) continue;
            sizes[i] *= 100;
            hidden = true;
        }
    }
    std::set<std::int64_t> carried{first_token};
    std::vector<Findings::Step> found;
    for (std::size_t i = 0; i < count; ++i) {
        const Mixing& mixing = *steps[i].mixing;
        const auto which = moved(key_side(*(*quiet)->flow.steps[i].mixing), key_side(*(*marked)->flow.steps[i].mixing));
        const std::set<std::int64_t> here(which.begin(), which.end());
        if (i > 0) {
            std::set<std::int64_t> around = carried, alone{probe_token(i - 1)};
            around.insert(probe_token(i - 1));
            if (here == around) {
                found[i - 1].residual = true;
            } else if (here == alone) {
                found[i - 1].residual = false;
            } else {
                found_.unknown = fmt::format("between {} and {} tokens do not keep their places: moving {} moves {}",
                                             steps[i - 1].mixing->name, mixing.name,
                                             list({around.begin(), around.end()}), list(which));
                return;
            }
            carried = here;
        } else if (here != carried) {
            found_.unknown = fmt::format("the first patch moves {} at {}", list(which), mixing.name);
            return;
        }
        Findings::Step step;
        step.layer = static_cast<std::int64_t>(i);
        step.queries = step.keys = found_.layout;
        if (mixing.queries != tokens) {
            step.layer = -1;
            step.residual = false;
            step.queries = TokenLayout{};
            for (std::int64_t q = 0; q < mixing.queries; ++q) step.queries.prefix.push_back(fmt::format("query{}", q));
        }
        found.push_back(std::move(step));
    }
    // Behind the last attention: does the answer still move when only what passes around it was moved?
    if (found.back().layer >= 0) {
        const auto around = observe(with_cell_changed(pixels, 0, 0, found_.layout.rows, found_.layout.cols),
                                    [&](Recorder& r) { r.output_hook = silenced; });
        const auto class_token_only = [&](std::size_t i, const at::Tensor& out) {
            at::Tensor changed = at::zeros_like(out);
            if (i + 1 < count) changed.add_(at::randn({out.size(-1)}, at::make_generator<at::CPUGeneratorImpl>(99)));
            return changed;
        };
        const auto shifted = observe(pixels, [&](Recorder& r) { r.output_hook = class_token_only; });
        const double by_pixels = around ? ((*around)->output - (*quiet)->output).abs().max().item<double>() : 0;
        const double by_layers =
            shifted && count > 1 ? ((*shifted)->output - (*quiet)->output).abs().max().item<double>() : 0;
        found.back().residual = by_pixels > 1e-6 || by_layers > 1e-6;
    }
    found_.steps = std::move(found);
}

/// Which tokens of the last attention's output the answer depends on.
void TorchScriptModel::probe_readout(const at::Tensor& pixels, const Capture& plain) {
    if (found_.steps.empty()) return;
    const std::size_t last = plain.flow.steps.size() - 1;
    const Mixing& mixing = *plain.flow.steps[last].mixing;
    const bool pools = found_.steps[last].layer < 0;
    const std::int64_t prefix = pools ? mixing.queries : found_.layout.prefix_count();
    double size = 1;
    const auto reads = [&](std::int64_t token) {
        const auto run = observe(pixels, [&](Recorder& r) {
            r.output_hook = [&](std::size_t i, const at::Tensor& out) {
                if (i != last) return out;
                at::Tensor changed = out.clone();
                const double spread = size * (out.abs().max().item<double>() + 1e-3);
                changed.select(-2, token).add_(at::randn({out.size(-1)}, at::make_generator<at::CPUGeneratorImpl>(7)) *
                                               spread);
                return changed;
            };
        });
        return run && ((*run)->output - plain.output).abs().max().item<double>() >
                          1e-6 * (1 + plain.output.abs().max().item<double>());
    };
    std::vector<std::int64_t> read;
    bool all = !pools, none = true;
    // Behind a layer scale the answer moves only when the change is large; see probe_flow().
    for (; size <= kLargestImpulse && none && read.empty(); size *= 1e4) {
        for (std::int64_t token = 0; token < prefix; ++token)
            if (reads(token)) read.push_back(token);
        all = !pools;
        if (!pools)
            for (const std::int64_t step : {0, 1, 2, 3}) {
                const bool one = reads(prefix + step * (mixing.queries - prefix - 1) / 3);
                all = all && one;
                none = none && !one;
            }
    }
    at::Tensor readout = at::zeros({mixing.queries});
    if (none && !read.empty()) {
        for (const std::int64_t token : read) readout[token].fill_(1.0 / static_cast<double>(read.size()));
        info_.readout = pools ? Readout::AttentionPool : Readout::ClassToken;
        if (!pools && read[0] == 0) {
            for (auto& step : found_.steps) step.queries.prefix[0] = step.keys.prefix[0] = "cls";
            found_.layout.prefix[0] = "cls";
            if (read.size() == 2 && read[1] == 1) {
                for (auto& step : found_.steps) step.queries.prefix[1] = step.keys.prefix[1] = "dist";
                found_.layout.prefix[1] = "dist";
            }
        }
    } else if (all && read.empty()) {
        readout.slice(0, prefix).fill_(1.0 / static_cast<double>(mixing.queries - prefix));
        info_.readout = Readout::MeanPatches;
        info_.notes.push_back("the answer depends on every patch; that it is their plain mean is assumed");
    } else if (all && static_cast<std::int64_t>(read.size()) == prefix) {
        readout.fill_(1.0 / static_cast<double>(mixing.queries));
        info_.readout = Readout::MeanPatches;
        info_.notes.push_back("the answer depends on every token; that it is their plain mean is assumed");
    } else {
        info_.notes.push_back("from which tokens the answer is read could not be established");
        return;
    }
    found_.readout = readout;
}

/// Names the results of operators: a module's last one is its output and bears its name.
void TorchScriptModel::probe_points(const at::Tensor& pixels) {
    struct Seen {
        std::string path, op;
        int occurrence;
    };
    std::vector<Seen> seen;
    CaptureOptions options;
    options.mixings = false;
    options.points = {"*"};
    Recorder recorder(options);
    recorder.point_name = [&](const std::string& path, const std::string& op, int occurrence) {
        seen.push_back({path, op, occurrence});
        return fmt::format("{}\n{}\n{}", path, op, occurrence);
    };
    const auto run = run_recorded(*this, pixels, recorder);
    if (!run) return;
    for (std::size_t i = 0; i < seen.size(); ++i) {
        const Seen& one = seen[i];
        if (one.path.empty()) continue;
        bool last = true, same = true;
        for (std::size_t j = 0; j < seen.size(); ++j) {
            if (seen[j].path != one.path) continue;
            if (j > i) last = false;
            if (seen[j].op != one.op || one.op == "add") same = same && j == i;
        }
        const std::string key = fmt::format("{}\n{}\n{}", one.path, one.op, one.occurrence);
        const std::string count = one.occurrence > 1 ? fmt::format("#{}", one.occurrence) : "";
        const std::string name = same ? one.path + count : last ? one.path : one.path + "." + one.op + count;
        point_names_[key] = name;
        const auto kept = (*run)->points.find(key);
        if (kept == (*run)->points.end()) continue;
        points_.push_back({name, fmt::format("result of {} [{}]", one.op, fmt::join(kept->second.sizes(), ", "))});
        // Where the CAM family reads: the last map before pooling, for models without attention.
        if (kept->second.dim() == 4 && kept->second.size(2) > 1 && kept->second.size(3) > 1 && info_.layers == 0)
            info_.cam_point = name;
    }
    if (info_.layers == 0) return;
    // With a class token, the last block's first norm: the last norm that ran before the last attention did. With
    // pooling, the last sum.
    for (std::size_t i = 0; i < seen.size(); ++i) {
        const auto name = point_names_.find(fmt::format("{}\n{}\n{}", seen[i].path, seen[i].op, seen[i].occurrence));
        if (name == point_names_.end()) continue;
        if (info_.readout == Readout::ClassToken
                ? seen[i].op == "layer_norm" && name->second.find("norm1") != std::string::npos
                : seen[i].op == "add" && name->second == seen[i].path)
            info_.cam_point = name->second;
    }
}

Status TorchScriptModel::probe(std::int64_t height, std::int64_t width) {
    return guarded([&]() -> Status {
        const at::Tensor pixels = at::randn({1, 3, height, width}, at::make_generator<at::CPUGeneratorImpl>(1));
        found_ = {};
        const auto plain = VITRINE_TRY(observe(pixels));
        found_.height = height;
        found_.width = width;
        if (!plain->output.defined() || plain->output.dim() < 2 || plain->output.size(0) != 1)
            return fail(
                ErrorCode::Unsupported, "the program answers one picture with {}, expected [1, classes]",
                plain->output.defined() ? fmt::format("[{}]", fmt::join(plain->output.sizes(), ", ")) : "nothing");
        info_.classes = plain->output.dim() == 2 ? plain->output.size(1) : 0;
        const auto& steps = plain->flow.steps;
        if (steps.empty()) {
            found_.layout.unknown = "no attention was seen in this model";
            info_.readout = Readout::Unknown;
        } else {
            info_.heads = steps[0].mixing->heads;
            info_.width = steps[0].mixing->heads * (steps[0].mixing->v().defined() ? steps[0].mixing->v().size(-1) : 0);
            info_.layers = static_cast<std::int64_t>(steps.size());
            const std::int64_t tokens = steps[0].mixing->keys;
            bool one_grid = true;
            for (std::size_t i = 0; i < steps.size(); ++i) {
                const Mixing& mixing = *steps[i].mixing;
                const bool pools = i + 1 == steps.size() && i > 0;
                one_grid = one_grid && dynamic_cast<const WindowedMixing*>(&mixing) == nullptr &&
                           mixing.keys == tokens && (mixing.queries == tokens || pools);
            }
            if (one_grid)
                found_.layout = probe_layout(pixels, *steps[0].mixing);
            else
                probe_grids(pixels, *plain);
            if (found_.layout.known()) {
                info_.patch_height = height / found_.layout.rows;
                info_.patch_width = width / found_.layout.cols;
            }
            if (found_.unknown.empty()) probe_flow(pixels, *plain);
            probe_readout(pixels, *plain);
            if (!found_.steps.empty() && found_.steps.back().layer < 0) --info_.layers;
            if (!found_.layout.known()) info_.notes.push_back("token layout: " + found_.layout.unknown);
            if (!found_.unknown.empty() && found_.unknown != found_.layout.unknown)
                info_.notes.push_back("how the layers are joined: " + found_.unknown);
        }
        for (const std::string& note : plain->notes)
            if (note.find("in place") == std::string::npos) info_.notes.push_back(note);
        probe_points(pixels);
        return {};
    });
}

}  // namespace

fs::path probe_program() {
    if (const char* set = std::getenv("VITRINE_PROBE_PROGRAM")) return set;
    std::error_code ignored;
    return fs::read_symlink("/proc/self/exe", ignored).parent_path() / "vitrine-probe";
}

Result<std::unique_ptr<Model>> open_torchscript(const fs::path& file, bool trust, const nlohmann::json& config) {
    const std::string name = file.filename().string();
    if (!trust)
        return fail(ErrorCode::Unsupported,
                    "{} is a TorchScript program, and opening it runs what is inside; allow that with --trust", name);
    VITRINE_CHECK(check_torchscript_container(file));
    Checkpoint checkpoint;
    checkpoint.path = file;
    checkpoint.kind = FileKind::TorchScript;
    checkpoint.config = config;
    Preprocess preprocess = VITRINE_TRY(preprocess_for(checkpoint, Preprocess{}));
    const bool size_known = preprocess.assumed.count("input_size") == 0;
    const Probed probed =
        VITRINE_TRY(probe_in_child(file, size_known ? preprocess.input_height : 0, preprocess.input_width));
    if (!size_known) {
        preprocess.input_height = probed.height;
        preprocess.input_width = probed.width;
        preprocess.resize_to = static_cast<std::int64_t>(static_cast<double>(probed.height) / 0.875);
    }
    return guarded([&]() -> Result<std::unique_ptr<Model>> {
        auto model = std::make_unique<TorchScriptModel>(torch::jit::load(file.string(), at::Device(at::kCPU)));
        model->preprocess() = preprocess;
        model->info().name = file.stem().string();
        model->info().title = model->info().name;
        model->info().dialect = "TorchScript";
        model->info().why = "a TorchScript archive: it holds code beside its tensors";
        std::error_code ignored;
        model->info().size_bytes = static_cast<std::int64_t>(fs::file_size(file, ignored));
        VITRINE_CHECK(model->probe(preprocess.input_height, preprocess.input_width));
        model->labels() = VITRINE_TRY(labels_for(checkpoint, model->info().classes));
        return model;
    });
}

Result<std::unique_ptr<Model>> tiny_torchscript(std::uint64_t seed) {
    return guarded([&]() -> Result<std::unique_ptr<Model>> {
        constexpr std::int64_t kWidth = 32, kPatch = 8, kClasses = 10, kTokens = 17;
        const auto random = at::make_generator<at::CPUGeneratorImpl>(seed + 1);
        const auto draw = [&](at::IntArrayRef shape, double spread) { return at::randn(shape, random) * spread; };
        torch::jit::Module module("Tiny");
        module.register_parameter("patch", draw({kWidth, 3, kPatch, kPatch}, 0.15), false);
        module.register_parameter("cls", draw({1, 1, kWidth}, 1), false);
        module.register_parameter("position", draw({1, kTokens, kWidth}, 0.3), false);
        module.register_parameter("qkv", draw({2, 3 * kWidth, kWidth}, 0.4), false);
        module.register_parameter("out", draw({2, kWidth, kWidth}, 0.2), false);
        module.register_parameter("head", draw({kClasses, kWidth}, 0.5), false);
        module.define(R"(
def forward(self, x):
    x = torch.conv2d(x, self.patch, None, [8, 8]).flatten(2).transpose(1, 2)
    x = torch.cat([self.cls.expand(x.size(0), -1, -1), x], 1) + self.position
    for i in range(2):
        y = torch.layer_norm(x, [32])
        y = torch.linear(y, self.qkv[i]).reshape(x.size(0), x.size(1), 3, 2, 16).permute(2, 0, 3, 1, 4)
        y = torch.scaled_dot_product_attention(y[0], y[1], y[2])
        x = x + torch.linear(y.transpose(1, 2).reshape(x.size(0), x.size(1), 32), self.out[i])
    return torch.linear(torch.layer_norm(x, [32])[:, 0], self.head)
)");
        auto model = std::make_unique<TorchScriptModel>(std::move(module));
        model->info().name = "tiny_torchscript";
        model->info().title = "Tiny TorchScript";
        model->info().dialect = "TorchScript";
        model->preprocess().input_height = model->preprocess().input_width = 32;
        model->preprocess().resize_to = 32;
        VITRINE_CHECK(model->probe(32, 32));
        return model;
    });
}

}  // namespace vitrine
