// The command line: stable, scripts and tests depend on it.
#pragma once

#include <string>
#include <vector>

namespace vitrine::cli {

/// Runs one command. Exit status: 0 done, 1 failed (one sentence says why), 2 wrong usage, 3 this model or machine
/// cannot do that.
/// @param arguments  without the program's name: {"info", "starter", "--json"}
int run(const std::vector<std::string>& arguments);

/// True when the first argument is a command (and not a file to open in the window).
bool is_command(const std::string& argument);

}  // namespace vitrine::cli
