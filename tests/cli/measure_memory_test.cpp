// A measurement over many pictures keeps its memory: what one picture took is given back before the next.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vitrine/base/file.h>
#include <vitrine/base/random.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>

#include "../gui/tiny_model.h"

namespace {

namespace fs = std::filesystem;

/// Bytes of a process that lie in memory.
std::int64_t resident_bytes(pid_t process) {
    std::ifstream file("/proc/" + std::to_string(process) + "/statm");
    std::int64_t pages = 0, resident = 0;
    file >> pages >> resident;
    return resident * sysconf(_SC_PAGESIZE);
}

TEST(MeasureMemory, StaysFlatOverFiveHundredPictures) {
    // Memory goes up and down within a picture, so the most of a hundred pictures is compared with the most of two
    // hundred before: a peak that is rarer than that comes among the many rather than among the few.
    constexpr int kPictures = 500, kSettled = 50, kEarly = 200, kLate = 100;
    const fs::path folder = fs::temp_directory_path() / ("vitrine-memory-" + std::to_string(getpid()));
    fs::create_directories(folder / "pictures");
    ASSERT_TRUE(vitrine::test::write_wide_model(folder / "model", 96).has_value());
    for (int i = 0; i < kPictures; ++i) {
        char name[32];
        std::snprintf(name, sizeof name, "%03d.ppm", i);
        // Sizes differ, so that nothing is flat only because every buffer fits again.
        const int width = 96 + i % 37, height = 96 + i % 23;
        std::string text = "P6\n" + std::to_string(width) + " " + std::to_string(height) + "\n255\n";
        for (int k = 0; k < width * height * 3; ++k)
            text += static_cast<char>(
                vitrine::random_bits(1, static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(k / 300)) & 0xFFu);
        std::ofstream(folder / "pictures" / name, std::ios::binary) << text;
    }
    const fs::path state = folder / "state.jsonl";
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        if (std::freopen("/dev/null", "w", stdout) == nullptr) _exit(1);
        execl(VITRINE_PROGRAM, VITRINE_PROGRAM, "measure", (folder / "model").c_str(), (folder / "pictures").c_str(),
              "--method", "random,rollout,chefer,grad_cam,integrated_gradients:steps=4", "--measure",
              "sparseness,deletion:step=1500,average_drop", "--threads", "1", "--state", state.c_str(),
              static_cast<char*>(nullptr));
        _exit(1);
    }
    std::int64_t early = 0, late = 0;
    int status = 0, seen = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        // Fifteen findings a picture, after a few lines of head.
        const auto text = vitrine::read_text(state);
        const auto done = text ? std::count(text->begin(), text->end(), '\n') / 15 : 0;
        const std::int64_t now = resident_bytes(child);
        if (done >= kSettled && done < kPictures) {  // the table at the end is another matter
            if (done < kSettled + kEarly) early = std::max(early, now);
            if (done >= kPictures - kLate) late = std::max(late, now);
            ++seen;
        }
        usleep(20000);
    }
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
    ASSERT_GT(seen, 10);
    ASSERT_GT(early, 0);
    ASSERT_GT(late, 0);
    const double growth = static_cast<double>(late - early) / 1e6;
    std::printf("most resident of pictures %d to %d %.1f MB, of %d to %d %.1f MB\n", kSettled, kSettled + kEarly,
                static_cast<double>(early) / 1e6, kPictures - kLate, kPictures, static_cast<double>(late) / 1e6);
    // The input of one picture alone is 110 KB: those of the 250 pictures between the ends of both would be 27 MB,
    // with their captures far more.
    EXPECT_LT(growth, 12);
    fs::remove_all(folder);
}

}  // namespace
