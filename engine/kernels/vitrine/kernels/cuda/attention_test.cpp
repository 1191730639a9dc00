// The CUDA map kernels against double precision: every operation, implementation and element over the table of cases.
#include <vitrine/kernels/cuda/attention.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <utility>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cases/attention_cases.h>

namespace vitrine::kernels::cuda {
namespace {

using cases::AttentionCase;
using cases::AttentionData;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

#define ASSERT_CUDA(call)                                                              \
    do {                                                                               \
        const cudaError_t error_ = (call);                                             \
        ASSERT_EQ(error_, cudaSuccess) << #call << ": " << cudaGetErrorString(error_); \
    } while (false)
#define EXPECT_RAN(call)                                           \
    do {                                                           \
        const char* problem_ = (call);                             \
        EXPECT_EQ(problem_, nullptr) << #call << ": " << problem_; \
    } while (false)

/// Device memory filled with NaN between guard bands that nobody may touch.
template <class T>
class Guarded {
  public:
    explicit Guarded(std::size_t count) : count_(count) {
        if (cudaMalloc(&base_, bytes()) != cudaSuccess) throw std::runtime_error("the device has no memory left");
        cudaMemset(base_, 0xFF, bytes());
    }
    explicit Guarded(const std::vector<T>& from) : Guarded(from.size()) {
        if (!from.empty()) cudaMemcpy(get(), from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice);
    }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;
    ~Guarded() { cudaFree(base_); }
    T* get() const { return reinterpret_cast<T*>(static_cast<char*>(base_) + kGuard); }
    std::size_t size() const { return count_ * sizeof(T); }
    void poison() { cudaMemset(base_, 0xFF, bytes()); }
    /// The contents, once everything queued is done.
    std::vector<T> read() const {
        std::vector<char> all(bytes());
        const cudaError_t error = cudaMemcpy(all.data(), base_, bytes(), cudaMemcpyDeviceToHost);
        EXPECT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
        const auto untouched = [](char x) { return x == '\xFF'; };
        EXPECT_TRUE(std::all_of(all.begin(), all.begin() + kGuard, untouched)) << "written in front of the buffer";
        EXPECT_TRUE(std::all_of(all.end() - kGuard, all.end(), untouched)) << "written behind the buffer";
        std::vector<T> out(count_);
        if (count_ != 0) std::memcpy(out.data(), all.data() + kGuard, size());
        return out;
    }

