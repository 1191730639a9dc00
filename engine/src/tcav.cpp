// Concept activation vectors: sets of pictures and regions, classifiers between them, scores and what they are worth.
#include <vitrine/tcav.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dot.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <vitrine/base/image_file.h>
#include <vitrine/base/picture_files.h>
#include <vitrine/base/region_list.h>
#include <vitrine/capture.h>
#include <vitrine/picture_draw.h>
#include <vitrine/preprocess.h>
#include <vitrine/region.h>
#include <vitrine/target.h>
#include <vitrine/torch_errors.h>

#include "dataset.h"
#include "text.h"

namespace vitrine {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kConcept = 0x74636176, kRandom = 0x72616e64, kPlace = 0x706c6163;
constexpr std::int64_t kAtOnce = 8, kFewest = 6, kFewestRuns = 30;
/// Activations of all pictures are held at once.
constexpr std::int64_t kMostBytes = std::int64_t{4} << 30;

struct Rectangle {
    std::int64_t rows = 1, cols = 1;
};

/// What shows a concept: pictures of a folder, or regions.
struct Shown {
    std::vector<fs::path> files;
    RegionList regions;
    std::set<fs::path> places;  ///< where all its pictures are, those that were not drawn too
};

/// The same for one file, whatever folder it was found by.
fs::path place_of(const fs::path& file) {
    std::error_code failed;
    fs::path out = fs::canonical(file, failed);
    return failed ? file : out;
}

bool has_point(const Model& model, const std::string& name) {
    const auto points = model.points();
    return std::any_of(points.begin(), points.end(), [&](const NamedPoint& p) { return p.name == name; });
}

double mean_of(const std::vector<double>& x) {
    double sum = 0;
    for (const double v : x) sum += v;
    return sum / static_cast<double>(x.size());
}

class Tcav {
  public:
    Tcav(Model& model, const TcavOptions& options) : model_(model), options_(options) {}
    Result<TcavResult> run();

  private:
    Status settle();
    Result<std::vector<fs::path>> pictures(const fs::path& folder);
    /// Some of them by the seed, with a note, where there are more than are asked for.
    void draw(std::vector<fs::path>& files, const fs::path& folder) {
        draw_some(files, options_.most, options_.seed, "pictures of " + folder.string(), out_.notes);
    }
    Result<std::vector<Shown>> concepts();
    /// Those of the random folder that show no concept.
    Result<std::vector<fs::path>> random_pictures(const std::vector<Shown>& concepts);
    /// The point's activation of pictures, those that cannot be read left out. [n, ...]
    Result<at::Tensor> activations(const std::vector<fs::path>& files);
    Result<at::Tensor> regions(const fs::path& file, const RegionList& list, std::vector<Rectangle>& sizes);
    /// Means over the grid, or over one rectangle of a given size each, somewhere. [n, width]
    at::Tensor means(const at::Tensor& x) const { return cells(x).mean(1); }
    at::Tensor means_of_places(const at::Tensor& x, const std::vector<Rectangle>& sizes) const;
    /// [n, rows * cols, width]
    at::Tensor cells(const at::Tensor& x) const {
        if (x.dim() == 4) return x.flatten(2).transpose(1, 2);
        return x.narrow(1, grid_.first, grid_.rows * grid_.cols);
    }
    struct Runs {
        std::vector<double> scores;
        double magnitude = 0, accuracy = 0;
    };
    /// @param with  undefined: `random` against itself
    Result<Runs> runs(const at::Tensor& with, const at::Tensor& random, const at::Tensor& slopes, std::int64_t drawn);

