// Parses the command line and turns errors into one sentence and an exit status.
#include "cli/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>

#include <vitrine/autoencoder.h>
#include <vitrine/base/concept_index.h>
#include <vitrine/concept_index.h>
#include <vitrine/train.h>
#include <vitrine/train_concepts.h>
#include <vitrine/train_mask.h>

#include "cli/commands.h"
#include "cli/measure_folder.h"

namespace vitrine::cli {

namespace {

const std::vector<std::string>& commands() {
    static const std::vector<std::string> names{
        "info", "predict",          "attention",  "explain",        "measure",        "list",  "doctor",
        "pack", "train-classifier", "train-mask", "train-concepts", "index-concepts", "steer", "tcav",
        "bench"};
    return names;
}

constexpr const char* kModelSettings = "preprocess.KEY=VALUE";
constexpr const char* kMethodSettings = "METHOD.key=value, smooth.key=value for all methods, or preprocess.key=value";
constexpr const char* kOwnSettings = "KEY=VALUE, as below, or preprocess.KEY=VALUE";

/// @param set  what --set takes, in words; null where it means something else
void add_common(CLI::App* command, Common& common, bool model = true, const char* set = kModelSettings) {
    if (model) command->add_option("model", common.model, "a file, a folder, or 'starter'")->required();
    command->add_flag("--json", common.json, "print one JSON document");
    if (!model) return;
    command->add_option("--device", common.device, "cpu or cuda[:N]");
    command->add_option("--dtype", common.dtype, "fp32, bf16 or fp16");
    command->add_option("--threads", common.threads, "compute threads")->check(CLI::Range(1, 1024));
    command->add_option("--seed", common.seed, "for methods that draw");
    command->add_option("--memory", common.memory, "budget for kept activations, such as 2GB");
    command->add_option("--batch", common.batch, "pictures at a time")->check(CLI::Range(1, 4096));
    command->add_flag("--trust", common.trust, "run a TorchScript file: it is a program");
    if (set != nullptr) command->add_option("--set", common.set, set)->take_all();
}

/// The settings of a command of its own, below its help.
void add_settings(CLI::App* command, std::vector<Parameter> (*settings)()) {
    command->footer([settings] { return "Settings, as --set KEY=VALUE:\n" + settings_text(describe(settings())); });
}

/// Where a trainer writes, and its settings.
void add_output(CLI::App* command, std::string& out, bool& overwrite, std::vector<Parameter> (*settings)()) {
    command->add_option("--out", out, "the .safetensors file to write")->required();
    command->add_flag("--overwrite", overwrite, "train anew what is finished there");
    add_settings(command, settings);
}

void add_targets(CLI::App* command, TargetOptions& options) {
    auto* target = command->add_option("--target", options.targets,
                                       "a class index or name, several joined by +, label, top5 or top10");
    target->take_all();
    auto* versus = command->add_option("--versus", options.versus, "a class index or name to explain against");
    auto* reference =
        command->add_option("--reference", options.reference, "a picture to be like, for models without classes");
    auto* region = command->add_option("--region", options.region,
                                       "the activation at ROW,COL or in the rectangle ROW,COL-ROW,COL, several with "
                                       "semicolons; --set target.point=NAME says where");
    reference->excludes(target)->excludes(versus)->excludes(region);
    region->excludes(target)->excludes(versus);
}

}  // namespace

bool is_command(const std::string& argument) {
    const auto& names = commands();
    return argument == "--help" || argument == "-h" || argument == "--version" ||
           std::find(names.begin(), names.end(), argument) != names.end();
}

int run(const std::vector<std::string>& arguments) {
    CLI::App app{"Opens vision models and shows why they answer as they do.", "vitrine"};
    app.set_version_flag("--version", "vitrine " + version());
    app.require_subcommand(1);
    app.footer(
        "Without a command: vitrine [FILE...] opens the window with a model, pictures and an autoencoder of concepts, "
        "in any order.");

    Common common;
    std::function<Status()> chosen;

    InfoOptions info_options;
    auto* info_command = app.add_subcommand("info", "what a model is and why it was recognised");
    add_common(info_command, common);
    info_command->add_flag("--points", info_options.points, "list the named points");
    info_command->callback([&] { chosen = [&] { return info(common, info_options); }; });

    PredictOptions predict_options;
    auto* predict_command = app.add_subcommand("predict", "the most likely classes of pictures");
    add_common(predict_command, common);
    predict_command->add_option("images", predict_options.images, "pictures")->required();
    predict_command->add_option("--top", predict_options.top, "how many classes")->check(CLI::Range(1, 100000));
    predict_command->callback([&] { chosen = [&] { return predict(common, predict_options); }; });

    AttentionOptions attention_options;
    auto* attention_command = app.add_subcommand("attention", "attention maps as an array");
    add_common(attention_command, common);
    attention_command->add_option("image", attention_options.image, "a picture")->required();
    attention_command->add_option("--layer", attention_options.layer, "a layer from 0, negative from the end, or all");
    attention_command->add_option("--head", attention_options.head, "a head, mean or all");
    attention_command->add_option("--query", attention_options.query, "readout, cls, ROW,COL or all");
    attention_command->add_option("--out", attention_options.out, "the .npy file to write");
    attention_command->add_option("--top", attention_options.top, "print the K most-read tokens as JSON")
        ->check(CLI::Range(1, 100000));
    attention_command->callback([&] {
        if (attention_options.out.empty() && attention_options.top == 0)
            throw CLI::ValidationError("--out or --top is required");
        chosen = [&] { return attention(common, attention_options); };
    });

    ExplainOptions explain_options;
    auto* explain_command = app.add_subcommand("explain", "why a model answered so, as maps, overlays and a manifest");
    add_common(explain_command, common, true, kMethodSettings);
    explain_command->add_option("images", explain_options.images, "pictures")->required();
    explain_command
        ->add_option("--method", explain_options.methods,
                     "methods, separated by commas, each NAME or NAME:key=value:key=value")
        ->required()
        ->delimiter(',');
    add_targets(explain_command, explain_options.asked);
    explain_command->add_option("--other", explain_options.other,
                                "a second picture, for methods that compare two (activation_patching, cdam)");
    explain_command
        ->add_option("--seen-through", explain_options.seen_through,
                     "also write what average_drop shows the model again, with these shares of the map kept, in %: "
                     "100,50,15")
        ->delimiter(',')
        ->check(CLI::Range(0.1, 100.0));
    explain_command->add_option("--out", explain_options.out, "the folder to write")->required();
    explain_command->callback([&] { chosen = [&] { return explain(common, explain_options); }; });

    MeasureOptions measure_options;
    auto* measure_command = app.add_subcommand("measure", "how faithful methods are on pictures: mean, interval, n");
    add_common(measure_command, common, true, kMethodSettings);
    measure_command->add_option("images", measure_options.images, "pictures, or folders of pictures")->required();
    measure_command
        ->add_option("--method", measure_options.methods,
                     "methods, separated by commas, each NAME or NAME:key=value:key=value; none for a measure of a "
                     "folder (uncertainty_response)")
        ->delimiter(',');
    measure_command->add_option("--measure", measure_options.measures, "measures, likewise: pointing_game:tolerance=15")
        ->required()
        ->delimiter(',');
    add_targets(measure_command, measure_options.asked);
    measure_command->add_option("--boxes", measure_options.boxes,
                                "a table of boxes: file, x0, y0, x1, y1 (default: boxes.tsv beside the pictures)");
    measure_command->add_option(
        "--masks", measure_options.masks,
        "a folder of masks that stand for the boxes: NAME.png for NAME.jpg, the object where it "
        "is not black");
    auto* state = measure_command->add_option("--state", measure_options.state,
                                              "a file that keeps what is found, picture by picture; a run that was "
                                              "broken off goes on from there");
    measure_command->add_flag("--report", measure_options.report, "show what --state holds, measure nothing")
        ->needs(state);
    measure_command->add_option("--split", measure_options.split,
                                "a share of the pictures, by their names: A or B, or a part such as 2/5");
    measure_command->add_flag("--mpi", measure_options.mpi, "share the work with the processes that mpirun started");
    measure_command->add_option("--out", measure_options.out,
                                "a folder for the tables of a measure of a folder: CSV, Markdown, JSON");
    measure_command->callback([&] {
        if (measure_options.methods.empty() && !measures_a_folder(measure_options.measures))
            throw CLI::RequiredError("--method");
        chosen = [&] { return measure(common, measure_options); };
    });

    std::string what;
    auto* list_command = app.add_subcommand("list", "what is built in");
    list_command
        ->add_option("kind", what,
                     "architectures, variants, explainers, measures, kernels, references, trainers or systems")
        ->required()
        ->check(CLI::IsMember(
            {"architectures", "variants", "explainers", "measures", "kernels", "references", "trainers", "systems"}));
    add_common(list_command, common, false);
    list_command->callback([&] { chosen = [&] { return list(common, what); }; });

    auto* doctor_command = app.add_subcommand("doctor", "what this build and machine can do");
    add_common(doctor_command, common, false);
    doctor_command->callback([&] { chosen = [&] { return doctor(common); }; });

    PackArguments pack_options;
    auto* pack_command = app.add_subcommand("pack", "packs a folder of labelled pictures into one file");
    pack_command->add_option("folder", pack_options.folder, "one folder a class")->required();
    pack_command->add_option("--size", pack_options.size, "pixels a side")->check(CLI::Range(8, 4096));
    pack_command->add_option("--out", pack_options.out, "the .safetensors file to write")->required();
    pack_command->add_flag("--overwrite", pack_options.overwrite, "pack anew what is there");
    add_common(pack_command, common, false);
    pack_command->callback([&] { chosen = [&] { return pack(common, pack_options); }; });

    TrainArguments train_options;
    auto* train_command =
        app.add_subcommand("train-classifier", "trains a classifier on a folder or a pack; goes on where it stopped");
    train_command->add_option("architecture", train_options.architecture, "such as vit")->required();
    train_command->add_option("folder", train_options.folder, "one folder a class, or a pack")->required();
    train_command->add_option("--set", train_options.set, "KEY=VALUE, as below, or of the architecture")->take_all();
    add_output(train_command, train_options.out, train_options.overwrite, train_parameters);
    train_command->add_flag("--json", common.json, "print one JSON document");
    train_command->add_option("--device", common.device, "cpu or cuda[:N]");
    train_command->add_option("--dtype", common.dtype, "fp32 or bf16");
    train_command->add_option("--threads", common.threads, "compute threads")->check(CLI::Range(1, 1024));
    train_command->add_option("--seed", common.seed, "for weights and augmentation");
    train_command->callback([&] { chosen = [&] { return train_classifier(common, train_options); }; });

    TrainMaskArguments mask_options;
    auto* mask_command =
        app.add_subcommand("train-mask", "trains an explanation mask beside a model; goes on where it stopped");
    add_common(mask_command, common, true, kOwnSettings);
    mask_command->add_option("folder", mask_options.folder, "photographs at any depth, or a pack; no labels are needed")
        ->required();
    add_output(mask_command, mask_options.out, mask_options.overwrite, mask_parameters);
    mask_command->add_flag("--mpi", mask_options.mpi, "share every batch with the processes that mpirun started");
    mask_command->callback([&] { chosen = [&] { return train_mask(common, mask_options); }; });

    TrainConceptsArguments concept_options;
    auto* concept_command =
        app.add_subcommand("train-concepts", "trains a sparse autoencoder on a layer; goes on where it stopped");
    add_common(concept_command, common, true, kOwnSettings);
    concept_command->add_option("folder", concept_options.folder, "photographs at any depth, or packs")->required();
    add_output(concept_command, concept_options.out, concept_options.overwrite, concept_parameters);
    concept_command->add_flag("--mpi", concept_options.mpi,
                              "share pictures and batches with the processes that mpirun started");
    concept_command->callback([&] { chosen = [&] { return train_concepts(common, concept_options); }; });

    IndexConceptsArguments index_options;
    auto* index_command = app.add_subcommand(
        "index-concepts", "which pictures each concept is strong in; brings an index up to date, or lists it");
    add_common(index_command, common, true, kOwnSettings);
    add_settings(index_command, index_parameters);
    auto* index_model = index_command->get_option("model")->required(false);
    index_command->add_option("folder", index_options.folder, "photographs at any depth");
    index_command->add_option("--autoencoder", index_options.autoencoder,
                              "the autoencoder's file (default: that of the model)");
    index_command->add_option("--given", index_options.given,
                              "what another library's file does not say: point=blocks.9,kind=relu");
    index_command->add_option("--out", index_options.out, "the index (default: the autoencoder's file with .index)");
    index_command->add_option("--show", index_options.show, "list this index; no model is needed");
    auto* sort = index_command->add_option("--sort", index_options.sort, "with --show: by which number");
    sort->check(CLI::IsMember(ConceptIndex::column_names()));
    auto* limit = index_command->add_option("--limit", index_options.limit, "with --show: how many concepts");
    limit->check(CLI::Range(1, 1000000));
    auto* one_concept =
        index_command->add_option("--concept", index_options.concept_number, "with --show: all about this one");
    one_concept->check(CLI::Range(0, 1 << 24));
    index_command->callback([&, index_model, sort, limit, one_concept] {
        if (index_options.show.empty()) {
            for (const CLI::Option* option : {sort, limit, one_concept})
                if (option->count() > 0)
                    throw CLI::ValidationError(option->get_name() +
                                               " is of a list, and none is asked for: add --show INDEX, or leave it "
                                               "out");
        } else {
            if (index_model->count() > 0 || !common.set.empty() || !index_options.autoencoder.empty() ||
                !index_options.given.empty() || !index_options.out.empty())
                throw CLI::ValidationError(
                    "--show lists an index that is there, and a model, a folder, --autoencoder, --given, --out and "
                    "--set are of building one: leave out --show or the others");
            for (const CLI::Option* option : {sort, limit})
                if (one_concept->count() > 0 && option->count() > 0)
                    throw CLI::ValidationError("--concept shows one concept, and " + option->get_name() +
                                               " is of a list of several: leave one of them out");
        }
        if (index_options.show.empty() && index_options.autoencoder.empty())
            index_options.autoencoder = built_in_concepts().string();
        if (index_options.show.empty() &&
            (common.model.empty() || index_options.folder.empty() || index_options.autoencoder.empty()))
            throw CLI::ValidationError(
                "a model and a folder are required, and --autoencoder where none is built in; or --show");
        chosen = [&] { return index_concepts(common, index_options); };
    });

    TcavArguments tcav_options;
    auto* tcav_command = app.add_subcommand("tcav", "whether concepts that pictures show move a class's logit");
    add_common(tcav_command, common);
    tcav_command->add_option("--class", tcav_options.target, "a class index or name")->required();
    tcav_command->add_option("--examples", tcav_options.examples, "a folder of pictures of the class")->required();
    tcav_command
        ->add_option("--concept", tcav_options.concepts,
                     "NAME=FOLDER of pictures, or NAME=TEXTFILE with a line picture,ROW,COL-ROW,COL for each region")
        ->required()
        ->take_all();
    tcav_command->add_option("--random", tcav_options.random, "a folder of other pictures")->required();
    tcav_command->add_option("--point", tcav_options.point, "a named point (default: three quarters deep)");
    tcav_command
        ->add_option(
            "--features", tcav_options.features,
            "what pictures are told apart by: whole, all numbers at the point, or mean, those of the grid's mean")
        ->check(CLI::IsMember({"whole", "mean"}));
    tcav_command->add_option("--runs", tcav_options.runs, "sets of random pictures")->check(CLI::Range(30, 100000));
    tcav_command
        ->add_option("--most", tcav_options.most,
                     "pictures of a folder, drawn with --seed where it has more (default: 500)")
        ->check(CLI::Range(1, 1000000));
    tcav_command->add_option("--regularisation", tcav_options.regularisation,
                             "of the classifier, in mean squared lengths of the activations");
    tcav_command->callback([&] { chosen = [&] { return tcav(common, tcav_options); }; });

    SteerArguments steer_options;
    std::vector<std::string> steer_set;
    auto* steer_command = app.add_subcommand("steer", "sets, scales or silences concepts: the answer before and after");
    add_common(steer_command, common, true, nullptr);
    steer_command->add_option("image", steer_options.image, "a picture")->required();
    steer_command->add_option("--autoencoder", steer_options.autoencoder,
                              "the file of the concepts (default: that of the model)");
    steer_command->add_option("--given", steer_options.given,
                              "what another library's file does not say: point=blocks.9,kind=relu");
    steer_command
        ->add_option("--set", steer_set,
                     "CONCEPT=VALUE, or CONCEPT=2x for twice its largest on this picture; also preprocess.key=value")
        ->take_all();
    steer_command->add_option("--add", steer_options.add, "CONCEPT=VALUE")->take_all();
    steer_command->add_option("--scale", steer_options.scale, "CONCEPT=FACTOR")->take_all();
    steer_command->add_option("--suppress", steer_options.suppress, "concepts, separated by commas")->take_all();
    steer_command->add_option("--tokens", steer_options.tokens,
                              "all, class, patches, or ROW,COL-ROW,COL, several with semicolons");
    auto* curve = steer_command->add_option("--curve", steer_options.curve,
                                            "a concept to follow from -10 to 10 times its largest, beside chance");
    curve->check(CLI::Range(0, 1 << 24));
    auto* unit = steer_command->add_option("--unit", steer_options.unit,
                                           "of --curve: its largest, where this picture's is not meant");
    unit->check(CLI::PositiveNumber);
    steer_command->add_option("--out", steer_options.out, "the .steered.json file to write, which opens as a model");
    steer_command->add_flag("--overwrite", steer_options.overwrite, "write anew what is there");
    steer_command->add_option("--top", steer_options.top, "how many classes")->check(CLI::Range(1, 1000));
    steer_command->callback([&, curve, unit] {
        if (unit->count() > 0 && curve->count() == 0)
            throw CLI::ValidationError(
                "--unit is of a curve, and none is asked for: add --curve CONCEPT, or leave it out");
        // Preprocessing is named, concepts are numbers.
        for (const std::string& text : steer_set)
            (text.starts_with("preprocess.") ? common.set : steer_options.set).push_back(text);
        chosen = [&] { return steer(common, steer_options); };
    });

    BenchOptions bench_options;
    auto* bench_command = app.add_subcommand("bench", "measures, with the answer verified first");
    bench_command->add_option("suite", bench_options.suite, "capture, attention, explain, concepts or sparse")
        ->required()
        ->check(CLI::IsMember({"capture", "attention", "explain", "concepts", "sparse"}));
    common.model = "starter";
    bench_command->add_option("--model", common.model, "a model (default: starter)");
    bench_command->add_option("--image", bench_options.image, "a picture (default: built in)");
    bench_command->add_option("--case", bench_options.cases, "attention and sparse: these cases only");
    bench_command->add_option("--products", bench_options.products, "sparse: how a device multiplies, fp32 or tf32")
        ->check(CLI::IsMember({"fp32", "tf32"}));
    bench_command->add_option("--method", bench_options.methods, "explain: methods, separated by commas")
        ->delimiter(',');
    bench_command->add_option("--batches", bench_options.batches, "explain: pictures a pass, the best of which counts")
        ->delimiter(',')
        ->check(CLI::Range(1, 4096));
    bench_command->add_option("--target", bench_options.target, "explain: a class index or name");
    bench_command->add_option("--set", common.set, "explain: METHOD.key=value, or preprocess.key=value")->take_all();
    bench_command->add_option("--seed", common.seed, "explain: for methods that draw");
    bench_command->add_option("--repeats", bench_options.repeats, "measurements")->check(CLI::Range(1, 100000));
    bench_command->add_option("--threads", common.threads, "compute threads")->check(CLI::Range(1, 1024));
    bench_command->add_option("--device", common.device, "cpu or cuda[:N]");
    bench_command->add_option("--dtype", common.dtype, "fp32, bf16 or fp16");
    bench_command->add_option("--memory", common.memory, "attention: budget for what a capture keeps, such as 2GB");
    bench_command->add_flag("--trust", common.trust, "run a TorchScript file: it is a program");
    bench_command->add_flag("--json", common.json, "print one JSON document");
    bench_command->callback([&] { chosen = [&] { return bench(common, bench_options); }; });

    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as CLI11 wants them
    try {
        app.parse(reversed);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    auto report = [](const Error& error) {
        say("vitrine: " + error.message);
        return exit_status(error);
    };
    auto memory = parse_size(common.memory);
    if (!memory) {
        report(memory.error());
        return 2;
    }
    common.memory_bytes = *memory;
    for (const auto* set : {&common.set, &train_options.set})
        if (const Status once = each_key_once(*set); !once) {
            report(once.error());
            return 2;
        }
    try {
        const Status status = chosen();
        return status ? 0 : report(status.error());
    } catch (const c10::Error& error) {
        return report({ErrorCode::Internal, error.what_without_backtrace()});
    } catch (const std::bad_alloc&) {
        return report({ErrorCode::OutOfMemory, "not enough memory"});
    } catch (const std::exception& error) {
        return report({ErrorCode::Internal, error.what()});
    }
}

}  // namespace vitrine::cli
