// Several processes that share a job, started by mpirun; one where there is none.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine::cli {

/// This process among those that share a job. All calls but rank() and size() are made by all of them together.
///
/// MPI lives in a file of its own beside the program, which is loaded only here: who does not use it needs no MPI.
class Processes {
  public:
    /// Joins the others where `asked`, or where a launcher of MPI started this process.
    ///
    /// @error Unsupported  this build has no MPI, or it cannot be loaded
    static Result<Processes> join(bool asked);
    Processes(Processes&&) = default;
    Processes& operator=(Processes&&) = delete;
    ~Processes() = default;

    int rank() const { return rank_; }
    int size() const { return size_; }

    /// What each process says, by rank; empty but at rank 0.
    Result<std::vector<std::string>> gather(const std::string& mine) const;
    /// What rank 0 says, everywhere.
    Result<std::string> share(const std::string& of_rank_0) const;
    /// Replaces each value by the sum of all processes', the same bits everywhere.
    Status sum(std::span<double> values) const;
    /// The first failure of any process, in the order of ranks, everywhere; success where there is none.
    Status agree(const Status& mine) const;
    /// Leaves; nothing can be said afterwards. A process that ends without takes the others down with it.
    void leave();
    /// Ends all processes at once: one of them cannot go on and the others would wait for it.
    [[noreturn]] void abort(int status) const;

  private:
    struct Library;
    Processes() = default;
    std::shared_ptr<Library> mpi_;  ///< null where there is one process
    int rank_ = 0, size_ = 1;
};

/// Runs a command's work in this process and those that share it. Rank 0 says the error; one that is thrown while
/// others wait ends them all.
Status shared_by_processes(bool asked, const std::function<Status(const Processes&)>& work);

}  // namespace vitrine::cli