    Model& model_;
    const TcavOptions& options_;
    RegionGrid grid_;
    std::int64_t done_ = 0, total_ = 0, runs_done_ = 0, runs_total_ = 0;
    TcavResult out_;
};

Status Tcav::settle() {
    if (model_.info().classes == 0)
        return fail(ErrorCode::Unsupported, "{} has no classes whose logits could move", model_.info().name);
    if (options_.concepts.empty()) return fail(ErrorCode::BadInput, "no concept is named; give one with NAME=FOLDER");
    if (options_.runs < kFewestRuns)
        return fail(ErrorCode::BadInput, "{} runs say too little of chance, expected {} or more", options_.runs,
                    kFewestRuns);
    if (options_.features != "whole" && options_.features != "mean")
        return fail(ErrorCode::BadInput, "the features are '{}', expected whole or mean", options_.features);
    if (!(options_.regularisation > 0) || !std::isfinite(options_.regularisation))
        return fail(ErrorCode::BadInput, "the regularisation is {}, expected a positive number",
                    options_.regularisation);
    std::set<std::string> names;
    for (const auto& [name, path] : options_.concepts)
        if (!names.insert(name).second) return fail(ErrorCode::BadInput, "two concepts are named {}", name);
    const std::string point = options_.point.empty() ? tcav_point(model_) : options_.point;
    if (!point.empty() && !has_point(model_, point))
        return fail(ErrorCode::BadInput, "{} has no point '{}' (vitrine info MODEL --points lists them)",
                    model_.info().name, point);
    grid_ = VITRINE_TRY(region_grid(model_, point, options_.stop));
    out_.point = grid_.point;
    Target target;
    target.index = options_.index;
    out_.explained = VITRINE_TRY(objective_of(model_, target, {})).explained;
    return {};
}

Result<std::vector<fs::path>> Tcav::pictures(const fs::path& folder) {
    FilesBelow found = VITRINE_TRY(files_below(folder, is_picture_name));
    std::vector<fs::path> out = std::move(found.files);
    for (std::string& note : found.notes) out_.notes.push_back(std::move(note));
    if (out.empty()) return fail(ErrorCode::BadInput, "{} has no pictures in it", folder.string());
    return out;
}

Result<std::vector<Shown>> Tcav::concepts() {
    std::vector<Shown> out;
    std::error_code ignored;
    for (const auto& [name, path] : options_.concepts) {
        if (!fs::exists(path, ignored)) return fail(ErrorCode::NotFound, "there is nothing at {}", path.string());
        Shown one;
        if (fs::is_directory(path, ignored)) {
            one.files = VITRINE_TRY(pictures(path));
            for (const fs::path& file : one.files) one.places.insert(place_of(file));
            draw(one.files, path);
        } else {
            one.regions = VITRINE_TRY(read_region_list(path));
            if (one.regions.regions.empty()) return fail(ErrorCode::BadInput, "{} names no region", path.string());
            for (const ListedRegion& region : one.regions.regions) one.places.insert(place_of(region.picture));
            draw_some(one.regions.regions, options_.most, options_.seed, "regions of " + path.string(), out_.notes);
        }
        out.push_back(std::move(one));
    }
    return out;
}

Result<std::vector<fs::path>> Tcav::random_pictures(const std::vector<Shown>& concepts) {
    std::vector<fs::path> all = VITRINE_TRY(pictures(options_.random)), out;
    std::vector<std::int64_t> shared(concepts.size(), 0);
    for (fs::path& file : all) {
        const fs::path place = place_of(file);
        bool shows = false;
        for (std::size_t c = 0; c < concepts.size(); ++c) {
            const bool of_it = concepts[c].places.count(place) > 0;
            shared[c] += of_it;
            shows = shows || of_it;
        }
        if (shows)
            ++out_.left_out;
        else
            out.push_back(std::move(file));
    }
    for (std::size_t c = 0; c < concepts.size(); ++c)
        if (shared[c] > 0)
            out_.notes.push_back(fmt::format("{} of {} pictures of {} are also those of {}: they are in no random set",
                                             shared[c], all.size(), options_.random.string(),
                                             options_.concepts[c].first));
    if (std::ssize(out) < 2 * kFewest && out_.left_out > 0)
        return fail(ErrorCode::BadInput,
                    "{} of {} pictures of {} are also those of a concept, and the {} others are too few, expected {} "
                    "or more: name a folder of other pictures",
                    out_.left_out, all.size(), options_.random.string(), out.size(), 2 * kFewest);
    draw(out, options_.random);
    return out;
}

Result<at::Tensor> Tcav::activations(const std::vector<fs::path>& files) {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> out, waiting;
    const auto flush = [&]() -> Status {
        if (waiting.empty()) return {};
        CaptureOptions looking;
        looking.mixings = false;
        looking.points = {grid_.point};
        looking.stop = options_.stop;
        const auto seen = VITRINE_TRY(run_captured(model_, at::cat(waiting), looking));
        out.push_back(seen->points.at(grid_.point).detach().to(at::kCPU, at::kFloat));
        if (const auto bytes = static_cast<std::int64_t>(out.front()[0].nbytes()) * std::ssize(files);
            bytes > kMostBytes)
            return fail(
                ErrorCode::BadInput,
                "activations of {} pictures at {} take {} GB, {} are held at most: give fewer pictures, or another "
                "point",
                files.size(), grid_.point, bytes >> 30, kMostBytes >> 30);
        waiting.clear();
        return {};
    };
    for (const fs::path& file : files) {
        if (options_.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        auto input = load_input(file, model_.preprocess());
        if (!input) {
            out_.skipped.push_back(input.error().message);
            continue;
        }
        waiting.push_back(std::move(input->pixels));
        if (std::ssize(waiting) == kAtOnce) VITRINE_CHECK(flush());
        if (options_.progress) options_.progress({++done_, total_, "pictures"});
    }
    VITRINE_CHECK(flush());
    if (out.empty())
        return fail(ErrorCode::BadInput, "none of {} pictures could be read; the last: {}", files.size(),
                    out_.skipped.back());
    return at::cat(out);
}

Result<at::Tensor> Tcav::regions(const fs::path& file, const RegionList& list, std::vector<Rectangle>& sizes) {
    if (list.rows > 0 && (list.rows != grid_.rows || list.cols != grid_.cols))
        return fail(ErrorCode::BadInput,
                    "the regions of {} are of {} x {} cells, but {} has {} x {}: choose the point that they were drawn "
                    "at, or draw them again",
                    file.string(), list.rows, list.cols, grid_.point, grid_.rows, grid_.cols);
    std::vector<at::Tensor> out;
    std::map<fs::path, at::Tensor> seen;
    for (const ListedRegion& region : list.regions) {
        const auto tokens = region_tokens(region.cells, grid_);
        if (!tokens)
            return tl::make_unexpected(
                Error(tokens.error()).with_context(fmt::format("line {} of {}", region.line, file.string())));
        if (seen.count(region.picture) == 0) {
            ++total_;
            seen[region.picture] = VITRINE_TRY(activations({region.picture}));
        }
        std::vector<std::int64_t> which = *tokens;
        std::set<std::int64_t> rows, cols;
        for (std::int64_t& token : which) {
            token -= grid_.first;
            rows.insert(token / grid_.cols);
            cols.insert(token % grid_.cols);
        }
        sizes.push_back({std::ssize(rows), std::ssize(cols)});
        out.push_back(cells(seen[region.picture])[0].index_select(0, at::tensor(which, at::kLong)).mean(0));
    }
    return at::stack(out);
}

at::Tensor Tcav::means_of_places(const at::Tensor& x, const std::vector<Rectangle>& sizes) const {
    const at::Tensor grid = cells(x).view({x.size(0), grid_.rows, grid_.cols, -1});
    StepRandom random(options_.seed, 0, kPlace);
    std::vector<at::Tensor> out;
    for (std::int64_t i = 0; i < x.size(0); ++i) {
        const Rectangle& size = sizes[static_cast<std::size_t>(i) % sizes.size()];
        const std::int64_t row = random.below(grid_.rows - size.rows + 1),
                           col = random.below(grid_.cols - size.cols + 1);
        out.push_back(grid[i].narrow(0, row, size.rows).narrow(1, col, size.cols).flatten(0, 1).mean(0));
    }
    return at::stack(out);
}

Result<Tcav::Runs> Tcav::runs(const at::Tensor& with, const at::Tensor& random, const at::Tensor& slopes,
                              std::int64_t drawn) {
    Runs out;
    const std::int64_t kept = drawn - drawn / 3, held = drawn / 3;
    const auto some = [&](const at::Tensor& x, const std::vector<std::int64_t>& order, std::int64_t from,
                          std::int64_t count) {
        const std::vector<std::int64_t> which(order.begin() + from, order.begin() + from + count);
        return x.index_select(0, at::tensor(which, at::kLong));
    };
    for (std::int64_t run = 0; run < options_.runs; ++run) {
        if (options_.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const auto step = static_cast<std::uint64_t>(run);
        // The same random pictures are on the other side of every concept, and of the random sets.
        const auto others = StepRandom(options_.seed, step, kRandom).permutation(random.size(0));
        auto own = others;
        std::int64_t from = drawn;
        const at::Tensor& positive = with.defined() ? with : random;
        if (with.defined()) own = StepRandom(options_.seed, step, kConcept).permutation(with.size(0)), from = 0;
        const ConceptVector vector = VITRINE_TRY(
            concept_vector(some(positive, own, from, kept), some(random, others, 0, kept), options_.regularisation));
        const SignCount found = count_signs(slopes, vector.direction);
        out.scores.push_back(found.share);
        out.magnitude += found.magnitude / static_cast<double>(options_.runs);
        if (options_.progress) options_.progress({++runs_done_, runs_total_, "runs"});
        const auto right = [&](const at::Tensor& x, bool above) {
            const at::Tensor side = at::matmul(x.to(at::kDouble), vector.direction) > vector.offset;
            return (above ? side : side.logical_not()).sum().item<double>();
        };
        const double correct =
            right(some(positive, own, from + kept, held), true) + right(some(random, others, kept, held), false);
        out.accuracy += correct / static_cast<double>(2 * held) / static_cast<double>(options_.runs);
    }
    return out;
}

Result<TcavResult> Tcav::run() {
    VITRINE_CHECK(settle());
    auto example_files = VITRINE_TRY(pictures(options_.examples));
    draw(example_files, options_.examples);
    const auto shown = VITRINE_TRY(concepts());
    const auto random_files = VITRINE_TRY(random_pictures(shown));
    total_ = std::ssize(example_files) + std::ssize(random_files);
    for (const Shown& one : shown) total_ += std::ssize(one.files);

    std::vector<at::Tensor> all_slopes;
    for (std::size_t i = 0; i < example_files.size(); ++i) {
        if (options_.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const auto input = load_input(example_files[i], model_.preprocess());
        if (options_.progress) options_.progress({++done_, total_, "pictures"});
        if (!input) {
            out_.skipped.push_back(input.error().message);
            continue;
        }
        const at::Tensor slope =
            VITRINE_TRY(class_slopes(model_, input->pixels, grid_.point, options_.index, options_.stop));
        all_slopes.push_back(slope.to(at::kCPU, at::kFloat));
    }
    if (all_slopes.empty())
        return fail(ErrorCode::BadInput, "none of the pictures in {} could be read", options_.examples.string());
    const at::Tensor slopes = at::cat(all_slopes);
    // Along a direction that all cells take alike.
    const at::Tensor slopes_of_cells = cells(slopes).sum(1);
    out_.examples = slopes.size(0);
    const at::Tensor random = VITRINE_TRY(activations(random_files));
    out_.random = random.size(0);
    if (random.size(0) < 2 * kFewest)
        return fail(ErrorCode::BadInput, "{} random pictures are too few, expected {} or more: {}", random.size(0),
                    2 * kFewest,
                    options_.most < 2 * kFewest ? fmt::format("most is {}, raise it", options_.most)
                                                : "choose a folder with more than " + options_.random.string());

    runs_total_ = 2 * std::ssize(options_.concepts) * options_.runs;
    std::map<std::string, Runs> of_random;  // by what is told apart and how many
    for (std::size_t c = 0; c < options_.concepts.size(); ++c) {
        const auto& [name, path] = options_.concepts[c];
        TcavScore score;
        score.name = name;
        at::Tensor with, against;
        const at::Tensor* slope = &slopes_of_cells;
        if (shown[c].files.empty()) {
            std::vector<Rectangle> sizes;
            score.features = "regions";
            with = VITRINE_TRY(regions(path, shown[c].regions, sizes));
            against = means_of_places(random, sizes);
        } else {
            score.features = options_.features;
            with = VITRINE_TRY(activations(shown[c].files));
            const bool whole = options_.features == "whole";
            if (whole) slope = &slopes;
            with = whole ? with.flatten(1) : means(with);
            against = whole ? random.flatten(1) : means(random);
        }
        score.examples = with.size(0);
        if (with.size(0) < kFewest)
            return fail(ErrorCode::BadInput, "the concept {} has {} examples, expected {} or more", name, with.size(0),
                        kFewest);
        score.drawn = std::min(with.size(0), random.size(0) / 2);
        const std::string key = score.features + (score.features == "regions" ? name : std::to_string(score.drawn));
        if (of_random.count(key) == 0)
            of_random[key] = VITRINE_TRY(runs({}, against, *slope, score.drawn));
        else
            runs_done_ += options_.runs;
        const Runs found = VITRINE_TRY(runs(with, against, *slope, score.drawn));
        score.scores = found.scores;
        score.random = of_random[key].scores;
        score.magnitude = found.magnitude;
        score.accuracy = found.accuracy;
        score.random_accuracy = of_random[key].accuracy;
        score.score = mean_of(score.scores);
        score.random_score = mean_of(score.random);
        const Welch test = welch(score.scores, score.random);
        score.t = test.t;
        score.p = test.p;
        score.p_corrected = std::min(1.0, test.p * static_cast<double>(options_.concepts.size()));
        if (random.size(0) < options_.runs * score.drawn) {
            std::string note = fmt::format(
                "{} runs draw {} of {} random pictures each: they share pictures, so that p is lower than it should "
                "be; "
                "{} pictures would do",
                options_.runs, score.drawn, random.size(0), options_.runs * score.drawn);
            if (out_.notes.empty() || out_.notes.back() != note) out_.notes.push_back(std::move(note));
        }
        out_.concepts.push_back(std::move(score));
    }
    return std::move(out_);
}

/// The regularised incomplete beta function by its continued fraction.
/// Source: W. J. Lentz's method as in W. Press et al., Numerical Recipes, 1992, section 6.4.
double incomplete_beta(double a, double b, double x) {
    if (x <= 0) return 0;
    if (x >= 1) return 1;
    if (x > (a + 1) / (a + b + 2)) return 1 - incomplete_beta(b, a, 1 - x);
    constexpr double kTiny = 1e-300;
    const double front =
        std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x)) / a;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    d = 1 / (std::abs(d) < kTiny ? kTiny : d);
    double out = d;
    for (int m = 1; m <= 500; ++m) {
        for (const double term : {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                                  -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))}) {
            d = 1 + term * d;
            c = 1 + term / c;
            d = 1 / (std::abs(d) < kTiny ? kTiny : d);
            c = std::abs(c) < kTiny ? kTiny : c;
            out *= d * c;
        }
        if (std::abs(d * c - 1) < 1e-15) break;
    }
    return front * out;
}

}  // namespace

