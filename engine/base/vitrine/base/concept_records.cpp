// The journal of what pictures say of concepts, and the index that is put together from it.
#include <vitrine/base/concept_records.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include <vitrine/base/bytes.h>
#include <vitrine/base/file.h>
#include <vitrine/base/readers.h>

namespace vitrine {

namespace fs = std::filesystem;

namespace {

/// memcpy must not be given a null pointer, and an empty list has one.
void copy_bytes(void* to, const void* from, std::size_t count) {
    if (count > 0) std::memcpy(to, from, count);
}

constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
constexpr std::size_t kTops = ConceptIndex::kTops, kBins = ConceptIndex::kBins, kStrongest = ConceptIndex::kStrongest,
                      kNeighbours = ConceptIndex::kNeighbours;

/// FNV-1a over words of 8 bytes: a torn or flipped block is found, nobody is kept from forging one.
std::uint64_t checksum(std::span<const std::byte> bytes) {
    std::uint64_t key = 0xCBF29CE484222325U ^ bytes.size();
    std::size_t i = 0;
    for (; i + 8 <= bytes.size(); i += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data() + i, 8);
        key = (key ^ word) * 0x100000001B3U;
        key ^= key >> 32;
    }
    for (; i < bytes.size(); ++i) key = (key ^ std::to_integer<std::uint64_t>(bytes[i])) * 0x100000001B3U;
    return key;
}

struct FileHeader {
    std::array<char, 8> magic{'V', 'I', 'T', 'R', 'C', 'R', 'E', 'C'};
    std::uint32_t version = 1, key_length = 0;
};

/// What stands before each picture's texts and numbers.
struct BlockHeader {
    std::uint64_t check = 0;   // of all that follows this word
    std::uint64_t length = 0;  // of the whole block
    std::int64_t size_bytes = 0, time_ns = 0;
    std::int32_t answer = -1;
    float probability = 0;
    std::uint32_t patches = 0, name_length = 0, reason_length = 0, width = 0, latents = 0, magic = kMagic;
    static constexpr std::uint32_t kMagic = 0x54434950;  // "PICT"
};
static_assert(sizeof(BlockHeader) == 64);
constexpr std::uint64_t kMostBlock = 1U << 30;

std::uint64_t padded(std::uint64_t length) { return (length + 7) / 8 * 8; }

/// The length that a block's numbers ask for. No sum can overflow: all are products of 32-bit numbers.
std::uint64_t length_of(const BlockHeader& head) {
    return padded(sizeof(BlockHeader) + padded(std::uint64_t{head.name_length} + head.reason_length) +
                  std::uint64_t{head.width} * sizeof(float) + std::uint64_t{head.latents} * sizeof(LatentRecord));
}

std::uint64_t embedding_offset(const BlockHeader& head) {
    return sizeof(BlockHeader) + padded(std::uint64_t{head.name_length} + head.reason_length);
}

tl::unexpected<Error> io_failure(const char* doing, const fs::path& file) {
    return fail(ErrorCode::Io, "{} cannot be {}: {}", bytes::printable(file.filename().string()), doing,
                std::strerror(errno));
}

}  // namespace

double morans_i(std::span<const float> cells, std::int64_t rows, std::int64_t cols) {
    double mean = 0;
    for (const float x : cells) mean += x;
    mean /= static_cast<double>(cells.size());
    double spread = 0, together = 0;
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < cols; ++c) {
            const auto at = static_cast<std::size_t>(r * cols + c);
            const double z = cells[at] - mean;
            spread += z * z;
            if (c + 1 < cols) together += z * (cells[at + 1] - mean);
            if (r + 1 < rows) together += z * (cells[at + static_cast<std::size_t>(cols)] - mean);
        }
    const auto pairs = static_cast<double>(rows * (cols - 1) + cols * (rows - 1));
    if (!(spread > 0) || pairs <= 0) return std::numeric_limits<double>::quiet_NaN();
    return static_cast<double>(cells.size()) / pairs * together / spread;
}

