// The program of builds without the window.
#include "cli/cli.h"

int main(int argc, char** argv) {
    std::vector<std::string> arguments(argv + 1, argv + argc);
    if (arguments.empty()) arguments = {"--help"};
    return vitrine::cli::run(arguments);
}