Result<ConceptVector> concept_vector(const at::Tensor& with, const at::Tensor& without, double regularisation) {
    return guarded([&]() -> Result<ConceptVector> {
        const at::NoGradGuard no_grad;
        if (with.dim() != 2 || without.dim() != 2 || with.size(0) < 1 || without.size(0) < 1 ||
            with.size(1) != without.size(1))
            return fail(ErrorCode::BadInput, "a concept vector lies between two sets of equally many numbers each");
        const at::Tensor x = at::cat({with, without}).to(at::kCPU, at::kDouble), mean = x.mean(0), centred = x - mean;
        const at::Tensor y =
            at::cat({at::full({with.size(0)}, 1.0, x.options()), at::full({without.size(0)}, -1.0, x.options())});
        // In the span of the examples, of which there are fewer than numbers.
        at::Tensor inner = at::matmul(centred, centred.t());
        const double length = inner.diagonal().sum().item<double>();  // n times the mean squared length
        if (!(length > 0) || !std::isfinite(length))
            return fail(ErrorCode::BadInput, "all examples of the concept and against it are the same");
        inner = inner + regularisation * length * at::eye(x.size(0), x.options());
        at::Tensor direction = at::matmul(at::linalg_solve(inner, y - y.mean()), centred);
        const double size = at::linalg_vector_norm(direction).item<double>();
        if (!(size > 0)) return fail(ErrorCode::BadInput, "the concept's examples are those against it");
        ConceptVector out;
        // w (x - mean) + mean y = 0
        out.offset = (at::dot(direction, mean).item<double>() - y.mean().item<double>()) / size;
        out.direction = direction / size;
        return out;
    });
}