  private:
    static constexpr std::size_t kGuard = 1024;
    std::size_t bytes() const { return size() + 2 * kGuard; }
    std::size_t count_;
    void* base_ = nullptr;
};

/// What the table's cases do not hold: a softcap and a boolean mask.
struct DeviceCase {
    AttentionCase shape;
    Element element = Element::F32;
    float softcap = 0;
    bool mask = false;
};

std::vector<DeviceCase> device_cases() {
    std::vector<AttentionCase> shapes = cases::attention_cases();
    const auto add = [&](std::int64_t heads, std::int64_t n, std::int64_t dim, float spread = 1) {
        AttentionCase c;
        c.heads = c.key_heads = heads;
        c.queries = c.keys = n;
        c.head_dim = c.value_dim = dim;
        c.spread = spread;
        c.name = "H" + std::to_string(heads) + "Q" + std::to_string(n) + "D" + std::to_string(dim) +
                 (spread > 10 ? "SharpToo" : "Too");
        shapes.push_back(c);
    };
    add(1, 196, 64);
    add(2, 129, 40);
    add(2, 65, 8);
    add(12, 577, 64);
    add(16, 257, 80);
    add(3, 577, 128);
    add(3, 300, 256);
    add(2, 300, 80, 27);
    add(1, 4097, 64);
    std::vector<DeviceCase> all;
    for (const Element element : {Element::F32, Element::F16, Element::BF16})
        for (const AttentionCase& shape : shapes) {
            // The products round the same in all layouts: 16-bit elements skip a few of the many small ones.
            if (element == Element::F16 && shape.queries < 60 && shape.head_dim == 64) continue;
            all.push_back({shape, element, 0, false});
        }
    for (const Element element : {Element::F32, Element::BF16}) {
        AttentionCase c = shapes[10];  // 197
        c.head_dim = c.value_dim = 64;
        c.queries = c.keys = 197;
        c.heads = c.key_heads = 3;
        c.name = "Softcap";
        all.push_back({c, element, 2.5F, false});
        c.name = "BooleanMask";
        all.push_back({c, element, 0, true});
        c.bias = cases::Bias::Full;
        c.causal = true;
        c.name = "Everything";
        all.push_back({c, element, 3, true});
    }
    return all;
}

float rounded(float x, Element element) {
    if (element == Element::F16) return __half2float(__float2half(x));
    if (element == Element::BF16) return __bfloat162float(__float2bfloat16(x));
    return x;
}

std::unique_ptr<Guarded<char>> upload(std::vector<float>& from, Element element) {
    for (float& x : from) x = rounded(x, element);
    std::vector<char> bytes(from.size() * static_cast<std::size_t>(size_of(element)));
    for (std::size_t i = 0; i < from.size(); ++i) {
        if (element == Element::F32) std::memcpy(&bytes[i * 4], &from[i], 4);
        if (element == Element::F16) {
            const __half x = __float2half(from[i]);
            std::memcpy(&bytes[i * 2], &x, 2);
        }
        if (element == Element::BF16) {
            const __nv_bfloat16 x = __float2bfloat16(from[i]);
            std::memcpy(&bytes[i * 2], &x, 2);
        }
    }
    return std::make_unique<Guarded<char>>(bytes);
}

/// A case on the device, and its map in double precision from the same rounded numbers and the same log-sum-exp.
struct Subject {
    explicit Subject(const DeviceCase& c) : data(c.shape), h(c.shape.heads), n(c.shape.queries), m(c.shape.keys) {
        q_store = upload(data.q_store, c.element);
        if (c.shape.layout == cases::Layout::Contiguous) {
            k_store = upload(data.k_store, c.element);
            v_store = upload(data.v_store, c.element);
        }
        d_out = upload(data.d_out, c.element);
        const auto at = [&](const float* p) -> const void* {
            const auto inside = [&](const std::vector<float>& x) { return p >= x.data() && p < x.data() + x.size(); };
            const auto size = size_of(c.element);
            if (inside(data.q_store)) return q_store->get() + (p - data.q_store.data()) * size;
            if (inside(data.k_store)) return k_store->get() + (p - data.k_store.data()) * size;
            return v_store->get() + (p - data.v_store.data()) * size;
        };
        a.q = at(data.p.q);
        a.k = at(data.p.k);
        g.v = at(data.g.v);
        g.d_out = d_out->get();
        for (int x = 0; x < 2; ++x) {
            a.q_stride[x] = data.p.q_stride[x];
            a.k_stride[x] = data.p.k_stride[x];
            g.v_stride[x] = data.g.v_stride[x];
            g.d_out_stride[x] = data.g.d_out_stride[x];
        }
        a.element = c.element;
        a.heads = h;
        a.key_heads = c.shape.key_heads;
        if (c.shape.value_heads > 0 && c.shape.value_heads != c.shape.key_heads) {
            // The device takes as many heads of values as of keys: both are spelled out, one a head, as the engine
            // does.
            a.key_heads = h;
            a.k = spell_out(k_spelled, data.k_store, a.k_stride[0], c, [&](auto x) { return data.key_head(x); });
            g.v = spell_out(v_spelled, data.v_store, g.v_stride[0], c, [&](auto x) { return data.value_head(x); });
        }
        a.queries = n;
        a.keys = m;
        a.head_dim = c.shape.head_dim;
        a.scale = data.p.scale;
        a.softcap = c.softcap;
        a.causal = c.shape.causal;
        g.value_dim = c.shape.value_dim;
        if (data.p.bias != nullptr) {
            bias = std::make_unique<Guarded<float>>(data.bias);
            a.bias = bias->get();
            std::copy_n(data.p.bias_stride, 3, a.bias_stride);
        }
        if (c.mask) {
            mask_host.resize(static_cast<std::size_t>(n * m));
            std::mt19937 random(5);
            for (std::int64_t i = 0; i < n; ++i)
                for (std::int64_t j = 0; j < m; ++j)
                    mask_host[static_cast<std::size_t>(i * m + j)] =
                        i % 9 != 4 && (random() % 3 != 0 || i == j) ? 7 : 0;
            mask = std::make_unique<Guarded<std::uint8_t>>(mask_host);
            a.mask = mask->get();
            a.mask_stride[1] = m;
            a.mask_stride[2] = 1;
        }
        make_map(c);
        lse = std::make_unique<Guarded<float>>(lse_host);
        a.lse = lse->get();
        r = std::make_unique<Guarded<float>>(data.r);
        workspace = std::make_unique<Guarded<char>>(std::max(sweep_workspace(a, &g), fused_workspace(a)));
    }

    Launch launch(Implementation x) {
        workspace->poison();
        return {nullptr, workspace->get(), workspace->size(), x};
    }
    double p(std::int64_t head, std::int64_t i, std::int64_t j) const {
        return map[static_cast<std::size_t>((head * n + i) * m + j)];
    }
    double dp(std::int64_t head, std::int64_t i, std::int64_t j) const {
        const float* x = data.g.d_out + head * data.g.d_out_stride[0] + i * data.g.d_out_stride[1];
        const float* v = data.g.v + data.value_head(head) * data.g.v_stride[0] + j * data.g.v_stride[1];
        double sum = 0;
        for (std::int64_t d = 0; d < data.g.value_dim; ++d) sum += static_cast<double>(x[d]) * v[d];
        return sum;
    }
    /// What rounding of the scores alone may do to an entry, relative: the floor beside the plain version's error.
    double floor() const { return 2e-6 + 4 * 6e-8 * greatest_score; }

    AttentionData data;
    std::int64_t h, n, m;
    DeviceAttention a;
    DeviceGradient g;
    std::unique_ptr<Guarded<char>> q_store, k_store, v_store, k_spelled, v_spelled, d_out, workspace;
    std::unique_ptr<Guarded<float>> bias, lse, r;
    std::unique_ptr<Guarded<std::uint8_t>> mask;
    std::vector<std::uint8_t> mask_host;
    std::vector<float> lse_host;
    std::vector<double> map, lse_exact;
    double greatest_score = 0;

