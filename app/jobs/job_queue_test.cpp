// The queue's promises, with a mailbox in place of the interface thread.
#include "job_queue.h"

#include <chrono>
#include <future>
#include <latch>
#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

namespace vitrine::app {
namespace {

using namespace std::chrono_literals;

constexpr auto kPatience = 60s;  // waited for in full only where something is wrong

/// Plays the interface thread: closures wait here until the test pumps them.
class Mailbox {
  public:
    JobThread::Deliver deliver() {
        return [this](std::function<void()> closure) {
            {
                const std::lock_guard lock(mutex_);
                closures_.push_back(std::move(closure));
            }
            arrived_.notify_all();
        };
    }
    /// Runs closures until `done` holds; false after long patience.
    template <class Done>
    bool pump_until(Done done) {
        const auto end = std::chrono::steady_clock::now() + kPatience;
        while (!done()) {
            std::function<void()> closure;
            {
                std::unique_lock lock(mutex_);
                if (!arrived_.wait_until(lock, end, [this] { return !closures_.empty(); })) return false;
                closure = std::move(closures_.front());
                closures_.pop_front();
            }
            closure();
        }
        return true;
    }
    void pump_for(std::chrono::milliseconds time) {
        std::this_thread::sleep_for(time);
        pump_until([&] { return empty(); });
    }
    bool empty() {
        const std::lock_guard lock(mutex_);
        return closures_.empty();
    }

  private:
    std::mutex mutex_;
    std::condition_variable arrived_;
    std::deque<std::function<void()>> closures_;
};

struct Counter {
    int calls = 0;
    std::thread::id home = std::this_thread::get_id();
};

struct JobQueueTest : testing::Test {
    Mailbox mailbox;
    JobQueue<Counter> jobs{[] { return std::make_unique<Counter>(); }, mailbox.deliver()};