Result<at::Tensor> class_slopes(Model& model, const at::Tensor& pixels, const std::string& point, std::int64_t index,
                                std::stop_token stop) {
    return guarded([&]() -> Result<at::Tensor> {
        Target target;
        target.index = index;
        const Objective objective = VITRINE_TRY(objective_of(model, target, {}));
        CaptureOptions options;
        options.mixings = false;
        options.gradients = true;
        options.points = {point};
        options.stop = std::move(stop);
        const auto run = VITRINE_TRY(run_captured(model, pixels, options));
        const auto found = run->points.find(point);
        if (found == run->points.end())
            return fail(ErrorCode::Unsupported, "{} did not pass its point {}", model.info().name, point);
        // One picture's number does not hang on another's activation.
        const auto slopes = VITRINE_TRY(gradients(objective.of(run->output).sum(), {found->second}, {point}));
        return slopes[0].detach();
    });
}

SignCount count_signs(const at::Tensor& slopes, const at::Tensor& direction) {
    const at::Tensor along =
        at::matmul(slopes.flatten(1).to(at::kCPU, at::kDouble), direction.to(at::kCPU, at::kDouble));
    return {along.gt(0).to(at::kDouble).mean().item<double>(), along.mean().item<double>()};
}

Welch welch(const std::vector<double>& a, const std::vector<double>& b) {
    const auto moments = [](const std::vector<double>& x) {
        const double mean = mean_of(x);
        double spread = 0;
        for (const double v : x) spread += (v - mean) * (v - mean);
        return std::pair{
            mean, x.size() > 1 ? spread / static_cast<double>(x.size() - 1) / static_cast<double>(x.size()) : 0.0};
    };
    const auto [mean_a, error_a] = moments(a);
    const auto [mean_b, error_b] = moments(b);
    Welch out;
    const double error = error_a + error_b, apart = mean_a - mean_b;
    // Sums of equal numbers differ from each other by rounding alone.
    if (error < 1e-24) {
        out.p = std::abs(apart) < 1e-12 ? 1 : 0;
        out.t = out.p == 1 ? 0 : std::copysign(std::numeric_limits<double>::infinity(), apart);
        return out;
    }
    out.t = apart / std::sqrt(error);
    out.degrees = error * error /
                  (error_a * error_a / static_cast<double>(std::max<std::size_t>(a.size(), 2) - 1) +
                   error_b * error_b / static_cast<double>(std::max<std::size_t>(b.size(), 2) - 1));
    out.p = incomplete_beta(out.degrees / 2, 0.5, out.degrees / (out.degrees + out.t * out.t));
    return out;
}

std::string tcav_point(const Model& model) {
    const auto block = fmt::format("blocks.{}", model.info().layers * 3 / 4);
    return model.info().layers > 0 && has_point(model, block) ? block : model.info().cam_point;
}

Result<TcavResult> tcav(Model& model, const TcavOptions& options) {
    return guarded([&]() -> Result<TcavResult> { return Tcav(model, options).run(); });
}

}  // namespace vitrine