  private:
    /// One copy a head of contiguous heads of `head_size` numbers that heads share.
    template <class F>
    const void* spell_out(std::unique_ptr<Guarded<char>>& to, const std::vector<float>& from, std::int64_t head_size,
                          const DeviceCase& c, const F& head_of) const {
        std::vector<float> all;
        for (std::int64_t head = 0; head < h; ++head)
            all.insert(all.end(), from.begin() + head_of(head) * head_size,
                       from.begin() + (head_of(head) + 1) * head_size);
        to = upload(all, c.element);
        return to->get();
    }
    void make_map(const DeviceCase& c) {
        map.resize(static_cast<std::size_t>(h * n * m));
        for (std::int64_t head = 0; head < h; ++head)
            for (std::int64_t i = 0; i < n; ++i) {
                double* row = &map[static_cast<std::size_t>((head * n + i) * m)];
                const float* x = data.p.q + head * data.p.q_stride[0] + i * data.p.q_stride[1];
                double high = -kInfinity;
                for (std::int64_t j = 0; j < m; ++j) {
                    const float* y = data.p.k + data.key_head(head) * data.p.k_stride[0] + j * data.p.k_stride[1];
                    double s = 0;
                    for (std::int64_t d = 0; d < data.p.head_dim; ++d) s += static_cast<double>(x[d]) * y[d];
                    s *= data.p.scale;
                    if (c.softcap != 0) s = c.softcap * std::tanh(s / c.softcap);
                    greatest_score = std::max(greatest_score, std::fabs(s));
                    if (data.p.bias != nullptr)
                        s += data.p.bias[head * data.p.bias_stride[0] + i * data.p.bias_stride[1] +
                                         j * data.p.bias_stride[2]];
                    if (c.mask && mask_host[static_cast<std::size_t>(i * m + j)] == 0) s = -kInfinity;
                    if (c.shape.causal && j > i) s = -kInfinity;
                    row[j] = s;
                    high = std::max(high, s);
                }
                double sum = 0;
                for (std::int64_t j = 0; j < m; ++j) sum += high == -kInfinity ? 0 : std::exp(row[j] - high);
                lse_exact.push_back(high == -kInfinity ? high : high + std::log(sum));
                lse_host.push_back(static_cast<float>(lse_exact.back()));
                for (std::int64_t j = 0; j < m; ++j)
                    row[j] = high == -kInfinity ? 0 : std::exp(row[j] - static_cast<double>(lse_host.back()));
            }
    }
};

double error_of(const std::vector<float>& got, const std::vector<double>& wanted) {
    EXPECT_EQ(got.size(), wanted.size());
    double worst = 0;
    for (std::size_t x = 0; x < got.size(); ++x) {
        if (std::isinf(wanted[x])) {
            EXPECT_EQ(static_cast<double>(got[x]), wanted[x]);
            continue;
        }
        if (!std::isfinite(got[x])) return kInfinity;
        worst = std::max(worst, std::fabs(got[x] - wanted[x]));
    }
    return worst;
}

/// Runs `run` with each implementation that can, and holds its error to twice the plain one's plus `floor`.
void hold(const Subject& s, Operation operation, SweepFunctor functor, const std::vector<double>& wanted, double floor,
          const std::string& what, const std::function<std::vector<float>(Implementation)>& run) {
    double plain = 0;
    for (const Implementation x : kImplementations) {
        if (cannot_run(operation, x, s.a, compute_capability(0), &s.g, functor) != nullptr) continue;
        const double error = error_of(run(x), wanted);
        if (x == Implementation::Reference) {
            plain = error;
            // What fp32 sums of this length and rounded scores can lose.
            EXPECT_LE(error, 10 * floor) << what << " by " << name_of(x);
        } else {
            EXPECT_LE(error, 2 * plain + floor) << what << " by " << name_of(x) << ", plain " << plain;
        }
        ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess) << what << " by " << name_of(x);
    }
}

template <class F>
std::vector<float> result_of(std::size_t count, const F& run) {
    Guarded<float> out(count);
    EXPECT_RAN(run(out.get()));
    return out.read();
}

class CudaAttention : public testing::TestWithParam<DeviceCase> {
  protected:
    void SetUp() override {
        if (device_count() == 0) GTEST_SKIP() << "SKIPPED: this machine has no CUDA device";
    }
};

TEST_P(CudaAttention, MatchesDoublePrecision) {
    Subject s(GetParam());
    const auto h = s.h, n = s.n, m = s.m;
    const auto size = [](std::int64_t x) { return static_cast<std::size_t>(x); };
    const double floor = s.floor();
    const SweepFunctor none = SweepFunctor::PdP;

    double deepest = 1;
    for (const double x : s.lse_exact)
        if (std::isfinite(x)) deepest = std::max(deepest, std::fabs(x));
    hold(s, Operation::LogSumExp, none, s.lse_exact, floor * deepest, "log_sum_exp", [&](Implementation x) {
        return result_of(size(h * n), [&](float* out) { return log_sum_exp(s.a, out, s.launch(x)); });
    });

    // Rows and columns: more than one group of eight, in no order, one twice; from host and from device memory.
    for (const bool rows : {true, false}) {
        const std::int64_t fixed = rows ? n : m, streamed = rows ? m : n;
        std::vector<std::int64_t> list;
        for (std::int64_t x = 0; x < std::min<std::int64_t>(fixed, 11); ++x)
            list.push_back(fixed - 1 - x * (fixed / 11));
        list.push_back(0);
        const auto count = static_cast<std::int64_t>(list.size());
        Guarded<std::int64_t> on_device(list);
        std::vector<double> wanted(size(h * count * streamed)), mean(size(count * streamed));
        for (std::int64_t head = 0; head < h; ++head)
            for (std::int64_t x = 0; x < count; ++x)
                for (std::int64_t y = 0; y < streamed; ++y) {
                    const double value = rows ? s.p(head, list[size(x)], y) : s.p(head, y, list[size(x)]);
                    const std::int64_t at = rows ? x * streamed + y : y * count + x;
                    wanted[size(head * count * streamed + at)] = value;
                    mean[size(at)] += value / static_cast<double>(h);
                }
        const Operation operation = rows ? Operation::MapRows : Operation::MapColumns;
        const auto run = rows ? map_rows : map_columns;
        const Listed from_host{list.data(), nullptr, count}, from_device{nullptr, on_device.get(), count};
        const std::vector<DeviceAttention> twice = {s.a, s.a};
        hold(s, operation, none, wanted, floor, name_of(operation), [&](Implementation x) {
            Guarded<float> first(wanted.size()), second(wanted.size());
            const std::vector<float*> out = {first.get(), second.get()};
            EXPECT_RAN(run(twice, from_device, out, {}, s.launch(x)));
            EXPECT_EQ(first.read(), second.read());
            return second.read();
        });
        hold(s, operation, none, mean, floor, std::string(name_of(operation)) + " mean", [&](Implementation x) {
            Guarded<float> each(wanted.size());
            const std::vector<float*> out = {each.get()};
            auto got = result_of(mean.size(), [&](float* to) {
                const std::vector<float*> means = {to};
                return run({&s.a, 1}, from_host, out, means, s.launch(x));
            });
            EXPECT_LE(error_of(each.read(), wanted), 10 * floor);
            return got;
        });
    }

    // Pieces of the map.
    struct Piece {
        std::int64_t q0, q1, k0, k1, pool;
        bool mean;
    };
    std::vector<Piece> pieces = {{0, n, 0, m, 1, false},
                                 {0, n, 0, m, 7, false},
                                 {n / 3, n, m / 2, m, 3, true},
                                 {0, n, 0, m, 33, true},
                                 {0, n, 0, m, 100, false}};
    if (n > 1000) pieces = {{n - 70, n, m - 90, m, 1, false}, {0, n, 0, m, 16, false}, {0, n, 0, m, 170, true}};
    for (const Piece& piece : pieces) {
        const std::int64_t rows = (piece.q1 - piece.q0 + piece.pool - 1) / piece.pool;
        const std::int64_t columns = (piece.k1 - piece.k0 + piece.pool - 1) / piece.pool;
        const std::int64_t maps = piece.mean ? 1 : h;
        std::vector<double> mean(size(maps * rows * columns)), high(mean.size(), -1);
        std::vector<double> count(mean.size());
        for (std::int64_t map = 0; map < maps; ++map)
            for (std::int64_t i = piece.q0; i < piece.q1; ++i)
                for (std::int64_t j = piece.k0; j < piece.k1; ++j) {
                    double value = s.p(map, i, j);
                    for (std::int64_t other = 1; piece.mean && other < h; ++other) value += s.p(other, i, j);
                    if (piece.mean) value /= static_cast<double>(h);
                    const std::size_t at =
                        size((map * rows + (i - piece.q0) / piece.pool) * columns + (j - piece.k0) / piece.pool);
                    mean[at] += value;
                    count[at] += 1;
                    high[at] = std::max(high[at], value);
                }
        for (std::size_t x = 0; x < mean.size(); ++x) mean[x] /= count[x];
        for (const bool maximum : {false, true})
            hold(s, Operation::MapTile, none, maximum ? high : mean, floor, "map_tile by " + std::to_string(piece.pool),
                 [&](Implementation x) {
                     Guarded<float> other(mean.size());
                     return result_of(mean.size(), [&](float* out) {
                         return map_tile(s.a, piece.q0, piece.q1, piece.k0, piece.k1, piece.pool, piece.mean,
                                         maximum ? other.get() : out, maximum ? out : nullptr, s.launch(x));
                     });
                 });
    }

    // P V.
    std::vector<double> applied(size(h * n * s.g.value_dim));
    double value_size = 0;
    for (std::int64_t head = 0; head < h; ++head)
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < m; ++j) {
                const float* v = s.data.g.v + s.data.value_head(head) * s.data.g.v_stride[0] + j * s.data.g.v_stride[1];
                const double share = s.p(head, i, j);
                for (std::int64_t d = 0; d < s.g.value_dim; ++d) {
                    applied[size((head * n + i) * s.g.value_dim + d)] += share * v[d];
                    value_size = std::max(value_size, static_cast<double>(std::fabs(v[d])));
                }
            }
    // Two halves of bfloat16 leave 2^-17 of an entry.
    const double apply_floor = (floor + (s.a.element == Element::BF16 ? 8e-6 : 1e-6)) * value_size;
    hold(s, Operation::MapApply, none, applied, apply_floor, "map_apply", [&](Implementation x) {
        return result_of(applied.size(), [&](float* out) { return map_apply(s.a, s.g, out, s.launch(x)); });
    });

