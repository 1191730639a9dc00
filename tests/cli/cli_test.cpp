// The command line as scripts meet it: arguments in, files, JSON and exit status out.
#include <ATen/TensorOperators.h>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vitrine/autoencoder.h>
#include <vitrine/base/file.h>
#include <vitrine/mask_module.h>
#include <vitrine/preprocess.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <random>
#include <sstream>

#include "../gui/tiny_model.h"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Outcome {
    int status = -1;
    std::string out, err;
};

/// 64 concepts of a model as wide as the built-in one.
vitrine::AutoencoderConfig of_starter(const std::string& kind, const std::string& point) {
    vitrine::AutoencoderConfig config;
    config.kind = kind;
    config.k = 4;
    config.width = 192;
    config.latents = 64;
    config.point = point;
    return config;
}

class CommandLine : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::temp_directory_path() / ("vitrine-cli-" + std::to_string(getpid()));
        fs::create_directories(folder_);
        const char* set = std::getenv("VITRINE_TEST_DATA");
        data_ = set != nullptr ? fs::path(set) : fs::path(VITRINE_SOURCE_DIR) / "../shared/data";
        model_ = (data_ / "vit_tiny_patch16_224").string();
        photo_ = (data_ / "imagenet_photos/n01440764_tench.jpg").string();
    }
    void TearDown() override { fs::remove_all(folder_); }

    bool have_data() const { return fs::exists(model_) && fs::exists(photo_); }

    static std::string quoted(const std::string& text) {
        std::string out = "'";
        for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
        return out + "'";
    }

    Outcome vitrine(const std::vector<std::string>& arguments, const std::string& launcher = "") const {
        std::string command = launcher + " " + quoted(VITRINE_PROGRAM);
        for (const auto& argument : arguments) command.append(1, ' ').append(quoted(argument));
        command +=
            " >" + quoted((folder_ / "out").string()) + " 2>" + quoted((folder_ / "err").string()) + " </dev/null";
        const int raw = std::system(command.c_str());
        Outcome outcome;
        outcome.status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128;
        outcome.out = *vitrine::read_text(folder_ / "out");
        outcome.err = *vitrine::read_text(folder_ / "err");
        return outcome;
    }

    /// Runs beside the test, without output.
    static pid_t started(std::vector<std::string> texts) {
        const pid_t child = fork();
        if (child != 0) return child;
        texts.insert(texts.begin(), VITRINE_PROGRAM);
        std::vector<char*> pointers;
        for (std::string& text : texts) pointers.push_back(text.data());
        pointers.push_back(nullptr);
        if (std::freopen("/dev/null", "w", stdout) == nullptr || std::freopen("/dev/null", "w", stderr) == nullptr)
            _exit(1);
        execv(pointers[0], pointers.data());
        _exit(1);
    }
    /// Starts what writes `out` and kills it as soon as `due` holds. Again where it was through before that: on a busy
    /// machine this process may not have had its turn.
    template <class Due>
    static bool killed(const std::vector<std::string>& texts, const fs::path& out, Due due) {
        for (int attempt = 0; attempt < 50; ++attempt) {
            const pid_t child = started(texts);
            if (child < 0) return false;
            int status = 0;
            while (waitpid(child, &status, WNOHANG) == 0) {
                if (due()) kill(child, SIGKILL);
                usleep(500);
            }
            if (WIFSIGNALED(status) && !fs::exists(out)) return true;
            fs::remove(out);
        }
        return false;
    }
    /// Why several processes cannot be tried here; empty where they can. Sets what two on one machine need.
    static std::string no_mpi() {
        if (!fs::exists(fs::path(VITRINE_PROGRAM).parent_path() / "vitrine_mpi.so")) return "this build has no MPI";
        if (std::system("command -v mpirun >/dev/null") != 0) return "there is no mpirun";
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
        setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);  // who waits gives its core to who works
        return "";
    }
    static constexpr const char* kTwo = "mpirun -n 2 --oversubscribe --bind-to none --mca btl self,vader";

    struct Array {
        std::vector<std::int64_t> shape;
        std::vector<float> values;
    };
    /// Reads what write_npy wrote, by NumPy's published format 1.0.
    static Array read_npy(const fs::path& file) {
        const std::string bytes = *vitrine::read_text(file, 1u << 30);
        EXPECT_EQ(bytes.substr(0, 6), "\x93NUMPY");
        const std::size_t header = static_cast<unsigned char>(bytes[8]) + 256u * static_cast<unsigned char>(bytes[9]);
        const std::string text = bytes.substr(10, header);
        EXPECT_NE(text.find("'<f4'"), std::string::npos) << text;
        Array array;
        const auto open = text.find('('), close = text.find(')');
        std::string number;
        for (std::size_t i = open + 1; i <= close; ++i) {
            if (std::isdigit(static_cast<unsigned char>(text[i])) != 0)
                number += text[i];
            else if (!number.empty())
                array.shape.push_back(std::stoll(number)), number.clear();
        }
        array.values.resize((bytes.size() - 10 - header) / 4);
        std::memcpy(array.values.data(), bytes.data() + 10 + header, array.values.size() * 4);
        return array;
    }

    fs::path folder_, data_;
    std::string model_, photo_;
};

#define NEED_DATA() \
    if (!have_data()) GTEST_SKIP() << "no test data at " << data_

TEST_F(CommandLine, TheReadmeNamesEveryCommand) {
    const Outcome help = vitrine({"--help"});
    const auto readme = vitrine::read_text(fs::path(VITRINE_SOURCE_DIR) / "README.md");
    ASSERT_TRUE(readme);
    std::istringstream lines(help.out.substr(help.out.find("Subcommands:")));
    std::string line;
    int commands = 0;
    std::getline(lines, line);
    while (std::getline(lines, line) && line.starts_with("  ")) {
        const auto name = line.substr(2, line.find(' ', 2) - 2);
        EXPECT_THAT(*readme, testing::HasSubstr("\n    vitrine " + name + " "));
        ++commands;
    }
    EXPECT_GT(commands, 10) << help.out;
}

TEST_F(CommandLine, ConceptsAreIndexedAndListed) {
    const fs::path pictures = folder_ / "pictures", concepts = folder_ / "c.safetensors",
                   index = folder_ / "c.safetensors.index";
    fs::create_directories(pictures);
    fs::copy_file(fs::path(VITRINE_SOURCE_DIR) / "resources/pictures/puppy.jpg", pictures / "puppy.jpg");
    std::ofstream(pictures / "broken.png") << "no picture";
    const auto config = of_starter("top_k", "blocks.8");
    ASSERT_TRUE(vitrine::Autoencoder::make(config, 1)->save(concepts));
    const std::vector<std::string> build{"index-concepts", "starter", pictures,  "--autoencoder",
                                         concepts,         "--set",   "rounds=5"};
    const Outcome built = vitrine(build);
    ASSERT_EQ(built.status, 0) << built.err;
    EXPECT_NE(built.out.find("64 concepts over 1 pictures (2 added, 0 changed, 0 removed, 1 more could not be read)"),
              std::string::npos)
        << built.out;

    std::ofstream(folder_ / "c.safetensors.names") << "3\tears\tanimal\n";
    const Outcome listed = vitrine({"index-concepts", "--show", index, "--sort", "effect", "--limit", "7", "--json"});
    ASSERT_EQ(listed.status, 0) << listed.err;
    const json all = json::parse(listed.out);
    ASSERT_EQ(all["concepts"].size(), 7U);
    EXPECT_GE(all["concepts"][0]["effect"], all["concepts"][1]["effect"]);
    EXPECT_EQ(all["concepts"][0]["tops"][0]["picture"], "puppy.jpg");
    EXPECT_EQ(all["concepts"][0]["tops"][0]["patch"].size(), 2U);
    EXPECT_EQ(all["changed"], "");
    EXPECT_EQ(all["facts"]["pictures"], "1");
    EXPECT_EQ(all["facts"]["skipped"], "1");
    const Outcome table = vitrine({"index-concepts", "--show", index, "--limit", "1"});
    EXPECT_NE(table.out.find("over 1 pictures (1 more could not be read)"), std::string::npos) << table.out;

    fs::copy_file(pictures / "puppy.jpg", pictures / "again.jpg");
    const int strongest = all["concepts"][0]["concept"];
    const Outcome whole = vitrine({"index-concepts", "--show", index, "--concept", std::to_string(strongest)});
    EXPECT_NE(whole.out.find("pictures by how strong it is in them"), std::string::npos) << whole.out;
    EXPECT_NE(whole.out.find("        1  ########"), std::string::npos) << whole.out;
    const Outcome one = vitrine({"index-concepts", "--show", index, "--concept", "3"});
    EXPECT_NE(one.out.find("ears [animal]"), std::string::npos) << one.out;
    EXPECT_NE(one.err.find("1 was added since the index was built"), std::string::npos) << one.err;
    EXPECT_NE(vitrine({"index-concepts", "--show", index, "--concept", "64"}).err.find("has 0 to 63"),
              std::string::npos);
    EXPECT_EQ(all["replaced"], "");
    ASSERT_TRUE(vitrine::Autoencoder::make(config, 2)->save(concepts));
    const Outcome other = vitrine({"index-concepts", "--show", index, "--limit", "1"});
    EXPECT_NE(other.err.find("c.safetensors was replaced since the index was built"), std::string::npos) << other.err;
    // Whose names they are is only told where the file says it.
    EXPECT_EQ(other.err.find("another autoencoder"), std::string::npos) << other.err;
    std::ofstream(folder_ / "c.safetensors.names") << "# concepts of 0123456789ab\n3\tears\tanimal\n";
    const Outcome foreign = vitrine({"index-concepts", "--show", index, "--concept", "3"});
    EXPECT_EQ(foreign.status, 0);
    EXPECT_NE(foreign.err.find("c.safetensors.names were given to another autoencoder"), std::string::npos)
        << foreign.err;
    EXPECT_EQ(foreign.out.find("ears"), std::string::npos) << foreign.out;
    // What is asked for beside what leaves it unread is refused.
    const auto refused = [&](std::vector<std::string> more) {
        more.insert(more.begin(), "index-concepts");
        const Outcome outcome = vitrine(more);
        EXPECT_EQ(outcome.status, 2) << outcome.out << outcome.err;
        return outcome.err;
    };
    using testing::HasSubstr;
    for (const std::vector<std::string>& building : {std::vector<std::string>{"starter"},
                                                     {"starter", pictures},
                                                     {"--autoencoder", concepts},
                                                     {"--set", "rounds=5"}}) {
        std::vector<std::string> more{"--show", index};
        more.insert(more.end(), building.begin(), building.end());
        EXPECT_THAT(refused(more), HasSubstr("--show lists an index that is there")) << building[0];
    }
    for (const std::string of_list : {"--sort", "--limit", "--concept"})
        EXPECT_THAT(refused({"starter", pictures, of_list, of_list == "--sort" ? "effect" : "3"}),
                    HasSubstr(of_list + " is of a list, and none is asked for"));
    EXPECT_THAT(refused({"--show", index, "--concept", "3", "--sort", "effect"}),
                HasSubstr("--concept shows one concept, and --sort is of a list of several"));
    EXPECT_THAT(refused({"--show", index, "--concept", "3", "--limit", "2"}), HasSubstr("--limit is of a list"));
}

