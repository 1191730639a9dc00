// The engine's front door: finds what a name means, asks the architectures who knows it, and builds it.
#include <vitrine/engine.h>

#include <ATen/ops/softmax.h>
#include <ATen/ops/topk.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdlib>

#include <vitrine/base/file.h>
#include <vitrine/device.h>
#include <vitrine/torchscript.h>

#include "steering_model.h"
#include "text.h"

namespace vitrine {

namespace fs = std::filesystem;

std::string version() { return VITRINE_VERSION; }

Result<fs::path> resource(const std::string& name) {
    std::vector<fs::path> roots;
    if (const char* set = std::getenv("VITRINE_RESOURCES")) roots.emplace_back(set);
    std::error_code ignored;
    const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
    if (!program.empty()) {
        roots.push_back(program.parent_path() / "resources");
        roots.push_back(program.parent_path().parent_path() / "share/vitrine");
    }
    roots.emplace_back(VITRINE_RESOURCE_DIR);
    for (const auto& root : roots)
        if (fs::exists(root / name, ignored)) return root / name;
    return fail(ErrorCode::NotFound,
                "the built-in '{}' is missing; set VITRINE_RESOURCES to the folder 'resources' of the source tree",
                name);
}

std::vector<fs::path> builtin_pictures() {
    std::vector<fs::path> pictures;
    const auto folder = resource("pictures");
    if (!folder) return pictures;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(*folder, ignored)) {
        const auto extension = lower(entry.path().extension().string());
        if (extension == ".jpg" || extension == ".png" || extension == ".ppm") pictures.push_back(entry.path());
    }
    std::sort(pictures.begin(), pictures.end());
    return pictures;
}

namespace {

fs::path cache_folder() {
    if (const char* set = std::getenv("VITRINE_CACHE")) return set;
    if (const char* set = std::getenv("XDG_CACHE_HOME")) return fs::path(set) / "vitrine";
    if (const char* home = std::getenv("HOME")) return fs::path(home) / ".cache/vitrine";
    return {};
}

/// A path, a built-in name or a hub name that was fetched before.
Result<fs::path> locate(const std::string& name) {
    std::error_code ignored;
    if (name.empty()) return fail(ErrorCode::BadInput, "no model was named; give a file, a folder or 'starter'");
    if (name == "starter") return resource("starter");
    if (fs::exists(name, ignored)) return fs::path(name);
    if (stays_inside(name)) {
        const fs::path fetched = cache_folder() / "models" / name;
        if (fs::exists(fetched, ignored)) return fetched;
    }
    std::vector<std::string> names{"starter"};
    const fs::path wanted(name);
    const fs::path folder = wanted.has_parent_path() ? wanted.parent_path() : fs::path(".");
    std::vector<std::string> siblings;
    for (const auto& entry : fs::directory_iterator(folder, ignored))
        siblings.push_back((folder / entry.path().filename()).lexically_normal().string());
    names.insert(names.end(), siblings.begin(), siblings.end());
    std::string hint = suggest(name, names);
    if (hint.find("did you mean") == std::string::npos) hint = "";
    return fail(ErrorCode::NotFound, "there is no model at '{}'{}", name, hint);
}

Result<std::pair<at::Device, at::ScalarType>> placement(const OpenOptions& options) {
    const at::ScalarType dtype = VITRINE_TRY(dtype_named(options.dtype));
    const at::Device device = VITRINE_TRY(device_named(options.device));
    return std::pair{device, dtype};
}

Result<std::unique_ptr<Model>> build(const Checkpoint& checkpoint) {
    const Architecture* best = nullptr;
    Recognition recognition;
    for (const auto& architecture : registry().architectures()) {
        Recognition candidate = architecture->recognise(checkpoint);
        if (best == nullptr || candidate.confidence > recognition.confidence)
            best = architecture.get(), recognition = std::move(candidate);
    }
    if (best == nullptr || recognition.confidence < 0.5) {
        std::string closest;
        if (best != nullptr && !recognition.why.empty())
            closest = fmt::format("; closest is {}: {}", best->description().name, recognition.why);
        return fail(ErrorCode::Unsupported, "no architecture here knows this checkpoint ({} tensors, first {}){}",
                    checkpoint.file.tensors.size(),
                    checkpoint.file.tensors.empty() ? "none" : checkpoint.file.tensors.begin()->first, closest);
    }
    auto model = VITRINE_TRY(best->build(checkpoint));
    model->info().architecture = best->description().name;
    if (model->info().why.empty()) model->info().why = recognition.why;
    return model;
}

}  // namespace

Result<std::shared_ptr<Model>> open_model(const std::string& name, const OpenOptions& options) {
    const auto [device, dtype] = VITRINE_TRY(placement(options));
    const fs::path path = VITRINE_TRY(locate(name));
    auto opened = [&]() -> Result<std::shared_ptr<Model>> {
        try {
            if (is_steered_name(path)) return open_steered(path, options);
            const Checkpoint checkpoint = VITRINE_TRY(read_checkpoint(path));
            std::shared_ptr<Model> model;
            if (checkpoint.kind == FileKind::TorchScript) {
                model = VITRINE_TRY(open_torchscript(checkpoint.path, options.trust, checkpoint.config));
                model->info().architecture = "torchscript";
            } else {
                model = VITRINE_TRY(build(checkpoint));
            }
            if (model->info().name.empty()) model->info().name = path.filename().string();
            for (const auto& [key, value] : options.preprocess) VITRINE_CHECK(model->preprocess().set(key, value));
            const Preprocess& p = model->preprocess();
            if (model->has_chain())
                if (const TokenLayout layout = model->layout(p.input_height, p.input_width); !layout.known())
                    return fail(ErrorCode::BadInput, "{}", layout.unknown);
            model->to(device, dtype);
            return model;
        } catch (const c10::OutOfMemoryError& error) {
            return fail(ErrorCode::OutOfMemory, "not enough memory: {}", error.what_without_backtrace());
        } catch (const std::bad_alloc&) {
            return fail(ErrorCode::OutOfMemory, "not enough memory");
        } catch (const c10::Error& error) {
            return fail(ErrorCode::Internal, "{}", error.what_without_backtrace());
        } catch (const std::exception& error) {
            return fail(ErrorCode::Internal, "{}", error.what());
        }
    }();
    if (!opened) return tl::make_unexpected(std::move(opened).error().with_context("opening " + name));
    return opened;
}

std::vector<Answer> top(const at::Tensor& logits, const Labels& labels, std::int64_t k) {
    const c10::NoGradGuard no_grad;
    const at::Tensor flat = logits.detach().to(at::kCPU, at::kDouble).reshape({-1});
    k = std::min<std::int64_t>(k, flat.numel());
    std::vector<Answer> answers;
    if (k <= 0) return answers;
    const at::Tensor probabilities = at::softmax(flat, 0);
    const auto [values, indices] = at::topk(flat, k);
    for (std::int64_t i = 0; i < k; ++i) {
        const auto index = indices.data_ptr<std::int64_t>()[i];
        answers.push_back(
            {index, labels.name(index), values.data_ptr<double>()[i], probabilities.data_ptr<double>()[index]});
    }
    return answers;
}

}  // namespace vitrine
