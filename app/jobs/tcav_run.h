// Testing with concept vectors as the window asks for it: folders and lists of regions, and back come scores. Plain
// structs; no torch, no Qt in sight.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine::app {

struct TcavPlan {
    std::string model;  ///< as ModelFacts::request: it is opened once more, so that the window keeps its own
    std::string point;
    std::int64_t target = 0;
    std::filesystem::path examples, random;
    std::vector<std::pair<std::string, std::filesystem::path>> concepts;  ///< folders, and lists of regions
    std::string features = "whole";                                       ///< or "mean"
    std::int64_t runs = 30;
};

/// A mean over runs, and the middle 95 % of them.
struct TcavEstimate {
    double mean = 0, low = 0, high = 0;
};
TcavEstimate estimate_of(std::vector<double> scores);

struct TcavConcept {
    std::string name, features;
    std::int64_t examples = 0, drawn = 0;
    TcavEstimate score, random;
    double accuracy = 0, random_accuracy = 0;
    double p = 1, p_corrected = 1;

    bool significant() const { return p_corrected < 0.05; }
};

struct TcavFacts {
    std::string point, explained;
    std::int64_t examples = 0, random = 0, runs = 0;
    std::vector<TcavConcept> concepts;
    std::vector<std::string> notes, skipped;
};

/// On the calling thread, which gives way to others from then on.
Result<TcavFacts> run_tcav(const TcavPlan& plan, std::stop_token stop,
                           const std::function<void(std::string doing, std::int64_t done, std::int64_t total)>& doing);

}  // namespace vitrine::app