    // Sweeps: a weight a head and one for all; zeros, 1e-30; row sums.
    for (const std::int64_t stride : {n, std::int64_t{0}}) {
        std::vector<double> wanted(size(h * m)), sums(size(h * n));
        for (std::int64_t head = 0; head < h; ++head)
            for (std::int64_t i = 0; i < n; ++i)
                for (std::int64_t j = 0; j < m; ++j) {
                    const float r = s.data.r[size(head * stride + i)];
                    wanted[size(head * m + j)] += r * s.p(head, i, j);
                    if (r != 0) sums[size(head * n + i)] += s.p(head, i, j);
                }
        const double most = std::max(1.0, *std::max_element(wanted.begin(), wanted.end()));
        Guarded<float> rows(sums.size());
        hold(s, Operation::MapSweep, none, wanted, floor * most, "map_sweep", [&](Implementation x) {
            rows.poison();
            SweepExtras extras;
            extras.row_sums = rows.get();
            auto got = result_of(wanted.size(), [&](float* out) {
                return map_sweep(s.a, s.r->get(), stride, out, extras, s.launch(x));
            });
            EXPECT_LE(error_of(rows.read(), sums), 10 * floor) << "row sums by " << name_of(x);
            return got;
        });
        if (stride != 0) continue;
        for (const bool residual : {false, true}) {
            if (residual && n != m) continue;
            std::vector<double> step(size(m));
            for (std::int64_t j = 0; j < m; ++j) {
                for (std::int64_t head = 0; head < h; ++head)
                    step[size(j)] += wanted[size(head * m + j)] / static_cast<double>(h);
                if (residual) step[size(j)] = (step[size(j)] + s.data.r[size(j)]) / 2;
            }
            hold(s, Operation::MapSweep, none, step, floor * most, "map_step", [&](Implementation x) {
                return result_of(step.size(),
                                 [&](float* out) { return map_step(s.a, s.r->get(), residual, out, s.launch(x)); });
            });
        }
    }

