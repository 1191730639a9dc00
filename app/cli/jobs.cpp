// Stopping long work, and its settings on the command line.
#include "cli/jobs.h"

#include <csignal>

namespace vitrine::cli {

namespace {

std::stop_source* interrupted = nullptr;

}  // namespace

StopOnInterrupt::StopOnInterrupt() {
    interrupted = &source_;
    std::signal(SIGINT, [](int) {
        std::signal(SIGINT, SIG_DFL);
        interrupted->request_stop();
    });
    std::signal(SIGTERM, [](int) { interrupted->request_stop(); });
}

StopOnInterrupt::~StopOnInterrupt() {
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
    interrupted = nullptr;
}

Result<std::shared_ptr<Model>> open_for_job(const Common& common,
                                            std::vector<std::pair<std::string, std::string>>& settings) {
    Common of_model = common;
    of_model.set.clear();
    for (const auto& text : common.set) {
        const auto equals = text.find('=');
        if (equals == std::string::npos || equals == 0)
            return fail(ErrorCode::BadInput, "--set is '{}', expected key=value", text);
        if (text.starts_with("preprocess."))
            of_model.set.push_back(text);
        else
            settings.emplace_back(text.substr(0, equals), text.substr(equals + 1));
    }
    return open(of_model);
}

Status add_batch(const Common& common, const std::string& name,
                 std::vector<std::pair<std::string, std::string>>& settings) {
    if (common.batch <= 1) return {};
    for (const auto& [given, value] : settings)
        if (given == name)
            return fail(ErrorCode::BadInput, "--batch {} and --set {}={} set the same twice: leave one of them out",
                        common.batch, name, value);
    settings.emplace_back(name, std::to_string(common.batch));
    return {};
}

}  // namespace vitrine::cli
