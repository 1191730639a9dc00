// What an index of concepts takes and how fast it is read, over made-up codes.
#include <vitrine/bench.h>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <set>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>

#include <vitrine/base/concept_records.h>
#include <vitrine/base/random.h>
#include <vitrine/torch_errors.h>

#include "concept_map.h"

namespace vitrine {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::int64_t kSide = 14, kWidth = 192, kWatched = 4;

double since(Clock::time_point began) { return std::chrono::duration<double>(Clock::now() - began).count(); }

/// A line of /proc/self/status, in bytes; 0 where there is none.
std::int64_t memory(const std::string& name) {
    std::ifstream lines("/proc/self/status");
    for (std::string line; std::getline(lines, line);)
        if (line.starts_with(name + ":")) return std::stoll(line.substr(name.size() + 1)) * 1024;
    return 0;
}
void forget_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

/// Throws a file's pages out of the system's cache.
void forget_pages(const fs::path& file) {
    const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ::fdatasync(fd);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
}

/// A picture's say: `distinct` concepts drawn with the early ones more often, each on a few patches of its own.
PictureRecord made_up(std::int64_t picture, std::int64_t latents, std::int64_t distinct) {
    PictureRecord out;
    out.picture = {fmt::format("n{:08}/picture_{:06}.jpg", picture % 1000, picture), 100000 + picture, picture};
    out.answer = static_cast<std::int32_t>(picture % 1000);
    out.probability = 0.5F;
    out.patches = kSide * kSide;
    auto draw = [&, n = std::uint64_t{0}]() mutable {
        return static_cast<double>(random_bits(7, static_cast<std::uint64_t>(picture), n++) >> 11) * 0x1.0p-53;
    };
    for (std::int64_t d = 0; d < kWidth; ++d) out.embedding.push_back(static_cast<float>(draw() - 0.5));
    std::set<std::uint32_t> chosen;
    while (std::ssize(chosen) < distinct) {
        const double u = draw();
        chosen.insert(static_cast<std::uint32_t>(u * u * static_cast<double>(latents)));
    }
    for (const std::uint32_t latent : chosen) {
        LatentRecord one;
        one.latent = latent;
        one.cell = static_cast<std::uint16_t>(draw() * kSide * kSide);
        one.patches = static_cast<std::uint16_t>(1 + draw() * 20);
        one.peak = static_cast<float>(0.01 + 10 * draw());
        one.sum = one.peak * static_cast<float>(one.patches) / 2;
        one.effect = static_cast<float>(draw() - 0.5);
        one.moran = static_cast<float>(draw());
        out.latents.push_back(one);
    }
    return out;
}

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
    return values[values.size() / 2];
}

}  // namespace

