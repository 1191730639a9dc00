// The commands, one function each. Each prints its answer and returns its status.
#pragma once

#include <string>
#include <vector>

#include "cli/common.h"
#include "cli/targets.h"

namespace vitrine::cli {

struct InfoOptions {
    bool points = false;
};
Status info(const Common& common, const InfoOptions& options);

struct PredictOptions {
    std::vector<std::string> images;
    std::int64_t top = 5;
};
Status predict(const Common& common, const PredictOptions& options);

struct AttentionOptions {
    std::string image;
    std::string layer = "-1";
    std::string head = "mean";
    std::string query = "readout";
    std::string out;
    std::int64_t top = 0;  ///< above 0: the most-read tokens are printed as JSON; `out` may then be empty
};
Status attention(const Common& common, const AttentionOptions& options);

struct ExplainOptions {
    std::vector<std::string> images;
    std::vector<std::string> methods;
    TargetOptions asked;
    std::string other;                 ///< a second picture, for methods that compare two
    std::vector<double> seen_through;  ///< shares of the map in %: what the measures show the model again is written
    std::string out;
};
/// With several methods a failing one does not stop the others; the first failure is returned at the end.
Status explain(const Common& common, const ExplainOptions& options);

struct MeasureOptions {
    std::vector<std::string> images;  ///< pictures and folders of pictures
    std::vector<std::string> methods, measures;
    TargetOptions asked;
    std::string boxes;    ///< a table of boxes; empty: boxes.tsv beside the pictures
    std::string masks;    ///< a folder of masks, which stand for the boxes; empty: none
    std::string state;    ///< a journal of what was found, taken up again; empty: none
    std::string split;    ///< which share of the pictures: A, B or K/N; empty: all
    bool report = false;  ///< show what `state` holds and measure nothing
    bool mpi = false;     ///< share the work with the processes that mpirun started
    std::string out;      ///< a folder for the tables of a measure of a folder; empty: none
};
/// What cannot be measured does not stop the rest; the first failure is returned at the end.
Status measure(const Common& common, const MeasureOptions& options);

Status list(const Common& common, const std::string& what);
Status doctor(const Common& common);

struct PackArguments {
    std::string folder, out;
    bool overwrite = false;  ///< what is there is packed anew
    std::int64_t size = 224;
};
Status pack(const Common& common, const PackArguments& options);

struct TrainArguments {
    std::string architecture, folder, out;
    bool overwrite = false;  ///< what is finished there is trained anew
    std::vector<std::string> set;
};
Status train_classifier(const Common& common, const TrainArguments& options);

struct TrainMaskArguments {
    std::string folder, out;
    bool overwrite = false;  ///< what is finished there is trained anew
    bool mpi = false;        ///< share every batch with the processes that mpirun started
};
/// `--set` of `common`: the trainer's settings and preprocess.key.
Status train_mask(const Common& common, const TrainMaskArguments& options);

struct TrainConceptsArguments {
    std::string folder, out;
    bool overwrite = false;  ///< what is finished there is trained anew
    bool mpi = false;        ///< share pictures and batches with the processes that mpirun started
};
/// `--set` of `common`: the trainer's settings and preprocess.key.
Status train_concepts(const Common& common, const TrainConceptsArguments& options);

struct IndexConceptsArguments {
    std::string folder, autoencoder, given, out;
    std::string show;  ///< an index to list instead of building one
    std::string sort = "picture_frequency";
    std::int64_t limit = 20;
    std::int64_t concept_number = -1;  ///< of `show`: this concept alone, in full
};
/// `--set` of `common`: the index's settings and preprocess.key.
Status index_concepts(const Common& common, const IndexConceptsArguments& options);

struct TcavArguments {
    std::string target, examples, random, point, features = "whole";
    std::vector<std::string> concepts;  ///< NAME=FOLDER, or NAME=TEXTFILE of regions
    std::int64_t runs = 30, most = 500;
    double regularisation = 0.01;
};
Status tcav(const Common& common, const TcavArguments& arguments);

struct SteerArguments {
    std::string image, autoencoder, given;
    std::vector<std::string> set, add, scale, suppress;  ///< "12=2.5", of suppress "12"; several with commas
    std::string tokens = "all";
    std::string out;          ///< NAME.steered.json; empty: nothing is written
    bool overwrite = false;   ///< what is there is written anew
    std::int64_t curve = -1;  ///< a concept whose effect is followed; -1: none
    double unit = 0;          ///< of the curve; 0: the largest on the picture
    std::int64_t top = 5;
};
/// The answer before and after. `--set` of `common`: preprocess.key.
Status steer(const Common& common, const SteerArguments& arguments);

struct BenchOptions {
    std::string suite;
    std::int64_t repeats = 30;
    std::string image;
    std::vector<std::string> cases;    ///< of the attention suite; empty is all
    std::vector<std::string> methods;  ///< of the explain suite
    std::vector<std::int64_t> batches{1, 2, 4, 8, 16, 32};
    std::string target;             ///< of the explain suite: a class; empty is the predicted one
    std::string products = "fp32";  ///< of the sparse suite: how a device multiplies
};
Status bench(const Common& common, const BenchOptions& options);

}  // namespace vitrine::cli
