// Threads that stand for the processes of one training, for tests.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include <vitrine/peers.h>

namespace vitrine {

/// Where threads meet that stand for the processes of one training.
class Meeting {
  public:
    explicit Meeting(int count) : values(static_cast<std::size_t>(count)), failures(values.size()), count_(count) {}
    /// False where one of them gave up.
    bool wait() {
        std::unique_lock lock(mutex_);
        const auto round = round_;
        if (++arrived_ == count_) {
            arrived_ = 0;
            ++round_;
            changed_.notify_all();
        }
        changed_.wait(lock, [&] { return round_ != round || broken_; });
        return round_ != round;
    }
    void end() {
        const std::scoped_lock lock(mutex_);
        broken_ = true;
        changed_.notify_all();
    }
    std::vector<std::vector<double>> values;
    std::vector<Status> failures;
    int count() const { return count_; }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    int count_, arrived_ = 0, round_ = 0;
    bool broken_ = false;
};

class ThreadPeers final : public Peers {
  public:
    ThreadPeers(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}
    int rank() const override { return rank_; }
    int count() const override { return meeting_.count(); }
    Status sum(std::span<double> values) override {
        meeting_.values[static_cast<std::size_t>(rank_)].assign(values.begin(), values.end());
        if (!meeting_.wait()) return fail(ErrorCode::Io, "the others are gone");
        std::fill(values.begin(), values.end(), 0.0);
        for (const auto& some : meeting_.values) {
            if (some.size() != values.size()) return fail(ErrorCode::Internal, "sums of unlike lengths");
            for (std::size_t i = 0; i < some.size(); ++i) values[i] += some[i];
        }
        if (!meeting_.wait()) return fail(ErrorCode::Io, "the others are gone");
        return {};
    }
    Status agree(const Status& mine) override {
        meeting_.failures[static_cast<std::size_t>(rank_)] = mine;
        if (!meeting_.wait()) return fail(ErrorCode::Io, "the others are gone");
        Status first;
        for (const Status& one : meeting_.failures)
            if (first && !one) first = one;
        if (!meeting_.wait()) return fail(ErrorCode::Io, "the others are gone");
        return first;
    }
    void give_up(const Error&) override { meeting_.end(); }

  private:
    Meeting& meeting_;
    int rank_;
};

inline void together(int count, const std::function<void(Peers&)>& work) {
    Meeting meeting(count);
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < count; ++rank)
        threads.emplace_back([&meeting, &work, rank] {
            ThreadPeers peers(meeting, rank);
            work(peers);
        });
}

}  // namespace vitrine
