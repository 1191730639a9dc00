// The engine thread and its queue.
#include "job_queue.h"

#include <algorithm>

namespace vitrine::app {

void JobControl::report(std::int64_t done, std::int64_t total, std::string unit) {
    thread_.report(id_, {done, total, std::move(unit)});
}

void JobControl::show(std::function<void()> closure) { thread_.show(id_, std::move(closure)); }

JobThread::JobThread(Deliver deliver, std::function<void()> at_end)
    : deliver_(std::move(deliver)),
      at_end_(std::move(at_end)),
      changed_(std::make_shared<std::function<void()>>()),
      thread_([this] { run(); }) {}

JobThread::~JobThread() { finish(); }

void JobThread::finish() {
    {
        const std::lock_guard lock(mutex_);
        ending_ = true;
        for (const auto& job : waiting_) job->dropped->store(true);
        waiting_.clear();
        for (const auto& job : answered_) job->dropped->store(true);
        if (running_) {
            running_->dropped->store(true);
            running_->stop.request_stop();
        }
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
}

void JobThread::post(JobLabel label, Work work) {
    auto job = std::make_shared<Job>();
    job->label = std::move(label);
    job->work = std::move(work);
    std::shared_ptr<Job> replaced;  // destroyed after the lock: its closures may hold anything
    {
        const std::lock_guard lock(mutex_);
        if (ending_) return;
        job->id = next_id_++;
        if (!job->label.tag.empty()) {
            const auto same = std::find_if(waiting_.begin(), waiting_.end(),
                                           [&](const auto& other) { return other->label.tag == job->label.tag; });
            if (same != waiting_.end()) {
                replaced = *same;
                replaced->dropped->store(true);
                waiting_.erase(same);
            }
        }
        const auto place = std::find_if(waiting_.begin(), waiting_.end(),
                                        [&](const auto& other) { return other->label.urgency > job->label.urgency; });
        waiting_.insert(place, std::move(job));
    }
    wake_.notify_one();
    tell_change();
}

void JobThread::cancel(const std::string& tag) {
    std::deque<std::shared_ptr<Job>> gone;
    {
        const std::lock_guard lock(mutex_);
        const auto keep = std::stable_partition(waiting_.begin(), waiting_.end(),
                                                [&](const auto& job) { return job->label.tag != tag; });
        gone.assign(keep, waiting_.end());
        waiting_.erase(keep, waiting_.end());
        for (const auto& job : gone) job->dropped->store(true);
        if (running_ && running_->label.tag == tag) {
            running_->dropped->store(true);
            running_->stop.request_stop();
        }
        for (const auto& job : answered_)
            if (job->label.tag == tag) job->dropped->store(true);
    }
    tell_change();
}

void JobThread::cancel_all() {
    std::deque<std::shared_ptr<Job>> gone;
    {
        const std::lock_guard lock(mutex_);
        gone.swap(waiting_);
        for (const auto& job : gone) job->dropped->store(true);
        if (running_) {
            running_->dropped->store(true);
            running_->stop.request_stop();
        }
        for (const auto& job : answered_) job->dropped->store(true);
    }
    tell_change();
}

JobStatus JobThread::status() const {
    const std::lock_guard lock(mutex_);
    JobStatus status;
    status.waiting = static_cast<int>(waiting_.size());
    if (running_ && !running_->dropped->load()) {
        status.running = running_->label.tag;
        status.title = running_->label.title;
        status.progress = progress_;
    }
    return status;
}

void JobThread::on_change(std::function<void()> changed) { *changed_ = std::move(changed); }

void JobThread::tell_change() {
    {
        const std::lock_guard lock(mutex_);
        if (change_told_ || ending_) return;
        change_told_ = true;
    }
    // The closure may run after this object is gone: it only touches what it shares, and the flag through the weak
    // pointer's owner.
    deliver_([this, alive = std::weak_ptr(changed_)] {
        const auto changed = alive.lock();
        if (!changed) return;
        {
            const std::lock_guard lock(mutex_);
            change_told_ = false;
        }
        if (*changed) (*changed)();
    });
}

void JobThread::report(std::uint64_t id, JobProgress progress) {
    {
        const std::lock_guard lock(mutex_);
        if (!running_ || running_->id != id) return;
        progress_ = std::move(progress);
    }
    tell_change();
}

void JobThread::show(std::uint64_t id, std::function<void()> closure) {
    std::shared_ptr<Job> job;
    {
        const std::lock_guard lock(mutex_);
        if (!running_ || running_->id != id || running_->dropped->load()) return;
        job = running_;
    }
    deliver_([alive = std::weak_ptr(changed_), job, closure = std::move(closure)] {
        if (alive.lock() && !job->dropped->load()) closure();
    });
}

void JobThread::run() {
    for (;;) {
        std::shared_ptr<Job> job;
        {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
            if (ending_) break;
            job = std::move(waiting_.front());
            waiting_.pop_front();
            running_ = job;
            progress_ = {};
        }
        tell_change();
        JobControl control(*this, job->id, job->stop.get_token());
        std::function<void()> then = job->work(control);
        job->work = nullptr;  // what the work captured ends on the thread that used it
        {
            const std::lock_guard lock(mutex_);
            running_.reset();
            progress_ = {};
            if (!job->dropped->load()) answered_.push_back(job);
        }
        // Asked again on the interface thread: a cancel between here and there still drops the result.
        if (!job->dropped->load()) {
            deliver_([this, alive = std::weak_ptr(changed_), job, then = std::move(then)] {
                if (!alive.lock()) return;
                {
                    const std::lock_guard lock(mutex_);
                    std::erase(answered_, job);
                }
                if (!job->dropped->load()) then();
            });
        }
        tell_change();
    }
    if (at_end_) at_end_();
}

}  // namespace vitrine::app
