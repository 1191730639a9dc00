// Attention of a short sequence with its map, on a device, against double precision; and rollout from kept maps.
#include <vitrine/kernels/cuda/small_attention.h>

#include <vitrine/kernels/cuda/testing.h>

namespace vitrine::kernels::cuda {
namespace {

using namespace testing;
constexpr double kNothing = -std::numeric_limits<double>::infinity();

struct Shape {
    Index batches, heads, key_heads, queries, keys, dim;
    bool bias = false, mask = false, causal = false;
    float softcap = 0, spread = 1;
};

/// One case on both sides; queries, keys and values are views of one [batches, tokens, 3, heads, dim] where they can
/// be.
class Case {
  public:
    Case(Shape s, Element element) : shape(s) {
        const Index b = s.batches, h = s.heads, kh = s.key_heads, d = s.dim, width = (h + 2 * kh) * d,
                    tokens = std::max(s.queries, s.keys);
        qkv = normals(b * tokens * width, static_cast<std::uint64_t>(s.keys * 131 + d));
        const auto bytes = as_element(qkv, element);
        qkv_ = std::make_unique<Buffer>(bytes.data(), bytes.size());
        const auto at = [&](Index offset) { return qkv_->data() + offset * size_of(element); };
        p.element = element;
        p.q = at(0);
        p.k = at(h * d);
        small.v = at((h + kh) * d);
        for (Index* stride : {p.q_stride, p.k_stride, small.v_stride}) {
            stride[0] = d;
            stride[1] = width;
        }
        small.q_batch = small.k_batch = small.v_batch = tokens * width;
        p.heads = h;
        p.key_heads = kh;
        p.queries = s.queries;
        p.keys = s.keys;
        p.head_dim = d;
        p.scale = s.spread / std::sqrt(static_cast<float>(d));
        p.softcap = s.softcap;
        p.causal = s.causal;
        small.batches = b;
        if (s.bias) {
            bias = normals(h * s.queries * s.keys, 5);
            // Every third row of the first head is masked entirely.
            for (Index i = 0; i < s.queries; i += 3)
                std::fill_n(bias.begin() + i * s.keys, s.keys, -std::numeric_limits<float>::infinity());
            bias_ = std::make_unique<Buffer>(bias.data(), bias.size() * 4);
            p.bias = bias_->floats();
            p.bias_stride[0] = s.queries * s.keys;
            p.bias_stride[1] = s.keys;
            p.bias_stride[2] = 1;
        }
        if (s.mask) {
            mask.resize(static_cast<std::size_t>(b * s.queries * s.keys));
            for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = i * 2654435761U % 7 < 5 ? 1 : 0;
            mask_ = std::make_unique<Buffer>(mask.data(), mask.size());
            p.mask = mask_->data();
            p.mask_stride[1] = s.keys;
            p.mask_stride[2] = 1;
            small.mask_batch = s.queries * s.keys;
        }
        // [batches, queries, heads, dim], as the next product wants it
        small.out_stride[0] = d;
        small.out_stride[1] = h * d;
        small.out_batch = s.queries * h * d;
        compute();
    }

    Shape shape;
    Floats qkv, bias;
    std::vector<std::uint8_t> mask;
    DeviceAttention p;
    DeviceSmallAttention small;
    std::vector<double> map, out, lse;

