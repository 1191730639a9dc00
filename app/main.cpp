// The program: a command goes to the command line, files and nothing go to the window.
#include <QApplication>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/cli.h"
#include "jobs/milestones.h"
#include "jobs/workbench.h"
#include "windows/main_window.h"

namespace {

bool has_display() {
    for (const char* name : {"DISPLAY", "WAYLAND_DISPLAY"})
        if (const char* value = std::getenv(name); value && *value) return true;
    return qEnvironmentVariableIsSet("QT_QPA_PLATFORM");
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    std::error_code ignored;
    // A file called "info" can still be opened as ./info.
    if (!arguments.empty() && (vitrine::cli::is_command(arguments[0]) || arguments[0].starts_with('-')))
        return vitrine::cli::run(arguments);
    for (const auto& argument : arguments) {
        if (argument == "starter" || std::filesystem::exists(argument, ignored)) continue;
        std::fprintf(stderr, "vitrine: '%s' is neither a command nor a file; see vitrine --help\n", argument.c_str());
        return 2;
    }
    if (!has_display()) {
        const auto pictures = vitrine::app::Workbench::builtin_pictures();
        if (pictures.empty()) {
            std::fputs(
                "vitrine: there is no display to open a window on and no built-in picture to explain; see vitrine "
                "--help\n",
                stderr);
            return 1;
        }
        std::fputs(
            "vitrine: there is no display, so an explanation of the built-in photo is written to ./vitrine-out/\n",
            stderr);
        return vitrine::cli::run({"explain", "starter", pictures.front().string(), "--method", "raw_attention,rollout",
                                  "--out", "vitrine-out"});
    }
    vitrine::app::milestone("libraries loaded");
    QApplication application(argc, argv);
    QApplication::setApplicationName(QStringLiteral("vitrine"));
    QApplication::setApplicationDisplayName(QString());
    QApplication::setApplicationVersion(QStringLiteral(VITRINE_APP_VERSION));
    vitrine::app::milestone("display opened");
    vitrine::app::MainWindow window;
    vitrine::app::milestone("window made");
    QStringList files;
    for (const auto& argument : arguments) files << QString::fromStdString(argument);
    window.show();
    window.start(files);
    return QApplication::exec();
}
