// Builds an index of concepts: runs a folder's pictures, writes what each says, puts the index together.
#include <vitrine/concept_index.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <future>
#include <optional>
#include <sstream>
#include <thread>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <nlohmann/json.hpp>

#include <vitrine/base/bytes.h>
#include <vitrine/base/concept_records.h>
#include <vitrine/base/file.h>
#include <vitrine/base/json_text.h>
#include <vitrine/base/random.h>
#include <vitrine/beside.h>
#include <vitrine/capture.h>
#include <vitrine/concept_doubt.h>
#include <vitrine/mask_module.h>
#include <vitrine/model_identity.h>
#include <vitrine/preprocess.h>
#include <vitrine/steering.h>
#include <vitrine/torch_errors.h>

#include "concept_map.h"
#include "parameters.h"

namespace vitrine {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::vector<Parameter> index_parameters() {
    return {
        whole_parameter("pictures", 0,
                        "pictures the model runs at once; 0: one on the CPU, where the index is then the same to the "
                        "bit whatever was run before, 16 elsewhere",
                        "pictures", ""),
        whole_parameter("rounds", 200, "passes over the graph of neighbours for the map; 0: its principal plane", "",
                        "L. McInnes et al., 2018"),
    };
}

fs::path concept_index_file(const fs::path& autoencoder) {
    fs::path out = autoencoder;
    out += ".index";
    return out;
}

Result<std::map<std::string, std::string>> given_of(const std::string& text) {
    std::map<std::string, std::string> out;
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, ',');) {
        const auto equals = part.find('=');
        if (equals == std::string::npos) return fail(ErrorCode::BadInput, "'{}' is not NAME=VALUE", part);
        out[part.substr(0, equals)] = part.substr(equals + 1);
    }
    return out;
}

std::string text_of_given(const std::map<std::string, std::string>& given) {
    std::string out;
    for (const auto& [name, value] : given) out += (out.empty() ? "" : ",") + name + '=' + value;
    return out;
}

std::string concepts_hash(const Autoencoder& autoencoder) {
    const AutoencoderConfig& c = autoencoder.config();
    std::uint64_t key = hash_of(fmt::format("{} {} {} {} {} {} {} {} {} {} {} {}", c.kind, c.width, c.latents, c.k,
                                            c.ridge, c.normalise, c.scale, c.subtract_decoder_bias, c.keep_negative,
                                            c.weigh_by_decoder, c.point, c.tokens));
    for (const auto& [name, tensor] : autoencoder.tensors()) {
        const at::Tensor plain = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
        key = mix64(key ^ hash_of(name));
        const auto* number = plain.const_data_ptr<float>();
        for (std::int64_t i = 0; i < plain.numel(); ++i) {
            std::uint32_t word = 0;
            std::memcpy(&word, number + i, sizeof(word));
            key = mix64(key ^ word);
        }
    }
    return fmt::format("{:016x}", key);
}

at::Tensor concept_strength(const Autoencoder& autoencoder, const at::Tensor& tokens, const Codes& codes) {
    if (autoencoder.config().kind != "k_means") return codes.active;
    Codes unused;
    // Before the choice stands x c - |c|^2 / 2, so the squared distance is |x|^2 less twice that.
    const at::Tensor far = (autoencoder.prepared(tokens, unused).square().sum(1, true) - 2 * codes.before).clamp_min(0);
    const at::Tensor reach = autoencoder.tensor("W_dec").square().sum(1).mean().clamp_min(1e-30);
    return codes.active * reach / (reach + far);
}

Status index_fits(const ConceptIndex& index, Model& model, const Autoencoder& autoencoder) {
    if (index.latents() != autoencoder.config().latents || index.fact("autoencoder") != concepts_hash(autoencoder))
        return fail(ErrorCode::BadInput,
                    "the index was built with another autoencoder ({} concepts of {}); build it again with this one",
                    index.latents(), index.fact("point"));
    if (index.fact("steering") != steering_identity(model)) {
        const auto said = [](const std::string& changes) { return changes.empty() ? "nothing steered" : changes; };
        return fail(ErrorCode::BadInput,
                    "the index was built with {} ({}), and this is {} ({}); build it again with this model",
                    index.fact("model"), said(index.fact("steered")), model.info().name, said(changes_of(model)));
    }
    // fp16 rounds otherwise than bf16, of which the hash is made.
    const auto parameters = model.parameters();
    if (!parameters.empty() && parameters.front().second.scalar_type() == at::kHalf) return {};
    if (const std::string now = model_identity(model); now != index.fact("weights"))
        return fail(ErrorCode::BadInput,
                    "the index was built with {} of weights {}, and {} has weights {}; build it again with this model",
                    index.fact("model"), index.fact("weights"), model.info().name, now);
    return {};
}