TEST_F(CommandLine, WhatACommandReadsIsNeverWrittenOver) {
    using testing::HasSubstr;
    const fs::path pictures = folder_ / "pictures", photo = pictures / "puppy.jpg",
                   concepts = folder_ / "c.safetensors", tiny = folder_ / "tiny";
    fs::create_directories(pictures);
    fs::copy_file(fs::path(VITRINE_SOURCE_DIR) / "resources/pictures/puppy.jpg", photo);
    ASSERT_TRUE(vitrine::test::write_tiny_model(tiny.string()));
    const auto config = of_starter("top_k", "blocks.8");
    ASSERT_TRUE(vitrine::Autoencoder::make(config, 1)->save(concepts));
    std::map<fs::path, std::string> before;
    for (const auto& entry : fs::recursive_directory_iterator(folder_))
        if (entry.is_regular_file() && entry.path().parent_path() != folder_)
            before[entry.path()] = *vitrine::read_text(entry.path());
    before[concepts] = *vitrine::read_text(concepts);
    fs::create_symlink(photo, folder_ / "link.jpg");
    fs::path weights;
    for (const auto& [file, text] : before)
        if (file.extension() == ".safetensors" && file != concepts) weights = file;
    ASSERT_FALSE(weights.empty());
    const auto said = [&](std::vector<std::string> arguments, const fs::path& out) {
        arguments.insert(arguments.end(), {"--out", out.string()});
        const auto outcome = vitrine(arguments);
        EXPECT_EQ(outcome.status, 1) << outcome.out << outcome.err;
        return outcome.err;
    };
    const std::vector<std::string> index{"index-concepts", "starter", pictures, "--autoencoder", concepts};
    EXPECT_THAT(said(index, photo), HasSubstr("belongs to the pictures that this command reads: give another --out"));
    EXPECT_THAT(said(index, folder_ / "link.jpg"), HasSubstr("belongs to the pictures that"));
    EXPECT_THAT(said(index, concepts), HasSubstr("is the autoencoder that this command reads"));
    EXPECT_THAT(said({"attention", "starter", photo}, photo), HasSubstr("is the picture that this command reads"));
    EXPECT_THAT(said({"attention", "starter", photo}, concepts),
                HasSubstr("is there already and is no array of NumPy"));
    for (const char* command : {"train-mask", "train-concepts"}) {
        EXPECT_THAT(said({command, tiny, pictures, "--overwrite"}, weights),
                    HasSubstr("belongs to the model that this command reads"));
        EXPECT_THAT(said({command, tiny, pictures, "--overwrite"}, photo), HasSubstr("belongs to the pictures"));
        EXPECT_THAT(said({command, weights, pictures, "--overwrite"}, weights), HasSubstr("is the model"));
    }
    EXPECT_THAT(said({"pack", folder_, "--overwrite"}, photo), HasSubstr("belongs to the pictures"));
    EXPECT_THAT(said({"pack", folder_}, concepts), HasSubstr("or --overwrite to pack it anew"));
    EXPECT_THAT(said({"train-classifier", "vit", folder_, "--overwrite"}, photo), HasSubstr("belongs to the pictures"));
    for (const auto& [file, text] : before) EXPECT_EQ(*vitrine::read_text(file), text) << file;

    // A folder of explanations is written again, one that holds other things is not.
    const fs::path maps = folder_ / "maps";
    fs::create_directories(maps);
    fs::copy_file(photo, maps / "edges.png");
    EXPECT_THAT(said({"explain", "starter", maps / "edges.png", "--method", "edges"}, maps),
                HasSubstr("is the picture that this command reads"));
    std::ofstream(maps / "manifest.json") << "{\"name\": \"of something else\"}";
    EXPECT_THAT(said({"explain", "starter", photo, "--method", "edges"}, maps),
                HasSubstr("is there already and is none of vitrine explain"));
    fs::remove(maps / "manifest.json");
    for (int i = 0; i < 2; ++i)
        EXPECT_EQ(vitrine({"explain", "starter", photo, "--method", "edges", "--out", maps}).status, 0);
    for (int i = 0; i < 2; ++i)
        EXPECT_EQ(vitrine({"attention", "starter", photo, "--out", folder_ / "a.npy"}).status, 0);
}

TEST_F(CommandLine, OfWhichModelConceptsAreIsNotedByAllThatWorkWithThem) {
    using testing::HasSubstr;
    const fs::path pictures = folder_ / "pictures", concepts = folder_ / "sae_weights.safetensors";
    fs::create_directories(pictures);
    fs::copy_file(fs::path(VITRINE_SOURCE_DIR) / "resources/pictures/puppy.jpg", pictures / "puppy.jpg");
    const auto config = of_starter("relu", "blocks.7");
    auto one = *vitrine::Autoencoder::make(config, 1);
    one.facts = {{"model", "gpt2"}};
    ASSERT_TRUE(one.save(concepts));
    const char* note = "the file does not say which weights these concepts were trained on; the file says gpt2, and";
    for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
             {"steer", "starter", pictures / "puppy.jpg", "--autoencoder", concepts, "--suppress", "3"},
             {"index-concepts", "starter", pictures, "--autoencoder", concepts, "--set", "rounds=5"},
             {"index-concepts", "--show", concepts.string() + ".index"}}) {
        const auto outcome = vitrine(command);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        EXPECT_THAT(outcome.err, HasSubstr(note)) << command[0];
    }
    const auto steered =
        vitrine({"steer", "starter", pictures / "puppy.jpg", "--autoencoder", concepts, "--suppress", "3", "--json"});
    EXPECT_THAT(json::parse(steered.out)["notes"][0].get<std::string>(), HasSubstr(note));
}

TEST_F(CommandLine, WithoutAnythingSaysHowItIsUsed) {
    const auto outcome = vitrine({"--help"});
    EXPECT_EQ(outcome.status, 0);
    EXPECT_NE(outcome.out.find("explain"), std::string::npos);
}

TEST_F(CommandLine, WrongUsageExitsWithTwo) {
    EXPECT_EQ(vitrine({"predict"}).status, 2);
    EXPECT_EQ(vitrine({"predict", "a", "b", "--no-such-option"}).status, 2);
    EXPECT_EQ(vitrine({"list", "nonsense"}).status, 2);
}

TEST_F(CommandLine, AMissingModelIsOneSentenceAndExitOne) {
    const auto outcome = vitrine({"info", "no/such/model.safetensors"});
    EXPECT_EQ(outcome.status, 1);
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_NE(outcome.err.find("no/such/model.safetensors"), std::string::npos);
}

TEST_F(CommandLine, AFileThatIsNoModelIsRefused) {
    std::ofstream(folder_ / "text.safetensors") << "this is no model";
    const auto outcome = vitrine({"info", (folder_ / "text.safetensors").string()});
    EXPECT_EQ(outcome.status, 1) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
}

