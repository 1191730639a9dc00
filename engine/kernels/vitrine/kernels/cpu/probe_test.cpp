// The probe (LeanAttention): its schedule, its merge, and every implementation against double precision.
#include <vitrine/kernels/chooser.h>

#include <cases/kernel_calls.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <thread>

namespace vitrine::kernels {
namespace {

using cases::Floats;
using cases::kSerial;
using Index = std::int64_t;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

const ParallelFor kThree = [](Index n, const std::function<void(Index, Index)>& f) {
    std::thread first([&] { f(0, n / 3); }), second([&] { f(n / 3, n / 2); });
    f(n / 2, n);
    first.join();
    second.join();
};

// ---- schedule ----

TEST(LeanSchedule, EveryTileBelongsToOneWorkerInRunsOfEqualLength) {
    std::mt19937_64 random(46);
    for (int round = 0; round < 10000; ++round) {
        std::vector<Index> tiles(random() % 12 + 1);
        for (Index& t : tiles) t = static_cast<Index>(random() % 3 == 0 ? 0 : random() % 40);
        const Index workers = static_cast<Index>(random() % 60) + 1;
        const LeanSchedule s = lean_schedule(tiles, workers);
        Index total = 0;
        for (const Index t : tiles) total += t;
        ASSERT_EQ(s.cut.tiles, total);
        ASSERT_LE(s.cut.workers, workers);

        Index next = 0, fewest = total + 1, most = 0;
        std::vector<Index> pieces(tiles.size()), hosts(tiles.size()), finishers(tiles.size()), covered(tiles.size());
        for (Index worker = 0; worker < s.cut.workers; ++worker) {
            ASSERT_EQ(s.cut.start(worker), next);
            const Index count = s.cut.count(worker);
            fewest = std::min(fewest, count);
            most = std::max(most, count);
            Index seen = 0, part_of_host = 0, part_of_others = 0;
            for (const LeanSegment& segment : s.segments(worker)) {
                const auto t = static_cast<std::size_t>(segment.output);
                ASSERT_EQ(s.first[t] + segment.first, next + seen) << "a segment is out of order";
                ASSERT_EQ(segment.first, covered[t]);
                ASSERT_GT(segment.count, 0);
                seen += segment.count;
                covered[t] += segment.count;
                ++pieces[t];
                hosts[t] += segment.host ? 1 : 0;
                finishers[t] += segment.finish ? 1 : 0;
                // What decides that two slots a worker are enough.
                part_of_others += segment.host ? 0 : 1;
                part_of_host += segment.host && !segment.finish ? 1 : 0;
            }
            ASSERT_EQ(seen, count);
            ASSERT_LE(part_of_others, 1);
            ASSERT_LE(part_of_host, 1);
            for (Index tile = next; tile < next + count; ++tile) ASSERT_EQ(s.cut.worker_of(tile), worker);
            next += count;
        }
        ASSERT_EQ(next, total);
        ASSERT_LE(total > 0 ? most - fewest : 0, 1);
        ASSERT_LE(s.balance(), 1.0);
        ASSERT_GE(s.balance(), 1 - 1 / static_cast<double>(std::max<Index>(most, 1)));
        for (std::size_t t = 0; t < tiles.size(); ++t) {
            ASSERT_EQ(covered[t], tiles[t]);
            ASSERT_EQ(s.pieces(static_cast<Index>(t)), pieces[t]);
            ASSERT_EQ(hosts[t], tiles[t] > 0 ? 1 : 0);
            ASSERT_EQ(finishers[t], tiles[t] > 0 ? 1 : 0);
        }
    }
}

TEST(LeanSchedule, IsThatOfTheWorkedExamples) {
    const LeanCut ten = lean_cut<Index>(10, 4);
    EXPECT_EQ(ten.most, 3);
    EXPECT_EQ(ten.high, 2);
    const Index starts[] = {0, 3, 6, 8}, counts[] = {3, 3, 2, 2};
    for (int g = 0; g < 4; ++g) {
        EXPECT_EQ(ten.start(g), starts[g]);
        EXPECT_EQ(ten.count(g), counts[g]);
    }
    // B 1, 8 heads, 65536 keys in tiles of 128; B 2, 3 heads, 700 keys in tiles of 64; 12 heads of one tile.
    EXPECT_EQ(lean_cut<Index>(4096, 256).most, 16);
    EXPECT_EQ(lean_cut<Index>(4096, 256).high, 256);
    EXPECT_EQ(lean_cut<Index>(66, 8).most, 9);
    EXPECT_EQ(lean_cut<Index>(66, 8).high, 2);
    EXPECT_EQ(lean_cut<Index>(12, 6).most, 2);
    const std::vector<Index> long_heads(8, 512);
    const LeanSchedule s = lean_schedule(long_heads, 256);
    for (Index t = 0; t < 8; ++t) EXPECT_LE(s.pieces(t), 33);
    EXPECT_EQ(lean_cut<Index>(0, 7).workers, 1);
    EXPECT_EQ(lean_cut<Index>(0, 7).count(0), 0);
    EXPECT_EQ(lean_workers(1000, 264), 264);
    EXPECT_EQ(lean_workers(100, 264), 50);
    EXPECT_EQ(lean_workers(1, 264), 1);
}

// ---- merge ----

TEST(LeanMerge, IsAssociativeAndHasAnIdentity) {
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal;
    struct Part {
        LeanPart part;
        float out[3];
    };
    const auto draw = [&] {
        Part p{};
        if (random() % 5 == 0) return Part{{kMinusInfinity, 0}, {0, 0, 0}};
        p.part.high = 100 * normal(random);
        p.part.sum = 1 + std::abs(normal(random));
        for (float& x : p.out) x = normal(random);
        return p;
    };
    const auto merged = [](Part a, const Part& b) {
        lean_merge(a.part, a.out, b.part, b.out, 3);
        return a;
    };
    const auto same = [](const Part& a, const Part& b) {
        EXPECT_EQ(a.part.high, b.part.high);
        EXPECT_NEAR(a.part.sum, b.part.sum, 1e-6F * (1 + std::abs(b.part.sum)));
        for (int d = 0; d < 3; ++d) {
            ASSERT_FALSE(std::isnan(a.out[d]));
            EXPECT_NEAR(a.out[d], b.out[d], 1e-6F * (1 + std::abs(b.part.sum)));
        }
    };
    const Part nothing{{kMinusInfinity, 0}, {0, 0, 0}};
    for (int round = 0; round < 1000; ++round) {
        const Part a = draw(), b = draw(), c = draw();
        same(merged(merged(a, b), c), merged(a, merged(b, c)));
        same(merged(a, b), merged(b, a));
        same(merged(a, nothing), a);
        same(merged(nothing, a), a);
    }
    same(merged(nothing, nothing), nothing);
}

// ---- the operation ----

struct Shape {
    Index batches = 1, heads = 1, key_heads = 1, queries = 1, keys = 1, dim = 64;
    std::vector<std::int32_t> lengths = {};
    bool causal = false;
};

struct Answer {
    Floats out, lse, mass;
    bool operator==(const Answer&) const = default;
};

struct Data {
    explicit Data(Shape s) : shape(std::move(s)) {
        std::mt19937_64 random(static_cast<std::uint64_t>(shape.keys * 31 + shape.dim));
        std::normal_distribution<float> normal;
        const auto draw = [&](Index count) {
            Floats x(static_cast<std::size_t>(count));
            for (float& y : x) y = normal(random);
            return x;
        };
        const Index width = 2 * shape.key_heads * shape.dim;
        q = draw(shape.batches * shape.queries * shape.heads * shape.dim);
        kv = draw(shape.batches * shape.keys * width);
        p.batches = shape.batches;
        p.heads = shape.heads;
        p.key_heads = shape.key_heads;
        p.queries = shape.queries;
        p.keys = shape.keys;
        p.head_dim = shape.dim;
        p.scale = 1 / std::sqrt(static_cast<float>(shape.dim));
        p.causal = shape.causal;
        p.q = q.data();
        p.k = kv.data();
        p.v = kv.data() + shape.key_heads * shape.dim;
        const Index q_stride[3] = {shape.queries * shape.heads * shape.dim, shape.dim, shape.heads * shape.dim};
        const Index k_stride[3] = {shape.keys * width, shape.dim, width};
        std::copy_n(q_stride, 3, p.q_stride);
        std::copy_n(k_stride, 3, p.k_stride);
        std::copy_n(k_stride, 3, p.v_stride);
        if (!shape.lengths.empty()) p.lengths = shape.lengths.data();
    }
    Data(const Data&) = delete;
    Data& operator=(const Data&) = delete;