    // The histogram: between the counts that edges moved by rounding either way would give.
    constexpr std::int32_t kBins = 50;
    const float high = 0.6F;
    Guarded<std::int64_t> counts(size(h * (kBins + 2)));
    for (const Implementation x : {Implementation::Reference, Implementation::Sm80}) {
        if (cannot_run(Operation::MapSweep, x, s.a, compute_capability(0)) != nullptr) continue;
        SweepExtras extras;
        extras.histogram = {counts.get(), kBins, 0.001F, high};
        Guarded<float> out(size(h * m));
        EXPECT_RAN(map_sweep(s.a, s.r->get(), n, out.get(), extras, s.launch(x)));
        const auto got = counts.read();
        for (std::int64_t head = 0; head < h; ++head) {
            std::int64_t below = 0;
            for (std::int32_t b = 0; b <= kBins; ++b) {
                below += got[size(head * (kBins + 2) + b)];
                const double edge = 0.001 + b * (static_cast<double>(high) - 0.001) / kBins;
                std::int64_t least = 0, most = 0;
                for (std::int64_t i = 0; i < n; ++i) {
                    if (s.data.r[size(head * n + i)] == 0 || std::isinf(s.lse_exact[size(head * n + i)])) continue;
                    for (std::int64_t j = 0; j < m; ++j) {
                        least += s.p(head, i, j) < edge * (1 - 20 * floor) - 1e-6;
                        most += s.p(head, i, j) < edge * (1 + 20 * floor) + 1e-6;
                    }
                }
                EXPECT_GE(below, least) << name_of(x) << " edge " << b;
                EXPECT_LE(below, most) << name_of(x) << " edge " << b;
            }
        }
    }

    // Sweeps weighted by gradients.
    std::vector<double> gradient(s.map.size());
    for (std::int64_t head = 0; head < h; ++head)
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < m; ++j) gradient[size((head * n + i) * m + j)] = s.dp(head, i, j);
    for (const SweepFunctor functor :
         {SweepFunctor::ReluPdP, SweepFunctor::PdP, SweepFunctor::ReluDP, SweepFunctor::AbsDP}) {
        std::vector<double> wanted(size(h * m)), magnitude(size(h * m));
        for (std::int64_t head = 0; head < h; ++head)
            for (std::int64_t i = 0; i < n; ++i)
                for (std::int64_t j = 0; j < m; ++j) {
                    double value = gradient[size((head * n + i) * m + j)];
                    if (needs_map(functor)) value *= s.p(head, i, j);
                    magnitude[size(head * m + j)] += s.data.r[size(head * n + i)] * std::fabs(value);
                    if (functor == SweepFunctor::AbsDP) value = std::fabs(value);
                    if (functor == SweepFunctor::ReluPdP || functor == SweepFunctor::ReluDP)
                        value = std::max(value, 0.0);
                    wanted[size(head * m + j)] += s.data.r[size(head * n + i)] * value;
                }
        const double most = std::max(1.0, *std::max_element(magnitude.begin(), magnitude.end()));
        hold(s, Operation::MapSweepGradient, functor, wanted, floor * most,
             std::string("map_sweep_gradient ") + name_of(functor), [&](Implementation x) {
                 return result_of(wanted.size(), [&](float* out) {
                     return map_sweep_gradient(s.a, s.g, functor, s.r->get(), n, out, s.launch(x));
                 });
             });
    }
}

