// The table of a measurement: every measure of every method over the pictures, and what it is worth.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/chosen.h"
#include "cli/measure_state.h"
#include "cli/statistics.h"

namespace vitrine::cli {

/// A method against the best of the controls, over the pictures that both have.
struct Against {
    std::string control;
    std::size_t n = 0;
    double mean = 0;  ///< of method less control
    std::optional<Interval> interval;
    std::optional<double> p, p_holm;  ///< by sign flips; corrected over the methods of this measure
};

/// One measure of one method over all pictures.
struct Column {
    const Chosen<Explainer>* method = nullptr;
    const Chosen<Measure>* measure = nullptr;
    std::optional<std::string> why_not;
    std::string unit;
    std::vector<double> values;
    std::vector<std::string> pictures;                          ///< of the values
    std::vector<std::string> notes;                             ///< of the first picture that counts
    std::vector<std::pair<std::string, std::string>> left_out;  ///< picture, reason
    std::optional<Error> first_error;
    std::vector<double> method_ms, measure_ms;  ///< of the values
    std::int64_t method_bytes = 0;              ///< the most over the pictures
    std::optional<Interval> interval;
    std::optional<Against> against;

    bool is_control() const;
    /// Adds a picture; pictures come in the order of the command line.
    void add(const Finding& finding);
};

/// Fills in intervals, and for every measure that has a better side each method's difference from the best control.
void compare(std::vector<Column>& columns, std::uint64_t seed);

/// Figures of each column, and the protocol of each measure.
nlohmann::json describe(const std::vector<Column>& columns, std::uint64_t seed);
/// The same for people, measure by measure. Methods keep the order of the command line: nothing is ranked.
void print(const std::vector<Column>& columns);

}  // namespace vitrine::cli
