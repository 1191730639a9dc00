// Loads the file with MPI in it, where it is asked for.
#include "cli/processes.h"

#include <dlfcn.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <filesystem>

#include "cli/common.h"

namespace vitrine::cli {

namespace fs = std::filesystem;

/// The functions of mpi/mpi_library.cpp.
struct Processes::Library {
    const char* (*join)(int* rank, int* size) = nullptr;
    const char* (*gather)(const char* mine, int length, int* lengths, char** all) = nullptr;
    const char* (*share)(char** text, int* length) = nullptr;
    const char* (*sum)(double* values, int count) = nullptr;
    void (*forget)(char* text) = nullptr;
    void (*leave)() = nullptr;
    void (*abort)(int status) = nullptr;
};

namespace {

bool was_launched() {
    // Open MPI, MPICH and Intel MPI, Slurm's PMI and PMIx.
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"})
        if (std::getenv(name) != nullptr) return true;
    return false;
}

Status check(const char* problem) {
    if (problem != nullptr) return fail(ErrorCode::Io, "MPI failed: {}", problem);
    return {};
}

}  // namespace

Result<Processes> Processes::join(bool asked) {
    Processes out;
    if (!asked && !was_launched()) return out;
    std::error_code ignored;
    const fs::path file = fs::read_symlink("/proc/self/exe", ignored).parent_path() / "vitrine_mpi.so";
    if (!fs::exists(file, ignored))
        return fail(ErrorCode::Unsupported,
                    "this build has no MPI: install libopenmpi-dev, build again, or run one process without --mpi");
    // MPI loads parts of its own that look for its symbols.
    void* const handle = dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (handle == nullptr) {
        const char* const why = dlerror();
        return fail(ErrorCode::Unsupported, "MPI cannot be loaded: {}", why != nullptr ? why : "no reason is given");
    }
    auto library = std::make_shared<Library>();
    const auto find = [&](const char* name, auto& function) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
        return function != nullptr;
    };
    if (!find("vitrine_mpi_join", library->join) || !find("vitrine_mpi_gather", library->gather) ||
        !find("vitrine_mpi_share", library->share) || !find("vitrine_mpi_sum", library->sum) ||
        !find("vitrine_mpi_forget", library->forget) || !find("vitrine_mpi_leave", library->leave) ||
        !find("vitrine_mpi_abort", library->abort))
        return fail(ErrorCode::Unsupported, "{} is of another build", file.string());
    VITRINE_CHECK(check(library->join(&out.rank_, &out.size_)));
    out.mpi_ = std::move(library);
    return out;
}

Result<std::vector<std::string>> Processes::gather(const std::string& mine) const {
    if (!mpi_) return std::vector<std::string>{mine};
    if (mine.size() > INT_MAX) return fail(ErrorCode::Unsupported, "MPI takes at most 2 GiB from a process");
    std::vector<int> lengths(static_cast<std::size_t>(size_));
    char* all = nullptr;
    VITRINE_CHECK(check(mpi_->gather(mine.data(), static_cast<int>(mine.size()), lengths.data(), &all)));
    std::vector<std::string> out;
    if (rank_ != 0) return out;
    const char* at = all;
    for (const int length : lengths) {
        out.emplace_back(at, static_cast<std::size_t>(length));
        at += length;
    }
    mpi_->forget(all);
    return out;
}

Result<std::string> Processes::share(const std::string& of_rank_0) const {
    if (!mpi_) return of_rank_0;
    if (of_rank_0.size() > INT_MAX) return fail(ErrorCode::Unsupported, "MPI takes at most 2 GiB from a process");
    std::string out = of_rank_0;
    char* text = out.data();
    int length = static_cast<int>(out.size());
    VITRINE_CHECK(check(mpi_->share(&text, &length)));
    if (rank_ == 0) return out;
    out.assign(text, static_cast<std::size_t>(length));
    mpi_->forget(text);
    return out;
}

Status Processes::sum(std::span<double> values) const {
    if (!mpi_) return {};
    constexpr std::size_t kAtOnce = std::size_t{1} << 27U;  // a gibibyte, whose number of values is an int
    for (; !values.empty(); values = values.subspan(std::min(kAtOnce, values.size())))
        VITRINE_CHECK(check(mpi_->sum(values.data(), static_cast<int>(std::min(kAtOnce, values.size())))));
    return {};
}

Status Processes::agree(const Status& mine) const {
    if (!mpi_) return mine;
    // A digit for the kind of the failure and its sentence; nothing where there is none.
    const auto said = VITRINE_TRY(gather(
        mine ? ""
             : std::string(1, static_cast<char>('0' + static_cast<int>(mine.error().code))) + mine.error().message));
    std::string first;
    for (const std::string& text : said)
        if (first.empty()) first = text;
    first = VITRINE_TRY(share(first));
    if (first.empty()) return {};
    return tl::make_unexpected(Error{static_cast<ErrorCode>(first[0] - '0'), first.substr(1)});
}

void Processes::leave() {
    if (mpi_) mpi_->leave();
    mpi_ = nullptr;
}

void Processes::abort(int status) const {
    if (mpi_) mpi_->abort(status);
    std::_Exit(status);
}

Status shared_by_processes(bool asked, const std::function<Status(const Processes&)>& work) {
    Processes processes = VITRINE_TRY(Processes::join(asked));
    const Status done = [&]() -> Status {
        try {
            return work(processes);
        } catch (const std::exception& error) {
            // The others wait for this process; alone it may say it as every command does.
            if (processes.size() == 1) throw;
            say(fmt::format("vitrine: process {}: {}", processes.rank(), error.what()));
            processes.abort(1);
        }
    }();
    processes.leave();
    if (!done && processes.rank() > 0) return {};  // rank 0 says it
    return done;
}

}  // namespace vitrine::cli