std::vector<LatentRecord> latent_records(std::span<const ConceptValue> values, const TokenPlaces& places) {
    std::vector<std::int64_t> latents;
    latents.reserve(values.size());
    for (const auto& one : values) latents.push_back(one.latent);
    std::sort(latents.begin(), latents.end());
    latents.erase(std::unique(latents.begin(), latents.end()), latents.end());
    std::vector<LatentRecord> out(latents.size());
    std::vector<double> sum(latents.size()), effect(latents.size());
    const bool grid = places.rows > 0;
    const auto cells = static_cast<std::size_t>(grid ? places.patches : 0);
    std::vector<float> map(latents.size() * cells);
    for (const auto& one : values) {
        const auto k =
            static_cast<std::size_t>(std::lower_bound(latents.begin(), latents.end(), one.latent) - latents.begin());
        LatentRecord& record = out[k];
        effect[k] += one.effect;
        if (one.token == places.class_token) record.in_class = one.value;
        const std::int64_t patch = one.token - places.first;
        if (patch < 0 || patch >= places.patches) continue;
        ++record.patches;
        sum[k] += one.value;
        if (one.value > record.peak) {
            record.peak = one.value;
            if (grid) record.cell = static_cast<std::uint16_t>(patch);
        }
        if (grid) map[k * cells + static_cast<std::size_t>(patch)] = one.value;
    }
    for (std::size_t k = 0; k < out.size(); ++k) {
        out[k].latent = static_cast<std::uint32_t>(latents[k]);
        out[k].sum = static_cast<float>(sum[k]);
        out[k].effect = static_cast<float>(effect[k]);
        out[k].moran =
            grid && out[k].patches > 0
                ? static_cast<float>(morans_i(std::span(map).subspan(k * cells, cells), places.rows, places.cols))
                : kNone;
    }
    return out;
}

ConceptRecords::Closer::~Closer() {
    if (fd >= 0) ::close(fd);
}

Status ConceptRecords::read_at(std::uint64_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
        const ssize_t got = ::pread(descriptor_->fd, out.data(), out.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return io_failure("read", file_);
        if (got == 0)
            return fail(ErrorCode::BadInput, "{} became shorter while it was read", file_.filename().string());
        offset += static_cast<std::uint64_t>(got);
        out = out.subspan(static_cast<std::size_t>(got));
    }
    return {};
}

Status ConceptRecords::write_at_end(std::span<const std::byte> bytes) {
    const std::uint64_t before = size_;
    while (!bytes.empty()) {
        const ssize_t put = ::pwrite(descriptor_->fd, bytes.data(), bytes.size(), static_cast<off_t>(size_));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) {
            auto failure = io_failure("written", file_);
            // Half a block is of no use; what lies before it is.
            if (::ftruncate(descriptor_->fd, static_cast<off_t>(before)) == 0) size_ = before;
            return failure;
        }
        size_ += static_cast<std::uint64_t>(put);
        bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
    return {};
}

Result<ConceptRecords> ConceptRecords::open(const fs::path& file, const std::string& key) {
    ConceptRecords out;
    out.file_ = file;
    out.descriptor_ = std::make_shared<Closer>();
    out.descriptor_->fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666);
    struct stat info {};
    if (out.descriptor_->fd < 0 || ::fstat(out.descriptor_->fd, &info) != 0) return io_failure("opened", file);
    if (!S_ISREG(info.st_mode))
        return fail(ErrorCode::BadInput, "{} is no regular file", bytes::printable(file.filename().string()));
    if (::flock(out.descriptor_->fd, LOCK_EX | LOCK_NB) != 0)
        return fail(ErrorCode::Io, "another program is building this index ({} is in use); wait until it is done",
                    bytes::printable(file.filename().string()));
    FileHeader head;
    head.key_length = static_cast<std::uint32_t>(key.size());
    out.header_.assign(reinterpret_cast<const char*>(&head), sizeof(head));
    out.header_ += key;
    out.header_.resize(padded(out.header_.size()), '\0');
    const auto size = static_cast<std::uint64_t>(info.st_size);
    std::string found(static_cast<std::size_t>(std::min<std::uint64_t>(size, out.header_.size())), '\0');
    VITRINE_CHECK(out.read_at(0, std::as_writable_bytes(std::span(found))));
    if (size >= 8 && std::memcmp(found.data(), head.magic.data(), 8) != 0)
        return fail(ErrorCode::BadInput,
                    "{} is no journal of an index of concepts, so it is not replaced; move it away",
                    bytes::printable(file.filename().string()));
    if (found != out.header_) {
        out.emptied_ = size > 0;
        if (::ftruncate(out.descriptor_->fd, 0) != 0) return io_failure("emptied", file);
        VITRINE_CHECK(out.write_at_end(std::as_bytes(std::span(out.header_))));
        return out;
    }
    out.size_ = size;
    VITRINE_CHECK(out.scan(out.header_.size()));
    return out;
}