TEST_P(CudaAttention, FusedMapsAgreeBitForBit) {
    Subject s(GetParam());
    const auto h = s.h, n = s.n, m = s.m;
    if (n * m > 2000000) GTEST_SKIP() << "one large case is enough";
    const auto size = [](std::int64_t x) { return static_cast<std::size_t>(x); };
    std::vector<std::int64_t> all(size(n));
    std::iota(all.begin(), all.end(), 0);
    Guarded<std::int64_t> list(all);
    for (const Fusion fusion : {Fusion::Mean, Fusion::Max, Fusion::Min}) {
        std::vector<double> wanted(size(n * m));
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < m; ++j) {
                double value = s.p(0, i, j);
                for (std::int64_t head = 1; head < h; ++head) {
                    const double x = s.p(head, i, j);
                    value = fusion == Fusion::Mean  ? value + x
                            : fusion == Fusion::Max ? std::max(value, x)
                                                    : std::min(value, x);
                }
                wanted[size(i * m + j)] = fusion == Fusion::Mean ? value / static_cast<double>(h) : value;
            }
        std::vector<float> map;
        for (const Implementation x : {Implementation::Reference, Implementation::Sm80}) {
            if (cannot_run(Operation::Fused, x, s.a, compute_capability(0)) != nullptr) continue;
            map = result_of(wanted.size(), [&](float* out) {
                return fused_rows(s.a, fusion, {nullptr, list.get(), n}, out, s.launch(x));
            });
            ASSERT_LE(error_of(map, wanted), 10 * s.floor()) << name_of(x);

            // Everything else from the map that the rows showed: a threshold at one of its own values, a tie cut in
            // two.
            std::vector<float> sorted = map;
            std::sort(sorted.begin(), sorted.end());
            FusedDropped dropped;
            dropped.threshold = sorted[sorted.size() / 2];
            dropped.tie_end = n * m / 3;
            dropped.kept_key = 0;
            dropped.kept_queries = n / 2 + 1;
            std::vector<double> columns(size(m)), rows(size(n));
            for (std::int64_t i = 0; i < n; ++i)
                for (std::int64_t j = 0; j < m; ++j) {
                    const float value = map[size(i * m + j)];
                    const bool kept = (j == 0 && i < dropped.kept_queries) || value > dropped.threshold ||
                                      (value == dropped.threshold && i * m + j >= dropped.tie_end);
                    if (!kept) continue;
                    columns[size(j)] += static_cast<double>(s.data.r[size(i)]) * value;
                    rows[size(i)] += value;
                }
            const double most = std::max(1.0, *std::max_element(columns.begin(), columns.end()));
            EXPECT_LE(error_of(result_of(size(m),
                                         [&](float* out) {
                                             return fused_sweep(s.a, fusion, dropped, s.r->get(), out, s.launch(x));
                                         }),
                               columns),
                      2e-6 * most)
                << name_of(x);
            EXPECT_LE(
                error_of(result_of(size(n),
                                   [&](float* out) { return fused_row_sums(s.a, fusion, dropped, out, s.launch(x)); }),
                         rows),
                2e-6)
                << name_of(x);

            const std::uint32_t first = 0x30000000;
            for (const int shift : {15, 0}) {
                constexpr std::int64_t kBins = 9000;
                std::vector<std::int64_t> counted(kBins);
                std::int64_t fewer = 0;
                for (const float value : map) {
                    std::uint32_t bits = 0;
                    std::memcpy(&bits, &value, 4);
                    if (bits < first)
                        ++fewer;
                    else if ((bits - first) >> shift < kBins)
                        ++counted[(bits - first) >> shift];
                }
                Guarded<std::int64_t> counts(kBins), below(1);
                EXPECT_RAN(fused_histogram(s.a, fusion, first, shift, kBins, counts.get(), below.get(), s.launch(x)));
                EXPECT_EQ(counts.read(), counted) << name_of(x);
                EXPECT_EQ(below.read()[0], fewer) << name_of(x);
            }
        }
    }
}

std::string name_of(const testing::TestParamInfo<DeviceCase>& info) {
    static const char* const names[] = {"Fp32", "Fp16", "Bf16"};
    return names[static_cast<int>(info.param.element)] + info.param.shape.name;
}
INSTANTIATE_TEST_SUITE_P(Cases, CudaAttention, testing::ValuesIn(device_cases()), name_of);

DeviceCase plain_case(Element element, std::int64_t heads, std::int64_t n, std::int64_t dim) {
    DeviceCase c;
    c.shape.heads = c.shape.key_heads = heads;
    c.shape.queries = c.shape.keys = n;
    c.shape.head_dim = c.shape.value_dim = dim;
    c.element = element;
    return c;
}

class CudaAttentionAlone : public testing::Test {
  protected:
    void SetUp() override {
        if (device_count() == 0) GTEST_SKIP() << "SKIPPED: this machine has no CUDA device";
    }
};

