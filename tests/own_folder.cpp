// Gives every test program a folder of its own for temporary files, which goes when the program ends: two checkouts may
// be tested at once, tests of one program beside each other, and what a killed one left behind is in nobody's way.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace vitrine::test {
namespace {

class OwnFolder {
  public:
    OwnFolder() {
        std::error_code failed;
        const char* given = std::getenv("TEST_TMPDIR");
        const auto above =
            given && *given ? std::filesystem::path(given) : std::filesystem::temp_directory_path(failed);
        std::string name = (above / ("vitrine_test_" + std::to_string(owner_) + "_XXXXXX")).string();
        if (failed || !::mkdtemp(name.data())) return;  // tests that write then say what is wrong
        path_ = name;
        ::chmod(name.c_str(), 0755);               // some tests become another user
        ::setenv("TEST_TMPDIR", name.c_str(), 1);  // what testing::TempDir() reads
    }
    OwnFolder(const OwnFolder&) = delete;
    OwnFolder& operator=(const OwnFolder&) = delete;
    ~OwnFolder() {
        if (path_.empty() || ::getpid() != owner_) return;  // a child leaves it to its parent
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }

  private:
    const pid_t owner_ = ::getpid();
    std::filesystem::path path_;
};

const OwnFolder own_folder;

}  // namespace
}  // namespace vitrine::test