Status ConceptRecords::scan(std::uint64_t from) {
    std::vector<std::byte> block;
    while (bytes::fits(from, sizeof(BlockHeader), size_)) {
        BlockHeader head;
        VITRINE_CHECK(read_at(from, std::as_writable_bytes(std::span(&head, 1))));
        if (head.magic != BlockHeader::kMagic || head.length > kMostBlock || head.length < sizeof(BlockHeader) ||
            !bytes::fits(from, head.length, size_))
            break;
        block.resize(head.length);
        VITRINE_CHECK(read_at(from, block));
        const auto record = parse_block(block);
        if (!record) break;
        by_name_[record->picture.name] = static_cast<std::int64_t>(entries_.size());
        entries_.push_back(
            {record->picture, record->skipped, from, head.length, from + embedding_offset(head), head.width});
        from += head.length;
    }
    // What follows is a block that was being written when the program ended.
    if (from < size_ && ::ftruncate(descriptor_->fd, static_cast<off_t>(from)) != 0) return io_failure("cut", file_);
    size_ = from;
    return {};
}

void ConceptRecords::seal_block(std::span<std::byte> bytes) {
    const std::uint64_t check = checksum(bytes.subspan(8));
    std::memcpy(bytes.data(), &check, sizeof(check));
}

Result<PictureRecord> ConceptRecords::parse_block(std::span<const std::byte> bytes) {
    BlockHeader head;
    const auto broken = [] { return fail(ErrorCode::BadInput, "a block of the journal is damaged"); };
    if (bytes.size() < sizeof(head)) return broken();
    std::memcpy(&head, bytes.data(), sizeof(head));
    if (head.magic != BlockHeader::kMagic || head.length != bytes.size() || length_of(head) != head.length ||
        checksum(bytes.subspan(8)) != head.check)
        return broken();
    PictureRecord out;
    out.picture.size_bytes = head.size_bytes;
    out.picture.time_ns = head.time_ns;
    out.answer = head.answer;
    out.probability = head.probability;
    out.patches = head.patches;
    const std::string_view text = bytes::text(bytes.subspan(sizeof(head)));
    out.picture.name = text.substr(0, head.name_length);
    out.skipped = text.substr(head.name_length, head.reason_length);
    const std::byte* at = bytes.data() + embedding_offset(head);
    out.embedding.resize(head.width);
    copy_bytes(out.embedding.data(), at, head.width * sizeof(float));
    out.latents.resize(head.latents);
    copy_bytes(out.latents.data(), at + head.width * sizeof(float), head.latents * sizeof(LatentRecord));
    return out;
}

std::int64_t ConceptRecords::find(const FolderPicture& picture) const {
    const auto found = by_name_.find(picture.name);
    if (found == by_name_.end()) return -1;
    const FolderPicture& then = entries_[static_cast<std::size_t>(found->second)].picture;
    return then.size_bytes == picture.size_bytes && then.time_ns == picture.time_ns ? found->second : -1;
}

Status ConceptRecords::append(const PictureRecord& record) {
    BlockHeader head;
    head.size_bytes = record.picture.size_bytes;
    head.time_ns = record.picture.time_ns;
    head.answer = record.answer;
    head.probability = record.probability;
    head.patches = record.patches;
    head.name_length = static_cast<std::uint32_t>(record.picture.name.size());
    head.reason_length = static_cast<std::uint32_t>(record.skipped.size());
    head.width = static_cast<std::uint32_t>(record.embedding.size());
    head.latents = static_cast<std::uint32_t>(record.latents.size());
    head.length = length_of(head);
    if (head.length > kMostBlock)
        return fail(ErrorCode::Unsupported, "{} says too much to be kept: {} bytes", record.picture.name, head.length);
    std::vector<std::byte> block(head.length);
    std::byte* at = block.data() + sizeof(head);
    copy_bytes(at, record.picture.name.data(), record.picture.name.size());
    copy_bytes(at + record.picture.name.size(), record.skipped.data(), record.skipped.size());
    at = block.data() + embedding_offset(head);
    copy_bytes(at, record.embedding.data(), record.embedding.size() * sizeof(float));
    copy_bytes(at + record.embedding.size() * sizeof(float), record.latents.data(),
               record.latents.size() * sizeof(LatentRecord));
    std::memcpy(block.data(), &head, sizeof(head));
    seal_block(block);
    const std::uint64_t from = size_;
    VITRINE_CHECK(write_at_end(block));
    by_name_[record.picture.name] = static_cast<std::int64_t>(entries_.size());
    entries_.push_back({record.picture, record.skipped, from, head.length, from + embedding_offset(head), head.width});
    return {};
}