    float& key(Index b, Index h, Index j, Index d) {
        return kv[static_cast<std::size_t>(((b * shape.keys + j) * 2 * shape.key_heads + h) * shape.dim + d)];
    }
    float value(Index b, Index h, Index j, Index d) const {
        return p.v[b * p.v_stride[0] + h * p.v_stride[1] + j * p.v_stride[2] + d];
    }
    Answer run(const AttentionKernels& kernels, Index workers = 0, const ParallelFor& threads = kSerial) const {
        ProbeParams now = p;
        now.workers = workers;
        const LeanSchedule s = lean_schedule(now);
        const float poison = std::numeric_limits<float>::quiet_NaN();
        const auto rows = static_cast<std::size_t>(p.batches * p.heads * p.queries);
        Answer a{Floats(rows * static_cast<std::size_t>(p.head_dim), poison), Floats(rows, poison),
                 Floats(static_cast<std::size_t>((s.cut.workers + s.outputs()) * kLeanRows), poison)};
        EXPECT_EQ(cannot_run(now), nullptr);
        kernels.probe(now, {a.out.data(), a.lse.data(), a.mass.data()}, threads);
        return a;
    }
    /// Softmax in double precision, without pieces.
    std::pair<std::vector<double>, std::vector<double>> exact() const {
        std::vector<double> out, lse;
        for (Index b = 0; b < p.batches; ++b)
            for (Index h = 0; h < p.heads; ++h)
                for (Index i = 0; i < p.queries; ++i) {
                    Index length = p.lengths == nullptr ? p.keys : p.lengths[b];
                    if (p.causal) length = std::min(length, i + 1);
                    const Index kh = h / (p.heads / p.key_heads);
                    std::vector<double> score;
                    double high = kMinusInfinity, sum = 0;
                    for (Index j = 0; j < length; ++j) {
                        double x = 0;
                        for (Index d = 0; d < p.head_dim; ++d)
                            x += static_cast<double>(
                                     p.q[b * p.q_stride[0] + h * p.q_stride[1] + i * p.q_stride[2] + d]) *
                                 p.k[b * p.k_stride[0] + kh * p.k_stride[1] + j * p.k_stride[2] + d];
                        score.push_back(x * p.scale);
                        high = std::max(high, score.back());
                    }
                    for (double& x : score) sum += x = std::exp(x - high);
                    lse.push_back(length == 0 ? kMinusInfinity : high + std::log(sum));
                    for (Index d = 0; d < p.head_dim; ++d) {
                        double x = 0;
                        for (Index j = 0; j < length; ++j) x += score[static_cast<std::size_t>(j)] * value(b, kh, j, d);
                        out.push_back(length == 0 ? 0 : x / sum);
                    }
                }
        return {out, lse};
    }