  private:
    void compute() {
        const Shape& s = shape;
        const Index h_count = s.heads, d_count = s.dim, width = (h_count + 2 * s.key_heads) * d_count;
        const Index tokens = std::max(s.queries, s.keys);
        map.resize(static_cast<std::size_t>(s.batches * h_count * s.queries * s.keys));
        out.assign(static_cast<std::size_t>(s.batches * s.queries * h_count * d_count), 0);
        lse.resize(static_cast<std::size_t>(s.batches * h_count * s.queries));
        kThreads(s.batches * h_count * s.queries, [&](Index begin, Index end) {
            for (Index row = begin; row < end; ++row) {
                const Index i = row % s.queries, h = row / s.queries % h_count, b = row / s.queries / h_count;
                const Index kh = h / (h_count / s.key_heads);
                const float* token = qkv.data() + b * tokens * width;
                double* to = map.data() + row * s.keys;
                double high = kNothing, sum = 0;
                for (Index j = 0; j < s.keys; ++j) {
                    double x = 0;
                    for (Index d = 0; d < d_count; ++d)
                        x += static_cast<double>(token[i * width + h * d_count + d]) *
                             token[j * width + (h_count + kh) * d_count + d];
                    x *= p.scale;
                    if (s.softcap > 0) x = s.softcap * std::tanh(x / s.softcap);
                    if (s.bias) x += bias[static_cast<std::size_t>((h * s.queries + i) * s.keys + j)];
                    if (s.mask && mask[static_cast<std::size_t>((b * s.queries + i) * s.keys + j)] == 0) x = kNothing;
                    if (s.causal && j > i) x = kNothing;
                    to[j] = x;
                    high = std::max(high, x);
                }
                for (Index j = 0; j < s.keys; ++j) {
                    to[j] = high == kNothing ? 0 : std::exp(to[j] - high);
                    sum += to[j];
                }
                lse[static_cast<std::size_t>(row)] = high == kNothing ? kNothing : high + std::log(sum);
                for (Index j = 0; j < s.keys; ++j) {
                    if (sum > 0) to[j] /= sum;
                    for (Index d = 0; d < d_count; ++d)
                        out[static_cast<std::size_t>((b * s.queries + i) * h_count * d_count + h * d_count + d)] +=
                            to[j] * token[j * width + (h_count + s.key_heads + kh) * d_count + d];
                }
            }
        });
    }
    std::unique_ptr<Buffer> qkv_, bias_, mask_;
};

class SmallAttentionOnDevice : public ::testing::TestWithParam<Element> {
  protected:
    void SetUp() override { VITRINE_NEEDS_DEVICE(); }
    Element element = GetParam();