Result<PictureRecord> ConceptRecords::read(std::int64_t entry) const {
    const Entry& one = entries_[static_cast<std::size_t>(entry)];
    std::vector<std::byte> block(one.length);
    VITRINE_CHECK(read_at(one.offset, block));
    return parse_block(block);
}

Status ConceptRecords::read_embedding(std::int64_t entry, std::span<float> out) const {
    return read_at(entries_[static_cast<std::size_t>(entry)].embedding, std::as_writable_bytes(out));
}

Status ConceptRecords::compact(std::span<const std::int64_t> entries) {
    FileBeside beside = VITRINE_TRY(FileBeside::create(file_));
    VITRINE_CHECK(beside.append(header_));
    std::vector<std::byte> block;
    std::uint64_t size = header_.size();
    for (const std::int64_t entry : entries) {
        const Entry& one = entries_[static_cast<std::size_t>(entry)];
        block.resize(one.length);
        VITRINE_CHECK(read_at(one.offset, block));
        VITRINE_CHECK(beside.append(block));
        size += one.length;
    }
    VITRINE_CHECK(beside.commit());
    size_ = size;
    return {};
}

namespace {

struct Place {
    std::uint32_t picture = 0, cell = kNoCell;
    float value = 0, effect = 0, moran = kNone;
};

/// The places with the largest values, the largest first; of equal ones those that came first.
template <std::size_t N>
struct Best {
    std::array<Place, N> places{};
    void offer(const Place& one) {
        if (!(one.value > places[N - 1].value)) return;
        std::size_t i = N - 1;
        for (; i > 0 && one.value > places[i - 1].value; --i) places[i] = places[i - 1];
        places[i] = one;
    }
};

/// What is known of one concept while the journal is read.
struct Gathered {
    Best<kTops> tops, class_tops;
    std::array<std::uint32_t, kBins> histogram{};
    std::uint64_t patches = 0;
    double sum = 0;
    std::uint32_t pictures = 0, classes = 0;
    float maximum = 0, class_maximum = 0;
};

std::size_t bin_of(float value) {
    const double bin = std::floor(2 * (std::log2(static_cast<double>(value)) + 12));
    return static_cast<std::size_t>(std::clamp<double>(bin, 0, kBins - 1));
}

/// Mean cosine of pairs of the top pictures' embeddings, each pair weighed by both values.
Result<float> likeness(const ConceptRecords& records, std::span<const std::int64_t> entries, const Best<kTops>& tops,
                       std::span<const double> mean) {
    std::vector<std::vector<double>> directions;
    std::vector<double> weight;
    std::vector<float> embedding(mean.size());
    for (const Place& place : tops.places) {
        if (!(place.value > 0)) break;
        VITRINE_CHECK(records.read_embedding(entries[place.picture], embedding));
        std::vector<double> direction(mean.size());
        double length = 0;
        for (std::size_t d = 0; d < mean.size(); ++d) {
            direction[d] = embedding[d] - mean[d];
            length += direction[d] * direction[d];
        }
        length = std::sqrt(length);
        if (length > 0)
            for (double& x : direction) x /= length;
        directions.push_back(std::move(direction));
        weight.push_back(place.value / tops.places[0].value);
    }
    double sum = 0, weights = 0;
    for (std::size_t a = 0; a < directions.size(); ++a)
        for (std::size_t b = 0; b < a; ++b) {
            double cosine = 0;
            for (std::size_t d = 0; d < mean.size(); ++d) cosine += directions[a][d] * directions[b][d];
            sum += weight[a] * weight[b] * cosine;
            weights += weight[a] * weight[b];
        }
    return weights > 0 && !mean.empty() ? static_cast<float>(sum / weights) : kNone;
}

class IndexTensors {
  public:
    template <class T>
    void add(std::string name, DType dtype, const std::vector<T>& values, std::vector<std::int64_t> shape) {
        NamedTensor one;
        one.name = std::move(name);
        one.tensor.dtype = dtype;
        one.tensor.strides.resize(shape.size());
        std::int64_t stride = 1;
        for (std::size_t i = shape.size(); i-- > 0;) {
            one.tensor.strides[i] = stride;
            stride *= std::max<std::int64_t>(1, shape[i]);
        }
        one.tensor.shape = std::move(shape);
        one.tensor.data = reinterpret_cast<const std::byte*>(values.data());
        tensors_.push_back(std::move(one));
    }
    std::span<const NamedTensor> all() const { return tensors_; }

