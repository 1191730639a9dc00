// The probe on a device against double precision, and what must not change its answer.
#include <vitrine/kernels/cuda/probe.h>

#include <numeric>

#include <vitrine/kernels/cuda/testing.h>

namespace vitrine::kernels::cuda {
namespace {

using namespace testing;

struct Shape {
    Index batches, heads, key_heads, queries, keys, dim;
    std::vector<std::int32_t> lengths = {};
    bool causal = false;
    bool fused = false;  ///< keys and values of one token lie side by side
};

/// Data of one case on both sides.
class Case {
  public:
    Case(Shape s, Element element, std::uint64_t seed = 1) : shape(std::move(s)) {
        const Index b = shape.batches, n = shape.keys, kh = shape.key_heads, h = shape.heads, d = shape.dim;
        q = normals(b * shape.queries * h * d, seed);
        k = normals(b * n * kh * d * (shape.fused ? 2 : 1), seed + 1);
        v = shape.fused ? Floats{} : normals(b * n * kh * d, seed + 2);
        host.batches = device.batches = b;
        host.heads = device.heads = h;
        host.key_heads = device.key_heads = kh;
        host.queries = device.queries = shape.queries;
        host.keys = device.keys = n;
        host.head_dim = device.head_dim = d;
        host.scale = device.scale = 1 / std::sqrt(static_cast<float>(d));
        host.causal = device.causal = shape.causal;
        device.element = element;
        const Index q_stride[3] = {shape.queries * h * d, d, h * d};
        Index k_stride[3] = {kh * n * d, n * d, d};
        if (shape.fused) {
            k_stride[0] = n * kh * 2 * d;
            k_stride[1] = d;
            k_stride[2] = kh * 2 * d;
        }
        for (int i = 0; i < 3; ++i) {
            host.q_stride[i] = device.q_stride[i] = q_stride[i];
            host.k_stride[i] = host.v_stride[i] = device.k_stride[i] = device.v_stride[i] = k_stride[i];
        }
        if (!shape.lengths.empty()) {
            host.lengths = shape.lengths.data();
            lengths_ = std::make_unique<Buffer>(shape.lengths.data(), shape.lengths.size() * 4);
            device.lengths = lengths_->ints();
        }
        upload();
    }
    /// To the device again, after the host's numbers have changed.
    void upload() {
        const auto up = [&](Floats& x) {
            const auto bytes = as_element(x, device.element);
            return std::make_unique<Buffer>(bytes.data(), bytes.size());
        };
        q_ = up(q);
        k_ = up(k);
        v_ = up(v);
        const Index offset = shape.key_heads * shape.dim;
        host.q = q.data();
        host.k = k.data();
        host.v = shape.fused ? k.data() + offset : v.data();
        device.q = q_->data();
        device.k = k_->data();
        device.v = shape.fused ? k_->data() + offset * size_of(device.element) : v_->data();
    }
    Index rows() const { return shape.batches * shape.heads * shape.queries; }