Result<nlohmann::json> bench_concept_index(std::int64_t pictures, std::int64_t latents, std::int64_t distinct,
                                           int repeats) {
    return guarded([&]() -> Result<nlohmann::json> {
        const fs::path folder = fs::temp_directory_path() / fmt::format("vitrine_bench_concepts_{}", ::getpid());
        std::error_code ignored;
        fs::create_directories(folder, ignored);
        const std::shared_ptr<void> cleaning(nullptr, [&](void*) { fs::remove_all(folder, ignored); });
        const fs::path file = folder / "index", journal = folder / "index.records";
        nlohmann::json out{{"pictures", pictures}, {"concepts", latents}, {"concepts_a_picture", distinct}};

        auto generator = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{1});
        const at::Tensor decoder = at::randn({latents, kWidth}, generator);
        auto began = Clock::now();
        const NearRows near = VITRINE_TRY(near_rows(decoder, 15));
        out["neighbours_s"] = since(began);
        began = Clock::now();
        const auto map = VITRINE_TRY(lay_out(near, principal_plane(decoder), 200));
        out["map_s"] = since(began);
        constexpr std::int64_t kKept = ConceptIndex::kNeighbours;
        IndexFrame frame;
        frame.latents = latents;
        frame.rows = frame.cols = kSide;
        frame.classifier = true;
        std::vector<std::uint32_t> neighbours;
        std::vector<float> cosines;
        for (std::int64_t i = 0; i < latents * 15; ++i)
            if (i % 15 < kKept) {
                neighbours.push_back(near.row[static_cast<std::size_t>(i)]);
                cosines.push_back(near.cosine[static_cast<std::size_t>(i)]);
            }
        frame.neighbours = neighbours;
        frame.cosines = cosines;
        frame.map = map;
        frame.facts = {{"folder", folder.string()}};

        // Some concepts are followed by a plain computation.
        std::vector<std::vector<std::pair<float, std::int64_t>>> watched(kWatched);
        forget_peak();
        const std::int64_t before = memory("VmRSS");
        ConceptRecords records = VITRINE_TRY(ConceptRecords::open(journal, "bench"));
        double writing = 0;
        std::vector<std::int64_t> entries(static_cast<std::size_t>(pictures));
        // Names sort otherwise than numbers: the index asks for entries by name.
        std::vector<std::pair<std::string, std::int64_t>> by_name;
        for (std::int64_t i = 0; i < pictures; ++i) {
            const PictureRecord one = made_up(i, latents, distinct);
            for (const LatentRecord& record : one.latents)
                if (record.latent < kWatched) watched[record.latent].emplace_back(record.peak, i);
            by_name.emplace_back(one.picture.name, i);
            began = Clock::now();
            VITRINE_CHECK(records.append(one));
            writing += since(began);
        }
        std::sort(by_name.begin(), by_name.end());
        for (std::size_t i = 0; i < by_name.size(); ++i) entries[i] = by_name[i].second;
        out["records_bytes"] = records.size_bytes();
        out["records_written_s"] = writing;
        began = Clock::now();
        VITRINE_CHECK(write_concept_index(file, records, entries, frame));
        out["put_together_s"] = since(began);
        out["building_peak_bytes"] = memory("VmHWM") - before;
        out["index_bytes"] = fs::file_size(file);

        bool verified = true;
        {
            const ConceptIndex index = VITRINE_TRY(ConceptIndex::open(file));
            for (std::int64_t k = 0; k < std::min(kWatched, latents); ++k) {
                auto& all = watched[static_cast<std::size_t>(k)];
                std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
                const auto tops = index.tops(k);
                verified = verified && tops.size() == std::min<std::size_t>(16, all.size());
                for (std::size_t i = 0; i < tops.size(); ++i) verified = verified && tops[i].value == all[i].first;
                const auto share = static_cast<float>(static_cast<double>(all.size()) / static_cast<double>(pictures));
                verified = verified && index.column("picture_frequency")[static_cast<std::size_t>(k)] == share;
            }
        }
        out["verified"] = verified;
        if (!verified) return fail(ErrorCode::Internal, "the index differs from the plain computation");

        const auto micro = [](Clock::time_point start) { return since(start) * 1e6; };
        nlohmann::json reading;
        for (const bool warm : {false, true}) {
            std::vector<double> opening, sorting, hundred, finding;
            std::int64_t touched = 0, own = 0;
            for (int round = 0; round < repeats; ++round) {
                if (!warm) forget_pages(file);
                const std::int64_t mapped = memory("RssFile"), held = memory("RssAnon");
                began = Clock::now();
                const ConceptIndex index = VITRINE_TRY(ConceptIndex::open(file));
                opening.push_back(micro(began));
                began = Clock::now();
                std::size_t sum = index.order("monosemanticity").size();
                sorting.push_back(micro(began));
                began = Clock::now();
                for (std::uint64_t i = 0; i < 100; ++i) {
                    const auto latent = static_cast<std::int64_t>(random_bits(9, static_cast<std::uint64_t>(round), i) %
                                                                  static_cast<std::uint64_t>(latents));
                    for (const ConceptTop& top : index.tops(latent)) sum += index.picture(top.picture).name.size();
                    sum += index.histogram(latent).size() + index.neighbours(latent).size();
                }
                hundred.push_back(micro(began));
                began = Clock::now();
                for (std::uint64_t i = 0; i < 100; ++i) {
                    const auto picture = static_cast<std::int64_t>(
                        random_bits(8, static_cast<std::uint64_t>(round), i) % static_cast<std::uint64_t>(pictures));
                    sum += index.strongest(index.find(index.picture(picture).name)).size();
                }
                finding.push_back(micro(began));
                if (sum == 0) return fail(ErrorCode::Internal, "nothing was read");
                touched = std::max(touched, memory("RssFile") - mapped);
                own = std::max(own, memory("RssAnon") - held);
            }
            reading[warm ? "warm" : "cold"] = {
                {"open_us", median(opening)},         {"sort_a_column_us", median(sorting)},
                {"100_concepts_us", median(hundred)}, {"100_pictures_by_name_us", median(finding)},
                {"mapped_bytes_touched", touched},    {"own_bytes", own}};
        }
        out["reading"] = reading;
        return out;
    });
}

}  // namespace vitrine