  private:
    std::vector<NamedTensor> tensors_;
};

}  // namespace

Status write_concept_index(const fs::path& file, const ConceptRecords& records, std::span<const std::int64_t> entries,
                           const IndexFrame& frame, std::stop_token stop,
                           const std::function<void(std::int64_t)>& progress) {
    const auto m = static_cast<std::size_t>(frame.latents), n = entries.size();
    if (frame.neighbours.size() != m * kNeighbours || frame.cosines.size() != m * kNeighbours ||
        frame.map.size() != 2 * m)
        return fail(ErrorCode::Internal, "neighbours or map of an index are of another size than its {} concepts", m);
    std::vector<Gathered> gathered(m);
    std::vector<std::uint64_t> name_end(n);
    std::vector<std::int64_t> size(n), time(n);
    std::vector<std::int32_t> answer(n, -1);
    std::vector<float> probability(n), strongest_value(n * kStrongest);
    std::vector<std::uint32_t> strongest(n * kStrongest);
    std::vector<std::uint8_t> skipped(n);
    std::string names;
    std::vector<double> mean;
    std::uint64_t patches = 0, read = 0;

    for (std::size_t i = 0; i < n; ++i) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        PictureRecord record = VITRINE_TRY(records.read(entries[i]));
        names += record.picture.name;
        name_end[i] = names.size();
        size[i] = record.picture.size_bytes;
        time[i] = record.picture.time_ns;
        if (progress) progress(static_cast<std::int64_t>(i + 1));
        if (!record.skipped.empty()) {
            skipped[i] = 1;
            continue;
        }
        answer[i] = record.answer;
        probability[i] = record.probability;
        patches += record.patches;
        if (read++ == 0) mean.resize(record.embedding.size());
        if (mean.size() != record.embedding.size())
            return fail(ErrorCode::BadInput, "the journal has embeddings of {} and of {} numbers; remove it",
                        mean.size(), record.embedding.size());
        for (std::size_t d = 0; d < mean.size(); ++d) mean[d] += record.embedding[d];
        const auto picture = static_cast<std::uint32_t>(i);
        for (const LatentRecord& one : record.latents) {
            if (one.latent >= m)
                return fail(ErrorCode::BadInput, "the journal speaks of concept {} of {}; remove it", one.latent, m);
            Gathered& all = gathered[one.latent];
            if (one.in_class > 0) {
                ++all.classes;
                all.class_maximum = std::max(all.class_maximum, one.in_class);
                all.class_tops.offer({picture, kNoCell, one.in_class, 0, 0});
            }
            if (!(one.peak > 0)) continue;
            ++all.pictures;
            all.patches += one.patches;
            all.sum += one.sum;
            all.maximum = std::max(all.maximum, one.peak);
            ++all.histogram[bin_of(one.peak)];
            all.tops.offer({picture, one.cell == 0xFFFF ? kNoCell : one.cell, one.peak, one.effect, one.moran});
        }
        const std::size_t count = std::min(record.latents.size(), kStrongest);
        std::partial_sort(record.latents.begin(), record.latents.begin() + static_cast<std::ptrdiff_t>(count),
                          record.latents.end(), [](const LatentRecord& a, const LatentRecord& b) {
                              return a.peak != b.peak ? a.peak > b.peak : a.latent < b.latent;
                          });
        for (std::size_t k = 0; k < count; ++k) {
            strongest[i * kStrongest + k] = record.latents[k].latent;
            strongest_value[i * kStrongest + k] = record.latents[k].peak;
        }
    }
    for (double& x : mean) x /= static_cast<double>(std::max<std::uint64_t>(read, 1));

    std::vector<std::vector<float>> columns(ConceptIndex::column_names().size(), std::vector<float>(m, kNone));
    const auto column = [&](const char* name) -> std::vector<float>& {
        const auto& all = ConceptIndex::column_names();
        return columns[static_cast<std::size_t>(std::find(all.begin(), all.end(), name) - all.begin())];
    };
    auto &frequency = column("frequency"), &picture_frequency = column("picture_frequency"),
         &class_frequency = column("class_frequency"), &average = column("mean"), &maximum = column("maximum"),
         &class_maximum = column("class_maximum"), &effect = column("effect"), &alike = column("monosemanticity"),
         &localisation = column("localisation");
    std::vector<std::uint32_t> top_picture(m * kTops), top_cell(m * kTops, kNoCell), class_picture(m * kTops),
        histogram(m * kBins);
    std::vector<float> top_value(m * kTops), class_value(m * kTops);
    const auto share = [](std::uint64_t part, std::uint64_t of) {
        return of > 0 ? static_cast<float>(static_cast<double>(part) / static_cast<double>(of)) : kNone;
    };
    for (std::size_t k = 0; k < m; ++k) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const Gathered& all = gathered[k];
        frequency[k] = share(all.patches, patches);
        picture_frequency[k] = share(all.pictures, read);
        if (frame.class_token) {
            class_frequency[k] = share(all.classes, read);
            class_maximum[k] = all.class_maximum;
        }
        if (all.patches > 0) average[k] = static_cast<float>(all.sum / static_cast<double>(all.patches));
        maximum[k] = all.maximum;
        double effects = 0, morans = 0;
        std::size_t shown = 0, defined = 0;
        for (std::size_t i = 0; i < kTops; ++i) {
            const Place &place = all.tops.places[i], &of_class = all.class_tops.places[i];
            top_picture[k * kTops + i] = place.picture;
            top_cell[k * kTops + i] = place.cell;
            top_value[k * kTops + i] = place.value;
            class_picture[k * kTops + i] = of_class.picture;
            class_value[k * kTops + i] = of_class.value;
            if (!(place.value > 0)) continue;
            ++shown;
            effects += place.effect;
            if (std::isnan(place.moran)) continue;
            ++defined;
            morans += place.moran;
        }
        if (shown > 0 && frame.classifier) effect[k] = static_cast<float>(effects / static_cast<double>(shown));
        if (defined > 0) localisation[k] = static_cast<float>(morans / static_cast<double>(defined));
        if (shown > 1) alike[k] = VITRINE_TRY(likeness(records, entries, all.tops, mean));
        std::copy(all.histogram.begin(), all.histogram.end(),
                  histogram.begin() + static_cast<std::ptrdiff_t>(k * kBins));
    }

    const auto rows = static_cast<std::int64_t>(m), pictures = static_cast<std::int64_t>(n);
    const std::vector<std::uint32_t> neighbours(frame.neighbours.begin(), frame.neighbours.end());
    const std::vector<float> cosines(frame.cosines.begin(), frame.cosines.end()),
        map(frame.map.begin(), frame.map.end());
    const std::vector<std::uint8_t> name_bytes(names.begin(), names.end());
    IndexTensors tensors;
    for (std::size_t i = 0; i < columns.size(); ++i)
        tensors.add("column." + ConceptIndex::column_names()[i], DType::F32, columns[i], {rows});
    tensors.add("tops.picture", DType::U32, top_picture, {rows, kTops});
    tensors.add("tops.cell", DType::U32, top_cell, {rows, kTops});
    tensors.add("tops.value", DType::F32, top_value, {rows, kTops});
    tensors.add("class_tops.picture", DType::U32, class_picture, {rows, kTops});
    tensors.add("class_tops.value", DType::F32, class_value, {rows, kTops});
    tensors.add("histogram", DType::U32, histogram, {rows, kBins});
    tensors.add("neighbours.latent", DType::U32, neighbours, {rows, kNeighbours});
    tensors.add("neighbours.cosine", DType::F32, cosines, {rows, kNeighbours});
    tensors.add("map", DType::F32, map, {rows, 2});
    tensors.add("picture.names", DType::U8, name_bytes, {static_cast<std::int64_t>(names.size())});
    tensors.add("picture.name_end", DType::U64, name_end, {pictures});
    tensors.add("picture.size", DType::I64, size, {pictures});
    tensors.add("picture.time", DType::I64, time, {pictures});
    tensors.add("picture.answer", DType::I32, answer, {pictures});
    tensors.add("picture.probability", DType::F32, probability, {pictures});
    tensors.add("picture.skipped", DType::U8, skipped, {pictures});
    tensors.add("strongest.latent", DType::U32, strongest, {pictures, kStrongest});
    tensors.add("strongest.value", DType::F32, strongest_value, {pictures, kStrongest});
    std::map<std::string, std::string> facts = frame.facts;
    facts["format"] = "vitrine.concept_index";
    facts["version"] = std::to_string(ConceptIndex::kVersion);
    facts["latents"] = std::to_string(m);
    facts["pictures"] = std::to_string(n);
    facts["rows"] = std::to_string(frame.rows);
    facts["cols"] = std::to_string(frame.cols);
    return write_safetensors(file, tensors.all(), facts);
}

}  // namespace vitrine
