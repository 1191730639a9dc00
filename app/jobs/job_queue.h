// One thread for the work, results handed back to the thread that asked: the engine is reached only from inside a job.
//
//     JobQueue<Workbench> jobs(make_workbench, deliver);
//     jobs.post({.tag = "hover"}, [=](Workbench& bench, JobControl& job) { return bench.row(token, job.stop()); },
//               [=](Result<Row> row) { show(row); });
//
// No Qt here: `deliver` is how a closure reaches the interface thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include <vitrine/base/result.h>

namespace vitrine::app {

/// What goes first when several jobs wait. Within one urgency, first come, first served.
enum class Urgency : std::uint8_t { Now, Normal, Later };

struct JobLabel {
    std::string tag{};    ///< a job replaces a waiting one of the same tag; empty replaces nothing
    std::string title{};  ///< for people: "Opening vit_tiny"; empty is not shown
    Urgency urgency = Urgency::Normal;
};

struct JobProgress {
    std::int64_t done = 0, total = 0;  ///< total 0: not known
    std::string unit;                  ///< "layers"
};

/// What the status bar shows.
struct JobStatus {
    std::string running;  ///< tag of the running job; empty when idle (a cancelled job counts as gone at once)
    std::string title;
    JobProgress progress;
    int waiting = 0;
};

class JobThread;

/// Handed to a job; lives on the engine thread for as long as the job runs.
class JobControl {
  public:
    std::stop_token stop() const { return stop_; }
    void report(std::int64_t done, std::int64_t total, std::string unit);
    /// Something to show before the job is done: runs on the interface thread, before the job's own result; dropped
    /// once the job was cancelled.
    void show(std::function<void()> closure);

  private:
    friend class JobThread;
    JobControl(JobThread& thread, std::uint64_t id, std::stop_token stop)
        : thread_(thread), id_(id), stop_(std::move(stop)) {}
    JobThread& thread_;
    std::uint64_t id_;
    std::stop_token stop_;
};

/// The untyped core. post, cancel and status belong to the interface thread; they never wait for a job.
class JobThread {
  public:
    using Deliver = std::function<void(std::function<void()>)>;      ///< runs a closure on the interface thread, later;
                                                                     ///< callable from any thread
    using Work = std::function<std::function<void()>(JobControl&)>;  ///< runs here, returns what is to run on the
                                                                     ///< interface thread

    explicit JobThread(Deliver deliver, std::function<void()> at_end = {});
    ~JobThread();  ///< asks the running job to stop and waits for it; nothing is delivered any more
    JobThread(const JobThread&) = delete;
    JobThread& operator=(const JobThread&) = delete;

    void post(JobLabel label, Work work);
    /// Drops waiting jobs of this tag, and the running one: it is asked to stop. No result of this tag arrives any
    /// more, not even one that is already on its way.
    void cancel(const std::string& tag);
    void cancel_all();
    JobStatus status() const;
    /// Called on the interface thread after a job started, ended, reported or was cancelled; several changes may come
    /// as one call.
    void on_change(std::function<void()> changed);
    /// Asks the running job to stop, drops the rest and joins. Called by the destructor.
    void finish();

  private:
    friend class JobControl;
    struct Job {
        std::uint64_t id = 0;
        JobLabel label;
        Work work;
        std::stop_source stop;
        std::shared_ptr<std::atomic<bool>> dropped = std::make_shared<std::atomic<bool>>(false);
    };
    void run();
    void tell_change();
    void report(std::uint64_t id, JobProgress progress);
    void show(std::uint64_t id, std::function<void()> closure);

    Deliver deliver_;
    std::function<void()> at_end_;
    mutable std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::shared_ptr<Job>> waiting_;  // guarded by mutex_, as is all below
    std::shared_ptr<Job> running_;
    std::deque<std::shared_ptr<Job>> answered_;  // done, their results on the way to the interface thread
    JobProgress progress_;
    std::uint64_t next_id_ = 1;
    bool ending_ = false;
    bool change_told_ = false;
    std::shared_ptr<std::function<void()>> changed_;  // shared, so that a delivered closure outlives us safely
    std::thread thread_;
};

/// The typed front: every job receives the engine, which is made, used and destroyed on the engine thread.
template <class Engine>
class JobQueue {
  public:
    JobQueue(std::function<std::unique_ptr<Engine>()> make, JobThread::Deliver deliver)
        : engine_(std::make_shared<Holder>(Holder{std::move(make), nullptr})),
          thread_(std::move(deliver), [holder = engine_] { holder->engine.reset(); }) {}

    /// @param work  (Engine&, JobControl&) -> Result<T>; an exception becomes an Internal error
    /// @param then  (Result<T>), on the interface thread, not called once the job was cancelled
    template <class Job, class Then>
    void post(JobLabel label, Job work, Then then) {
        using Answer = std::invoke_result_t<Job, Engine&, JobControl&>;
        thread_.post(std::move(label), [holder = engine_, work = std::move(work),
                                        then = std::move(then)](JobControl& control) mutable {
            auto answer = std::make_shared<Answer>([&]() -> Answer {
                try {
                    if (!holder->engine) holder->engine = holder->make();
                    return work(*holder->engine, control);
                } catch (const std::exception& error) {
                    return fail(ErrorCode::Internal, "{}", error.what());
                } catch (...) {
                    return fail(ErrorCode::Internal, "an unknown exception ended the job");
                }
            }());
            return std::function<void()>([answer, then = std::move(then)]() mutable { then(std::move(*answer)); });
        });
    }

    void cancel(const std::string& tag) { thread_.cancel(tag); }
    void cancel_all() { thread_.cancel_all(); }
    JobStatus status() const { return thread_.status(); }
    void on_change(std::function<void()> changed) { thread_.on_change(std::move(changed)); }
    void finish() { thread_.finish(); }

  private:
    struct Holder {
        std::function<std::unique_ptr<Engine>()> make;
        std::unique_ptr<Engine> engine;
    };
    std::shared_ptr<Holder> engine_;
    JobThread thread_;
};

}  // namespace vitrine::app