    void expect_right(const Shape& shape) const {
        const Case c(shape, element);
        const std::string what = "H" + std::to_string(shape.heads) + "Q" + std::to_string(shape.queries) + "K" +
                                 std::to_string(shape.keys) + "D" + std::to_string(shape.dim) +
                                 (shape.bias ? " bias" : "") + (shape.mask ? " mask" : "") +
                                 (shape.causal ? " causal" : "") + (shape.softcap > 0 ? " softcap" : "");
        Floats first;
        for (int run = 0; run < 3; ++run) {
            const Buffer out(c.out.size() * static_cast<std::size_t>(size_of(element))), map(c.map.size() * 4),
                lse(c.lse.size() * 4);
            DeviceSmallAttention small = c.small;
            small.out = out.data();
            small.map = run == 2 ? nullptr : map.floats();
            small.lse = lse.floats();
            const char* problem = small_attention(c.p, small, {});
            ASSERT_EQ(problem, nullptr) << what << ": " << problem;
            check(cudaDeviceSynchronize(), "small attention");
            const Floats found = from_element(out, element);
            if (run > 0) {
                EXPECT_EQ(found, first) << what << ": another run gives other bits";
                continue;
            }
            first = found;
            double most = 1;
            for (const double x : c.lse) most = std::isinf(x) ? most : std::max(most, std::abs(x));
            // The map comes from fp32 scores of any element; a rounding of a score changes an entry by as much of
            // itself. tanh and the sharp case lose a little more.
            EXPECT_LE(worst(map.take<float>(), c.map), std::ldexp(1 + most, -21)) << what;
            EXPECT_LE(worst(lse.take<float>(), c.lse), std::ldexp(1 + most, -20)) << what;
            // In fp32 the output is as exact as the map, times the values. Else the map is rounded to the element
            // before it meets the values, and so is the output.
            const double rounding = element == Element::F32   ? std::ldexp(1 + most, -21)
                                    : element == Element::F16 ? 2e-3
                                                              : 1.6e-2;
            EXPECT_LE(worst(found, c.out), rounding) << what;
        }
    }
};

TEST_P(SmallAttentionOnDevice, IsAttentionInDoublePrecision) {
    for (const Index n : {1, 2, 15, 16, 17, 50, 63, 64, 65, 127, 129, 196, 197, 257, 320})
        expect_right({1, 3, 3, n, n, 64});
    for (const Index d : {16, 24, 32, 72, 80, 96, 128}) expect_right({1, 2, 2, 197, 197, d});
    expect_right({1, 12, 12, 197, 197, 64});
    expect_right({2, 2, 2, 100, 100, 256});
    expect_right({3, 6, 2, 197, 197, 64});
    expect_right({1, 16, 16, 65, 65, 16});
    expect_right({1, 3, 3, 1, 257, 64});
    expect_right({1, 2, 2, 1000, 3, 80});
}

TEST_P(SmallAttentionOnDevice, BiasMaskCausalAndSoftcapCount) {
    expect_right({2, 3, 3, 197, 197, 64, true});
    expect_right({2, 3, 3, 129, 197, 64, false, true});
    expect_right({1, 3, 3, 197, 197, 64, false, false, true});
    expect_right({1, 3, 3, 197, 197, 64, false, false, false, 2.0F});
    expect_right({2, 4, 2, 65, 65, 32, true, true, true, 1.5F});
    expect_right({1, 2, 2, 197, 197, 64, false, false, false, 0, 20});
    expect_right({1, 2, 2, 197, 197, 64, false, false, false, 0, 0.01F});
}

INSTANTIATE_TEST_SUITE_P(Elements, SmallAttentionOnDevice, ::testing::Values(Element::F32, Element::F16, Element::BF16),
                         [](const auto& info) { return std::string(testing::name_of(info.param)); });

TEST(RolloutOnDevice, IsTheProductOfTheMaps) {
    VITRINE_NEEDS_DEVICE();
    for (const auto& [layers, heads, tokens, batches] :
         {std::tuple<Index, Index, Index, Index>{12, 12, 197, 1}, {3, 2, 320, 2}, {1, 1, 1, 1}, {24, 3, 50, 3}}) {
        const Index cells = tokens * tokens;
        Floats maps = normals(layers * batches * heads * cells, static_cast<std::uint64_t>(tokens));
        for (Index row = 0; row < layers * batches * heads * tokens; ++row) {
            double sum = 0;
            float* x = maps.data() + row * tokens;
            for (Index j = 0; j < tokens; ++j) sum += x[j] = std::abs(x[j]);
            for (Index j = 0; j < tokens; ++j) x[j] = static_cast<float>(x[j] / sum);
        }
        const Buffer device(maps.data(), maps.size() * 4), mean(static_cast<std::size_t>(layers * batches * cells) * 4),
            out(static_cast<std::size_t>(batches * tokens) * 4);
        const Index token = tokens / 3;
        ASSERT_EQ(head_mean(device.floats(), layers * batches, heads, cells, mean.floats(), {}), nullptr);
        ASSERT_EQ(rollout(mean.floats(), layers, batches, tokens, token, out.floats(), {}), nullptr);
        check(cudaDeviceSynchronize(), "rollout");
        mean.take<float>();
        std::vector<double> wanted;
        for (Index b = 0; b < batches; ++b) {
            std::vector<double> r(static_cast<std::size_t>(tokens));
            r[static_cast<std::size_t>(token)] = 1;
            for (Index layer = layers; layer-- > 0;) {
                std::vector<double> next(r.size());
                for (Index i = 0; i < tokens; ++i)
                    for (Index j = 0; j < tokens; ++j)
                        for (Index h = 0; h < heads; ++h)
                            next[static_cast<std::size_t>(j)] +=
                                r[static_cast<std::size_t>(i)] / static_cast<double>(heads) *
                                maps[static_cast<std::size_t>(((layer * batches + b) * heads + h) * cells + i * tokens +
                                                              j)];
                for (std::size_t j = 0; j < r.size(); ++j) r[j] = (r[j] + next[j]) / 2;
            }
            wanted.insert(wanted.end(), r.begin(), r.end());
        }
        const Floats found = out.take<float>();
        EXPECT_LE(worst(found, wanted), 1e-6) << tokens << " tokens";
        double mass = 0;
        for (const float x : found) mass += x;
        EXPECT_NEAR(mass, static_cast<double>(batches), 1e-5);
    }
}

TEST(SmallAttentionWithoutDevice, SaysWhyItCannotRun) {
    alignas(16) const float some[64] = {};
    alignas(16) float out[64];
    DeviceAttention p;
    DeviceSmallAttention s;
    p.q = p.k = s.v = some;
    s.out = out;
    p.heads = p.key_heads = 1;
    p.queries = p.keys = 321;
    p.head_dim = 64;
    EXPECT_STREQ(cannot_run(p, s, 90), "there are more than 320 keys");
    p.queries = p.keys = 320;
    EXPECT_STREQ(cannot_run(p, s, 75), "the device is older than compute capability 8.0");
    p.element = Element::BF16;
    p.head_dim = 128;
    EXPECT_STREQ(cannot_run(p, s, 80), "the keys and values of a head do not fit the shared memory of this device");
    p.head_dim = 68;
    EXPECT_STREQ(cannot_run(p, s, 90), "rows of queries, keys and values are no multiples of 16 bytes");
}

}  // namespace
}  // namespace vitrine::kernels::cuda
