// vitrine-probe: loads a TorchScript file and runs it once, within limits, and says on standard output how it went.
//
//     vitrine-probe FILE [HEIGHT WIDTH]
//
// A TorchScript file is a program that only libtorch can read. This child meets it first: if it crashes, hangs or
// exhausts memory, nothing else does. Prints one JSON object: {"height", "width", "shape"} or {"error", "quantised"}.
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>
#include <nlohmann/json.hpp>

namespace {

void limit(int what, rlim_t most) {
    const rlimit wanted{most, most};
    setrlimit(what, &wanted);
}

/// The answer is shorter than this; so is anything that is ever written.
constexpr std::size_t kMostOutput = 60000;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/// Bytes of address space in use, most of it the libraries.
rlim_t mapped_now() {
    long pages = 0;
    if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
        if (std::fscanf(file, "%ld", &pages) != 1) pages = 0;
        std::fclose(file);
    }
    return pages > 0 ? static_cast<rlim_t>(pages) * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) : rlim_t{10} << 30;
}
#endif

/// A file's tensors are mapped or read once, and a forward pass of one picture needs a few times as much. The files of
/// small models get less of everything.
void limit_everything(const char* file) {
    struct stat info {};
    const rlim_t size = stat(file, &info) == 0 ? static_cast<rlim_t>(info.st_size) : 0;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    limit(RLIMIT_AS, mapped_now() + (rlim_t{2} << 30) + 5 * size);
#endif
    rlim_t seconds = std::min<rlim_t>(60, 20 + size / 10'000'000);
    if (const char* set = std::getenv("VITRINE_PROBE_SECONDS"))  // for tests: less, never more
        seconds = std::clamp<rlim_t>(std::strtoul(set, nullptr, 10), 1, seconds);
    // The first limit is a signal that tells why; reaching the second as well is the end without a word.
    const rlimit processor{seconds, seconds + 2};
    setrlimit(RLIMIT_CPU, &processor);
    // No file may grow while the program runs. When it has ended, the answer may be written, to a file too.
    const off_t at = lseek(1, 0, SEEK_END);
    const rlimit nothing{0, (at > 0 ? static_cast<rlim_t>(at) : 0) + kMostOutput};
    setrlimit(RLIMIT_FSIZE, &nothing);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_NOFILE, 16);
}

void allow_the_answer() {
    rlimit writing{};
    getrlimit(RLIMIT_FSIZE, &writing);
    writing.rlim_cur = writing.rlim_max;
    setrlimit(RLIMIT_FSIZE, &writing);
}

std::vector<std::int64_t> shape_of(const c10::IValue& value) {
    if (value.isTensor()) return value.toTensor().sizes().vec();
    if (value.isTuple() && !value.toTupleRef().elements().empty()) return shape_of(value.toTupleRef().elements()[0]);
    if (value.isList() && !value.toList().empty()) return shape_of(value.toList().get(0));
    if (value.isGenericDict())
        for (const auto& entry : value.toGenericDict()) return shape_of(entry.value());
    return {};
}

std::string first_line(std::string text) {
    if (const auto at = text.rfind("RuntimeError: "); at != std::string::npos) text = text.substr(at + 14);
    return text.substr(0, std::min<std::size_t>(text.find('\n'), 2000));
}

nlohmann::json look(const char* file, std::vector<std::pair<std::int64_t, std::int64_t>> sizes) {
    at::set_num_threads(1);
    const torch::jit::GraphOptimizerEnabledGuard plain(false);
    torch::jit::Module module;
    try {
        module = torch::jit::load(file, c10::Device(c10::kCPU));
    } catch (const std::exception& error) {
        const std::string text = error.what();
        return {{"error", "it cannot be loaded: " + first_line(text)},
                {"quantised", text.find("quantized") != std::string::npos}};
    }
    module.eval();
    const std::string code = module.dump_to_str(true, false, false);
    if (code.find("quantized::") != std::string::npos || code.find(".quantized.") != std::string::npos)
        return {{"error", "it is quantised"}, {"quantised", true}};
    std::string why;
    for (const auto& [height, width] : sizes) {
        try {
            const c10::InferenceMode no_gradients;
            const auto shape = shape_of(module.forward({at::zeros({1, 3, height, width})}));
            return {{"height", height}, {"width", width}, {"shape", shape}};
        } catch (const std::exception& error) {
            if (why.empty()) why = first_line(error.what());
        }
    }
    return {{"error", "it does not run on a picture: " + why},
            {"quantised", why.find("quantized") != std::string::npos}};
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2 && count != 4) {
        std::fputs("usage: vitrine-probe FILE [HEIGHT WIDTH]\n", stderr);
        return 2;
    }
    limit_everything(arguments[1]);
    std::vector<std::pair<std::int64_t, std::int64_t>> sizes;
    if (count == 4)
        sizes.emplace_back(std::atoll(arguments[2]), std::atoll(arguments[3]));
    else
        for (const std::int64_t side :
             {224, 384, 256, 32, 96, 128, 64, 160, 192, 240, 288, 299, 320, 336, 448, 512, 518})
            sizes.emplace_back(side, side);
    const nlohmann::json found = look(arguments[1], std::move(sizes));
    const std::string text = found.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    if (text.size() >= kMostOutput) std::_Exit(1);
    allow_the_answer();
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    // Not through destructors: what the file's program left behind gets no further turn.
    std::_Exit(found.contains("error") ? 1 : 0);
}