    Shape shape;
    Floats q, kv;
    ProbeParams p;
};

template <class A, class B>
double worst(const A& found, const B& wanted) {
    EXPECT_EQ(found.size(), wanted.size());
    double most = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const double off = found[i] == wanted[i] ? 0 : std::abs(static_cast<double>(found[i]) - wanted[i]);
        if (!(off <= most)) most = off;  // not-a-number sticks
    }
    return most;
}

class Probe : public testing::TestWithParam<const AttentionKernels*> {
  protected:
    void SetUp() override {
        if (const char* why = kernels.machine()) GTEST_SKIP() << why;
    }
    const AttentionKernels& kernels = *GetParam();

    void expect_right(const Shape& shape, Index workers = 0) const {
        const Data data(shape);
        const auto [out, lse] = data.exact();
        const Answer found = data.run(kernels, workers);
        const std::string what = std::to_string(shape.keys) + " keys, " + std::to_string(shape.dim) + " wide, " +
                                 std::to_string(shape.heads) + " heads";
        EXPECT_LE(worst(found.out, out), 1e-5) << what;
        EXPECT_LE(worst(found.lse, lse), 1e-5) << what;
    }
};

TEST_P(Probe, IsAttentionInDoublePrecision) {
    for (const Index n : {1, 17, 63, 64, 65, 197, 1000})
        for (const Index d : {32, 64, 80, 128})
            for (const auto& [h, kh] : {std::pair<Index, Index>{1, 1}, {8, 8}, {8, 2}, {12, 1}})
                for (const Index m : {1, 4}) expect_right({n % 2 == 0 ? 1 : 3, h, kh, m, n, d}, n % 5);
    expect_right({1, 2, 1, 1, 4099, 64});
    expect_right({1, 1, 1, 1, 65536, 64});
    for (const Index d : {1, 7, 24, 72, 96, 200, 256}) expect_right({1, 4, 2, 3, 150, d});
    expect_right({1, 3, 3, 40, 300, 48});
}

TEST_P(Probe, BatchesOfAnyLengthAlsoNone) {
    for (const bool causal : {false, true})
        for (const Index workers : {0, 1, 7, 50})
            expect_right({7, 8, 2, 5, 700, 40, {0, 700, 1, 0, 65, 699, 0}, causal}, workers);
    expect_right({2, 3, 3, 1, 100, 32, {0, 0}});
    expect_right({2, 6, 3, 100, 100, 32, {}, true}, 9);
}

TEST_P(Probe, AnyCutGivesTheSame) {
    Data data({2, 4, 2, 3, 4099, 64});
    // Relative to what is added: the same sums over the magnitudes of the values.
    const Floats before = data.kv;
    for (float& x : data.kv) x = std::abs(x);
    double most = 0;
    for (const float x : data.run(kernels, 1).out) most = std::max(most, static_cast<double>(x));
    ASSERT_GT(most, 0.1);
    std::copy(before.begin(), before.end(), data.kv.begin());
    const Answer one = data.run(kernels, 1);
    for (const Index workers : {2, 3, 7, 132, 264, 1320}) {
        const Answer other = data.run(kernels, workers);
        EXPECT_LE(worst(other.out, one.out), 1e-6 * most) << workers << " workers";
        EXPECT_LE(worst(other.lse, one.lse), 4e-6) << workers << " workers";
        EXPECT_EQ(data.run(kernels, workers, kThree), other) << "threads change bits";
    }
}

TEST_P(Probe, OneKeyFarAboveTheOthersIsFoundInEveryPiece) {
    Data data({1, 2, 2, 1, 1024, 64});
    const Floats before = data.kv;
    for (Index at = 5; at < 1024; at += 64) {
        std::copy(before.begin(), before.end(), data.kv.begin());
        for (Index h = 0; h < 2; ++h) {
            const float* q = data.q.data() + h * 64;
            double square = 0;
            for (Index d = 0; d < 64; ++d) square += static_cast<double>(q[d]) * q[d];
            for (Index d = 0; d < 64; ++d) data.key(0, h, at, d) = static_cast<float>(q[d] * 80 * 8 / square);
        }
        const auto [out, lse] = data.exact();
        const Answer found = data.run(kernels, 8);
        EXPECT_LE(worst(found.out, out), 1e-5) << "key " << at;
        EXPECT_LE(worst(found.lse, lse), 1e-4) << "key " << at;
        EXPECT_NEAR(found.out[3], data.value(0, 0, at, 3), 1e-5);
    }
}

TEST_P(Probe, EqualKeysGiveTheMeanOfTheValues) {
    Data data({1, 1, 1, 1, 1000, 80});
    for (Index j = 0; j < 1000; ++j)
        for (Index d = 0; d < 80; ++d) data.key(0, 0, j, d) = 0.5F;
    const Answer found = data.run(kernels, 9);
    for (Index d = 0; d < 80; ++d) {
        double mean = 0;
        for (Index j = 0; j < 1000; ++j) mean += data.value(0, 0, j, d) / 1000;
        EXPECT_NEAR(found.out[static_cast<std::size_t>(d)], mean, 1e-6);
    }
}

TEST_P(Probe, MassIsTheShareOfEachRunOfKeys) {
    const Data data({2, 6, 3, 2, 1000, 64, {1000, 130}});
    const Answer found = data.run(kernels, 11);
    ProbeParams p = data.p;
    p.workers = 11;
    const LeanSchedule s = lean_schedule(p);
    Floats wanted(found.mass.size());
    for (Index worker = 0; worker < s.cut.workers; ++worker)
        for (const LeanSegment& piece : s.segments(worker)) {
            const Index b = piece.output / 3, kh = piece.output % 3;
            for (Index r = 0; r < 4; ++r) {
                const Index i = r / 2, h = kh * 2 + r % 2;
                const double lse = found.lse[static_cast<std::size_t>((b * 6 + h) * 2 + i)];
                double sum = 0;
                const Index last = std::min<Index>((piece.first + piece.count) * kLeanKeys, p.lengths[b]);
                for (Index j = piece.first * kLeanKeys; j < last; ++j) {
                    double x = 0;
                    for (Index d = 0; d < 64; ++d)
                        x += static_cast<double>(p.q[b * p.q_stride[0] + h * 64 + i * p.q_stride[2] + d]) *
                             p.k[b * p.k_stride[0] + kh * 64 + j * p.k_stride[2] + d];
                    sum += std::exp(x * p.scale - lse);
                }
                wanted[static_cast<std::size_t>((worker + piece.output) * kLeanRows + r)] = static_cast<float>(sum);
            }
        }
    EXPECT_LE(worst(found.mass, wanted), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Implementations, Probe,
                         testing::ValuesIn(attention_kernels().begin(), attention_kernels().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST(ProbeChoice, IsMadeByTheShapesOfOneBatch) {
    const Data data({2, 4, 2, 1, 100, 64});
    const auto choice = choose(Operation::Probe, attention_of(data.p), "");
    ASSERT_TRUE(choice);
    EXPECT_NE(choice->kernels->probe, nullptr);
    ProbeParams none = data.p;
    none.heads = 3;
    EXPECT_STREQ(cannot_run(none), "the number of heads is no multiple of the key heads");
    none.heads = 4;
    none.v = nullptr;
    EXPECT_STREQ(cannot_run(none), "queries, keys or values are missing");
}

}  // namespace
}  // namespace vitrine::kernels