// The column sums are the log-sum-exp of the attention with the roles of queries and keys exchanged and the key bias
// log r_i - lse_i: another kernel, another way of summing.
TEST_F(CudaAttentionAlone, ColumnSumsAreTheTransposedAttention) {
    for (const Element element : {Element::F32, Element::F16, Element::BF16}) {
        Subject s(plain_case(element, 3, 1370, 64));
        std::vector<float> r(static_cast<std::size_t>(s.h * s.n)), bias(r.size());
        for (std::size_t x = 0; x < r.size(); ++x) {
            r[x] = 0.01F + 0.5F * std::fabs(s.data.d_out[x]);
            bias[x] = std::log(r[x]) - s.lse_host[x];
        }
        Guarded<float> weights(r), swapped_bias(bias), lse(static_cast<std::size_t>(s.h * s.m));
        DeviceAttention t = s.a;
        std::swap(t.q, t.k);
        std::swap(t.q_stride, t.k_stride);
        t.bias = swapped_bias.get();
        t.bias_stride[0] = s.n;
        t.bias_stride[1] = 0;
        t.bias_stride[2] = 1;
        EXPECT_RAN(log_sum_exp(t, lse.get(), s.launch(Implementation::Sm80)));
        const auto expected = lse.read();
        for (const Implementation x : kImplementations) {
            if (cannot_run(Operation::MapSweep, x, s.a, compute_capability(0)) != nullptr) continue;
            Guarded<float> out(expected.size());
            EXPECT_RAN(map_sweep(s.a, weights.get(), s.n, out.get(), {}, s.launch(x)));
            const auto got = out.read();
            for (std::size_t j = 0; j < got.size(); ++j)
                ASSERT_NEAR(got[j] / std::exp(static_cast<double>(expected[j])), 1, 1e-5) << name_of(x) << " " << j;
        }
    }
}

TEST_F(CudaAttentionAlone, TwentyRunsGiveTheSameBits) {
    for (const Element element : {Element::F32, Element::BF16})
        for (const Implementation x : {Implementation::Sm80, Implementation::Sm90}) {
            Subject s(plain_case(element, 12, 1370, 64));
            std::vector<std::vector<float>> first;
            for (int run = 0; run < 20; ++run) {
                std::vector<std::vector<float>> got;
                const auto columns = static_cast<std::size_t>(s.h * s.m);
                const auto can = [&](Operation o) {
                    return cannot_run(o, x, s.a, compute_capability(0), &s.g) == nullptr;
                };
                if (can(Operation::MapSweep))
                    got.push_back(result_of(
                        columns, [&](float* out) { return map_sweep(s.a, s.r->get(), s.n, out, {}, s.launch(x)); }));
                if (can(Operation::MapSweepGradient))
                    got.push_back(result_of(columns, [&](float* out) {
                        return map_sweep_gradient(s.a, s.g, SweepFunctor::PdP, s.r->get(), s.n, out, s.launch(x));
                    }));
                if (can(Operation::Fused)) {
                    got.push_back(result_of(static_cast<std::size_t>(s.m), [&](float* out) {
                        return fused_sweep(s.a, Fusion::Mean, {}, s.r->get(), out, s.launch(x));
                    }));
                    got.push_back(result_of(static_cast<std::size_t>(s.n), [&](float* out) {
                        return fused_row_sums(s.a, Fusion::Max, {}, out, s.launch(x));
                    }));
                }
                if (can(Operation::LogSumExp))
                    got.push_back(result_of(static_cast<std::size_t>(s.h * s.n),
                                            [&](float* out) { return log_sum_exp(s.a, out, s.launch(x)); }));
                if (can(Operation::MapApply))
                    got.push_back(result_of(static_cast<std::size_t>(s.h * s.n * 64),
                                            [&](float* out) { return map_apply(s.a, s.g, out, s.launch(x)); }));
                if (run == 0) first = got;
                ASSERT_EQ(got, first) << name_of(x) << " run " << run;
            }
        }
}

TEST_F(CudaAttentionAlone, AReplayedGraphGivesTheSameBits) {
    Subject s(plain_case(Element::BF16, 12, 577, 64));
    cudaStream_t stream = nullptr;
    ASSERT_CUDA(cudaStreamCreate(&stream));
    const Chosen chosen = choose(Operation::MapSweep, s.a, compute_capability(0));
    ASSERT_EQ(chosen.problem, nullptr);
    const auto columns = static_cast<std::size_t>(s.h * s.m);
    Guarded<float> once(columns), again(columns), rows(static_cast<std::size_t>(s.m));
    Launch launch = s.launch(chosen.implementation);
    EXPECT_RAN(map_sweep(s.a, s.r->get(), s.n, once.get(), {}, launch));
    ASSERT_CUDA(cudaDeviceSynchronize());
    launch.stream = stream;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    ASSERT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    EXPECT_RAN(map_sweep(s.a, s.r->get(), s.n, again.get(), {}, launch));
    launch.implementation = Implementation::Sm80;
    const std::int64_t row = 3;
    const std::vector<float*> mean = {rows.get()};
    EXPECT_RAN(map_rows({&s.a, 1}, {&row, nullptr, 1}, {}, mean, launch));
    ASSERT_CUDA(cudaStreamEndCapture(stream, &graph));
    ASSERT_CUDA(cudaGraphInstantiate(&replay, graph, 0));
    for (int run = 0; run < 3; ++run) ASSERT_CUDA(cudaGraphLaunch(replay, stream));
    ASSERT_CUDA(cudaStreamSynchronize(stream));
    EXPECT_EQ(once.read(), again.read());
    for (const float x : rows.read()) EXPECT_TRUE(std::isfinite(x));
    cudaGraphExecDestroy(replay);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
}