namespace {

constexpr std::int64_t kNear = 15;  // neighbours of the map's graph, as UMAP takes

/// An index is put over nothing but an index, whole or broken: a slip of the name would cost a photograph.
Status may_be_replaced(const fs::path& file) {
    std::error_code ignored;
    if (!fs::exists(file, ignored)) return {};
    if (fs::is_regular_file(file, ignored)) {
        const MappedFile mapped = VITRINE_TRY(map_file(file));
        constexpr std::size_t kHeader = 1 << 20;  // what it says of itself comes first
        const std::string_view head = bytes::text(mapped.bytes.first(std::min(mapped.bytes.size(), kHeader)));
        if (head.empty() || head.find("vitrine.concept_index") != std::string_view::npos) return {};
    }
    return fail(ErrorCode::BadInput,
                "{} is there already and is no index of concepts; name another file for the index, or move it away",
                file.string());
}

class IndexBuilder {
  public:
    IndexBuilder(Model& model, const IndexConceptsOptions& options)
        : model_(model), options_(options), settings_(index_parameters()) {}
    Result<IndexConceptsSummary> build();

  private:
    struct Seen {
        at::Tensor tokens, gradient;   // [n, width] float, all pictures' one after the other; gradient may be undefined
        at::Tensor answer, embedding;  // [pictures, ...] float
    };
    Status prepare();
    std::string key() const;
    Status run_pictures(ConceptRecords& records, const std::vector<FolderPicture>& waiting);
    Result<Seen> look(const at::Tensor& pixels);
    Status add_records(std::vector<PictureRecord*> pictures, const at::Tensor& pixels);
    at::Tensor effects(const Seen& seen, const Codes& codes, const at::Tensor& token, const at::Tensor& latent,
                       const at::Tensor& value) const;
    Status assemble(const ConceptRecords& records, const std::vector<std::int64_t>& entries,
                    const std::optional<ConceptIndex>& before);
    void report(std::int64_t done, std::int64_t total, const char* unit) const {
        if (options_.progress) options_.progress({done, total, unit});
    }

