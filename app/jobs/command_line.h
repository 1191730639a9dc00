// What the window shows, as the command that makes it again.
#pragma once

#include <filesystem>
#include <string>

#include "tcav_run.h"
#include "workbench.h"

namespace vitrine::app {

/// "vitrine explain MODEL PICTURE --method NAME ... --out DIR" for a shell; DIR is left for the person to name.
///
/// @param model   as it was asked for: a path, or "starter"
/// @param classes  of the model; without classes the second picture is what is to be alike
std::string command_line(const std::string& model, std::int64_t classes, const std::filesystem::path& picture,
                         const Wanted& wanted);

/// "vitrine tcav MODEL --class N ..." for a shell.
std::string command_line(const TcavPlan& plan);

}  // namespace vitrine::app