    struct Answer {
        Floats out, lse, mass;
    };
    Answer expected(Index workers = 0) const {
        ProbeParams p = host;
        p.workers = workers;
        Answer a;
        a.out.resize(static_cast<std::size_t>(rows() * shape.dim));
        a.lse.resize(static_cast<std::size_t>(rows()));
        const LeanSchedule s = lean_schedule(p);
        a.mass.resize(static_cast<std::size_t>((s.cut.workers + s.outputs()) * kLeanRows));
        kernels::probe(p, {a.out.data(), a.lse.data(), a.mass.data()}, kThreads);
        return a;
    }
    Answer found(Index workers = 0, ProbeMerge merge = ProbeMerge::Auto, int times = 1) const {
        DeviceProbe p = device;
        p.workers = workers;
        const Index blocks = lean_row_blocks(shape.queries, shape.heads / shape.key_heads);
        const Index outputs = shape.batches * shape.key_heads * blocks;
        const Buffer workspace(probe_workspace(p)), tickets(static_cast<std::size_t>(outputs) * 4);
        tickets.fill(0);
        Answer a;
        for (int i = 0; i < times; ++i) {
            const Buffer out(static_cast<std::size_t>(rows() * shape.dim) * 4),
                lse(static_cast<std::size_t>(rows()) * 4),
                mass(static_cast<std::size_t>((probe_workers(p) + outputs) * kLeanRows) * 4);
            Launch launch{nullptr, workspace.data(), workspace.size()};
            const char* problem = probe(p, {out.floats(), lse.floats(), mass.floats(), tickets.ints(), merge}, launch);
            EXPECT_EQ(problem, nullptr) << problem;
            check(cudaDeviceSynchronize(), "the probe");
            Answer now{out.take<float>(), lse.take<float>(), mass.take<float>()};
            if (i > 0) {
                EXPECT_EQ(now.out, a.out) << "another run gives other bits";
                EXPECT_EQ(now.lse, a.lse);
            }
            a = std::move(now);
        }
        for (const std::int32_t t : tickets.take<std::int32_t>()) EXPECT_EQ(t, 0) << "a ticket was left";
        workspace.take<float>();
        return a;
    }
    Answer splits(Index count) const {
        const Buffer workspace(probe_splits_workspace(device, count)),
            out(static_cast<std::size_t>(rows() * shape.dim) * 4), lse(static_cast<std::size_t>(rows()) * 4);
        const char* problem =
            probe_splits(device, count, out.floats(), lse.floats(), {nullptr, workspace.data(), workspace.size()});
        EXPECT_EQ(problem, nullptr) << problem;
        check(cudaDeviceSynchronize(), "the splits");
        return {out.take<float>(), lse.take<float>(), {}};
    }

    Shape shape;
    Floats q, k, v;
    ProbeParams host;
    DeviceProbe device;

