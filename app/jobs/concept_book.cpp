// Opens an autoencoder's index and names, and builds the index.
#include "concept_book.h"

#include <sys/resource.h>
#include <unistd.h>

#include <vitrine/autoencoder_asks.h>
#include <vitrine/beside.h>
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

/// What was given, else what the index knows was.
std::map<std::string, std::string> given_to(const ConceptSource& source) {
    if (source.given.empty())
        if (const auto index = ConceptIndex::open(found_beside(concept_index_file(source.file))))
            if (auto given = given_of(index->fact("given"))) return std::move(*given);
    return source.given;
}

}  // namespace

std::vector<std::string> asked_by(const ConceptSource& source, bool index) {
    return asked_by_autoencoder(source.file, index ? given_to(source) : source.given);
}

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

Result<ConceptBook> open_book(Model& model, const ConceptSource& source) {
    return guarded([&]() -> Result<ConceptBook> {
        ConceptBook book;
        const auto& autoencoder = source.file;
        book.autoencoder = autoencoder;
        book.given = given_to(source);
        book.see = seer(model.preprocess());
        const auto file = found_beside(concept_index_file(autoencoder));
        auto index = ConceptIndex::open(file);
        const auto concepts = VITRINE_TRY(Autoencoder::load(autoencoder, book.given));
        if (concepts.config().point.empty())
            return fail(ErrorCode::BadInput, "{} does not say which point of the model it reads; choose it",
                        autoencoder.filename().string());
        VITRINE_CHECK(concepts.fits_weights(model));
        book.mark = concepts_mark(concepts);
        if (auto names = ConceptNames::of(autoencoder, book.mark)) {
            book.called = called_in(*names);
        } else {
            book.called_trouble = names.error().message;
            const auto all = ConceptNames::load(found_beside(concept_names_file(autoencoder)));
            book.called_another = all && !all->given_to_another(book.mark).empty();
        }
        std::error_code failed;
        if (!fs::exists(file, failed)) return book;
        if (index) book.folder = index->folder();
        if (const auto fits = index ? index_fits(*index, model, concepts) : tl::make_unexpected(index.error()); fits)
            book.index = std::make_shared<const ConceptIndex>(std::move(*index));
        else
            book.index_trouble = fits.error().message;
        return book;
    });
}

Result<CalledConcepts> call_concept(const fs::path& autoencoder, const std::string& mark, std::int64_t latent,
                                    const std::string& name, const std::vector<std::string>& tags) {
    const auto file = kept_beside(concept_names_file(autoencoder));
    VITRINE_CHECK(make_folder_of(file));
    auto names = VITRINE_TRY(ConceptNames::to_change(autoencoder, mark));
    VITRINE_CHECK(names.rename(latent, name));
    VITRINE_CHECK(names.set_tags(latent, tags));
    VITRINE_CHECK(names.save(file));
    return called_in(names);
}

Result<CalledConcepts> adopt_names(const fs::path& autoencoder, const std::string& mark) {
    VITRINE_CHECK(ConceptNames::adopt(autoencoder, mark));
    return called_in(VITRINE_TRY(ConceptNames::of(autoencoder, mark)));
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
    options.autoencoder = plan.source.file;
    options.given = plan.source.given;
    options.stop = stop;
    options.progress = [&](const Progress& p) { doing("Indexing pictures", p.done, p.total); };
    auto made = VITRINE_TRY(index_concepts(*model, options));
    return IndexMade{made.finished,           made.pictures,        made.run, made.pictures_per_second,
                     std::move(made.skipped), std::move(made.notes)};
}

}  // namespace vitrine::app