TEST_F(CommandLine, ListsAllFiftySevenSystems) {
    const auto outcome = vitrine({"list", "systems", "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json systems = json::parse(outcome.out);
    EXPECT_EQ(systems.size(), 57u);
    for (const auto& system : systems) {
        EXPECT_GE(system["year"].get<int>(), 2018) << system;
        EXPECT_FALSE(system["title"].get<std::string>().empty()) << system;
    }
}

TEST_F(CommandLine, ListsExplainersByFamilyWithFormulaAndWeakness) {
    const auto outcome = vitrine({"list", "explainers", "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    for (const auto& entry : json::parse(outcome.out))
        for (const char* field : {"family", "formula", "weakness"})
            EXPECT_FALSE(entry.value(field, "").empty()) << entry["name"] << " has no " << field;
    const std::string text = vitrine({"list", "explainers"}).out;
    std::size_t at = 0;
    for (const char* heading : {"Attention\n", "\nClass activation\n", "\nGradients\n", "\nPerturbation\n",
                                "\nInner views\n", "\nControls\n"}) {
        const std::size_t found = text.find(heading, at);
        ASSERT_NE(found, std::string::npos) << heading;
        EXPECT_EQ(text.find(heading, found + 1), std::string::npos) << heading << " stands twice";
        at = found;
    }
    EXPECT_LT(text.find("\nInner views\n"), text.find("\ntoken_pca"));
}

TEST_F(CommandLine, ListsTheSmoothingOfEveryExplainer) {
    const auto outcome = vitrine({"list", "explainers", "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json explainers = json::parse(outcome.out);
    ASSERT_TRUE(explainers.is_array() && !explainers.empty());
    for (const auto& entry : explainers) {
        std::vector<std::string> names;
        for (const auto& parameter : entry.value("smoothing", json::array())) names.push_back(parameter["name"]);
        EXPECT_EQ(names, (std::vector<std::string>{"smooth.preset", "smooth.flips", "smooth.scales", "smooth.factors",
                                                   "smooth.layers", "smooth.fuse", "smooth.range"}))
            << entry["name"];
    }
    const std::string text = vitrine({"list", "explainers"}).out;
    for (const auto& parameter : explainers[0]["smoothing"]) {
        const std::string line = "\n    " + parameter["name"].get<std::string>() + ' ';
        const std::size_t found = text.find(line);
        ASSERT_NE(found, std::string::npos) << line;
        EXPECT_EQ(text.find(line, found + 1), std::string::npos) << line << " stands twice";
    }
    EXPECT_FALSE(json::parse(vitrine({"list", "measures", "--json"}).out)[0].contains("smoothing"));
}

TEST_F(CommandLine, DoctorSpeaksJson) {
    const auto outcome = vitrine({"doctor", "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_TRUE(json::parse(outcome.out).contains("libtorch"));
}

TEST_F(CommandLine, InfoSaysWhatTheModelIs) {
    NEED_DATA();
    const auto outcome = vitrine({"info", model_, "--json", "--points"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json info = json::parse(outcome.out);
    EXPECT_EQ(info["architecture"], "vit");
    EXPECT_EQ(info["layers"], 12);
    EXPECT_EQ(info["heads"], 3);
    EXPECT_EQ(info["width"], 192);
    EXPECT_EQ(info["parameters"], 5717416);
    EXPECT_EQ(info["tokens"]["total"], 197);
    EXPECT_GT(info["points"].size(), 12u);
}

TEST_F(CommandLine, PredictsTheTench) {
    NEED_DATA();
    const auto outcome = vitrine({"predict", model_, photo_, photo_, "--top", "3", "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json answer = json::parse(outcome.out);
    ASSERT_EQ(answer.size(), 2u);
    ASSERT_EQ(answer[0]["top"].size(), 3u);
    EXPECT_EQ(answer[0]["top"][0]["index"], 0);
    EXPECT_EQ(answer[0]["top"][0]["label"].get<std::string>().substr(0, 5), "tench");
    EXPECT_GT(answer[0]["top"][0]["probability"].get<double>(), 0.5);
    EXPECT_EQ(answer[0]["top"], answer[1]["top"]);
}

TEST_F(CommandLine, AttentionRowsSumToOne) {
    NEED_DATA();
    const fs::path file = folder_ / "all.npy";
    ASSERT_EQ(vitrine({"attention", model_, photo_, "--layer", "all", "--head", "all", "--query", "all", "--out",
                       file.string()})
                  .status,
              0);
    const Array all = read_npy(file);
    ASSERT_EQ(all.shape, (std::vector<std::int64_t>{12, 3, 197, 197}));
    for (std::size_t row = 0; row < all.values.size() / 197; ++row) {
        double sum = 0;
        for (std::size_t j = 0; j < 197; ++j) sum += all.values[row * 197 + j];
        ASSERT_NEAR(sum, 1.0, 1e-5) << "row " << row;
    }
    const fs::path single = folder_ / "one.npy";
    ASSERT_EQ(vitrine({"attention", model_, photo_, "--layer", "-1", "--head", "2", "--query", "cls", "--out",
                       single.string()})
                  .status,
              0);
    const Array one = read_npy(single);
    ASSERT_EQ(one.shape, (std::vector<std::int64_t>{197}));
    const std::size_t offset = ((11 * 3 + 2) * 197 + 0) * 197;
    for (std::size_t j = 0; j < 197; ++j) ASSERT_NEAR(one.values[j], all.values[offset + j], 1e-6);
    const fs::path patch = folder_ / "patch.npy";
    ASSERT_EQ(vitrine({"attention", model_, photo_, "--layer", "4", "--head", "mean", "--query", "3,7", "--out",
                       patch.string()})
                  .status,
              0);
    const Array mean = read_npy(patch);
    for (std::size_t j = 0; j < 197; ++j) {
        double expected = 0;
        for (std::size_t h = 0; h < 3; ++h) expected += all.values[((4 * 3 + h) * 197 + 1 + 3 * 14 + 7) * 197 + j] / 3;
        ASSERT_NEAR(mean.values[j], expected, 1e-6);
    }
}

TEST_F(CommandLine, AttentionListsTheMostReadTokens) {
    NEED_DATA();
    const fs::path file = folder_ / "rows.npy";
    const auto outcome = vitrine({"attention", model_, photo_, "--layer", "all", "--head", "all", "--query", "3,7",
                                  "--top", "4", "--out", file.string()});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json answer = json::parse(outcome.out);
    const Array rows = read_npy(file);
    ASSERT_EQ(rows.shape, (std::vector<std::int64_t>{12, 3, 197}));
    ASSERT_EQ(answer["top"].size(), 36u);
    EXPECT_EQ(answer["implementation"].get<std::string>().rfind("map_rows ", 0), 0u);
    for (std::size_t list = 0; list < 36; ++list) {
        const json& found = answer["top"][list];
        EXPECT_EQ(found["layer"], list / 3);
        EXPECT_EQ(found["head"], list % 3);
        ASSERT_EQ(found["tokens"].size(), 4u);
        std::vector<float> row(rows.values.begin() + static_cast<std::ptrdiff_t>(list * 197),
                               rows.values.begin() + static_cast<std::ptrdiff_t>((list + 1) * 197));
        for (const json& token : found["tokens"]) {
            const auto most = std::max_element(row.begin(), row.end());
            const auto at = most - row.begin();
            EXPECT_EQ(token["token"], at);
            EXPECT_FLOAT_EQ(token["value"].get<float>(), *most);
            if (at > 0) {
                EXPECT_EQ(token["row"], (at - 1) / 14);
                EXPECT_EQ(token["col"], (at - 1) % 14);
            }
            *most = -1;
        }
    }
    const auto readout = vitrine({"attention", model_, photo_, "--layer", "-1", "--head", "-1", "--top", "500"});
    ASSERT_EQ(readout.status, 0) << readout.err;
    const json every = json::parse(readout.out);
    ASSERT_EQ(every["top"].size(), 1u);
    EXPECT_EQ(every["top"][0]["head"], 2);
    EXPECT_EQ(every["top"][0]["tokens"].size(), 197u) << "no more than there are";
    EXPECT_EQ(vitrine({"attention", model_, photo_, "--query", "all", "--top", "3"}).status, 1);
    EXPECT_EQ(vitrine({"attention", model_, photo_}).status, 2) << "neither --out nor --top";
}

TEST_F(CommandLine, AttentionOutsideTheModelIsRefusedWithItsRange) {
    NEED_DATA();
    const auto outcome = vitrine({"attention", model_, photo_, "--layer", "12", "--out", (folder_ / "x.npy").string()});
    EXPECT_EQ(outcome.status, 1);
    EXPECT_NE(outcome.err.find("0 to 11"), std::string::npos) << outcome.err;
    EXPECT_FALSE(fs::exists(folder_ / "x.npy"));
}

TEST_F(CommandLine, ExplainWritesMapsOverlaysAndAManifest) {
    NEED_DATA();
    const fs::path out = folder_ / "explained";
    const auto outcome =
        vitrine({"explain", model_, photo_, "--method", "raw_attention,rollout", "--out", out.string(), "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    for (const char* method : {"raw_attention", "rollout"}) {
        const Array map = read_npy(out / (std::string(method) + ".npy"));
        EXPECT_EQ(map.shape, (std::vector<std::int64_t>{14, 14}));
        double sum = 0;
        for (const float v : map.values) sum += v;
        EXPECT_GT(sum, 0.2);
        EXPECT_LE(sum, 1.0 + 1e-5);
    }
    const json manifest = json::parse(*vitrine::read_text(out / "manifest.json"));
    EXPECT_EQ(json::parse(outcome.out), manifest);
    EXPECT_EQ(manifest["methods"].size(), 2u);
    EXPECT_EQ(manifest["target"]["index"], 0);
    for (const auto& method : manifest["methods"])
        if (!method.contains("no_overlay")) {
            EXPECT_TRUE(fs::exists(out / method["overlay"]["file"].get<std::string>()));
        }
}

TEST_F(CommandLine, RolloutEqualsTheDenseProductOfTheExportedMaps) {
    NEED_DATA();
    const fs::path out = folder_ / "explained", file = folder_ / "all.npy";
    ASSERT_EQ(vitrine({"explain", model_, photo_, "--method", "rollout", "--out", out.string()}).status, 0);
    ASSERT_EQ(vitrine({"attention", model_, photo_, "--layer", "all", "--head", "all", "--query", "all", "--out",
                       file.string()})
                  .status,
              0);
    const Array all = read_npy(file), map = read_npy(out / "rollout.npy");
    const std::size_t n = 197;
    std::vector<double> r(n, 0.0);
    r[0] = 1;
    for (int layer = 11; layer >= 0; --layer) {
        std::vector<double> next(n, 0.0);
        for (std::size_t i = 0; i < n; ++i)
            for (std::size_t j = 0; j < n; ++j) {
                double mean = 0;
                for (std::size_t h = 0; h < 3; ++h)
                    mean += all.values[((static_cast<std::size_t>(layer) * 3 + h) * n + i) * n + j] / 3;
                next[j] += r[i] * 0.5 * (mean + (i == j ? 1.0 : 0.0));
            }
        r = next;
    }
    for (std::size_t p = 0; p < 196; ++p) ASSERT_NEAR(map.values[p], r[1 + p], 1e-5);
}

TEST_F(CommandLine, SeveralTargetsGetAFolderEach) {
    NEED_DATA();
    const fs::path out = folder_ / "explained";
    ASSERT_EQ(vitrine({"explain", model_, photo_, "--method", "rollout", "--target", "tench", "--target", "7", "--out",
                       out.string()})
                  .status,
              0);
    int folders = 0;
    for (const auto& entry : fs::directory_iterator(out))
        folders += entry.is_directory() && fs::exists(entry.path() / "manifest.json");
    EXPECT_EQ(folders, 2);
}

TEST_F(CommandLine, TheInsideOfAMaskAndWhatTheMeasuresShowAreWritten) {
    const fs::path pictures = fs::path(VITRINE_SOURCE_DIR) / "resources/pictures";
    const std::string picture = (pictures / "chelsea.jpg").string();
    const auto explained = [&](const std::vector<std::string>& more) {
        const fs::path out = folder_ / "inside";
        fs::remove_all(out);
        std::vector<std::string> words{"explain",  "starter", picture, "--method",  "ttame",
                                       "--target", "3",       "--out", out.string()};
        words.insert(words.end(), more.begin(), more.end());
        const auto outcome = vitrine(words);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return out;
    };
    const fs::path out = explained({"--seen-through", "100,50,15", "--set", "ttame.part=sum"});
    const json method = json::parse(*vitrine::read_text(out / "manifest.json"))["methods"][0];
    ASSERT_EQ(method["seen_through"].size(), 3u);
    for (const auto& one : method["seen_through"]) {
        EXPECT_TRUE(fs::exists(out / one["file"].get<std::string>()));
        EXPECT_GT(one["whole"].get<double>(), 0);
        EXPECT_LE(one["visible"].get<double>(), one["keep"].get<double>() / 100 + 0.02);
    }
    auto left = read_npy(out / "ttame.npy").values;
    const auto rows = method["tables"][0]["rows"].get<std::vector<std::string>>();
    ASSERT_EQ(rows.back(), "sum");
    for (std::size_t i = 0; i + 1 < rows.size(); ++i) {
        const auto part = read_npy(explained({"--set", "ttame.part=" + rows[i]}) / "ttame.npy").values;
        ASSERT_EQ(part.size(), left.size());
        for (std::size_t at = 0; at < left.size(); ++at) left[at] -= part[at];
    }
    for (const float rest : left) EXPECT_NEAR(rest, 0, 1e-5);
    // Several of them in one run.
    const fs::path both = explained({"--method", "ttame:part=sum,ttame:part=bias"});
    EXPECT_TRUE(fs::exists(both / "ttame_part_sum.npy"));
    EXPECT_TRUE(fs::exists(both / "ttame_part_bias.npy"));
    // The difference of two classes, and ten classes at once.
    const json versus = json::parse(*vitrine::read_text(explained({"--versus", "5"}) / "manifest.json"))["methods"][0];
    EXPECT_TRUE(versus["signed"].get<bool>());
    const fs::path ten = folder_ / "ten";
    EXPECT_EQ(vitrine({"explain", "starter", picture, "--method", "ttame", "--target", "top10", "--out", ten.string()})
                  .status,
              0);
    EXPECT_EQ(std::distance(fs::directory_iterator(ten), fs::directory_iterator{}), 10);
}

TEST_F(CommandLine, AnUnknownMethodNamesACloseOne) {
    const auto outcome = vitrine({"explain", model_, photo_, "--method", "rollot", "--out", (folder_ / "x").string()});
    EXPECT_EQ(outcome.status, 1);
    EXPECT_NE(outcome.err.find("rollout"), std::string::npos) << outcome.err;
}

TEST_F(CommandLine, ASettingOfNobodyIsRefused) {
    NEED_DATA();
    EXPECT_EQ(vitrine({"explain", model_, photo_, "--method", "rollout", "--set", "rolout.fusion=max", "--out",
                       (folder_ / "x").string()})
                  .status,
              1);
    EXPECT_EQ(vitrine({"explain", model_, photo_, "--method", "rollout", "--set", "rollout.fusion=sideways", "--out",
                       (folder_ / "x").string()})
                  .status,
              1);
}

TEST_F(CommandLine, ANameThatFitsSeveralClassesIsRefusedWithTheirIndices) {
    NEED_DATA();
    const auto outcome = vitrine(
        {"explain", model_, photo_, "--method", "rollout", "--target", "crane", "--out", (folder_ / "x").string()});
    EXPECT_EQ(outcome.status, 1);
    EXPECT_NE(outcome.err.find("134"), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("517"), std::string::npos) << outcome.err;
}

TEST_F(CommandLine, TorchScriptNeedsConsent) {
    const fs::path script = data_ / "mobilenet_v2_torchscript_quantised";
    if (!fs::exists(script)) GTEST_SKIP() << "no test data at " << data_;
    fs::path file;
    for (const auto& entry : fs::directory_iterator(script))
        if (entry.path().extension() == ".pt" || entry.path().extension() == ".ptl") file = entry.path();
    ASSERT_FALSE(file.empty());
    const auto outcome = vitrine({"info", file.string()});
    EXPECT_EQ(outcome.status, 3);
    EXPECT_NE(outcome.err.find("--trust"), std::string::npos) << outcome.err;
}

TEST_F(CommandLine, ACudaDeviceThatIsNotThereExitsWithThree) {
    NEED_DATA();
    const auto doctor = vitrine({"doctor", "--json"});
    if (json::parse(doctor.out)["cuda"] == true) GTEST_SKIP() << "this machine has a CUDA device";
    EXPECT_EQ(vitrine({"predict", model_, photo_, "--device", "cuda"}).status, 3);
}

TEST_F(CommandLine, MeasureGivesMeansWithIntervals) {
    const std::string pictures = std::string(VITRINE_SOURCE_DIR) + "/resources/pictures";
    const std::vector<std::string> arguments{"measure",
                                             "starter",
                                             pictures,
                                             "--method",
                                             "random,rollout",
                                             "--measure",
                                             "sparseness,deletion,random_logit",
                                             "--set",
                                             "deletion.preset=torchcam",
                                             "--seed",
                                             "3",
                                             "--json"};
    const auto outcome = vitrine(arguments);
    // random_logit has no meaning for methods that do not depend on the class; the others are measured all the same.
    EXPECT_EQ(outcome.status, 3) << outcome.err;
    const json document = json::parse(outcome.out), again = json::parse(vitrine(arguments).out);
    EXPECT_EQ(document["seed"], 3);
    EXPECT_EQ(document["pictures"], 3);
    ASSERT_EQ(document["results"].size(), 6u);
    for (std::size_t i = 0; i < 6; ++i) {
        const json& result = document["results"][i];
        if (result["measure"] == "random_logit") {
            EXPECT_NE(result["why_not"].get<std::string>().find("class"), std::string::npos);
            EXPECT_EQ(result["n"], 0);
            continue;
        }
        ASSERT_EQ(result["n"], 3) << result;
        EXPECT_TRUE(result["left_out"].empty());
        double sum = 0;
        for (const auto& one : result["values"]) sum += one["value"].get<double>();
        EXPECT_NEAR(result["mean"].get<double>(), sum / 3, 1e-12);
        EXPECT_LE(result["low"], result["mean"]);
        EXPECT_LE(result["mean"], result["high"]);
        EXPECT_EQ(result["values"], again["results"][i]["values"]);
        EXPECT_EQ(result["low"], again["results"][i]["low"]);
    }
    EXPECT_EQ(document["results"][1]["settings"]["preset"], "torchcam");
}

TEST_F(CommandLine, MeasureFindsBoxesAndSaysWhoIsLeftOut) {
    const fs::path source = fs::path(VITRINE_SOURCE_DIR) / "resources/pictures", pictures = folder_ / "pictures";
    fs::create_directories(pictures);
    for (const char* name : {"chelsea.jpg", "moose.jpg", "puppy.jpg"}) fs::copy_file(source / name, pictures / name);
    std::ofstream(pictures / "broken.jpg") << "this is no picture";
    std::ofstream(pictures / "boxes.tsv") << "file\tlabel\tx0\ty0\tx1\ty1\n"
                                             "chelsea.jpg\t3\t0\t0\t100000\t100000\n"
                                             "moose.jpg\t3\t-10\t-10\t-5\t-5\n";
    const std::vector<std::string> arguments{
        "measure",   "starter",       pictures.string(), "--method", "centre_gaussian",
        "--measure", "pointing_game", "--target",        "3",        "--json"};
    const auto outcome = vitrine(arguments);
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json result = json::parse(outcome.out)["results"][0];
    EXPECT_EQ(result["n"], 1);
    EXPECT_EQ(result["mean"], 1);
    EXPECT_TRUE(result["low"].is_null()) << "one picture has no interval";
    ASSERT_EQ(result["left_out"].size(), 3u);
    std::map<std::string, std::string> reasons;
    for (const auto& one : result["left_out"])
        reasons[fs::path(one["image"].get<std::string>()).stem().string()] = one["reason"].get<std::string>();
    EXPECT_FALSE(reasons["broken"].empty());
    EXPECT_NE(reasons["moose"].find("sees"), std::string::npos) << reasons["moose"];
    EXPECT_NE(reasons["puppy"].find("no box or mask is given"), std::string::npos) << reasons["puppy"];

    // The other form of the table, given by name; several boxes in one field.
    std::ofstream(folder_ / "other.tsv") << "puppy.jpg\t0,0,1,1;0,0,100000,100000\n";
    auto given = arguments;
    given.insert(given.end(), {"--boxes", (folder_ / "other.tsv").string()});
    const json other = json::parse(vitrine(given).out)["results"][0];
    EXPECT_EQ(other["n"], 1);
    EXPECT_EQ(other["mean"], 1);
    std::ofstream(folder_ / "other.tsv") << "puppy.jpg\t0\t0\t1\n";
    const auto broken = vitrine(given);
    EXPECT_EQ(broken.status, 1);
    EXPECT_NE(broken.err.find("line 1"), std::string::npos) << broken.err;
}

TEST_F(CommandLine, MeasureTakesMasks) {
    const fs::path pictures = folder_ / "pictures", masks = folder_ / "masks";
    fs::create_directories(pictures);
    fs::create_directories(masks);
    const fs::path source = fs::path(VITRINE_SOURCE_DIR) / "resources/pictures/chelsea.jpg";
    const auto whole = vitrine::read_photo(source);
    ASSERT_TRUE(whole);
    // A cut of 240 x 120, of which the model sees some middle square whatever its size is.
    vitrine::Image photo(240, 120), mask(240, 120);
    for (std::int64_t y = 0; y < 120; ++y) std::copy_n(whole->image.at(0, y), 240 * 3, photo.at(0, y));
    for (const char* name : {"cut.ppm", "bare.ppm"}) ASSERT_TRUE(vitrine::write_picture(pictures / name, photo));
    // The upper left and the lower right quarter of what is seen, and everything that is not.
    for (std::int64_t y = 0; y < 120; ++y)
        for (std::int64_t x = 0; x < 240; ++x)
            if (x < 60 || x >= 180 || (x < 120) == (y < 60)) mask.at(x, y)[2] = 1;
    ASSERT_TRUE(vitrine::write_picture(masks / "cut.png", mask));
    const auto run = [&](const std::string& folder) {
        const auto outcome = vitrine({"measure", "starter", pictures.string(), "--method", "constant,centre_gaussian",
                                      "--measure", "localisation_mass,topk_localisation:k=0,pointing_game", "--masks",
                                      folder, "--set", "preprocess.crop_pct=1", "--json"});
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        const json document = json::parse(outcome.out);
        EXPECT_EQ(document["masks"], folder);
        return document["results"];
    };
    for (const json& result : run(masks.string())) {
        EXPECT_EQ(result["n"], 1) << result;
        ASSERT_EQ(result["left_out"].size(), 1u);
        EXPECT_NE(result["left_out"][0]["reason"].get<std::string>().find("no box or mask"), std::string::npos);
        // Half of the seen square, and half of anything with its symmetry.
        if (result["measure"] == "localisation_mass") {
            EXPECT_NEAR(result["mean"].get<double>(), 0.5, 1e-6) << result;
        }
    }
    EXPECT_EQ(vitrine({"measure", "starter", pictures.string(), "--method", "constant", "--measure", "pointing_game",
                       "--masks", (folder_ / "none").string()})
                  .status,
              1);
}

TEST_F(CommandLine, MeasureRefusesWhatItDoesNotKnow) {
    const std::string picture = std::string(VITRINE_SOURCE_DIR) + "/resources/pictures/chelsea.jpg";
    const auto unknown = vitrine({"measure", "starter", picture, "--method", "random", "--measure", "insertio"});
    EXPECT_EQ(unknown.status, 1);
    EXPECT_NE(unknown.err.find("insertion"), std::string::npos) << unknown.err;
    EXPECT_EQ(vitrine({"measure", "starter", picture, "--method", "random"}).status, 2);
    const auto boxless = vitrine({"measure", "starter", picture, "--method", "random", "--measure", "pointing_game"});
    EXPECT_EQ(boxless.status, 1);
    EXPECT_NE(boxless.err.find("no box or mask is given"), std::string::npos) << boxless.err;
}

TEST_F(CommandLine, AMeasureOfAFolderNeedsNoMethodAndWritesTables) {
    const std::string pictures = std::string(VITRINE_SOURCE_DIR) + "/resources/pictures";
    const auto config = of_starter("relu", "blocks.2");
    const std::string file = (folder_ / "concepts.safetensors").string(), out = (folder_ / "tables").string();
    ASSERT_TRUE(vitrine::Autoencoder::make(config, 1)->save(file));
    const std::string owner = "uncertainty_response.";
    const std::vector<std::string> arguments{"measure",
                                             "starter",
                                             pictures,
                                             "--measure",
                                             "uncertainty_response",
                                             "--seed",
                                             "4",
                                             "--json",
                                             "--out",
                                             out,
                                             "--set",
                                             owner + "autoencoders=" + file,
                                             owner + "pictures=2",
                                             owner + "seeds=1",
                                             owner + "tiles=2",
                                             owner + "blends=0.5",
                                             owner + "control=0",
                                             owner + "risk=none",
                                             owner + "reference=2"};
    const auto outcome = vitrine(arguments);
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json document = json::parse(outcome.out);
    EXPECT_EQ(document["measure"], "uncertainty_response");
    EXPECT_EQ(document["seeds"], json{4});
    EXPECT_EQ(document["rungs"], (json{"clean", "shuffle 2", "blend 0.5", "gaussian"}));
    EXPECT_EQ(document["settings"]["tiles"], "2");
    EXPECT_EQ(document["layers"][0]["rungs"].size(), 12u);
    EXPECT_EQ(json::parse(*vitrine::read_text(fs::path(out) / "uncertainty_response.json")), document);
    const std::string table = *vitrine::read_text(fs::path(out) / "concepts_ladder.csv");
    EXPECT_TRUE(table.starts_with("\"row\",\"inputs\",\"active a token\",\"active a token, low\","));
    EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 13);
    EXPECT_NE(vitrine::read_text(fs::path(out) / "uncertainty_response.md")->find("| clean, class | 2 | "),
              std::string::npos);

    // A map's measures need a method, a folder's none.
    EXPECT_EQ(vitrine({"measure", "starter", pictures, "--measure", "sparseness"}).status, 2);
    const auto both =
        vitrine({"measure", "starter", pictures, "--measure", "uncertainty_response", "--method", "rollout"});
    EXPECT_EQ(both.status, 1);
    EXPECT_NE(both.err.find("measures the model alone"), std::string::npos) << both.err;
}

TEST_F(CommandLine, ASecondPictureIsForMethodsThatCompareTwo) {
    const fs::path pictures = fs::path(VITRINE_SOURCE_DIR) / "resources/pictures", out = folder_ / "explained";
    std::vector<std::string> given{"explain",
                                   "starter",
                                   (pictures / "chelsea.jpg").string(),
                                   "--method",
                                   "activation_patching",
                                   "--set",
                                   "activation_patching.layer=-2",
                                   "--set",
                                   "activation_patching.table=false",
                                   "--out",
                                   out.string(),
                                   "--json"};
    const auto alone = vitrine(given);
    EXPECT_EQ(alone.status, 3);
    EXPECT_NE(alone.err.find("--other"), std::string::npos) << alone.err;
    given.insert(given.end(), {"--other", (pictures / "puppy.jpg").string()});
    const auto both = vitrine(given);
    ASSERT_EQ(both.status, 0) << both.err;
    const json manifest = json::parse(both.out);
    EXPECT_NE(manifest["other"]["file"].get<std::string>().find("puppy.jpg"), std::string::npos);
    EXPECT_TRUE(manifest["methods"][0]["signed"].get<bool>());
    EXPECT_TRUE(manifest["methods"][0]["checks"][0]["passed"].get<bool>()) << manifest["methods"][0]["checks"];
}

TEST_F(CommandLine, AMapThatIsAPictureIsWrittenAsOne) {
    const fs::path picture = fs::path(VITRINE_SOURCE_DIR) / "resources/pictures/chelsea.jpg",
                   out = folder_ / "explained";
    const auto outcome = vitrine(
        {"explain", "starter", picture.string(), "--method", "token_pca,token_norms", "--out", out.string(), "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json method = json::parse(outcome.out)["methods"][0];
    EXPECT_EQ(method["colours"]["file"], "token_pca.colours.png");
    EXPECT_FALSE(json::parse(outcome.out)["methods"][1].contains("colours"));
    const auto read = vitrine::read_photo(out / "token_pca.colours.png");
    ASSERT_TRUE(read.has_value()) << read.error().message;
    const vitrine::Image* const drawn = &read->image;
    const Array array = read_npy(out / "token_pca.colours.npy");
    ASSERT_EQ(array.shape.size(), 3u);
    const auto rows = static_cast<std::int64_t>(array.shape[1]), cols = static_cast<std::int64_t>(array.shape[2]);
    ASSERT_EQ(drawn->height % rows, 0);
    const std::int64_t cell = drawn->height / rows;
    for (std::int64_t y = 0; y < rows; ++y)
        for (std::int64_t x = 0; x < cols; ++x)
            for (std::int64_t k = 0; k < 3; ++k)
                EXPECT_NEAR(
                    drawn->pixels[static_cast<std::size_t>(((y * cell + cell / 2) * drawn->width + x * cell) * 3 + k)],
                    255 * array.values[static_cast<std::size_t>((k * rows + y) * cols + x)], 0.51);
}

TEST_F(CommandLine, TargetsAreSeveralClassesOrARegion) {
    const std::string picture = std::string(VITRINE_SOURCE_DIR) + "/resources/pictures/chelsea.jpg";
    const std::string out = (folder_ / "explained").string();
    const auto explain = [&](std::vector<std::string> more) {
        std::vector<std::string> arguments{"explain", "starter", picture, "--method", "chefer", "--out", out, "--json"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        return vitrine(arguments);
    };
    const auto both = explain({"--target", "cat+dog", "--set", "target.scale=probability"});
    ASSERT_EQ(both.status, 0) << both.err;
    const json manifest = json::parse(both.out);
    EXPECT_EQ(manifest["target"]["index"], 3);
    EXPECT_EQ(manifest["target"]["also"][0]["index"], 5);
    const std::string explained = manifest["methods"][0]["explained"].get<std::string>();
    EXPECT_NE(explained.find("class 3 and class 5"), std::string::npos) << explained;
    EXPECT_NE(explained.find("probability"), std::string::npos) << explained;
    EXPECT_NE(explain({"--target", "cat+cat"}).err.find("twice"), std::string::npos);
    EXPECT_EQ(explain({"--set", "target.scale=loud"}).status, 1);

    // A region has no answer for this method to start from; the sentence says so and the status is that of such cases.
    const auto region = explain({"--region", "2,3;2,4"});
    EXPECT_EQ(region.status, 3) << region.err;
    EXPECT_EQ(json::parse(region.out)["target"]["region"], (std::vector<int>{5 + 2 * 16 + 3, 5 + 2 * 16 + 4}))
        << "after the class token and four registers";
    EXPECT_NE(explain({"--region", "99,0"}).err.find("16 rows"), std::string::npos);
    EXPECT_EQ(explain({"--region", "2"}).status, 1);
    EXPECT_EQ(explain({"--region", "2,3", "--target", "3"}).status, 2) << "one or the other";
    // A measure can read it: any method, the region's activation as pixels go.
    const auto measured = vitrine({"measure", "starter", picture, "--method", "random", "--measure", "deletion",
                                   "--set", "deletion.preset=torchcam", "--region", "2,3", "--json"});
    EXPECT_EQ(measured.status, 0) << measured.err;
    const auto reference = explain({"--reference", picture});
    EXPECT_EQ(reference.status, 3);
    EXPECT_NE(reference.err.find("has classes"), std::string::npos) << reference.err;
}

/// A measurement over copies of the built-in pictures, which its tests break off, take up and share out.
class Measurement : public CommandLine {
  protected:
    void SetUp() override {
        CommandLine::SetUp();
        const fs::path source = fs::path(VITRINE_SOURCE_DIR) / "resources/pictures";
        fs::create_directories(folder_ / "pictures");
        for (const char* name : {"chelsea", "moose", "puppy"})
            for (const char* copy : {"1", "2"})
                fs::copy_file(source / (std::string(name) + ".jpg"),
                              folder_ / "pictures" / (std::string(name) + copy + ".jpg"));
        std::ofstream(folder_ / "pictures/puppy2.jpg") << "this is no picture";
    }
    std::vector<std::string> arguments(const std::vector<std::string>& more = {}) const {
        std::vector<std::string> out{"measure",
                                     "starter",
                                     (folder_ / "pictures").string(),
                                     "--method",
                                     "random,rollout,centre_gaussian",
                                     "--measure",
                                     "deletion:preset=torchcam:step=4000,sparseness,insertion:preset=tokens:step=100",
                                     "--threads",
                                     "1",
                                     "--seed",
                                     "3",
                                     "--json"};
        out.insert(out.end(), more.begin(), more.end());
        return out;
    }
    std::string state() const { return (folder_ / "state.jsonl").string(); }
    /// Everything but how long it took and who did it.
    static json numbers(const std::string& out) {
        json document = json::parse(out);
        document.erase("processes");
        for (json& result : document["results"])
            for (const char* time : {"method_ms", "method_ms_median", "measure_ms"}) result.erase(time);
        return document;
    }
    /// Findings in the state by what they are of.
    std::map<std::string, int> findings() const {
        std::map<std::string, int> out;
        std::istringstream lines(*vitrine::read_text(state()));
        for (std::string text; std::getline(lines, text);) {
            const json line = json::parse(text, nullptr, false);
            if (!line.is_object() || !line.contains("picture")) continue;
            ++out[line["picture"].get<std::string>() + line["method"].get<std::string>() +
                  line["measure"].get<std::string>()];
        }
        return out;
    }
};

TEST_F(Measurement, ThatIsKilledGoesOnWhereItWas) {
    const auto whole = vitrine(arguments());
    ASSERT_EQ(whole.status, 0) << whole.err;
    // Killed too late it shows nothing, as on a busy machine: again, from nothing.
    std::size_t kept = 5u * 9;
    for (int attempt = 0; attempt < 50 && kept >= 5u * 9; ++attempt) {
        fs::remove(state());
        ASSERT_TRUE(killed(arguments({"--state", state()}), folder_ / "none is written",
                           [&] { return fs::exists(state()) && findings().size() >= 2u * 9; }));
        kept = findings().size();
    }
    EXPECT_GE(kept, 2u * 9);
    EXPECT_LT(kept, 5u * 9) << "it was killed too late to show anything";
    std::ofstream(state(), std::ios::app) << "{\"picture\": \"cut o";

    const auto rest = vitrine(arguments({"--state", state()}));
    ASSERT_EQ(rest.status, 0) << rest.err;
    EXPECT_EQ(numbers(rest.out), numbers(whole.out));
    EXPECT_NE(rest.err.find("pictures are in"), std::string::npos) << rest.err;
    const auto all = findings();
    EXPECT_EQ(all.size(), 5u * 9) << "the broken picture failed and is not kept";
    for (const auto& [of, count] : all) EXPECT_EQ(count, 1) << of;

    // Nothing is left to do but the broken picture; a report does not even try that.
    const auto report = vitrine(arguments({"--state", state(), "--report"}));
    ASSERT_EQ(report.status, 0) << report.err;
    EXPECT_EQ(report.err.find("puppy2"), std::string::npos);
    json reported = numbers(report.out), expected = numbers(whole.out);
    for (json* document : {&reported, &expected})
        for (json& result : (*document)["results"]) result.erase("left_out");
    EXPECT_EQ(reported, expected);
}

TEST_F(Measurement, WithOtherSettingsOrPicturesIsNotMixedIn) {
    ASSERT_EQ(vitrine(arguments({"--state", state()})).status, 0);
    const auto refused = [&](const std::vector<std::string>& more, const std::string& reason) {
        std::vector<std::string> all = arguments({"--state", state()});
        if (more[0] == "--seed")
            *(std::find(all.begin(), all.end(), "--seed") + 1) = more[1];
        else
            all.insert(all.end(), more.begin(), more.end());
        const auto outcome = vitrine(all);
        EXPECT_EQ(outcome.status, 1) << reason;
        EXPECT_NE(outcome.err.find(reason), std::string::npos) << outcome.err;
        EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    };
    refused({"--seed", "4"}, "seed 3, and now it is 4");
    refused({"--set", "preprocess.mean=0,0,0"}, "preprocessing");
    refused({"--set", "rollout.fusion=max"}, "method rollout.fusion");
    refused({"--target", "2"}, "target");
    // A picture that changed is measured again; a further measure is added.
    fs::copy_file(folder_ / "pictures/moose1.jpg", folder_ / "pictures/chelsea1.jpg",
                  fs::copy_options::overwrite_existing);
    std::vector<std::string> more = arguments({"--state", state()});
    more[6] += ",complexity";
    const auto outcome = vitrine(more);
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_NE(outcome.err.find("9 lines of"), std::string::npos) << outcome.err;
    EXPECT_EQ(json::parse(outcome.out)["results"].size(), 12u);
    more.resize(more.size() - 2);
    EXPECT_EQ(numbers(outcome.out), numbers(vitrine(more).out));
}

TEST_F(Measurement, OfALadderThatIsKilledGoesOnPictureByPicture) {
    const auto config = of_starter("relu", "blocks.2");
    const std::string file = (folder_ / "concepts.safetensors").string();
    ASSERT_TRUE(vitrine::Autoencoder::make(config, 1)->save(file));
    const auto ladder = [&](const std::string& out, const std::vector<std::string>& more = {}) {
        const std::string owner = "uncertainty_response.";
        std::vector<std::string> all{"measure",
                                     "starter",
                                     (folder_ / "pictures").string(),
                                     "--measure",
                                     "uncertainty_response",
                                     "--threads",
                                     "1",
                                     "--seed",
                                     "3",
                                     "--json",
                                     "--out",
                                     (folder_ / out).string(),
                                     "--set",
                                     owner + "autoencoders=" + file,
                                     owner + "seeds=2",
                                     owner + "tiles=2,4",
                                     owner + "blends=0.5",
                                     owner + "permutations=5"};
        all.insert(all.end(), more.begin(), more.end());
        return all;
    };
    const auto pieces = [&] {
        const auto text = vitrine::read_text(state()).value_or("");
        std::size_t count = 0;
        for (std::size_t at = 0; (at = text.find("\"bytes\":", at)) != std::string::npos; ++at) ++count;
        return count;
    };
    const auto whole = vitrine(ladder("whole"));
    ASSERT_EQ(whole.status, 0) << whole.err;

    // Killed too late it shows nothing, as on a busy machine: again, from nothing.
    std::size_t kept = 2u * 5;
    for (int attempt = 0; attempt < 50 && kept >= 2u * 5; ++attempt) {
        fs::remove(state());
        ASSERT_TRUE(
            killed(ladder("rest", {"--state", state()}), folder_ / "none is written", [&] { return pieces() >= 2; }));
        kept = pieces();
    }
    EXPECT_GE(kept, 2u);
    EXPECT_LT(kept, 2u * 5) << "it was killed too late to show anything";
    std::ofstream(state(), std::ios::app) << "{\"bytes\": \"cut o";
    const auto rest = vitrine(ladder("rest", {"--state", state()}));
    ASSERT_EQ(rest.status, 0) << rest.err;
    EXPECT_NE(rest.err.find(" pictures are in " + state()), std::string::npos) << rest.err;
    EXPECT_EQ(pieces(), 2u * 5) << "the broken picture is passed over";
    EXPECT_EQ(rest.out, whole.out);
    std::size_t files = 0;
    for (const auto& one : fs::directory_iterator(folder_ / "whole")) {
        ++files;
        EXPECT_EQ(*vitrine::read_text(one.path()), *vitrine::read_text(folder_ / "rest" / one.path().filename()));
    }
    EXPECT_GE(files, 3u);

    // With anything else it is not mixed in; a picture that changed is run again.
    const auto refused = [&](std::vector<std::string> all, const std::string& reason) {
        const std::string before = *vitrine::read_text(state());
        const auto outcome = vitrine(all);
        EXPECT_EQ(outcome.status, 1) << reason;
        EXPECT_NE(outcome.err.find(reason), std::string::npos) << outcome.err;
        EXPECT_EQ(*vitrine::read_text(state()), before);
    };
    auto other = ladder("rest", {"--state", state()});
    *(std::find(other.begin(), other.end(), "--seed") + 1) = "4";
    refused(other, "seed 3, and now it is 4");
    other = ladder("rest", {"--state", state()});
    std::replace(other.begin(), other.end(), std::string("uncertainty_response.seeds=2"),
                 std::string("uncertainty_response.seeds=3"));
    refused(other, "measure uncertainty_response.seeds 2, and now it is 3");
    refused(ladder("rest", {"--state", state(), "--set", "preprocess.mean=0,0,0"}), "preprocessing");
    refused(ladder("rest", {"--state", state(), "--report"}), "--report");
    refused({"measure", "starter", (folder_ / "pictures").string(), "--measure", "autoencoder_fidelity", "--state",
             state()},
            "autoencoder_fidelity keeps nothing of single pictures");
    fs::copy_file(folder_ / "pictures/moose1.jpg", folder_ / "pictures/chelsea1.jpg",
                  fs::copy_options::overwrite_existing);
    const auto changed = vitrine(ladder("rest", {"--state", state()}));
    ASSERT_EQ(changed.status, 0) << changed.err;
    EXPECT_NE(changed.err.find("2 lines of"), std::string::npos) << changed.err;
    EXPECT_NE(changed.err.find("4 of 5 pictures are in"), std::string::npos) << changed.err;
    EXPECT_EQ(pieces(), 2u * 6);
    EXPECT_EQ(changed.out, vitrine(ladder("whole")).out);
    ASSERT_TRUE(vitrine::Autoencoder::make(config, 2)->save(file));
    refused(ladder("rest", {"--state", state()}), "made with the autoencoder " + file);
}

TEST_F(Measurement, ComparesPairsWithTheBestControl) {
    const auto outcome = vitrine(arguments());
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json document = json::parse(outcome.out);
    std::map<std::string, std::map<std::string, json>> by;
    for (const json& result : document["results"])
        by[result["measure"].get<std::string>()][result["method"].get<std::string>()] = result;
    const auto& deletion = by["deletion:preset=torchcam:step=4000"];
    const std::string best =
        deletion.at("random")["mean"] < deletion.at("centre_gaussian")["mean"] ? "random" : "centre_gaussian";
    const json& against = deletion.at("rollout")["against_the_best_control"];
    EXPECT_EQ(against["control"], best) << "lower is better";
    double sum = 0;
    for (std::size_t i = 0; i < 5; ++i) {
        ASSERT_EQ(deletion.at("rollout")["values"][i]["image"], deletion.at(best)["values"][i]["image"]);
        sum += deletion.at("rollout")["values"][i]["value"].get<double>() -
               deletion.at(best)["values"][i]["value"].get<double>();
    }
    EXPECT_EQ(against["n"], 5);
    EXPECT_NEAR(against["mean"].get<double>(), sum / 5, 1e-12);
    EXPECT_LE(against["low"], against["mean"]);
    EXPECT_LE(against["mean"], against["high"]);
    // Five pairs have 32 flips, and one method needs no correction.
    EXPECT_EQ(std::fmod(against["p"].get<double>() * 32, 1), 0);
    EXPECT_EQ(against["p"], against["p_holm"]);
    EXPECT_FALSE(deletion.at("random").contains("against_the_best_control"));
    EXPECT_FALSE(by["sparseness"].at("rollout").contains("against_the_best_control")) << "neither side is better";
    ASSERT_EQ(document["protocols"].size(), 3u);
    for (const json& protocol : document["protocols"]) {
        EXPECT_EQ(protocol["n"], 5);
        EXPECT_EQ(protocol["seed"], 3);
        EXPECT_EQ(protocol["resamples"], 10000);
        EXPECT_FALSE(protocol["definition"].get<std::string>().empty());
    }
    EXPECT_EQ(document["protocols"][0]["settings"]["preset"], "torchcam");
    EXPECT_NE(document["protocols"][0]["definition"].get<std::string>().find("align_corners"), std::string::npos);
}

TEST_F(Measurement, SplitsPicturesByTheirNames) {
    std::map<std::string, int> seen;
    for (const char* half : {"A", "B"}) {
        const auto outcome = vitrine(arguments({"--split", half}));
        ASSERT_EQ(outcome.status, 0) << outcome.err;
        const json document = json::parse(outcome.out);
        EXPECT_EQ(document["split"], half);
        for (const json& value : document["results"][0]["values"]) ++seen[value["image"].get<std::string>()];
    }
    EXPECT_EQ(seen.size(), 5u);
    for (const auto& [picture, count] : seen) EXPECT_EQ(count, 1) << picture;
    EXPECT_EQ(vitrine(arguments({"--split", "C"})).status, 1);
}

TEST_F(Measurement, SharedByProcessesHasTheSameNumbers) {
    const fs::path library = fs::path(VITRINE_PROGRAM).parent_path() / "vitrine_mpi.so";
    if (!fs::exists(library)) {
        const auto alone = vitrine(arguments({"--mpi"}));
        EXPECT_EQ(alone.status, 3);
        EXPECT_NE(alone.err.find("libopenmpi-dev"), std::string::npos) << alone.err;
        GTEST_SKIP() << "this build has no MPI";
    }
    if (const std::string why_not = no_mpi(); !why_not.empty()) GTEST_SKIP() << why_not;
    const auto alone = vitrine(arguments());
    ASSERT_EQ(alone.status, 0) << alone.err;
    const auto shared = vitrine(arguments({"--state", state()}), kTwo);
    ASSERT_EQ(shared.status, 0) << shared.err;
    EXPECT_EQ(json::parse(shared.out)["processes"], 2);
    EXPECT_EQ(numbers(shared.out), numbers(alone.out));
    const auto all = findings();
    EXPECT_EQ(all.size(), 5u * 9);
    for (const auto& [of, count] : all) EXPECT_EQ(count, 1) << of;
    for (const auto& entry : fs::directory_iterator(folder_))
        EXPECT_EQ(entry.path().filename().string().find(".part"), std::string::npos) << entry.path();
    // What cannot be done is said once, and nobody waits for ever.
    const auto unknown = vitrine(arguments({"--split", "C"}), kTwo);
    EXPECT_NE(unknown.status, 0);
    const auto at = unknown.err.find("--split is 'C'");
    ASSERT_NE(at, std::string::npos) << unknown.err;
    EXPECT_EQ(unknown.err.find("--split is 'C'", at + 1), std::string::npos) << unknown.err;
}

/// A command with settings, less those that `more` sets itself.
std::vector<std::string> with_settings(std::vector<std::string> command, const std::vector<std::string>& settings,
                                       const std::vector<std::string>& more) {
    for (const std::string& set : settings) {
        const std::string key = set.substr(0, set.find('=') + 1);
        if (std::any_of(more.begin(), more.end(), [&](const auto& one) { return one.starts_with(key); })) continue;
        command.insert(command.end(), {"--set", set});
    }
    command.insert(command.end(), more.begin(), more.end());
    return command;
}

/// A mask for the starter, trained on five readable pictures.
class MaskTraining : public Measurement {
  protected:
    std::vector<std::string> training(const std::string& out, const std::vector<std::string>& more = {}) const {
        std::vector<std::string> all{"train-mask",
                                     "starter",
                                     (folder_ / "pictures").string(),
                                     "--out",
                                     (folder_ / out).string(),
                                     "--threads",
                                     "1",
                                     "--seed",
                                     "3",
                                     "--json"};
        return with_settings(
            std::move(all),
            {"batch=5", "held=0", "report_seconds=0", "checkpoint_seconds=0", "precision=fp32", "lr=0.01"}, more);
    }
};

TEST_F(MaskTraining, SharedByProcessesHasTheSameCurve) {
    if (const std::string why_not = no_mpi(); !why_not.empty()) GTEST_SKIP() << why_not;
    const std::vector<std::string> steps{"--set", "steps=4"};
    const auto alone = vitrine(training("alone", steps));
    ASSERT_EQ(alone.status, 0) << alone.err;
    std::vector<std::string> together = training("shared", steps);
    together.push_back("--mpi");
    const auto shared = vitrine(together, kTwo);
    ASSERT_EQ(shared.status, 0) << shared.err;
    const json one = json::parse(alone.out), two = json::parse(shared.out);
    EXPECT_EQ(one["processes"], 1);
    EXPECT_EQ(two["processes"], 2);
    EXPECT_EQ(two["pictures"], 5);
    EXPECT_EQ(two["skipped"].size(), 1u) << "said by process 0 alone";
    ASSERT_EQ(one["curve"].size(), 4u);
    ASSERT_EQ(two["curve"].size(), 4u);
    for (std::size_t i = 0; i < 4; ++i)
        for (std::size_t k = 0; k < 5; ++k) {
            const double a = one["curve"][i][k], b = two["curve"][i][k];
            EXPECT_NEAR(a, b, 1e-5 * std::abs(a)) << "step " << i << ", figure " << k;
        }
    const auto a = vitrine::MaskModule::load(folder_ / "alone"), b = vitrine::MaskModule::load(folder_ / "shared");
    ASSERT_TRUE(a && b);
    for (std::size_t i = 0; i < a->parameters().size(); ++i) {
        const auto& [name, weights] = a->parameters()[i];
        EXPECT_LE((weights - b->parameters()[i].second).abs().max().item<double>(),
                  1e-5 * weights.abs().max().item<double>())
            << name;
    }
    // What cannot be done is said once, and nobody waits for ever.
    const auto unknown = vitrine(training("none", {"--mpi", "--set", "layers=nowhere"}), kTwo);
    EXPECT_NE(unknown.status, 0);
    const auto at = unknown.err.find("no layer 'nowhere'");
    ASSERT_NE(at, std::string::npos) << unknown.err;
    EXPECT_EQ(unknown.err.find("no layer 'nowhere'", at + 1), std::string::npos) << unknown.err;
}

TEST_F(MaskTraining, ThatIsKilledEndsInTheSameFile) {
    const std::vector<std::string> steps{"--set", "steps=6", "--set", "batch=2"};
    const auto whole = vitrine(training("whole", steps));
    ASSERT_EQ(whole.status, 0) << whole.err;
    const fs::path checkpoint = folder_ / "parts.checkpoint";
    // Killed twice: after it has begun, and after it has gone on.
    for (int round = 0; round < 2; ++round) {
        std::error_code none;
        const auto before = fs::exists(checkpoint) ? fs::last_write_time(checkpoint) : fs::file_time_type::min();
        ASSERT_TRUE(killed(training("parts", steps), folder_ / "parts", [&] {
            const auto now = fs::last_write_time(checkpoint, none);
            return !none && now > before;
        }));
        EXPECT_TRUE(fs::exists(checkpoint));
    }
    const auto rest = vitrine(training("parts", steps));
    ASSERT_EQ(rest.status, 0) << rest.err;
    EXPECT_NE(rest.err.find("resumed at step"), std::string::npos) << rest.err;
    EXPECT_EQ(json::parse(rest.out)["curve"], json::parse(whole.out)["curve"]);
    const auto bytes = [&](const char* name) { return *vitrine::read_text(folder_ / name, 1u << 30); };
    EXPECT_TRUE(bytes("whole") == bytes("parts")) << "the files differ";
    EXPECT_FALSE(fs::exists(checkpoint));
}

/// Concepts of the starter, trained on five readable pictures.
class ConceptTraining : public Measurement {
  protected:
    std::vector<std::string> training(const std::string& out, const std::vector<std::string>& more = {}) const {
        std::vector<std::string> all{"train-concepts",
                                     "starter",
                                     (folder_ / "pictures").string(),
                                     "--out",
                                     (folder_ / out).string(),
                                     "--threads",
                                     "1",
                                     "--seed",
                                     "3",
                                     "--json"};
        return with_settings(std::move(all),
                             {"steps=6", "batch=128", "latents=96", "k=8", "held=0", "pictures=2", "buffer=1",
                              "report_seconds=0", "checkpoint_seconds=0", "lr=0.001"},
                             more);
    }
};

TEST_F(ConceptTraining, ThatIsKilledEndsInTheSameFile) {
    const auto whole = vitrine(training("whole"));
    ASSERT_EQ(whole.status, 0) << whole.err;
    const fs::path checkpoint = folder_ / "parts.checkpoint";
    ASSERT_TRUE(killed(training("parts"), folder_ / "parts", [&] { return fs::exists(checkpoint); }));
    const auto rest = vitrine(training("parts"));
    ASSERT_EQ(rest.status, 0) << rest.err;
    EXPECT_NE(rest.err.find("resumed at step"), std::string::npos) << rest.err;
    EXPECT_EQ(json::parse(rest.out)["curve"], json::parse(whole.out)["curve"]);
    EXPECT_EQ(json::parse(rest.out)["skipped"], json::parse(whole.out)["skipped"]);
    const auto bytes = [&](const char* name) { return *vitrine::read_text(folder_ / name, 1u << 30); };
    EXPECT_TRUE(bytes("whole") == bytes("parts")) << "the files differ";
    EXPECT_FALSE(fs::exists(checkpoint));
}

TEST_F(ConceptTraining, EndsWithItsCeilingItsPicturesAndEveryKindOfToken) {
    const auto all = vitrine(training("all"));
    ASSERT_EQ(all.status, 0) << all.err;
    const json none_held = json::parse(all.out);
    EXPECT_EQ(none_held["pictures"], 5) << "one of six cannot be read";
    EXPECT_EQ(none_held["skipped"].size(), 1U);
    EXPECT_GT(none_held["floor_tokens_per_second"].get<double>(), 0);

    // Of four at least two differ: the class token of one picture and its copy has nothing to be explained.
    auto held = training("held", {"--set", "held=0.6", "--set", "held_every=3"});
    const auto said = vitrine(held);
    ASSERT_EQ(said.status, 0) << said.err;
    EXPECT_NE(said.err.find("after step 3: "), std::string::npos) << said.err;
    EXPECT_NE(said.err.find("the answer moves by "), std::string::npos) << said.err;
    const json kinds = json::parse(said.out)["held"]["kinds"];
    for (const char* kind : {"class", "registers", "patches"}) EXPECT_TRUE(kinds.contains(kind)) << said.out;
    EXPECT_EQ(kinds["patches"]["tokens"], 256 * kinds["class"]["tokens"].get<int>());

    held.push_back("--overwrite");
    held.erase(std::find(held.begin(), held.end(), "--json"));
    const auto words = vitrine(held);
    ASSERT_EQ(words.status, 0) << words.err;
    EXPECT_NE(words.out.find(" % of what the encoder's product and a copy of the codes allow"), std::string::npos)
        << words.out;
    EXPECT_NE(words.out.find("explained by kind of token: "), std::string::npos) << words.out;
    EXPECT_NE(words.out.find(" % in the class token, "), std::string::npos) << words.out;
}

TEST_F(ConceptTraining, WritesOverNothingUnaskedAndLooksForAPlaceFirst) {
    std::ofstream(folder_ / "done") << "finished";
    const auto refused = vitrine(training("done"));
    EXPECT_EQ(refused.status, 1) << refused.err;
    EXPECT_NE(refused.err.find("is there already"), std::string::npos) << refused.err;
    EXPECT_NE(refused.err.find("--overwrite"), std::string::npos) << refused.err;
    EXPECT_EQ(*vitrine::read_text(folder_ / "done"), "finished");
    const auto anew = vitrine(training("done", {"--overwrite"}));
    EXPECT_EQ(anew.status, 0) << anew.err;
    EXPECT_NE(*vitrine::read_text(folder_ / "done", 1u << 30), "finished");
    const auto nowhere = vitrine(training("nowhere/file"));
    EXPECT_NE(nowhere.status, 0);
    EXPECT_NE(nowhere.err.find("there is no folder " + (folder_ / "nowhere").string()), std::string::npos)
        << nowhere.err;
    EXPECT_EQ(nowhere.err.find("step "), std::string::npos) << nowhere.err;
}

TEST_F(ConceptTraining, RefusesWhatTheKindDoesNotReadAndWhatIsSetTwice) {
    const auto said = [&](std::vector<std::string> sets, int status) {
        std::vector<std::string> all{"train-concepts", "starter", (folder_ / "pictures").string(), "--out",
                                     (folder_ / "none").string()};
        for (auto& set : sets) all.insert(all.end(), {"--set", std::move(set)});
        const auto outcome = vitrine(all);
        EXPECT_EQ(outcome.status, status) << outcome.err;
        EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
        EXPECT_FALSE(fs::exists(folder_ / "none"));
        return outcome.err;
    };
    using testing::HasSubstr;
    EXPECT_THAT(said({"kind=relu", "k=8"}, 1), HasSubstr("k is of top_k and batch_top_k, and the kind is relu: leave k "
                                                         "out, or set kind=top_k"));
    EXPECT_THAT(said({"kind=pca", "lr=1", "prefixes=5"}, 1), HasSubstr("and the kind is pca: leave lr out"));
    EXPECT_THAT(said({"k=8", "k=9"}, 2), HasSubstr("--set k=8 and --set k=9 set the same twice"));
    EXPECT_THAT(said({"preprocess.crop_pct=1", "preprocess.crop_pct=1"}, 2), HasSubstr("set the same twice"));
    const auto both = vitrine(training("none", {"--batch", "64"}));
    EXPECT_EQ(both.status, 1) << both.err;
    EXPECT_THAT(both.err, HasSubstr("--batch 64 and --set pictures=2 set the same twice"));
    const auto seeds = vitrine(training("none", {"--set", "seed=4"}));
    EXPECT_EQ(seeds.status, 1) << seeds.err;
    EXPECT_THAT(seeds.err, HasSubstr("--seed 3 and --set seed=4 set the same twice"));
    EXPECT_THAT(said({"kind=pca", "steps=3"}, 1), HasSubstr("and the kind is pca: leave steps out"));
    // One rule, whoever reads the settings.
    const std::string picture = (fs::path(VITRINE_SOURCE_DIR) / "resources/pictures/moose.jpg").string();
    const auto explained =
        vitrine({"explain", "starter", picture, "--method", "rollout", "--out", (folder_ / "maps").string(), "--set",
                 "rollout.fusion=max", "--set", "rollout.fusion=min"});
    EXPECT_EQ(explained.status, 2) << explained.err;
    EXPECT_THAT(explained.err, HasSubstr("--set rollout.fusion=max and --set rollout.fusion=min set the same twice"));
}

TEST_F(ConceptTraining, NamesThatAreNoUtf8AreWrittenAsJson) {
    const std::string named = (folder_ / "pictures" / "br\xe9k.jpg").string();
    std::ofstream(named) << "no picture";
    // Long enough to come to every picture, in whatever order.
    const auto trained = vitrine(training("concepts", {"--set", "steps=20"}));
    ASSERT_EQ(trained.status, 0) << trained.err;
    EXPECT_NE(json::parse(trained.out)["skipped"].dump().find("br\xef\xbf\xbdk.jpg"), std::string::npos) << trained.out;

    fs::copy_file(fs::path(VITRINE_SOURCE_DIR) / "resources/pictures/moose.jpg", named,
                  fs::copy_options::overwrite_existing);
    for (const auto& command :
         {std::vector<std::string>{"predict", "starter", named}, {"steer", "starter", named, "--suppress", "3"}}) {
        auto arguments = command;
        arguments.emplace_back("--json");
        const auto said = vitrine(arguments);
        ASSERT_EQ(said.status, 0) << said.err;
        EXPECT_NE(json::parse(said.out).dump().find("br\xef\xbf\xbdk.jpg"), std::string::npos) << said.out;
    }
}

TEST_F(CommandLine, TrainersSayTheirSettings) {
    const auto listed = vitrine({"list", "trainers", "--json"});
    ASSERT_EQ(listed.status, 0) << listed.err;
    const json trainers = json::parse(listed.out);
    ASSERT_EQ(trainers.size(), 3U);
    for (const json& trainer : trainers) {
        const std::string name = trainer["name"];
        const auto help = vitrine({name, "--help"});
        ASSERT_EQ(help.status, 0) << help.err;
        EXPECT_EQ(help.out.find("METHOD.key"), std::string::npos) << name;
        EXPECT_GT(trainer["parameters"].size(), 15U) << name;
        for (const json& setting : trainer["parameters"]) {
            EXPECT_NE(help.out.find("\n    " + setting["name"].get<std::string>() + " "), std::string::npos)
                << name << " " << setting["name"];
            EXPECT_NE(help.out.find(setting["meaning"].get<std::string>()), std::string::npos) << setting["name"];
        }
    }
}

TEST_F(ConceptTraining, SharedByProcessesHasTheSameCurve) {
    if (const std::string why_not = no_mpi(); !why_not.empty()) GTEST_SKIP() << why_not;
    const auto alone = vitrine(training("alone"));
    ASSERT_EQ(alone.status, 0) << alone.err;
    const auto shared = vitrine(training("shared", {"--mpi"}), kTwo);
    ASSERT_EQ(shared.status, 0) << shared.err;
    const json one = json::parse(alone.out), two = json::parse(shared.out);
    EXPECT_EQ(one["processes"], 1);
    EXPECT_EQ(two["processes"], 2);
    ASSERT_EQ(one["curve"].size(), 6U);
    ASSERT_EQ(two["curve"].size(), 6U);
    for (std::size_t i = 0; i < 6; ++i)
        for (std::size_t k = 0; k < 7; ++k) {
            const double a = one["curve"][i][k], b = two["curve"][i][k];
            EXPECT_NEAR(a, b, 1e-5 * std::abs(a) + 1e-7) << "step " << i << ", figure " << k;
        }
}

TEST_F(CommandLine, SteerShowsBothAnswersAndWritesAModel) {
    const std::string picture = (fs::path(VITRINE_SOURCE_DIR) / "resources/pictures/moose.jpg").string();
    const std::string out = (folder_ / "x.steered.json").string();
    const auto steered =
        vitrine({"steer", "starter", picture, "--set", "3=30", "--set", "preprocess.crop_pct=1", "--scale", "5=2",
                 "--suppress", "1,2", "--tokens", "0,0-1,1", "--out", out, "--json"});
    ASSERT_EQ(steered.status, 0) << steered.err;
    const json answer = json::parse(steered.out);
    EXPECT_EQ(answer["edits"].size(), 4U);
    EXPECT_EQ(answer["tokens"], "0,0-1,1");
    EXPECT_GT(answer["divergence"].get<double>(), 0);
    EXPECT_NE(answer["before"], answer["after"]);
    // The file is a model like any other.
    const auto predicted = vitrine({"predict", out, picture, "--set", "preprocess.crop_pct=1", "--json"});
    ASSERT_EQ(predicted.status, 0) << predicted.err;
    EXPECT_EQ(json::parse(predicted.out)[0]["top"], answer["after"]);
    // What is there is written over when asked, and never what the model is made of.
    const std::string before = *vitrine::read_text(out);
    const auto there = vitrine({"steer", "starter", picture, "--set", "3=31", "--out", out});
    EXPECT_EQ(there.status, 1);
    EXPECT_NE(there.err.find("is there already; give another --out, or --overwrite to write it anew"),
              std::string::npos)
        << there.err;
    for (const char* more : {"--json", "--overwrite"}) {
        const auto itself = vitrine({"steer", out, picture, "--set", "7=30", "--out", out, more});
        EXPECT_EQ(itself.status, 1);
        EXPECT_NE(itself.err.find("is the model that this command reads: give another --out"), std::string::npos)
            << itself.err;
    }
    EXPECT_EQ(*vitrine::read_text(out), before);
    EXPECT_EQ(vitrine({"steer", "starter", picture, "--set", "3=31", "--out", out, "--overwrite"}).status, 0);
    EXPECT_NE(*vitrine::read_text(out), before);
    const auto refused = vitrine({"steer", "starter", picture, "--set", "99999=1"});
    EXPECT_EQ(refused.status, 1);
    EXPECT_NE(refused.err.find("no concept 99999"), std::string::npos) << refused.err;
    const auto said = [&](std::vector<std::string> more, int status = 1) {
        more.insert(more.begin(), {"steer", "starter", picture});
        const auto outcome = vitrine(more);
        EXPECT_EQ(outcome.status, status) << outcome.out << outcome.err;
        return outcome.err;
    };
    using testing::HasSubstr;
    EXPECT_THAT(said({"--suppress", "12", "--set", "12=30"}),
                HasSubstr("concept 12 is named by --set and by --suppress, expected one change of each concept"));
    EXPECT_THAT(said({"--add", "12=1,12=2"}), HasSubstr("by --add and by --add again"));
    for (const char* none : {",", "", "1,,2", "1,"})
        EXPECT_THAT(said({"--suppress", none}), HasSubstr("expected a concept's number between the commas")) << none;
    EXPECT_THAT(said({"--curve", "-2"}, 2), HasSubstr("--curve"));
    for (const char* unit : {"-1", "0"}) EXPECT_THAT(said({"--curve", "12", "--unit", unit}, 2), HasSubstr("--unit"));
    EXPECT_THAT(said({"--set", "3=30", "--unit", "3"}, 2), HasSubstr("--unit is of a curve, and none is asked for"));
}

/// Noise of three tints, and the smallest model there is.
class ConceptTest : public CommandLine {
  protected:
    void SetUp() override {
        CommandLine::SetUp();
        tiny_ = (folder_ / "tiny").string();
        ASSERT_TRUE(vitrine::test::write_tiny_model(tiny_));
        std::mt19937 random(5);
        for (const auto& [name, count, tint] :
             {std::tuple{"random", 40, 3}, {"red", 8, 0}, {"green", 8, 1}, {"few", 2, 0}, {"examples", 5, 3}}) {
            fs::create_directories(folder_ / name);
            for (int i = 0; i < count; ++i) {
                vitrine::Image picture(32, 32);
                for (std::size_t p = 0; p < picture.pixels.size(); ++p)
                    picture.pixels[p] =
                        static_cast<std::uint8_t>(40 + random() % 120 + (static_cast<int>(p % 3) == tint ? 90U : 0U));
                ASSERT_TRUE(vitrine::write_picture(folder_ / name / fmt::format("{}, {}.png", name, i), picture));
            }
        }
    }
    /// @param from  a line is "red, N.png," and what `cells` says
    std::string regions(const std::string& first, const std::string& cells, int count = 8) const {
        const fs::path file = folder_ / "spots.txt";
        std::ofstream out(file);
        out << first << '\n';
        for (int i = 0; i < count; ++i) out << "red/red, " << i << ".png," << cells << '\n';
        return file.string();
    }
    Outcome asked(std::vector<std::string> more, const std::string& index = "3", const std::string& random = "random") {
        std::vector<std::string> all{"tcav",       tiny_,
                                     "--class",    index,
                                     "--random",   (folder_ / random).string(),
                                     "--examples", (folder_ / "examples").string()};
        all.insert(all.end(), more.begin(), more.end());
        return vitrine(all);
    }
    std::string red() const { return "red=" + (folder_ / "red").string(); }
    /// Exit status 1 and one sentence.
    static void expect(const Outcome& refused, const std::string& words) {
        EXPECT_EQ(refused.status, 1) << refused.out << refused.err;
        EXPECT_EQ(refused.out, "");
        EXPECT_EQ(std::count(refused.err.begin(), refused.err.end(), '\n'), 1) << refused.err;
        EXPECT_NE(refused.err.find(words), std::string::npos) << refused.err;
    }

    std::string tiny_;
};

TEST_F(ConceptTest, ScoresFoldersAndRegionsAgainstRandomSets) {
    const std::vector<std::string> more{"--concept", red(), "--concept", "spots=" + regions("# cells 4 x 4", "1,1-2,3"),
                                        "--json"};
    const Outcome first = asked(more);
    ASSERT_EQ(first.status, 0) << first.err;
    const json said = json::parse(first.out);
    EXPECT_EQ(said["point"], "blocks.2");
    EXPECT_EQ(said["examples"], 5);
    EXPECT_EQ(said["random"], 40);
    EXPECT_EQ(said["runs"], 30);
    EXPECT_NE(said["explained"].get<std::string>().find("class 3"), std::string::npos) << said["explained"];
    ASSERT_EQ(said["concepts"].size(), 2U);
    EXPECT_EQ(said["concepts"][0]["name"], "red");
    EXPECT_EQ(said["concepts"][0]["features"], "whole");
    EXPECT_EQ(said["concepts"][1]["name"], "spots");
    EXPECT_EQ(said["concepts"][1]["features"], "regions");
    for (const json& one : said["concepts"]) {
        EXPECT_EQ(one["examples"], 8);
        EXPECT_EQ(one["drawn"], 8);
        for (const char* list : {"scores", "random_scores"}) {
            ASSERT_EQ(one[list].size(), 30U);
            double sum = 0;
            for (const double score : one[list]) {
                // A share of five examples.
                EXPECT_NEAR(score * 5, std::round(score * 5), 1e-9);
                EXPECT_TRUE(score >= 0 && score <= 1) << score;
                sum += score;
            }
            EXPECT_NEAR(one[list == std::string("scores") ? "score" : "random_score"].get<double>(), sum / 30, 1e-12);
        }
        EXPECT_NEAR(one["p_corrected"].get<double>(), std::min(1.0, 2 * one["p"].get<double>()), 1e-15);
    }
    // Red noise is plain to see beside noise of no colour, random sets are not beside each other.
    EXPECT_GT(said["concepts"][0]["accuracy"], 0.9);
    EXPECT_LT(said["concepts"][0]["random_accuracy"], 0.75);

    EXPECT_EQ(asked(more).out, first.out) << "the same bytes again";
    auto other = more;
    other.insert(other.end(), {"--seed", "1"});
    EXPECT_NE(asked(other).out, first.out) << "another seed draws other sets";
}

TEST_F(ConceptTest, WritesATableWithAVerdict) {
    const Outcome found = asked({"--concept", red(), "--concept", "green=" + (folder_ / "green").string(), "--features",
                                 "mean", "--point", "blocks.0"});
    ASSERT_EQ(found.status, 0) << found.err;
    EXPECT_NE(found.out.find("at blocks.0: 5 examples, 40 random pictures, 30 runs"), std::string::npos) << found.out;
    std::istringstream lines(found.out);
    int verdicts = 0;
    for (std::string line; std::getline(lines, line);)
        for (const char* verdict : {"not told from chance", "moves towards the class", "moves away from it"})
            verdicts += line.ends_with(verdict) && (line.starts_with("red") || line.starts_with("green"));
    EXPECT_EQ(verdicts, 2) << found.out;
    EXPECT_NE(found.err.find("they share pictures"), std::string::npos) << found.err;
}

TEST_F(ConceptTest, FoldersThatAreNotThereAreRefused) {
    expect(asked({"--concept", "red=" + (folder_ / "nowhere").string()}), "there is nothing at");
    expect(asked({"--concept", red()}, "3", "nowhere"), "there is no folder at");
    expect(asked({"--concept", "red"}), "expected NAME=FOLDER or NAME=TEXTFILE");
}

TEST_F(ConceptTest, WhatIsSkippedMayHaveAnyName) {
    std::ofstream(folder_ / "red" / "br\xe9k.jpg") << "no picture";
    const auto found = asked({"--concept", red(), "--json"});
    ASSERT_EQ(found.status, 0) << found.err;
    EXPECT_NE(json::parse(found.out)["skipped"].dump().find("br\xef\xbf\xbdk.jpg"), std::string::npos) << found.out;
    expect(asked({"--concept", red()}, "3", "red/red, 1.png"),
           "red, 1.png is a picture, expected a folder of pictures");
}

TEST_F(ConceptTest, TooFewPicturesAreRefused) {
    expect(asked({"--concept", red()}, "3", "few"),
           "2 random pictures are too few, expected 12 or more: choose a folder");
    expect(asked({"--concept", "few=" + (folder_ / "few").string()}),
           "the concept few has 2 examples, expected 6 or more");
    EXPECT_EQ(asked({"--concept", red(), "--runs", "29"}).status, 2);
}

TEST_F(ConceptTest, RegionsOutsideThePictureAreRefused) {
    const auto of = [&](const std::string& first, const std::string& cells, int count = 8) {
        return asked({"--concept", "spots=" + regions(first, cells, count)});
    };
    expect(of("# by hand", "3,3-4,3"), "spots.txt: 4,3 is not there: blocks.2 has 4 rows and 4 columns");
    expect(of("# cells 14 x 14", "1,1"), "of 14 x 14 cells, but blocks.2 has 4 x 4");
    expect(of("", "1,1", 3), "the concept spots has 3 examples, expected 6 or more");
}

TEST_F(ConceptTest, ClassesThatAreNotThereAreRefused) {
    expect(asked({"--concept", red()}, "10"), "10");
    expect(asked({"--concept", red()}, "zebra"), "zebra");
}

TEST_F(CommandLine, BenchExplainSaysWhatMethodsSpendAndWhichCannotRun) {
    const auto done =
        vitrine({"bench", "explain", "--method", "saliency,deep_lift,occlusion", "--set", "occlusion.window=64",
                 "--set", "occlusion.stride=64", "--batches", "1,4", "--repeats", "1", "--target", "cat", "--json"});
    EXPECT_EQ(done.status, 3) << done.err;
    const json methods = json::parse(done.out)["methods"];
    ASSERT_EQ(methods.size(), 3U);
    EXPECT_EQ(methods[0]["spent"]["gradients"], 1);
    EXPECT_NE(methods[1]["error"].get<std::string>().find("attention"), std::string::npos) << methods[1];
    EXPECT_EQ(methods[2]["spent"]["forwards"], 5);
    EXPECT_EQ(methods[2]["settings"]["window"], "64");
    EXPECT_EQ(methods[2]["batches"].size(), 2U);
    EXPECT_NE(vitrine({"bench", "explain"}).err.find("--method"), std::string::npos);
    EXPECT_EQ(vitrine({"bench", "explain", "--method", "saliency", "--set", "saliency.loud=1"}).status, 1);
}

}  // namespace