  private:
    std::unique_ptr<Buffer> q_, k_, v_, lengths_;
};

/// Absolute errors on unit normal data, from the sheet: fp16 and bf16 round the map before it meets the values.
double tolerance(Element e) { return e == Element::F32 ? 1e-5 : e == Element::F16 ? 2e-3 : 1.6e-2; }

void expect_close(const Case::Answer& found, const Case::Answer& wanted, Element e, const std::string& what) {
    EXPECT_LE(worst(found.out, wanted.out), tolerance(e)) << what;
    EXPECT_LE(worst(found.lse, wanted.lse), 1e-4) << what;
}

class ProbeOnDevice : public ::testing::TestWithParam<Element> {
  protected:
    void SetUp() override { VITRINE_NEEDS_DEVICE(); }
    Element element = GetParam();
};

TEST_P(ProbeOnDevice, IsAttentionInDoublePrecision) {
    for (const Index n : {1, 17, 63, 64, 65, 197, 1000, 4099})
        for (const Index d : {32, 64, 80, 128})
            for (const Index b : {1, 3})
                for (const auto& [h, kh] : {std::pair<Index, Index>{1, 1}, {8, 8}, {8, 2}, {12, 1}})
                    for (const Index m : {1, 4}) {
                        const Case c({b, h, kh, m, n, d}, element, static_cast<std::uint64_t>(n + d));
                        const auto wanted = c.expected();
                        expect_close(c.found(), wanted, element,
                                     "B" + std::to_string(b) + "H" + std::to_string(h) + "of" + std::to_string(kh) +
                                         "Q" + std::to_string(m) + "K" + std::to_string(n) + "D" + std::to_string(d));
                    }
}

TEST_P(ProbeOnDevice, LongSequencesAndWideHeads) {
    for (const Shape& s : {Shape{1, 1, 1, 1, 65536, 64}, Shape{1, 8, 2, 4, 65536, 128}, Shape{1, 12, 1, 1, 65536, 80},
                           Shape{2, 3, 3, 2, 1500, 256}, Shape{1, 4, 4, 1, 1500, 200}, Shape{2, 6, 2, 1, 777, 96},
                           Shape{1, 16, 16, 40, 1370, 64}, Shape{2, 6, 6, 1, 1370, 72, {}, false, true}}) {
        const Case c(s, element, 7);
        const auto wanted = c.expected();
        for (const ProbeMerge merge : {ProbeMerge::Auto, ProbeMerge::LastArriver, ProbeMerge::SecondLaunch})
            expect_close(c.found(0, merge), wanted, element, std::to_string(s.keys) + " keys");
        expect_close(c.splits(7), wanted, element, "splits");
        expect_close(c.splits(probe_best_splits(c.device)), wanted, element, "best splits");
    }
}

TEST_P(ProbeOnDevice, BatchesOfAnyLengthAlsoNone) {
    for (const bool causal : {false, true}) {
        const Case c({7, 8, 2, 5, 3000, 64, {0, 3000, 1, 0, 65, 2999, 0}, causal, true}, element);
        const auto wanted = c.expected(), found = c.found(), other = c.found(50, ProbeMerge::SecondLaunch);
        expect_close(found, wanted, element, "ragged");
        expect_close(other, wanted, element, "ragged, 50 workers");
        for (Index i = 0; i < 8 * 5; ++i) {
            EXPECT_EQ(found.lse[static_cast<std::size_t>(i)], -std::numeric_limits<float>::infinity());
            EXPECT_EQ(found.out[static_cast<std::size_t>(i * 64 + 3)], 0);
        }
    }
    const Case none({2, 3, 3, 1, 100, 32, {0, 0}}, element);
    expect_close(none.found(), none.expected(), element, "no key at all");
    const Case steps({2, 6, 3, 100, 100, 32, {}, true}, element);
    expect_close(steps.found(), steps.expected(), element, "causal, many queries");
}

TEST_P(ProbeOnDevice, AnyCutGivesTheSame) {
    Case c({2, 4, 2, 3, 4099, 64}, element);
    // Relative to what is added: the same sums over the magnitudes of the values.
    const Floats before = c.v;
    for (float& x : c.v) x = std::abs(x);
    c.upload();
    double most = 0;
    for (const float x : c.found(1).out) most = std::max(most, static_cast<double>(x));
    ASSERT_GT(most, 0.1);
    c.v = before;
    c.upload();
    const auto one = c.found(1);
    // Half precision rounds the map against the highest score so far, which depends on the cut.
    const double allowed = element == Element::F32 ? 1e-6 * most : tolerance(element);
    for (const Index workers : {2, 3, 7, 132, 264, 1320})
        for (const ProbeMerge merge : {ProbeMerge::LastArriver, ProbeMerge::SecondLaunch}) {
            const auto other = c.found(workers, merge, 3);
            EXPECT_LE(worst(other.out, one.out), allowed) << workers << " workers";
            EXPECT_LE(worst(other.lse, one.lse), 4e-6) << workers << " workers";
        }
}

TEST_P(ProbeOnDevice, MoreWorkersThanTheDeviceHoldsEnd) {
    const Case c({2, 8, 8, 1, 65536, 32}, element);
    expect_close(c.found(64 * 132, ProbeMerge::LastArriver, 2), c.expected(), element, "64 blocks a multiprocessor");
}

TEST_P(ProbeOnDevice, OneKeyFarAboveTheOthersIsFoundInEveryPiece) {
    Case c({1, 2, 2, 1, 1024, 64}, element);
    const Floats before = c.k;
    for (Index at = 5; at < 1024; at += 64) {
        // The score of this key is about 80 above the others: along the query, 80 / scale long.
        c.k = before;
        for (Index h = 0; h < 2; ++h) {
            const float* q = c.q.data() + h * 64;
            double square = 0;
            for (Index d = 0; d < 64; ++d) square += static_cast<double>(q[d]) * q[d];
            for (Index d = 0; d < 64; ++d)
                c.k[static_cast<std::size_t>((h * 1024 + at) * 64 + d)] = static_cast<float>(q[d] * 80 * 8 / square);
        }
        c.upload();
        const auto found = c.found(16, ProbeMerge::LastArriver), wanted = c.expected();
        expect_close(found, wanted, element, "key " + std::to_string(at));
        EXPECT_NEAR(found.out[3], c.v[static_cast<std::size_t>(at * 64 + 3)], 1e-2);
    }
}

TEST_P(ProbeOnDevice, EqualKeysGiveTheMeanOfTheValues) {
    Case c({1, 3, 3, 2, 1000, 80}, element);
    std::fill(c.k.begin(), c.k.end(), 0.5F);
    c.upload();
    expect_close(c.found(9), c.expected(), element, "equal keys");
}

TEST_P(ProbeOnDevice, MassIsThatOfEachPiece) {
    const Case c({2, 6, 3, 2, 1000, 64, {1000, 130}}, element);
    for (const ProbeMerge merge : {ProbeMerge::LastArriver, ProbeMerge::SecondLaunch}) {
        const auto found = c.found(11, merge), wanted = c.expected(11);
        EXPECT_LE(worst(found.mass, wanted.mass), 1e-5);
        double sum = 0;
        for (const float x : found.mass) sum += x;
        EXPECT_NEAR(sum, static_cast<double>(c.rows()), 1e-3);
    }
}

TEST_P(ProbeOnDevice, AGraphReplaysWithOtherLengths) {
    Case c({2, 2, 2, 1, 500, 64, {500, 20}}, element);
    const Buffer workspace(probe_workspace(c.device)), out(4 * 64 * 4), lse(4 * 4), tickets(4 * 4);
    tickets.fill(0);
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t run = nullptr;
    check(cudaStreamCreate(&stream), "a stream");
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    const char* problem = probe(c.device, {out.floats(), lse.floats(), nullptr, tickets.ints()},
                                {stream, workspace.data(), workspace.size()});
    check(cudaStreamEndCapture(stream, &graph), "capture");
    ASSERT_EQ(problem, nullptr) << problem;
    check(cudaGraphInstantiate(&run, graph, 0), "a graph");
    for (const std::int32_t n : {500, 0, 333}) {
        c.shape.lengths = {n, 400};
        c.host.lengths = c.shape.lengths.data();
        check(
            cudaMemcpy(const_cast<std::int32_t*>(c.device.lengths), c.shape.lengths.data(), 8, cudaMemcpyHostToDevice),
            "lengths");
        check(cudaGraphLaunch(run, stream), "replay");
        check(cudaStreamSynchronize(stream), "replay");
        expect_close({out.take<float>(), lse.take<float>(), {}}, c.expected(), element, std::to_string(n) + " keys");
    }
    cudaGraphExecDestroy(run);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
}

INSTANTIATE_TEST_SUITE_P(Elements, ProbeOnDevice, ::testing::Values(Element::F32, Element::F16, Element::BF16),
                         [](const auto& info) { return std::string(testing::name_of(info.param)); });

TEST(ProbeWithoutDevice, SaysWhyItCannotRun) {
    alignas(16) const float some[64] = {};
    DeviceProbe p;
    p.q = p.k = p.v = some;
    p.heads = p.key_heads = 2;
    p.queries = 1;
    p.keys = 100;
    p.head_dim = 64;
    EXPECT_STREQ(cannot_run(p, 75), "the device is older than compute capability 8.0");
    p.key_heads = 3;
    EXPECT_STREQ(cannot_run(p, 90), "the number of heads is no multiple of the key heads");
    p.key_heads = 2;
    p.head_dim = 264;
    EXPECT_STREQ(cannot_run(p, 90), "heads are wider than 256");
    p.head_dim = 66;
    EXPECT_STREQ(cannot_run(p, 90), "rows of queries, keys and values are no multiples of 16 bytes");
    p.head_dim = 64;
    p.k_stride[2] = 66;
    EXPECT_STREQ(cannot_run(p, 90), "rows of queries, keys and values do not start at multiples of 16 bytes");
}

}  // namespace
}  // namespace vitrine::kernels::cuda