TEST_F(CudaAttentionAlone, OneNonzeroWeightGivesThatRow) {
    for (const Element element : {Element::F32, Element::BF16})
        for (const Implementation x : kImplementations) {
            Subject s(plain_case(element, 3, 577, 64));
            if (cannot_run(Operation::MapSweep, x, s.a, compute_capability(0)) != nullptr) continue;
            std::vector<float> r(static_cast<std::size_t>(s.n));
            Guarded<float> none(r);
            r[401] = 1;
            Guarded<float> one(r);
            const auto columns = static_cast<std::size_t>(s.h * s.m);
            for (const float y :
                 result_of(columns, [&](float* out) { return map_sweep(s.a, none.get(), 0, out, {}, s.launch(x)); }))
                ASSERT_EQ(y, 0);
            const auto got =
                result_of(columns, [&](float* out) { return map_sweep(s.a, one.get(), 0, out, {}, s.launch(x)); });
            for (std::int64_t h = 0; h < s.h; ++h)
                for (std::int64_t j = 0; j < s.m; ++j)
                    ASSERT_NEAR(got[static_cast<std::size_t>(h * s.m + j)], s.p(h, 401, j), 3e-6);
        }
}

TEST_F(CudaAttentionAlone, TopKBreaksTiesByLowerIndex) {
    std::mt19937 random(3);
    for (const std::int64_t count : {1, 5, 197, 1025, 16385})
        for (const std::int64_t k :
             {std::int64_t{1}, std::min<std::int64_t>(5, count), std::min<std::int64_t>(1000, count)}) {
            constexpr std::int64_t kRows = 3;
            std::vector<float> values(static_cast<std::size_t>(kRows * count));
            for (float& x : values) x = static_cast<float>(static_cast<int>(random() % 100) - 50) / 8;
            Guarded<float> on_device(values), out(static_cast<std::size_t>(kRows * k));
            Guarded<std::int64_t> indices(static_cast<std::size_t>(kRows * k));
            Launch launch;
            EXPECT_RAN(top_k(on_device.get(), kRows, count, k, out.get(), indices.get(), launch));
            const auto got = out.read();
            const auto where = indices.read();
            for (std::int64_t row = 0; row < kRows; ++row) {
                const float* x = values.data() + row * count;
                std::vector<std::int64_t> order(static_cast<std::size_t>(count));
                std::iota(order.begin(), order.end(), 0);
                std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return x[a] > x[b]; });
                for (std::int64_t y = 0; y < k; ++y) {
                    ASSERT_EQ(where[static_cast<std::size_t>(row * k + y)], order[static_cast<std::size_t>(y)]);
                    ASSERT_EQ(got[static_cast<std::size_t>(row * k + y)], x[order[static_cast<std::size_t>(y)]]);
                }
            }
        }
}

// These need no device.
TEST(CudaAttentionDoor, SaysWhyItCannotRun) {
    DeviceAttention a;
    EXPECT_STREQ(cannot_run(Operation::MapSweep, Implementation::Sm80, a, 0), "there is no CUDA device");
    EXPECT_STREQ(cannot_run(Operation::MapSweep, Implementation::Sm80, a, 90), "queries or keys are missing");
    alignas(16) static const float some[4] = {};
    a.q = a.k = some;
    a.heads = a.key_heads = 2;
    a.queries = a.keys = 10;
    a.head_dim = 64;
    a.q_stride[0] = a.k_stride[0] = 640;
    a.q_stride[1] = a.k_stride[1] = 64;
    EXPECT_STREQ(cannot_run(Operation::MapSweep, Implementation::Sm80, a, 90), "the log-sum-exp is missing");
    EXPECT_EQ(cannot_run(Operation::LogSumExp, Implementation::Sm80, a, 90), nullptr);
    a.lse = some;
    EXPECT_EQ(cannot_run(Operation::MapSweep, Implementation::Sm80, a, 80), nullptr);
    EXPECT_NE(cannot_run(Operation::MapSweep, Implementation::Sm90, a, 90), nullptr);  // fp32
    a.element = Element::BF16;
    EXPECT_NE(cannot_run(Operation::MapSweep, Implementation::Sm90, a, 80), nullptr);
    a.head_dim = 63;
    EXPECT_STREQ(cannot_run(Operation::MapSweep, Implementation::Sm80, a, 90),
                 "rows of queries or keys are not aligned to 16 bytes");
    EXPECT_EQ(choose(Operation::MapSweep, a, 90).implementation, Implementation::Reference);
    EXPECT_STREQ(choose(Operation::MapSweep, a, 90, nullptr, SweepFunctor::PdP, "cuda_sm70").problem,
                 "no CUDA implementation has this name");
    EXPECT_EQ(choose(Operation::MapSweep, a, 90, nullptr, SweepFunctor::PdP, "cuda_reference").problem, nullptr);
}

TEST(CudaAttentionDoor, OneHeadPointsAtIt) {
    static const char bytes[4096] = {};
    DeviceAttention a;
    a.q = a.k = bytes;
    a.element = Element::BF16;
    a.heads = 4;
    a.key_heads = 2;
    a.queries = 3;
    a.q_stride[0] = 10;
    a.k_stride[0] = 100;
    const DeviceAttention one = one_head(a, 3);
    EXPECT_EQ(static_cast<const char*>(one.q) - bytes, 60);
    EXPECT_EQ(static_cast<const char*>(one.k) - bytes, 200);
    EXPECT_EQ(one.heads, 1);
    EXPECT_EQ(one.key_heads, 1);
}

}  // namespace
}  // namespace vitrine::kernels::cuda
