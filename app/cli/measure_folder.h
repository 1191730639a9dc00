// Measures of a model over a folder, which no explanation enters.
#pragma once

#include <string>
#include <vector>

#include "cli/commands.h"

namespace vitrine::cli {

/// Whether what is asked for is such a measure; then no method is.
bool measures_a_folder(const std::vector<std::string>& measures);

/// Prints its tables, or its document, and writes both to a folder where one is named.
Status measure_folder(const Common& common, const MeasureOptions& options);

}  // namespace vitrine::cli