    Model& model_;
    const IndexConceptsOptions& options_;
    Settings settings_;
    std::optional<Autoencoder> concepts_;
    std::string hash_, weights_, embedding_point_, doubt_;
    TokenPlaces places_;
    std::int64_t read_ = 0;  // tokens of a picture
    bool classifier_ = false;
    fs::path folder_;
    IndexFrame frame_;
    IndexConceptsSummary summary_;
};

Status IndexBuilder::prepare() {
    for (const auto& [name, value] : options_.settings) VITRINE_CHECK(settings_.set(name, value));
    concepts_.emplace(VITRINE_TRY(Autoencoder::load(options_.autoencoder, options_.given)));
    VITRINE_CHECK(concepts_->fits_weights(model_));
    hash_ = concepts_hash(*concepts_);
    concepts_->to(model_.device());
    weights_ = model_identity(model_);
    const AutoencoderConfig& config = concepts_->config();
    const auto& p = model_.preprocess();
    const at::Tensor nothing = at::zeros({1, 3, p.input_height, p.input_width});
    auto tokens = point_tokens(model_, nothing, config);
    if (!tokens)
        return tl::make_unexpected(std::move(tokens.error()).with_context(options_.autoencoder.filename().string()));
    const PointTokens all = std::move(*tokens);
    const auto prefix = static_cast<std::int64_t>(all.prefix.size()), grid = all.rows * all.cols;
    const bool has_class = !all.prefix.empty() && all.prefix.front() == "cls";
    if (config.tokens == "class")
        places_ = {.class_token = 0, .first = 0, .patches = 1};
    else if (config.tokens == "patches")
        places_ = {.class_token = -1, .first = 0, .patches = grid, .rows = all.rows, .cols = all.cols};
    else if (all.rows > 0)
        places_ = {has_class ? 0 : -1, prefix, grid, all.rows, all.cols};
    else
        places_ = {.class_token = -1, .first = 0, .patches = all.tokens.size(1)};
    read_ = config.tokens == "class" ? 1 : config.tokens == "patches" ? grid : all.tokens.size(1);
    if (places_.patches > kMostCells)
        return fail(ErrorCode::Unsupported, "{} has {} patches at {}, an index holds at most {}", model_.info().name,
                    places_.patches, config.point, kMostCells);
    classifier_ = model_.info().classes > 0;
    for (const NamedPoint& one : model_.points())
        if (one.name == "head_input") embedding_point_ = one.name;

    std::error_code error;
    folder_ = fs::canonical(options_.folder, error);
    if (error) return fail(ErrorCode::NotFound, "there is no folder {}", options_.folder.string());
    summary_.file = options_.out.empty() ? kept_beside(concept_index_file(options_.autoencoder)) : options_.out;
    VITRINE_CHECK(may_be_replaced(summary_.file));
    VITRINE_CHECK(make_folder_of(summary_.file));
    const fs::path from_here = folder_.lexically_relative(fs::canonical(fs::absolute(summary_.file).parent_path()));
    frame_.latents = config.latents;
    frame_.rows = places_.rows;
    frame_.cols = places_.cols;
    frame_.class_token = places_.class_token >= 0;
    frame_.classifier = classifier_;
    frame_.facts = {{"model", bytes::to_utf8(model_.info().name)},
                    {"weights", weights_},
                    {"autoencoder", hash_},
                    {"point", config.point},
                    {"tokens", config.tokens},
                    {"preprocess", p.summary()},
                    {"embedding", embedding_point_.empty() ? "the answer" : embedding_point_},
                    {"rounds", std::to_string(settings_.integer("rounds"))}};
    for (const auto& [name, place] :
         {std::pair{"folder", folder_.string()}, {"folder_from_here", from_here.generic_string()}}) {
        frame_.facts[name] = bytes::to_utf8(place);
        if (!bytes::valid_utf8(place)) frame_.facts[std::string(name) + "_bytes"] = json_text(json_bytes(place));
    }
    if (const std::string steering = steering_identity(model_); !steering.empty()) {
        frame_.facts["steering"] = steering;
        frame_.facts["steered"] = changes_of(model_);
    }
    if (config.kind == "k_means") frame_.facts["value"] = "closeness";
    if (doubt_ = doubt_of(*concepts_, model_); !doubt_.empty()) {
        frame_.facts["doubt"] = doubt_;
        summary_.notes.push_back(doubt_);
    }
    if (!options_.given.empty()) frame_.facts["given"] = text_of_given(options_.given);
    summary_.latents = config.latents;
    return {};
}

/// What a picture's record depends on beside the picture. Not the device: figures agree within rounding.
std::string IndexBuilder::key() const {
    const auto& p = model_.preprocess();
    const auto parameters = model_.parameters();
    nlohmann::json key{{"records", 1},
                       {"weights", weights_.empty() ? model_.info().name : weights_},
                       {"dtype", parameters.empty() ? "" : c10::toString(parameters.front().second.scalar_type())},
                       {"autoencoder", hash_},
                       {"preprocess", p.summary()},
                       {"details", {p.apply_exif, p.floor_crop, p.padding}}};
    if (const auto value = frame_.facts.find("value"); value != frame_.facts.end()) key["value"] = value->second;
    return json_text(key);
}

Result<IndexBuilder::Seen> IndexBuilder::look(const at::Tensor& pixels) {
    const AutoencoderConfig& config = concepts_->config();
    CaptureOptions options;
    options.mixings = false;
    options.gradients = classifier_;
    if (!embedding_point_.empty()) options.points = {embedding_point_};
    at::Tensor activation;
    Edit edit;
    edit.kind = Edit::Kind::ReplacePoint;
    edit.where = config.point;
    // The graph starts here: what came before needs none.
    edit.replace = [&](const at::Tensor& x) {
        activation = x.detach();
        if (classifier_) activation = activation.clone().requires_grad_(true);
        return activation;
    };
    options.edits = {edit};
    const auto run = VITRINE_TRY(run_captured(model_, pixels, options));
    if (!activation.defined())
        return fail(ErrorCode::Unsupported, "{} did not pass its point {} on a picture", model_.info().name,
                    config.point);
    const auto read = [&](const at::Tensor& x) {
        at::Tensor tokens = x.dim() == 4 ? x.flatten(2).transpose(1, 2) : x;
        if (config.tokens == "class") tokens = tokens.narrow(1, 0, 1);
        // Patches stand behind all others.
        if (config.tokens == "patches") tokens = tokens.narrow(1, tokens.size(1) - read_, read_);
        return tokens.reshape({-1, config.width}).to(at::kFloat);
    };
    Seen out;
    const at::Tensor answer = run->output.to(at::kFloat);
    if (classifier_) {
        const at::Tensor score = answer.gather(1, answer.detach().argmax(1, true)).sum();
        out.gradient = read(VITRINE_TRY(gradients(score, {activation}, {config.point})).front());
    }
    out.tokens = read(activation.detach());
    out.answer = answer.detach();
    const auto found = run->points.find(embedding_point_);
    out.embedding = found == run->points.end() ? out.answer : found->second.detach().to(at::kFloat).flatten(1);
    return out;
}

/// What the answer loses, to first order, without each of the active values. [active]
at::Tensor IndexBuilder::effects(const Seen& seen, const Codes& codes, const at::Tensor& token,
                                 const at::Tensor& latent, const at::Tensor& value) const {
    if (!seen.gradient.defined()) return at::full_like(value, std::nan(""));
    const at::Tensor decoder = concepts_->tensor("W_dec").detach();
    const at::Tensor gradient = seen.gradient.to(decoder.scalar_type());
    const std::int64_t active = value.numel(), width = decoder.size(1);
    at::Tensor product;  // <decoder row, gradient>
    // Rows that are gathered cost their bandwidth, some hundred times that of a number of the dense product.
    if (active * 100 < gradient.size(0) * decoder.size(0)) {
        std::vector<at::Tensor> pieces{at::zeros({0}, gradient.options())};
        const std::int64_t piece = std::max<std::int64_t>(1, (std::int64_t{1} << 23) / width);
        for (std::int64_t from = 0; from < active; from += piece) {
            const std::int64_t count = std::min(piece, active - from);
            pieces.push_back((decoder.index_select(0, latent.narrow(0, from, count)) *
                              gradient.index_select(0, token.narrow(0, from, count)))
                                 .sum(1));
        }
        product = at::cat(pieces);
    } else {
        product = at::matmul(gradient, decoder.t()).flatten().index_select(0, token * decoder.size(0) + latent);
    }
    at::Tensor out = value * product;
    if (concepts_->config().weigh_by_decoder)
        out = out / at::linalg_vector_norm(decoder, 2, {1}).clamp_min(1e-30).index_select(0, latent);
    if (codes.scale.defined()) out = out * codes.scale.flatten().index_select(0, token);
    return out;
}

Status IndexBuilder::add_records(std::vector<PictureRecord*> pictures, const at::Tensor& pixels) {
    const Seen seen = VITRINE_TRY(look(pixels));
    const at::NoGradGuard no_grad;
    if (seen.tokens.size(0) != read_ * pixels.size(0))
        return fail(ErrorCode::Unsupported, "{} has {} tokens at {} for one picture and {} for another",
                    model_.info().name, read_, concepts_->config().point, seen.tokens.size(0) / pixels.size(0));
    const Codes codes = concepts_->encode(seen.tokens);
    const at::Tensor where = codes.active.detach().gt(0).nonzero();  // by token, then by latent
    const at::Tensor token = where.select(1, 0).contiguous(), latent = where.select(1, 1).contiguous();
    const at::Tensor value = codes.active.flatten().index_select(0, token * codes.active.size(1) + latent);
    const at::Tensor effect = effects(seen, codes, token, latent, value);
    const auto host = [](const at::Tensor& x, at::ScalarType type) { return x.to(at::kCPU, type).contiguous(); };
    const at::Tensor shown = concept_strength(*concepts_, seen.tokens, codes)
                                 .flatten()
                                 .index_select(0, token * codes.active.size(1) + latent);
    const at::Tensor t = host(token, at::kLong), l = host(latent, at::kLong), v = host(shown, at::kFloat),
                     e = host(effect, at::kFloat), embedding = host(seen.embedding, at::kFloat),
                     answer = host(seen.answer, at::kFloat);
    const at::Tensor best = answer.argmax(1), probability = at::softmax(answer, 1);
    std::vector<ConceptValue> values;
    std::int64_t at = 0;
    for (std::int64_t i = 0; i < std::ssize(pictures); ++i) {
        values.clear();
        for (; at < t.numel() && t.const_data_ptr<std::int64_t>()[at] < (i + 1) * read_; ++at) {
            const float one = v.const_data_ptr<float>()[at];
            if (!std::isfinite(one))
                return fail(ErrorCode::BadInput, "concept {} is {} on {}; the model or the concepts are broken",
                            l.const_data_ptr<std::int64_t>()[at], one,
                            pictures[static_cast<std::size_t>(i)]->picture.name);
            values.push_back({t.const_data_ptr<std::int64_t>()[at] - i * read_, l.const_data_ptr<std::int64_t>()[at],
                              one, e.const_data_ptr<float>()[at]});
        }
        PictureRecord& record = *pictures[static_cast<std::size_t>(i)];
        record.patches = static_cast<std::uint32_t>(places_.patches);
        record.latents = latent_records(values, places_);
        const float* row = embedding.const_data_ptr<float>() + i * embedding.size(1);
        record.embedding.assign(row, row + embedding.size(1));
        if (!classifier_) continue;
        record.answer = static_cast<std::int32_t>(best[i].item<std::int64_t>());
        record.probability = probability[i][record.answer].item<float>();
    }
    return {};
}

Status IndexBuilder::run_pictures(ConceptRecords& records, const std::vector<FolderPicture>& waiting) {
    const std::int64_t given = settings_.integer("pictures");
    const auto at_once = static_cast<std::size_t>(given > 0 ? given : model_.device().is_cpu() ? 1 : 16);
    const auto before = static_cast<std::int64_t>(summary_.pictures) - std::ssize(waiting);
    const auto began = Clock::now();
    // The next pictures are decoded while these are run.
    using Decoded = std::vector<std::future<Result<Input>>>;
    const auto decode = [&](std::size_t from) {
        Decoded out;
        for (std::size_t i = from; i < std::min(from + at_once, waiting.size()); ++i)
            out.push_back(std::async(std::launch::async, [this, file = folder_ / fs::path(waiting[i].name)] {
                return guarded([&] { return load_input(file, model_.preprocess()); });
            }));
        return out;
    };
    Decoded coming = decode(0);
    report(before, summary_.pictures, "pictures");
    for (std::size_t from = 0; from < waiting.size(); from += at_once) {
        if (options_.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        Decoded now = std::move(coming);
        coming = decode(from + at_once);
        std::vector<PictureRecord> found(now.size());
        std::vector<PictureRecord*> read;
        std::vector<at::Tensor> pixels;
        for (std::size_t i = 0; i < now.size(); ++i) {
            found[i].picture = waiting[from + i];
            auto input = now[i].get();
            if (!input) {
                found[i].skipped = input.error().message.empty() ? "it cannot be read" : input.error().message;
                continue;
            }
            read.push_back(&found[i]);
            pixels.push_back(std::move(input->pixels));
        }
        if (!read.empty()) VITRINE_CHECK(add_records(read, at::cat(pixels)));
        for (const PictureRecord& one : found) VITRINE_CHECK(records.append(one));
        summary_.run += std::ssize(found);
        summary_.seconds = std::chrono::duration<double>(Clock::now() - began).count();
        summary_.pictures_per_second = static_cast<double>(summary_.run) / summary_.seconds;
        report(before + summary_.run, summary_.pictures, "pictures");
    }
    return {};
}

Status IndexBuilder::assemble(const ConceptRecords& records, const std::vector<std::int64_t>& entries,
                              const std::optional<ConceptIndex>& before) {
    constexpr std::int64_t kKept = ConceptIndex::kNeighbours;
    const auto m = static_cast<std::size_t>(frame_.latents);
    std::vector<std::uint32_t> neighbours(m * kKept);
    std::vector<float> cosines(m * kKept, std::nanf("")), map;
    // Both follow from the decoder alone.
    if (before && before->fact("autoencoder") == hash_ && before->fact("rounds") == frame_.facts["rounds"] &&
        before->latents() == frame_.latents) {
        for (std::size_t i = 0; i < m; ++i) {
            std::size_t at = i * kKept;
            for (const auto& one : before->neighbours(static_cast<std::int64_t>(i))) {
                neighbours[at] = one.latent;
                cosines[at++] = one.cosine;
            }
        }
        map.assign(before->map().begin(), before->map().end());
    } else {
        const at::Tensor decoder = concepts_->tensor("W_dec");
        const NearRows near = VITRINE_TRY(near_rows(decoder, kNear, options_.stop));
        for (std::size_t i = 0; i < m; ++i)
            for (std::size_t j = 0; j < kKept; ++j) {
                neighbours[i * kKept + j] = near.row[i * kNear + j];
                cosines[i * kKept + j] = near.cosine[i * kNear + j];
            }
        const std::int64_t rounds = settings_.integer("rounds");
        map = VITRINE_TRY(lay_out(near, principal_plane(decoder), rounds, options_.stop,
                                  [&](std::int64_t done) { report(done, rounds, "rounds of the map"); }));
    }
    frame_.neighbours = neighbours;
    frame_.cosines = cosines;
    frame_.map = map;
    return write_concept_index(summary_.file, records, entries, frame_, options_.stop,
                               [&](std::int64_t done) { report(done, summary_.pictures, "pictures put together"); });
}

Result<IndexConceptsSummary> IndexBuilder::build() {
    VITRINE_CHECK(prepare());
    const auto pictures = VITRINE_TRY(pictures_below(folder_, &summary_.notes));
    if (pictures.empty()) return fail(ErrorCode::BadInput, "{} has no pictures in it", options_.folder.string());
    summary_.pictures = std::ssize(pictures);

    std::optional<ConceptIndex> before;
    bool current = false;  // the index that is there is what would be written
    if (auto opened = ConceptIndex::open(summary_.file)) before = std::move(*opened);
    if (before && before->fact("autoencoder") == hash_ && before->fact("weights") == weights_) {
        const FolderChanges changes = VITRINE_TRY(changes_since(*before, folder_));
        summary_.added = std::ssize(changes.added);
        summary_.removed = std::ssize(changes.removed);
        summary_.changed = std::ssize(changes.changed);
        current = changes.none() && before->fact("doubt") == doubt_ &&
                  std::all_of(frame_.facts.begin(), frame_.facts.end(),
                              [&](const auto& fact) { return before->fact(fact.first) == fact.second; });
    } else {
        summary_.added = summary_.pictures;
    }

    fs::path journal = summary_.file;
    journal += ".records";
    ConceptRecords records = VITRINE_TRY(ConceptRecords::open(journal, key()));
    if (records.was_emptied())
        summary_.notes.push_back("what was kept is of another model, autoencoder or preparation: all pictures are run");
    std::vector<FolderPicture> waiting;
    for (const FolderPicture& one : pictures)
        if (records.find(one) < 0) waiting.push_back(one);
    if (waiting.size() < pictures.size() && !before)
        summary_.notes.push_back(
            fmt::format("going on: {} of {} pictures are done", pictures.size() - waiting.size(), pictures.size()));
    const auto stopped = [&](const Status& status) { return !status && status.error().code == ErrorCode::Cancelled; };
    const auto result = [&] {
        summary_.records_bytes = static_cast<std::int64_t>(records.size_bytes());
        std::error_code ignored;
        summary_.size_bytes = static_cast<std::int64_t>(fs::file_size(summary_.file, ignored));
        return summary_;
    };
    if (const Status ran = run_pictures(records, waiting); stopped(ran))
        return result();
    else if (!ran)
        return tl::make_unexpected(ran.error());

    std::vector<std::int64_t> entries;
    std::uint64_t needed = 0;
    for (const FolderPicture& one : pictures) {
        entries.push_back(records.find(one));
        const auto& entry = records.entries()[static_cast<std::size_t>(entries.back())];
        needed += entry.length;
        if (!entry.skipped.empty()) summary_.skipped.push_back(one.name + ": " + entry.skipped);
    }
    if (std::ssize(summary_.skipped) == summary_.pictures)
        return fail(ErrorCode::BadInput, "none of the {} pictures of {} can be read: {}", summary_.pictures,
                    options_.folder.string(), summary_.skipped.front());
    if (current && waiting.empty()) {
        summary_.finished = true;
        return result();
    }
    const auto began = Clock::now();
    if (const Status done = assemble(records, entries, before); stopped(done))
        return result();
    else if (!done)
        return tl::make_unexpected(done.error());
    summary_.assembly_seconds = std::chrono::duration<double>(Clock::now() - began).count();
    // Records of pictures that are gone are thrown out when they are the larger part.
    if (records.size_bytes() > 2 * needed + 4096) VITRINE_CHECK(records.compact(entries));
    summary_.finished = true;
    return result();
}

}  // namespace

Result<IndexConceptsSummary> index_concepts(Model& model, const IndexConceptsOptions& options) {
    return guarded([&] { return IndexBuilder(model, options).build(); });
}

}  // namespace vitrine