    /// A job that runs until it is released, so that what is posted meanwhile has to wait.
    std::shared_ptr<std::promise<void>> block(const std::string& tag = "blocker") {
        auto release = std::make_shared<std::promise<void>>();
        auto started = std::make_shared<std::promise<void>>();
        jobs.post(
            {.tag = tag},
            [release, started](Counter&, JobControl&) -> Result<int> {
                started->set_value();
                release->get_future().wait();
                return 0;
            },
            [](Result<int>) {});
        started->get_future().wait();
        return release;
    }
};

TEST_F(JobQueueTest, AJobRunsOnTheEngineThreadAndAnswersOnTheOther) {
    std::thread::id worked, made, answered;
    bool done = false;
    jobs.post(
        {.tag = "a"},
        [&](Counter& counter, JobControl&) -> Result<int> {
            worked = std::this_thread::get_id();
            made = counter.home;
            return 42;
        },
        [&](Result<int> answer) {
            ASSERT_TRUE(answer);
            EXPECT_EQ(*answer, 42);
            answered = std::this_thread::get_id();
            done = true;
        });
    ASSERT_TRUE(mailbox.pump_until([&] { return done; }));
    EXPECT_EQ(answered, std::this_thread::get_id());
    EXPECT_NE(worked, std::this_thread::get_id());
    EXPECT_EQ(worked, made);
}

TEST_F(JobQueueTest, WhatAJobShowsComesBeforeItsResultAndNotAfterACancel) {
    std::vector<std::string> seen;
    std::thread::id shown;
    jobs.post(
        {.tag = "a"},
        [&](Counter&, JobControl& job) -> Result<int> {
            for (const char* step : {"first", "second"})
                job.show([&seen, &shown, step] {
                    seen.emplace_back(step);
                    shown = std::this_thread::get_id();
                });
            return 0;
        },
        [&](Result<int>) { seen.emplace_back("result"); });
    ASSERT_TRUE(mailbox.pump_until([&] { return seen.size() == 3; }));
    EXPECT_EQ(seen, (std::vector<std::string>{"first", "second", "result"}));
    EXPECT_EQ(shown, std::this_thread::get_id());
    // Cancelled while it is on its way: it stays away.
    std::promise<void> said, release;
    jobs.post(
        {.tag = "b"},
        [&](Counter&, JobControl& job) -> Result<int> {
            job.show([&] { seen.emplace_back("late"); });
            said.set_value();
            release.get_future().wait();
            job.show([&] { seen.emplace_back("later"); });
            return 0;
        },
        [&](Result<int>) { seen.emplace_back("never"); });
    said.get_future().wait();
    jobs.cancel("b");
    release.set_value();
    bool done = false;
    jobs.post(
        {.tag = "c"}, [](Counter&, JobControl&) -> Result<int> { return 0; }, [&](Result<int>) { done = true; });
    ASSERT_TRUE(mailbox.pump_until([&] { return done; }));
    EXPECT_EQ(seen.size(), 3u);
}

TEST_F(JobQueueTest, AWaitingJobOfTheSameTagIsReplacedAndOthersAreNot) {
    const auto release = block();
    std::vector<int> answered;
    const auto post = [&](const std::string& tag, int value) {
        jobs.post(
            {.tag = tag}, [value](Counter&, JobControl&) -> Result<int> { return value; },
            [&answered](Result<int> answer) { answered.push_back(*answer); });
    };
    for (int i = 0; i < 100; ++i) post("hover", i);
    post("explain", 1000);
    post("hover", 100);
    EXPECT_EQ(jobs.status().waiting, 2);
    release->set_value();
    ASSERT_TRUE(mailbox.pump_until([&] { return answered.size() == 2; }));
    EXPECT_EQ(answered, (std::vector{1000, 100}));
}

TEST_F(JobQueueTest, UrgentWorkGoesFirstAndEqualsKeepTheirOrder) {
    const auto release = block();
    std::vector<std::string> order;
    const auto post = [&](const std::string& name, Urgency urgency) {
        jobs.post(
            {.tag = name, .title = {}, .urgency = urgency},
            [name](Counter&, JobControl&) -> Result<std::string> { return name; },
            [&order](Result<std::string> answer) { order.push_back(*answer); });
    };
    post("later 1", Urgency::Later);
    post("normal 1", Urgency::Normal);
    post("later 2", Urgency::Later);
    post("normal 2", Urgency::Normal);
    post("now", Urgency::Now);
    release->set_value();
    ASSERT_TRUE(mailbox.pump_until([&] { return order.size() == 5; }));
    EXPECT_EQ(order, (std::vector<std::string>{"now", "normal 1", "normal 2", "later 1", "later 2"}));
}

TEST_F(JobQueueTest, CancelStopsTheRunningJobFreesTheWindowAtOnceAndDropsTheResult) {
    std::promise<void> started, saw_stop;
    bool answered = false;
    jobs.post(
        {.tag = "explain"},
        [&](Counter&, JobControl& job) -> Result<int> {
            started.set_value();
            while (!job.stop().stop_requested()) std::this_thread::sleep_for(1ms);
            saw_stop.set_value();
            return 1;
        },
        [&](Result<int>) { answered = true; });
    started.get_future().wait();
    EXPECT_EQ(jobs.status().running, "explain");
    jobs.cancel("explain");
    EXPECT_EQ(jobs.status().running, "");
    EXPECT_EQ(saw_stop.get_future().wait_for(kPatience), std::future_status::ready);
    bool after = false;
    jobs.post(
        {.tag = "after"}, [](Counter&, JobControl&) -> Result<int> { return 2; }, [&](Result<int>) { after = true; });
    ASSERT_TRUE(mailbox.pump_until([&] { return after; }));
    EXPECT_FALSE(answered);
}

TEST_F(JobQueueTest, AResultOnItsWayIsDroppedByALateCancel) {
    std::promise<void> ended;
    bool answered = false, after = false;
    jobs.post(
        {.tag = "a"}, [](Counter&, JobControl&) -> Result<int> { return 1; }, [&](Result<int>) { answered = true; });
    jobs.post(
        {.tag = "b"},
        [&](Counter&, JobControl&) -> Result<int> {
            ended.set_value();
            return 1;
        },
        [&](Result<int>) { after = true; });
    ended.get_future().wait();  // the answer of "a" now lies in the mailbox, unread
    jobs.cancel("a");
    ASSERT_TRUE(mailbox.pump_until([&] { return after; }));
    EXPECT_FALSE(answered);
}

TEST_F(JobQueueTest, CancelAllLeavesNothingWaiting) {
    const auto release = block();
    int answered = 0;
    for (int i = 0; i < 5; ++i)
        jobs.post(
            {}, [](Counter&, JobControl&) -> Result<int> { return 1; }, [&](Result<int>) { ++answered; });
    EXPECT_EQ(jobs.status().waiting, 5);
    jobs.cancel_all();
    EXPECT_EQ(jobs.status().waiting, 0);
    release->set_value();
    mailbox.pump_for(50ms);
    EXPECT_EQ(answered, 0);
}

TEST_F(JobQueueTest, AnExceptionBecomesAnErrorAndTheThreadLivesOn) {
    std::string message;
    bool alive = false;
    jobs.post(
        {}, [](Counter&, JobControl&) -> Result<int> { throw std::runtime_error("the sky fell"); },
        [&](Result<int> answer) {
            ASSERT_FALSE(answer);
            message = answer.error().message;
            EXPECT_EQ(answer.error().code, ErrorCode::Internal);
        });
    jobs.post(
        {}, [](Counter&, JobControl&) -> Result<int> { throw 3; }, [&](Result<int> answer) { EXPECT_FALSE(answer); });
    jobs.post(
        {}, [](Counter&, JobControl&) -> Result<int> { return 1; },
        [&](Result<int> answer) { alive = answer.has_value(); });
    ASSERT_TRUE(mailbox.pump_until([&] { return alive; }));
    EXPECT_EQ(message, "the sky fell");
}

TEST_F(JobQueueTest, ProgressArrivesAndIsGoneAfterTheJob) {
    std::promise<void> reported, go_on;
    bool done = false;
    std::vector<std::int64_t> seen;
    jobs.on_change([&] {
        const auto status = jobs.status();
        if (status.progress.total == 12) seen.push_back(status.progress.done);
    });
    jobs.post(
        {.tag = "t", .title = "Working"},
        [&](Counter&, JobControl& job) -> Result<int> {
            job.report(3, 12, "layers");
            reported.set_value();
            go_on.get_future().wait();
            return 1;
        },
        [&](Result<int>) { done = true; });
    reported.get_future().wait();
    EXPECT_EQ(jobs.status().progress.done, 3);
    EXPECT_EQ(jobs.status().progress.unit, "layers");
    EXPECT_EQ(jobs.status().title, "Working");
    ASSERT_TRUE(mailbox.pump_until([&] { return !seen.empty(); }));
    EXPECT_EQ(seen.front(), 3);
    go_on.set_value();
    ASSERT_TRUE(mailbox.pump_until([&] { return done && jobs.status().running.empty(); }));
    EXPECT_EQ(jobs.status().progress.total, 0);
}

TEST(JobQueue, EndingItStopsTheRunningJobAndDestroysTheEngineOnItsThread) {
    struct Owned {
        std::thread::id* died;
        ~Owned() { *died = std::this_thread::get_id(); }
    };
    std::thread::id died, worked;
    Mailbox mailbox;
    std::promise<void> started;
    {
        JobQueue<Owned> jobs([&] { return std::unique_ptr<Owned>(new Owned{&died}); }, mailbox.deliver());
        jobs.post(
            {},
            [&](Owned&, JobControl& job) -> Result<int> {
                worked = std::this_thread::get_id();
                started.set_value();
                while (!job.stop().stop_requested()) std::this_thread::sleep_for(1ms);
                return 1;
            },
            [](Result<int>) { ADD_FAILURE() << "nothing may be delivered after the end"; });
        started.get_future().wait();
    }
    mailbox.pump_for(20ms);  // changes that were told before the end must not touch the dead queue
    EXPECT_EQ(died, worked);
    EXPECT_NE(died, std::this_thread::get_id());
}

TEST_F(JobQueueTest, ManyPostsFromTheInterfaceThreadAreAllAnsweredInOrder) {
    std::vector<int> answered;
    for (int i = 0; i < 2000; ++i)
        jobs.post(
            {},
            [i](Counter& counter, JobControl&) -> Result<int> {
                ++counter.calls;
                return i;
            },
            [&](Result<int> answer) { answered.push_back(*answer); });
    ASSERT_TRUE(mailbox.pump_until([&] { return answered.size() == 2000; }));
    for (int i = 0; i < 2000; ++i) EXPECT_EQ(answered[static_cast<std::size_t>(i)], i);
}

}  // namespace
}  // namespace vitrine::app
