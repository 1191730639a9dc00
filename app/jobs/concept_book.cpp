// Opens an autoencoder's index and names, and builds the index.
#include "concept_book.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>

#include <vitrine/concept_index.h>
#include <vitrine/concept_names.h>
#include <vitrine/engine.h>
#include <vitrine/preprocess.h>
#include <vitrine/torch_errors.h>

namespace vitrine::app {

namespace fs = std::filesystem;

namespace {

CalledConcepts called_in(const ConceptNames& names) {
    CalledConcepts out;
    for (const auto& [latent, name] : names.all()) out[latent] = {name.name, name.note, name.tags, {}};
    return out;
}

/// Where something beside the autoencoder is written: there, or among the person's own files where that folder is
/// read-only, as the program's own is once it is installed.
fs::path written_at(const fs::path& beside) {
    const auto folder = fs::absolute(beside).parent_path();
    if (access(folder.c_str(), W_OK) == 0) return beside;
    const char* data = std::getenv("XDG_DATA_HOME");
    const char* home = std::getenv("HOME");
    const fs::path root = data && *data ? fs::path(data) : fs::path(home ? home : "/tmp") / ".local" / "share";
    return root / "vitrine" /
           fmt::format("{:08x}-{}", static_cast<std::uint32_t>(std::hash<std::string>()(folder.string())),
                       beside.filename().string());
}

fs::path read_at(const fs::path& beside) {
    auto own = written_at(beside);
    std::error_code ignored;
    return fs::exists(own, ignored) ? own : beside;
}

Status folder_for(const fs::path& file) {
    std::error_code failed;
    fs::create_directories(fs::absolute(file).parent_path(), failed);
    if (failed) return fail(ErrorCode::Io, "{} cannot be written: {}", file.string(), failed.message());
    return {};
}

}  // namespace

SeePicture seer(const Preprocess& preprocess) {
    return [preprocess](const fs::path& file) {
        return guarded([&]() -> Result<ImageView> {
            const auto image = std::make_shared<const Image>(std::move(VITRINE_TRY(load_input(file, preprocess)).seen));
            ImageView view;
            view.data = image->pixels.data();
            view.width = image->width;
            view.height = image->height;
            view.row_bytes = image->width * 3;
            view.keep_alive = image;
            return view;
        });
    };
}

Result<ConceptBook> open_book(Model& model, const fs::path& autoencoder) {
    return guarded([&]() -> Result<ConceptBook> {
        ConceptBook book;
        book.autoencoder = autoencoder;
        book.see = seer(model.preprocess());
        const auto concepts = VITRINE_TRY(Autoencoder::load(autoencoder));
        VITRINE_CHECK(concepts.fits_weights(model));
        if (auto names = ConceptNames::load(read_at(concept_names_file(autoencoder))))
            book.called = called_in(*names);
        else
            book.called_trouble = names.error().message;
        const auto file = read_at(concept_index_file(autoencoder));
        std::error_code failed;
        if (!fs::exists(file, failed)) return book;
        auto index = ConceptIndex::open(file);
        if (index) book.folder = index->fact("folder");
        if (const auto fits = index ? index_fits(*index, model, concepts) : tl::make_unexpected(index.error()); fits)
            book.index = std::make_shared<const ConceptIndex>(std::move(*index));
        else
            book.index_trouble = fits.error().message;
        return book;
    });
}

Result<CalledConcepts> call_concept(const fs::path& autoencoder, std::int64_t latent, const std::string& name,
                                    const std::vector<std::string>& tags) {
    const auto file = written_at(concept_names_file(autoencoder));
    auto names = VITRINE_TRY(ConceptNames::load(read_at(concept_names_file(autoencoder))));
    VITRINE_CHECK(folder_for(file));
    VITRINE_CHECK(names.rename(latent, name));
    VITRINE_CHECK(names.set_tags(latent, tags));
    VITRINE_CHECK(names.save(file));
    return called_in(names);
}

Result<IndexMade> build_index(
    const IndexPlan& plan, std::stop_token stop,
    const std::function<void(std::string doing, std::int64_t done, std::int64_t total)>& doing) {
    // What the person looks at goes first. The threads that this one starts for its sums inherit it.
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 10);
    doing("Opening a copy of the model", 0, 0);
    OpenOptions open;
    open.trust = true;  // asked for when the window opened it
    const auto model = VITRINE_TRY(open_model(plan.model, open));
    if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
    doing("Looking at the pictures", 0, 0);
    IndexConceptsOptions options;
    options.folder = plan.folder;
    options.autoencoder = plan.autoencoder;
    options.out = written_at(concept_index_file(plan.autoencoder));
    VITRINE_CHECK(folder_for(options.out));
    options.stop = stop;
    options.progress = [&](const Progress& p) { doing("Indexing pictures", p.done, p.total); };
    auto made = VITRINE_TRY(index_concepts(*model, options));
    return IndexMade{made.finished,           made.pictures,        made.run, made.pictures_per_second,
                     std::move(made.skipped), std::move(made.notes)};
}

}  // namespace vitrine::app
