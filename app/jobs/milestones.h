// Where the time of a start goes: with VITRINE_TRACE set, each step is printed once with the time since the program was
// started (the loading of its libraries included).
#pragma once

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <set>
#include <string>

#include <unistd.h>

namespace vitrine::app {

/// Seconds since the kernel started this process, to 10 ms. Linux: /proc/self/stat, field 22.
inline double seconds_since_start() {
    std::ifstream stat("/proc/self/stat");
    std::string field;
    std::getline(stat, field, ')');  // the program's name may hold spaces
    for (int i = 3; i <= 22; ++i) stat >> field;
    const double started = std::atof(field.c_str()) / static_cast<double>(sysconf(_SC_CLK_TCK));
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9 - started;
}

/// Interface thread only.
inline void milestone(const char* step) {
    static const bool wanted = std::getenv("VITRINE_TRACE") != nullptr;
    static std::set<std::string> told;
    if (wanted && told.insert(step).second) std::fprintf(stderr, "%6.2f s  %s\n", seconds_since_start(), step);
}

}  // namespace vitrine::app
