// The attention kernels for any vector type: included once per instruction set, inside a region compiled for it.
//
// One side of the score product lies in lanes: a panel of `kPanel` tokens, packed as [dim][kPanel], so that a load
// gives one coordinate of many tokens. The other side is broadcast: groups of `kRows` tokens, packed as
// [group][dim][kRows]. The tile of kRows x kPanel scores never leaves the registers before the exponential has been
// taken.
//
// Results are the same for any number of threads: every output belongs to one item of the ParallelFor, and an item adds
// in one fixed order.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <span>
#include <type_traits>

#include <vitrine/kernels/chooser.h>
#include <vitrine/kernels/cpu/implementations.h>

namespace vitrine::kernels {
namespace {

using Index = std::int64_t;
constexpr float kNothing = -std::numeric_limits<float>::infinity();

inline Index least(Index a, Index b) { return a < b ? a : b; }
inline Index pieces(Index count, Index size) { return (count + size - 1) / size; }

/// Aligned memory that grows. Not a std::vector: its inline functions would be compiled for this instruction set, and
/// the linker could hand them to code that runs elsewhere.
template <class T>
class Scratch {
  public:
    Scratch() = default;
    explicit Scratch(Index count) { grow(count); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { std::free(data_); }
    T* grow(Index count) {
        if (count > size_) {
            std::free(data_);
            data_ = nullptr;
            size_ = 0;
            const auto bytes = (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
            data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
            if (data_ == nullptr) throw std::bad_alloc();
            size_ = count;
        }
        if (poison_scratch)
            for (std::size_t i = 0; i < static_cast<std::size_t>(size_) * sizeof(T); ++i)
                reinterpret_cast<unsigned char*>(data_)[i] = 0xFF;  // as a float not a number, as an index far outside
        return data_;
    }
    T* data() const { return data_; }
    T& operator[](Index i) const { return data_[i]; }

  private:
    T* data_ = nullptr;
    Index size_ = 0;
};

/// Some of the tokens on one side, in order: a list, or all from `start` on.
struct Tokens {
    const Index* list = nullptr;
    Index start = 0;
    Index count = 0;
    Index operator[](Index i) const { return list != nullptr ? list[i] : start + i; }
};

/// Tokens of one head: where they lie.
struct Side {
    const float* data;
    Index stride;  ///< between tokens
};

template <class S>
struct Attention {
    using Float = typename S::Float;
    static constexpr int kLanes = S::kLanes;
    static constexpr int kRows = S::kRows;
    static constexpr int kVectors = S::kVectors;
    static constexpr Index kPanel = static_cast<Index>(kLanes) * kVectors;
    /// Up to this many rows, packing the keys costs more than it saves.
    static constexpr Index kFew = 4;
    /// Groups of rows summed in single precision before they are added in double: 64 rows.
    static constexpr Index kFlush = 64 / kRows;

    // ---- arithmetic ----

    /// exp(x) for x <= 88 within 1 unit in the last place; exactly 0 below -87, so also for -infinity; not-a-number
    /// passes through. Degree 6 minimax polynomial on [-ln 2 / 2, ln 2 / 2] with its first two coefficients held at 1:
    /// relative error 3e-9.
    [[gnu::always_inline]] static inline Float exponential(Float x) {
        const Float magic = S::all(12582912.0F);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
        const Float shifted = S::fma(x, S::all(1.44269504088896341F), magic);
        const Float n = S::sub(shifted, magic);
        Float f = S::negated_fma(n, S::all(0.693359375F), x);
        f = S::fma(n, S::all(2.12194440e-4F), f);
        Float y = S::fma(S::all(0x1.6a23d0p-10F), f, S::all(0x1.123a20p-7F));
        y = S::fma(y, f, S::all(0x1.5558f2p-5F));
        y = S::fma(y, f, S::all(0x1.555492p-3F));
        y = S::fma(y, f, S::all(0x1.fffffcp-2F));
        y = S::fma(y, f, S::all(1.0F));
        y = S::fma(y, f, S::all(1.0F));
        return S::scaled_unless_below(y, shifted, x, S::all(-87.0F));
    }

    /// c tanh(scale dot / c): Cephes' polynomial near zero, where 1 - exp would cancel, (1 - e) / (1 + e) elsewhere.
    static Float capped(const AttentionParams& p, Float dot) {
        const Float x = S::div(S::mul(dot, S::all(p.scale)), S::all(p.softcap)), z = S::mul(x, x);
        Float y = S::fma(S::all(-5.70498872745E-3F), z, S::all(2.06390887954E-2F));
        y = S::fma(y, z, S::all(-5.37397155531E-2F));
        y = S::fma(y, z, S::all(1.33314422036E-1F));
        y = S::fma(y, z, S::all(-3.33332819422E-1F));
        y = S::fma(S::mul(y, z), x, x);
        const Float e = exponential(S::mul(S::magnitude(x), S::all(-2.0F)));
        const Float far = S::div(S::sub(S::all(1.0F), e), S::add(S::all(1.0F), e));
        return S::mul(S::small_or_signed(x, 0.625F, y, far), S::all(p.softcap));
    }

    /// The score of a product and what is added to it.
    [[gnu::always_inline]] static inline Float score(const AttentionParams& p, Float dot, Float extra) {
        if (p.softcap > 0) return S::add(capped(p, dot), extra);
        return S::fma(dot, S::all(p.scale), extra);
    }

    /// acc[m][v] += sum_d rows[d][m] panel[d][v].
    template <int NV>
    [[gnu::always_inline]] static inline void multiply(const float* panel, Index panel_width, const float* rows,
                                                       Index dim, Float (&acc)[kRows][NV]) {
        for (Index d = 0; d < dim; ++d) {
            Float lanes[NV];
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) lanes[v] = S::load(panel + v * kLanes);
#pragma GCC unroll 8
            for (int m = 0; m < kRows; ++m) {
                const Float one = S::all(rows[m]);
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) acc[m][v] = S::fma(one, lanes[v], acc[m][v]);
            }
            panel += panel_width;
            rows += kRows;
        }
    }

    template <int NV>
    [[gnu::always_inline]] static inline void clear(Float (&acc)[kRows][NV]) {
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) acc[m][v] = S::zero();
    }

    /// Coordinates added one after the other before the sum is set aside: shorter chains of roundings, so that long
    /// heads are as exact as short ones.
    static constexpr Index kChain = 32;

    /// acc[m][v] = sum_d rows[d][m] panel[d][v].
    template <int NV>
    [[gnu::always_inline]] static inline void product(const float* panel, const float* rows, Index dim,
                                                      Float (&acc)[kRows][NV]) {
        clear<NV>(acc);
        Index done = least(kChain, dim);
        multiply<NV>(panel, NV * kLanes, rows, done, acc);
        while (done < dim) {
            alignas(64) float aside[kRows][NV * kLanes];
#pragma GCC unroll 8
            for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) S::store(aside[m] + v * kLanes, acc[m][v]);
            clear<NV>(acc);
            const Index more = least(kChain, dim - done);
            multiply<NV>(panel + done * NV * kLanes, NV * kLanes, rows + done * kRows, more, acc);
#pragma GCC unroll 8
            for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) acc[m][v] = S::add(acc[m][v], S::load(aside[m] + v * kLanes));
            done += more;
        }
    }

    /// Products of `count` <= kLanes rows with one vector.
    [[gnu::always_inline]] static inline Float dots(const float* const (&row)[kLanes], const float* vector, Index dim,
                                                    Index ahead) {
        Float acc[kLanes];
#pragma GCC unroll 16
        for (int l = 0; l < kLanes; ++l) acc[l] = S::zero();
        Index d = 0;
        for (; d + kLanes <= dim; d += kLanes) {
            const Float x = S::load(vector + d);
#pragma GCC unroll 16
            for (int l = 0; l < kLanes; ++l) {
                if ((d & 15) == 0) __builtin_prefetch(row[l] + d + ahead, 0, 3);
                acc[l] = S::fma(S::load(row[l] + d), x, acc[l]);
            }
        }
        if (d < dim) {
            const auto mask = S::first(dim - d);
            const Float x = S::load(vector + d, mask);
#pragma GCC unroll 16
            for (int l = 0; l < kLanes; ++l) acc[l] = S::fma(S::load(row[l] + d, mask), x, acc[l]);
        }
        return S::sums(acc);
    }

    /// The same for kLanes tokens one after the other, four at a time: their addresses then fit in registers.
    [[gnu::always_inline]] static inline Float dots(const Side& side, Index first, const float* vector, Index dim) {
        Float acc[kLanes];
        const Index ahead = kLanes * side.stride;
        const float* row = side.data + first * side.stride;
#pragma GCC unroll 4
        for (int l = 0; l < kLanes; l += 4) {
            const float* const r0 = row;
            const float* const r1 = r0 + side.stride;
            const float* const r2 = r1 + side.stride;
            const float* const r3 = r2 + side.stride;
            row = r3 + side.stride;
            Float a0 = S::zero(), a1 = S::zero(), a2 = S::zero(), a3 = S::zero();
            Index d = 0;
            for (; d + kLanes <= dim; d += kLanes) {
                const Float x = S::load(vector + d);
                if (kLanes >= 16 || (d & 15) == 0) {
                    __builtin_prefetch(r0 + d + ahead);
                    __builtin_prefetch(r1 + d + ahead);
                    __builtin_prefetch(r2 + d + ahead);
                    __builtin_prefetch(r3 + d + ahead);
                }
                a0 = S::fma(S::load(r0 + d), x, a0);
                a1 = S::fma(S::load(r1 + d), x, a1);
                a2 = S::fma(S::load(r2 + d), x, a2);
                a3 = S::fma(S::load(r3 + d), x, a3);
            }
            if (d < dim) {
                const auto mask = S::first(dim - d);
                const Float x = S::load(vector + d, mask);
                a0 = S::fma(S::load(r0 + d, mask), x, a0);
                a1 = S::fma(S::load(r1 + d, mask), x, a1);
                a2 = S::fma(S::load(r2 + d, mask), x, a2);
                a3 = S::fma(S::load(r3 + d, mask), x, a3);
            }
            acc[l] = a0;
            acc[l + 1] = a1;
            acc[l + 2] = a2;
            acc[l + 3] = a3;
        }
        return S::sums(acc);
    }

    // ---- packing ----

    /// [tokens][dim] -> [dim][width], zeros where there is no token.
    static void pack_panel(float* to, Index width, const Side& side, const Tokens& tokens, Index first, Index count,
                           Index dim) {
        Index c = 0;
        for (; c + 8 <= count; c += 8) {
            const float* row[8];
            for (Index l = 0; l < 8; ++l) row[l] = side.data + tokens[first + c + l] * side.stride;
            Index d = 0;
            for (; d + 8 <= dim; d += 8) transpose(row, d, to + d * width + c, width);
            for (; d < dim; ++d)
                for (Index l = 0; l < 8; ++l) to[d * width + c + l] = row[l][d];
        }
        for (; c < count; ++c) {
            const float* row = side.data + tokens[first + c] * side.stride;
            for (Index d = 0; d < dim; ++d) to[d * width + c] = row[d];
        }
        if (c < width)
            for (Index d = 0; d < dim; ++d)
                for (Index rest = c; rest < width; ++rest) to[d * width + rest] = 0;
    }

    /// 8 x 8 floats: to[d * stride + l] = row[l][at + d].
    static void transpose(const float* const (&row)[8], Index at, float* to, Index stride) {
        __m256 a[8], b[8];
        for (int l = 0; l < 8; ++l) a[l] = _mm256_loadu_ps(row[l] + at);
        for (int l = 0; l < 4; ++l) {
            b[2 * l] = _mm256_unpacklo_ps(a[2 * l], a[2 * l + 1]);
            b[2 * l + 1] = _mm256_unpackhi_ps(a[2 * l], a[2 * l + 1]);
        }
        for (int half = 0; half < 2; ++half) {
            const __m256* in = b + 4 * half;
            a[4 * half + 0] = _mm256_shuffle_ps(in[0], in[2], 0x44);
            a[4 * half + 1] = _mm256_shuffle_ps(in[0], in[2], 0xEE);
            a[4 * half + 2] = _mm256_shuffle_ps(in[1], in[3], 0x44);
            a[4 * half + 3] = _mm256_shuffle_ps(in[1], in[3], 0xEE);
        }
        for (int l = 0; l < 4; ++l) {
            _mm256_storeu_ps(to + l * stride, _mm256_permute2f128_ps(a[l], a[4 + l], 0x20));
            _mm256_storeu_ps(to + (4 + l) * stride, _mm256_permute2f128_ps(a[l], a[4 + l], 0x31));
        }
    }

    /// [tokens][dim] -> [groups][dim][kRows], zeros in the last group where there is no token.
    static void pack_rows(float* to, const Side& side, const Tokens& tokens, Index dim) {
        for (Index g = 0; g < pieces(tokens.count, kRows); ++g)
            pack_panel(to + g * dim * kRows, kRows, side, tokens, g * kRows, least(kRows, tokens.count - g * kRows),
                       dim);
    }

    // ---- what is added to scores ----

    static bool has_extra(const AttentionParams& p) {
        return p.bias != nullptr || p.causal || p.mask != nullptr || p.softcap > 0;
    }

    /// Bias and mask of query i against `count` keys: to[c].
    static void extra_of_query(const AttentionParams& p, Index h, Index i, const Tokens& keys, Index first, Index count,
                               float* to) {
        if (p.bias != nullptr) {
            const float* b = p.bias + h * p.bias_stride[0] + i * p.bias_stride[1];
            for (Index c = 0; c < count; ++c) to[c] = b[keys[first + c] * p.bias_stride[2]];
        } else {
            for (Index c = 0; c < count; ++c) to[c] = 0;
        }
        if (p.mask != nullptr) {
            const std::uint8_t* keep = p.mask + h * p.mask_stride[0] + i * p.mask_stride[1];
            for (Index c = 0; c < count; ++c)
                if (keep[keys[first + c] * p.mask_stride[2]] == 0) to[c] = kNothing;
        }
        if (p.causal)
            for (Index c = 0; c < count; ++c)
                if (keys[first + c] > i) to[c] = kNothing;
    }

    /// The same for key j against `count` queries from `first` on.
    static void extra_of_key(const AttentionParams& p, Index h, Index j, Index first, Index count, float* to) {
        if (p.bias != nullptr) {
            const float* b = p.bias + h * p.bias_stride[0] + first * p.bias_stride[1] + j * p.bias_stride[2];
            for (Index c = 0; c < count; ++c) to[c] = b[c * p.bias_stride[1]];
        } else {
            for (Index c = 0; c < count; ++c) to[c] = 0;
        }
        if (p.mask != nullptr) {
            const std::uint8_t* keep = p.mask + h * p.mask_stride[0] + first * p.mask_stride[1] + j * p.mask_stride[2];
            for (Index c = 0; c < count; ++c)
                if (keep[c * p.mask_stride[1]] == 0) to[c] = kNothing;
        }
        if (p.causal)
            for (Index c = 0; c < count; ++c)
                if (j > first + c) to[c] = kNothing;
    }

    static Side queries_of(const AttentionParams& p, Index h) { return {p.q + h * p.q_stride[0], p.q_stride[1]}; }
    static Index key_head(const AttentionParams& p, Index h) { return h / (p.heads / p.key_heads); }
    static Side values_of(const AttentionParams& p, const GradientParams& g, Index h) {
        const Index value_heads = g.value_heads > 0 ? g.value_heads : p.key_heads;
        return {g.v + h / (p.heads / value_heads) * g.v_stride[0], g.v_stride[1]};
    }
    static Side keys_of(const AttentionParams& p, Index h) {
        return {p.k + key_head(p, h) * p.k_stride[0], p.k_stride[1]};
    }

    /// Minus the log-sum-exp, or minus infinity for a row in which everything is masked: its exponentials are then 0.
    static float shift_of(const AttentionParams& p, Index h, Index i) {
        const float lse = p.lse[h * p.queries + i];
        return lse == kNothing ? kNothing : -lse;
    }

    // ---- queries broadcast, keys in lanes ----

    /// Some queries of one head, packed.
    struct Rows {
        Scratch<float> packed, shift, weight;
        Scratch<Index> index;
        Index head = -1, count = 0, groups = 0;

        void reserve(Index n) {
            index.grow(n + kRows);
            shift.grow(n + kRows);
            weight.grow(n + kRows);
        }
        void close(Index n) {
            count = n;
            groups = pieces(n, kRows);
            // The last group is filled up with rows that give nothing.
            for (Index m = n; m < groups * kRows; ++m) {
                index[m] = n > 0 ? index[n - 1] : 0;
                shift[m] = kNothing;
                weight[m] = 0;
            }
        }
        Tokens tokens() const { return {index.data(), 0, count}; }
        const float* group(Index g, Index dim) const { return packed.data() + g * dim * kRows; }
    };

    /// The chosen queries, all of them, in order.
    static void take(Rows& rows, const AttentionParams& p, Index h, const Tokens& wanted) {
        rows.head = h;
        rows.reserve(wanted.count);
        for (Index i = 0; i < wanted.count; ++i) {
            rows.index[i] = wanted[i];
            rows.shift[i] = shift_of(p, h, wanted[i]);
            rows.weight[i] = 1;
        }
        rows.close(wanted.count);
    }

    /// The queries that weigh something; those in which everything is masked only where they are `counted`.
    static void take_weighted(Rows& rows, const AttentionParams& p, Index h, const float* r, bool with_map,
                              bool counted = false) {
        rows.head = h;
        rows.reserve(p.queries);
        Index n = 0;
        for (Index i = 0; i < p.queries; ++i) {
            if (r[i] == 0) continue;
            const float shift = with_map ? shift_of(p, h, i) : 0;
            if (shift == kNothing && !counted) continue;
            rows.index[n] = i;
            rows.shift[n] = shift;
            rows.weight[n] = r[i];
            ++n;
        }
        rows.close(n);
    }

    static void pack(Rows& rows, const Side& side, Index dim) {
        rows.packed.grow(rows.groups * kRows * dim);
        pack_rows(rows.packed.data(), side, rows.tokens(), dim);
    }

    /// p of one group of rows against one panel.
    template <int NV>
    [[gnu::always_inline]] static inline void probabilities(const AttentionParams& p, const Rows& rows, Index g,
                                                            const float* panel, const Tokens& keys, Index first,
                                                            Index count, Float (&acc)[kRows][NV]) {
        product<NV>(panel, rows.group(g, p.head_dim), p.head_dim, acc);
        const Float scale = S::all(p.scale);
        const float* shift = rows.shift.data() + g * kRows;
        if (!has_extra(p)) {
#pragma GCC unroll 8
            for (int m = 0; m < kRows; ++m) {
                const Float s = S::all(shift[m]);
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) acc[m][v] = exponential(S::fma(acc[m][v], scale, s));
            }
            return;
        }
        // Lanes beyond `count` hold packed zeros and are never read; their extra is left at 0.
        alignas(64) float extra[kRows][NV * kLanes] = {};
        for (int m = 0; m < kRows; ++m)
            extra_of_query(p, rows.head, rows.index[g * kRows + m], keys, first, count, extra[m]);
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) {
            const Float s = S::all(shift[m]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v)
                acc[m][v] = exponential(S::add(score(p, acc[m][v], S::load(extra[m] + v * kLanes)), s));
        }
    }

    /// p of one query against up to kLanes keys, unpacked.
    [[gnu::always_inline]] static inline Float few(const AttentionParams& p, Index h, Index i, float shift,
                                                   const Tokens& keys, Index first, Index count, Index ahead) {
        const Side side = keys_of(p, h), query = queries_of(p, h);
        Float dot;
        if (keys.list == nullptr && count == kLanes) {
            dot = dots(side, keys[first], query.data + i * query.stride, p.head_dim);
        } else {
            const float* row[kLanes];
            for (int l = 0; l < kLanes; ++l) row[l] = side.data + keys[first + least(l, count - 1)] * side.stride;
            dot = dots(row, query.data + i * query.stride, p.head_dim, ahead);
        }
        if (!has_extra(p)) return exponential(S::fma(dot, S::all(p.scale), S::all(shift)));
        alignas(64) float extra[kLanes] = {};
        extra_of_query(p, h, i, keys, first, count, extra);
        return exponential(S::add(score(p, dot, S::load(extra)), S::all(shift)));
    }

    /// p of one query against the kLanes keys from `first` on, which is a multiple of kLanes, out of packed keys.
    [[gnu::always_inline]] static inline Float few_packed(const AttentionParams& p, Index h, Index i, float shift,
                                                          Index first, Index count) {
        static_assert(kPackedKeys % kLanes == 0);
        const float* key = p.packed_keys +
                           (first / kPackedKeys * p.key_heads + key_head(p, h)) * p.head_dim * kPackedKeys +
                           first % kPackedKeys;
        const Side queries = queries_of(p, h);
        const float* query = queries.data + i * queries.stride;
        // As many sums as there are lanes, added up in the order of S::sums: the same bits as from keys that are not
        // packed, so that a row does not change when they have been.
        Float acc[kLanes];
#pragma GCC unroll 16
        for (int l = 0; l < kLanes; ++l) acc[l] = S::zero();
        Index d = 0;
        for (; d + kLanes <= p.head_dim; d += kLanes, key += kLanes * kPackedKeys)
#pragma GCC unroll 16
            for (int l = 0; l < kLanes; ++l)
                acc[l] = S::fma(S::load(key + l * kPackedKeys), S::all(query[d + l]), acc[l]);
        if (d < p.head_dim)
#pragma GCC unroll 16
            for (int l = 0; l < kLanes; ++l)
                if (d + l < p.head_dim) acc[l] = S::fma(S::load(key + l * kPackedKeys), S::all(query[d + l]), acc[l]);
        Float quarter[kLanes / 4];
#pragma GCC unroll 4
        for (int l = 0; l < kLanes; l += 4)
            quarter[l / 4] = S::add(S::add(acc[l], acc[l + 2]), S::add(acc[l + 1], acc[l + 3]));
        Float dot = S::add(quarter[0], quarter[1]);
        if constexpr (kLanes == 16) dot = S::add(dot, S::add(quarter[2], quarter[3]));
        if (!has_extra(p)) return exponential(S::fma(dot, S::all(p.scale), S::all(shift)));
        alignas(64) float extra[kLanes] = {};
        extra_of_query(p, h, i, {nullptr, 0, p.keys}, first, count, extra);
        return exponential(S::add(score(p, dot, S::load(extra)), S::all(shift)));
    }

    static void pack_keys(const AttentionParams& p, float* to, const ParallelFor& parallel_for) {
        const Tokens keys{nullptr, 0, p.keys};
        parallel_for(pieces(p.keys, kPackedKeys), [&](Index begin, Index end) {
            for (Index at = begin; at < end; ++at)
                for (Index h = 0; h < p.key_heads; ++h)
                    pack_panel(to + (at * p.key_heads + h) * p.head_dim * kPackedKeys, kPackedKeys,
                               {p.k + h * p.k_stride[0], p.k_stride[1]}, keys, at * kPackedKeys,
                               least(kPackedKeys, p.keys - at * kPackedKeys), p.head_dim);
        });
    }

    /// Calls f with the number of vectors a panel of `count` tokens needs, as a compile-time constant.
    template <class F>
    static void with_vectors(Index count, const F& f) {
        switch (pieces(count, kLanes)) {
            case 1:
                f(std::integral_constant<int, 1>{});
                break;
            case 2:
                f(std::integral_constant<int, 2>{});
                break;
            default:
                f(std::integral_constant<int, 3>{});
                break;
        }
    }
    static_assert(kVectors == 3);

    // ---- sweep ----

    /// Adds a group's entries to the sums of its rows and to the bins.
    template <int NV>
    static void tally(const Float (&acc)[kRows][NV], Index rows, Index count, const Index* index, double* row_sums,
                      std::uint64_t* bins) {
        alignas(64) float map[kRows][NV * kLanes];
        for (Index m = 0; m < rows; ++m) {
            for (int v = 0; v < NV; ++v) S::store(map[m] + v * kLanes, acc[m][v]);
            double part[8] = {};
            Index c = 0;
            for (; c + 8 <= count; c += 8)
                for (int l = 0; l < 8; ++l) part[l] += map[m][c + l];
            for (; c < count; ++c) part[0] += map[m][c];
            row_sums[index[m]] +=
                ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
        }
        if (bins == nullptr) return;
        for (Index m = 0; m < rows; ++m)
            for (Index c = 0; c < count; ++c) {
                std::uint32_t bits;
                __builtin_memcpy(&bits, &map[m][c], sizeof bits);
                bits >>= 23;
                ++bins[127 - (bits < 127 ? bits : 127)];
            }
    }

    template <int NV, bool kCount = false>
    static void sweep_panel(const AttentionParams& p, const Rows& rows, const float* panel, Index first, Index count,
                            float* out, double* row_sums = nullptr, std::uint64_t* bins = nullptr) {
        double sum[NV * kLanes] = {};
        const Tokens keys{nullptr, 0, p.keys};
        for (Index g0 = 0; g0 < rows.groups; g0 += kFlush) {
            Float column[NV];
            for (int v = 0; v < NV; ++v) column[v] = S::zero();
            const Index g1 = least(g0 + kFlush, rows.groups);
            for (Index g = g0; g < g1; ++g) {
                Float acc[kRows][NV];
                probabilities<NV>(p, rows, g, panel, keys, first, count, acc);
                if constexpr (kCount)
                    tally<NV>(acc, least(kRows, rows.count - g * kRows), count, rows.index.data() + g * kRows, row_sums,
                              bins);
                const float* weight = rows.weight.data() + g * kRows;
#pragma GCC unroll 8
                for (int m = 0; m < kRows; ++m) {
                    const Float w = S::all(weight[m]);
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v) column[v] = S::fma(acc[m][v], w, column[v]);
                }
            }
            flush<NV>(column, sum);
        }
        for (Index c = 0; c < count; ++c) out[c] = static_cast<float>(sum[c]);
    }

    template <int NV>
    [[gnu::always_inline]] static inline void flush(const Float (&column)[NV], double* sum) {
        alignas(64) float part[NV * kLanes];
        for (int v = 0; v < NV; ++v) S::store(part + v * kLanes, column[v]);
        for (int c = 0; c < NV * kLanes; ++c) sum[c] += part[c];
    }

    static void map_sweep(const AttentionParams& p, const float* r, Index r_head_stride, float* out,
                          const ParallelFor& parallel_for) {
        const Index panels = pieces(p.keys, kPanel);
        parallel_for(p.heads * panels, [&](Index begin, Index end) {
            Rows rows;
            Scratch<float> panel(p.head_dim * kPanel);
            const Tokens keys{nullptr, 0, p.keys};
            for (Index item = begin; item < end; ++item) {
                const Index h = item / panels, first = item % panels * kPanel, count = least(kPanel, p.keys - first);
                float* to = out + h * p.keys + first;
                if (rows.head != h) {
                    take_weighted(rows, p, h, r + h * r_head_stride, true);
                    if (rows.count > kFew) pack(rows, queries_of(p, h), p.head_dim);
                }
                if (rows.count > kFew) {
                    with_vectors(count, [&](auto nv) {
                        pack_panel(panel.data(), nv() * kLanes, keys_of(p, h), keys, first, count, p.head_dim);
                        sweep_panel<nv()>(p, rows, panel.data(), first, count, to);
                    });
                    continue;
                }
                for (Index c = 0; c < count; c += kLanes) {
                    const Index n = least(kLanes, count - c);
                    Float sum = S::zero();
                    for (Index m = 0; m < rows.count; ++m)
                        sum =
                            S::fma(few(p, h, rows.index[m], rows.shift[m], keys, first + c, n, kLanes * p.k_stride[1]),
                                   S::all(rows.weight[m]), sum);
                    S::store(to + c, sum, S::first(n));
                }
            }
        });
    }

    static void map_sweep_counts(const AttentionParams& p, const float* r, Index r_head_stride, float* out,
                                 const SweepCounts& counts, const ParallelFor& parallel_for) {
        // A head's panels are cut into runs with sums and bins of their own, added in order at the end: the same for
        // any number of threads.
        constexpr Index kMostRuns = 16;
        const Index panels = pieces(p.keys, kPanel), a_run = pieces(panels, kMostRuns), runs = pieces(panels, a_run);
        Scratch<double> row_sums(p.heads * runs * p.queries);
        Scratch<std::uint64_t> bins(p.heads * runs * kHistogramBins);
        parallel_for(p.heads * runs, [&](Index begin, Index end) {
            Rows rows;
            Scratch<float> panel(p.head_dim * kPanel);
            const Tokens keys{nullptr, 0, p.keys};
            for (Index item = begin; item < end; ++item) {
                const Index h = item / runs;
                double* sums = row_sums.data() + item * p.queries;
                std::uint64_t* counted = bins.data() + item * kHistogramBins;
                for (Index i = 0; i < p.queries; ++i) sums[i] = 0;
                for (Index b = 0; b < kHistogramBins; ++b) counted[b] = 0;
                if (rows.head != h) {
                    take_weighted(rows, p, h, r + h * r_head_stride, true, true);
                    pack(rows, queries_of(p, h), p.head_dim);
                }
                const Index stop = least((item % runs + 1) * a_run * kPanel, p.keys);
                for (Index first = item % runs * a_run * kPanel; first < stop; first += kPanel) {
                    const Index count = least(kPanel, stop - first);
                    with_vectors(count, [&](auto nv) {
                        pack_panel(panel.data(), nv() * kLanes, keys_of(p, h), keys, first, count, p.head_dim);
                        sweep_panel<nv(), true>(p, rows, panel.data(), first, count, out + h * p.keys + first, sums,
                                                counts.histogram == nullptr ? nullptr : counted);
                    });
                }
            }
        });
        if (counts.row_sums != nullptr)
            for (Index h = 0; h < p.heads; ++h)
                for (Index i = 0; i < p.queries; ++i) {
                    double sum = 0;
                    for (Index run = 0; run < runs; ++run) sum += row_sums[(h * runs + run) * p.queries + i];
                    counts.row_sums[h * p.queries + i] = sum;
                }
        if (counts.histogram != nullptr)
            for (Index h = 0; h < p.heads; ++h)
                for (Index b = 0; b < kHistogramBins; ++b) {
                    std::uint64_t sum = 0;
                    for (Index run = 0; run < runs; ++run) sum += bins[(h * runs + run) * kHistogramBins + b];
                    counts.histogram[h * kHistogramBins + b] = sum;
                }
    }

    // ---- sweep with gradients ----

    template <int NV, SweepFunctor F>
    static void gradient_panel(const AttentionParams& p, const Rows& rows, const float* grads, Index dim,
                               const float* keys_panel, const float* values_panel, Index first, Index count,
                               float* out) {
        double sum[NV * kLanes] = {};
        const Tokens keys{nullptr, 0, p.keys};
        for (Index g0 = 0; g0 < rows.groups; g0 += kFlush) {
            Float column[NV];
            for (int v = 0; v < NV; ++v) column[v] = S::zero();
            const Index g1 = least(g0 + kFlush, rows.groups);
            for (Index g = g0; g < g1; ++g) {
                alignas(64) float map[kRows][NV * kLanes];
                if constexpr (F == SweepFunctor::ReluPdP || F == SweepFunctor::PdP) {
                    Float acc[kRows][NV];
                    probabilities<NV>(p, rows, g, keys_panel, keys, first, count, acc);
#pragma GCC unroll 8
                    for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
                        for (int v = 0; v < NV; ++v) S::store(map[m] + v * kLanes, acc[m][v]);
                }
                Float acc[kRows][NV];
                product<NV>(values_panel, grads + g * dim * kRows, dim, acc);
                const float* weight = rows.weight.data() + g * kRows;
#pragma GCC unroll 8
                for (int m = 0; m < kRows; ++m) {
                    const Float w = S::all(weight[m]);
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v) {
                        Float x = acc[m][v];
                        if constexpr (F == SweepFunctor::ReluPdP || F == SweepFunctor::PdP)
                            x = S::mul(x, S::load(map[m] + v * kLanes));
                        if constexpr (F == SweepFunctor::AbsDP) x = S::magnitude(x);
                        // The second operand is what comes out for not-a-number, so that one is not hidden.
                        if constexpr (F == SweepFunctor::ReluPdP || F == SweepFunctor::ReluDP) x = S::max(S::zero(), x);
                        column[v] = S::fma(x, w, column[v]);
                    }
                }
            }
            flush<NV>(column, sum);
        }
        for (Index c = 0; c < count; ++c) out[c] = static_cast<float>(sum[c]);
    }

    template <SweepFunctor F>
    static void gradient_sweep(const AttentionParams& p, const GradientParams& g, const float* r, Index r_head_stride,
                               float* out, const ParallelFor& parallel_for) {
        constexpr bool with_map = F == SweepFunctor::ReluPdP || F == SweepFunctor::PdP;
        const Index panels = pieces(p.keys, kPanel);
        parallel_for(p.heads * panels, [&](Index begin, Index end) {
            Rows rows;
            Scratch<float> grads, keys_panel(with_map ? p.head_dim * kPanel : 0), values_panel(g.value_dim * kPanel);
            const Tokens keys{nullptr, 0, p.keys};
            for (Index item = begin; item < end; ++item) {
                const Index h = item / panels, first = item % panels * kPanel, count = least(kPanel, p.keys - first);
                if (rows.head != h) {
                    take_weighted(rows, p, h, r + h * r_head_stride, with_map);
                    if constexpr (with_map) pack(rows, queries_of(p, h), p.head_dim);
                    grads.grow(rows.groups * kRows * g.value_dim);
                    pack_rows(grads.data(), {g.d_out + h * g.d_out_stride[0], g.d_out_stride[1]}, rows.tokens(),
                              g.value_dim);
                }
                with_vectors(count, [&](auto nv) {
                    if constexpr (with_map)
                        pack_panel(keys_panel.data(), nv() * kLanes, keys_of(p, h), keys, first, count, p.head_dim);
                    pack_panel(values_panel.data(), nv() * kLanes, values_of(p, g, h), keys, first, count, g.value_dim);
                    gradient_panel<nv(), F>(p, rows, grads.data(), g.value_dim, keys_panel.data(), values_panel.data(),
                                            first, count, out + h * p.keys + first);
                });
            }
        });
    }

    static void map_sweep_gradient(const AttentionParams& p, const GradientParams& g, SweepFunctor functor,
                                   const float* r, Index r_head_stride, float* out, const ParallelFor& parallel_for) {
        switch (functor) {
            case SweepFunctor::ReluPdP:
                gradient_sweep<SweepFunctor::ReluPdP>(p, g, r, r_head_stride, out, parallel_for);
                break;
            case SweepFunctor::PdP:
                gradient_sweep<SweepFunctor::PdP>(p, g, r, r_head_stride, out, parallel_for);
                break;
            case SweepFunctor::ReluDP:
                gradient_sweep<SweepFunctor::ReluDP>(p, g, r, r_head_stride, out, parallel_for);
                break;
            case SweepFunctor::AbsDP:
                gradient_sweep<SweepFunctor::AbsDP>(p, g, r, r_head_stride, out, parallel_for);
                break;
        }
    }

    // ---- pieces of the map ----

    /// p of chosen queries and keys into out[(h * queries + i) * keys + j], indices into the choices.
    static void block(const AttentionParams& p, std::span<const Index> heads, const Tokens& queries, const Tokens& keys,
                      float* out, const ParallelFor& parallel_for) {
        const Index panels = pieces(keys.count, kPanel);
        parallel_for(static_cast<Index>(heads.size()) * panels, [&](Index begin, Index end) {
            Rows rows;
            Index packed = -1;
            Scratch<float> panel(p.head_dim * kPanel);
            for (Index item = begin; item < end; ++item) {
                const Index at = item / panels, h = heads[static_cast<std::size_t>(at)];
                const Index first = item % panels * kPanel, count = least(kPanel, keys.count - first);
                if (packed != at) {
                    take(rows, p, h, queries);
                    pack(rows, queries_of(p, h), p.head_dim);
                    packed = at;
                }
                with_vectors(count, [&](auto nv) {
                    constexpr int NV = nv();
                    pack_panel(panel.data(), NV * kLanes, keys_of(p, h), keys, first, count, p.head_dim);
                    const auto last = S::first(count - (NV - 1) * kLanes);
                    for (Index g = 0; g < rows.groups; ++g) {
                        Float acc[kRows][NV];
                        probabilities<NV>(p, rows, g, panel.data(), keys, first, count, acc);
                        const Index n = least(kRows, rows.count - g * kRows);
                        float* to = out + (at * queries.count + g * kRows) * keys.count + first;
#pragma GCC unroll 8
                        for (int m = 0; m < kRows; ++m) {
                            if (m >= n) break;
                            for (int v = 0; v + 1 < NV; ++v) S::store(to + m * keys.count + v * kLanes, acc[m][v]);
                            S::store(to + m * keys.count + (NV - 1) * kLanes, acc[m][NV - 1], last);
                        }
                    }
                });
            }
        });
    }

    /// Rows of all heads of one layer against keys [first, last), streaming the keys token by token: in a fused qkv
    /// tensor the heads of a token lie side by side, so memory is read in long runs. out: [heads, queries, keys], or
    /// with `mean` [queries, keys].
    static void stream_rows(const AttentionParams& p, std::span<const Index> heads, std::span<const Index> queries,
                            bool mean, Index begin, Index end, float* out) {
        const Tokens keys{nullptr, 0, p.keys};
        const auto rows = static_cast<Index>(queries.size());
        const float share = 1.0F / static_cast<float>(heads.size());
        const Index ahead = kLanes * p.k_stride[1];
        for (Index first = begin; first < end; first += kLanes) {
            const Index n = least(kLanes, end - first);
            const auto mask = S::first(n);
            const auto row = [&](Index h, Index i) __attribute__((always_inline)) {
                const float shift = shift_of(p, h, i);
                return p.packed_keys != nullptr ? few_packed(p, h, i, shift, first, n)
                                                : few(p, h, i, shift, keys, first, n, ahead);
            };
            if (mean)
                for (Index i = 0; i < rows; ++i) {
                    Float sum = S::zero();
                    for (const Index h : heads) sum = S::add(sum, row(h, queries[i]));
                    S::store(out + i * p.keys + first, S::mul(sum, S::all(share)), mask);
                }
            else
                for (Index at = 0; at < static_cast<Index>(heads.size()); ++at)
                    for (Index i = 0; i < rows; ++i)
                        S::store(out + (at * rows + i) * p.keys + first,
                                 row(heads[static_cast<std::size_t>(at)], queries[i]), mask);
        }
    }

    /// Keys of one item when rows are streamed.
    static constexpr Index kRun = 128;

    static void map_rows(const AttentionParams& p, std::span<const Index> heads, std::span<const Index> queries,
                         float* out, const ParallelFor& parallel_for) {
        if (static_cast<Index>(queries.size()) > kFew) {
            block(p, heads, {queries.data(), 0, static_cast<Index>(queries.size())}, {nullptr, 0, p.keys}, out,
                  parallel_for);
            return;
        }
        parallel_for(pieces(p.keys, kRun), [&](Index begin, Index end) {
            stream_rows(p, heads, queries, false, begin * kRun, least(end * kRun, p.keys), out);
        });
    }

    /// Calls f(layer, all its heads, begin, end) for pieces of count_of(layer) tokens, all layers in one loop.
    template <class Count, class F>
    static void over_layers(std::span<const AttentionParams> layers, const Count& count_of, const F& f,
                            const ParallelFor& parallel_for) {
        Index most = 0, runs = 0;
        Scratch<Index> start(static_cast<Index>(layers.size()) + 1);
        for (std::size_t l = 0; l < layers.size(); ++l) {
            start[static_cast<Index>(l)] = runs;
            runs += pieces(count_of(layers[l]), kRun);
            if (layers[l].heads > most) most = layers[l].heads;
        }
        start[static_cast<Index>(layers.size())] = runs;
        Scratch<Index> all(most);
        for (Index h = 0; h < most; ++h) all[h] = h;
        parallel_for(runs, [&](Index begin, Index end) {
            std::size_t l = 0;
            while (begin < end) {
                while (start[static_cast<Index>(l) + 1] <= begin) ++l;
                const Index from = begin - start[static_cast<Index>(l)];
                const Index to = least(end, start[static_cast<Index>(l) + 1]) - start[static_cast<Index>(l)];
                f(l, std::span<const Index>(all.data(), static_cast<std::size_t>(layers[l].heads)), from * kRun,
                  least(to * kRun, count_of(layers[l])));
                begin += to - from;
            }
        });
    }

    static void map_rows_layers(std::span<const AttentionParams> layers, std::span<const Index> queries, bool mean,
                                std::span<float* const> out, const ParallelFor& parallel_for) {
        over_layers(
            layers, [](const AttentionParams& p) { return p.keys; },
            [&](std::size_t l, std::span<const Index> heads, Index begin, Index end) {
                stream_rows(layers[l], heads, queries, mean, begin, end, out[l]);
            },
            parallel_for);
    }

    static void map_rows_top(std::span<const AttentionParams> layers, std::span<const Index> queries, bool mean,
                             Index top, std::span<float* const> values, std::span<Index* const> indices,
                             const ParallelFor& parallel_for) {
        rows_top(&map_rows_layers, layers, queries, mean, top, values, indices, parallel_for);
    }

    static void map_columns(const AttentionParams& p, std::span<const Index> heads, std::span<const Index> keys,
                            float* out, const ParallelFor& parallel_for) {
        const auto columns = static_cast<Index>(keys.size());
        if (columns > kFew) {
            block(p, heads, {nullptr, 0, p.queries}, {keys.data(), 0, columns}, out, parallel_for);
            return;
        }
        parallel_for(pieces(p.queries, kRun), [&](Index begin, Index end) {
            stream_columns(p, heads, keys, false, begin * kRun, least(end * kRun, p.queries), out);
        });
    }

    /// The streaming of rows with the roles changed: queries [begin, end) go by, the keys stay.
    /// out: [heads, queries, keys], or with `mean` [queries, keys].
    static void stream_columns(const AttentionParams& p, std::span<const Index> heads, std::span<const Index> keys,
                               bool mean, Index begin, Index end, float* out) {
        const auto columns = static_cast<Index>(keys.size());
        const float share = mean ? 1.0F / static_cast<float>(heads.size()) : 1.0F;
        alignas(64) float part[kLanes];
        for (Index first = begin; first < end; first += kLanes) {
            const Index n = least(kLanes, end - first);
            for (Index c = 0; c < columns; ++c) {
                Float sum = S::zero();
                for (Index at = 0; at < static_cast<Index>(heads.size()); ++at) {
                    const Float map = few_queries(p, heads[static_cast<std::size_t>(at)],
                                                  keys[static_cast<std::size_t>(c)], first, n);
                    sum = mean ? S::add(sum, map) : map;
                    if (mean && at + 1 < static_cast<Index>(heads.size())) continue;
                    S::store(part, S::mul(sum, S::all(share)));
                    float* to = out + (mean ? first : at * p.queries + first) * columns + c;
                    for (Index l = 0; l < n; ++l) to[l * columns] = part[l];
                }
            }
        }
    }

    /// p of one key against up to kLanes queries from `first` on, unpacked.
    [[gnu::always_inline]] static inline Float few_queries(const AttentionParams& p, Index h, Index j, Index first,
                                                           Index n) {
        const Side queries = queries_of(p, h), side = keys_of(p, h);
        const float* key = side.data + j * side.stride;
        alignas(64) float part[kLanes];
        const float* row[kLanes];
        for (int l = 0; l < kLanes; ++l) {
            const Index i = first + least(l, n - 1);
            row[l] = queries.data + i * queries.stride;
            part[l] = shift_of(p, h, i);
        }
        const Float shift = S::load(part);
        const Float dot =
            n == kLanes ? dots(queries, first, key, p.head_dim) : dots(row, key, p.head_dim, kLanes * queries.stride);
        if (!has_extra(p)) return exponential(S::fma(dot, S::all(p.scale), shift));
        alignas(64) float extra[kLanes] = {};
        extra_of_key(p, h, j, first, n, extra);
        return exponential(S::add(score(p, dot, S::load(extra)), shift));
    }

    static void map_columns_layers(std::span<const AttentionParams> layers, std::span<const Index> keys, bool mean,
                                   std::span<float* const> out, const ParallelFor& parallel_for) {
        over_layers(
            layers, [](const AttentionParams& p) { return p.queries; },
            [&](std::size_t l, std::span<const Index> heads, Index begin, Index end) {
                stream_columns(layers[l], heads, keys, mean, begin, end, out[l]);
            },
            parallel_for);
    }

    /// Entries of a map are not negative; not-a-number stays.
    static float larger(float a, float b) { return b > a || b != b ? b : a; }

    static void map_tile(const AttentionParams& p, std::span<const Index> heads, Index q0, Index q1, Index k0, Index k1,
                         Index pool, Pooling pooling, float* out, const ParallelFor& parallel_for) {
        const bool most = pooling == Pooling::Max;
        if (pool == 1) {
            block(p, heads, {nullptr, q0, q1 - q0}, {nullptr, k0, k1 - k0}, out, parallel_for);
            return;
        }
        const Index rows_out = pieces(q1 - q0, pool), cols_out = pieces(k1 - k0, pool);
        // A span of keys is a whole number of cells, so that a cell belongs to one item.
        const Index span = pool >= kPanel ? pool : kPanel / pool * pool;
        const Index spans = pieces(k1 - k0, span);
        parallel_for(static_cast<Index>(heads.size()) * spans, [&](Index begin, Index end) {
            Rows rows;
            Index packed = -1;
            Scratch<float> panel(p.head_dim * kPanel);
            const Tokens keys{nullptr, k0, k1 - k0};
            for (Index item = begin; item < end; ++item) {
                const Index at = item / spans, h = heads[static_cast<std::size_t>(at)];
                const Index left = item % spans * span, right = least(left + span, k1 - k0);
                if (packed != at) {
                    take(rows, p, h, {nullptr, q0, q1 - q0});
                    pack(rows, queries_of(p, h), p.head_dim);
                    packed = at;
                }
                float* cells = out + at * rows_out * cols_out;
                const Index cell0 = left / pool, cell1 = pieces(right, pool);
                for (Index row = 0; row < rows_out; ++row)
                    for (Index cell = cell0; cell < cell1; ++cell) cells[row * cols_out + cell] = 0;
                for (Index first = left; first < right; first += kPanel) {
                    const Index count = least(kPanel, right - first);
                    with_vectors(count, [&](auto nv) {
                        constexpr int NV = nv();
                        pack_panel(panel.data(), NV * kLanes, keys_of(p, h), keys, first, count, p.head_dim);
                        alignas(64) float map[kRows][NV * kLanes];
                        float band[NV * kLanes] = {};
                        Index row = 0;
                        const auto settle = [&] {
                            for (Index c = 0; c < count; ++c) {
                                float& cell = cells[row * cols_out + (first + c) / pool];
                                cell = most ? larger(cell, band[c]) : cell + band[c];
                            }
                            for (Index c = 0; c < NV * kLanes; ++c) band[c] = 0;
                        };
                        for (Index g = 0; g < rows.groups; ++g) {
                            Float acc[kRows][NV];
                            probabilities<NV>(p, rows, g, panel.data(), keys, first, count, acc);
#pragma GCC unroll 8
                            for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
                                for (int v = 0; v < NV; ++v) S::store(map[m] + v * kLanes, acc[m][v]);
                            const Index n = least(kRows, rows.count - g * kRows);
                            for (Index m = 0; m < n; ++m) {
                                const Index i = g * kRows + m;
                                if (i / pool != row) {
                                    settle();
                                    row = i / pool;
                                }
                                if (most)
                                    for (Index c = 0; c < NV * kLanes; ++c) band[c] = larger(band[c], map[m][c]);
                                else
                                    for (Index c = 0; c < NV * kLanes; ++c) band[c] += map[m][c];
                            }
                        }
                        settle();
                    });
                }
                for (Index row = 0; row < rows_out && !most; ++row)
                    for (Index cell = cell0; cell < cell1; ++cell) {
                        const Index high = least((row + 1) * pool, q1 - q0) - row * pool;
                        const Index wide = least((cell + 1) * pool, k1 - k0) - cell * pool;
                        cells[row * cols_out + cell] /= static_cast<float>(high * wide);
                    }
            }
        });
    }

    // ---- keys broadcast, queries in lanes ----

    /// Scores of one group of keys against one panel of queries, before any shift; keys beyond the last are minus
    /// infinity.
    template <int NV>
    [[gnu::always_inline]] static inline void scores(const AttentionParams& p, Index h, const float* packed_keys,
                                                     Index g, const float* panel, Index first, Index count,
                                                     Float (&acc)[kRows][NV]) {
        product<NV>(panel, packed_keys + g * p.head_dim * kRows, p.head_dim, acc);
        const Float scale = S::all(p.scale);
        if (!has_extra(p) && (g + 1) * kRows <= p.keys) {
#pragma GCC unroll 8
            for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) acc[m][v] = S::mul(acc[m][v], scale);
            return;
        }
        alignas(64) float extra[kRows][NV * kLanes] = {};
        for (int m = 0; m < kRows; ++m) {
            if (g * kRows + m < p.keys)
                extra_of_key(p, h, g * kRows + m, first, count, extra[m]);
            else
                for (float& x : extra[m]) x = kNothing;
        }
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) acc[m][v] = score(p, acc[m][v], S::load(extra[m] + v * kLanes));
    }

    template <int NV>
    static void lse_panel(const AttentionParams& p, Index h, const float* packed_keys, const float* panel, Index first,
                          Index count, float* out) {
        // Below every score that is not masked, and finite, so that differences with minus infinity are defined.
        constexpr float kFloor = -1e30F;
        constexpr Index kGroups = 128;
        float high[NV * kLanes];
        double sum[NV * kLanes] = {};
        for (float& x : high) x = kFloor;
        const Index groups = pieces(p.keys, kRows);
        for (Index g0 = 0; g0 < groups; g0 += kGroups) {
            Float most[NV], total[NV];
            for (int v = 0; v < NV; ++v) {
                most[v] = S::all(kFloor);
                total[v] = S::zero();
            }
            for (Index g = g0; g < least(g0 + kGroups, groups); ++g) {
                Float acc[kRows][NV];
                scores<NV>(p, h, packed_keys, g, panel, first, count, acc);
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) {
                    Float now = most[v];
#pragma GCC unroll 8
                    for (int m = 0; m < kRows; ++m) now = S::max(now, acc[m][v]);
                    Float part = S::zero();
#pragma GCC unroll 8
                    for (int m = 0; m < kRows; ++m) part = S::add(part, exponential(S::sub(acc[m][v], now)));
                    total[v] = S::fma(total[v], exponential(S::sub(most[v], now)), part);
                    most[v] = now;
                }
            }
            alignas(64) float some_high[NV * kLanes], some_sum[NV * kLanes];
            for (int v = 0; v < NV; ++v) {
                S::store(some_high + v * kLanes, most[v]);
                S::store(some_sum + v * kLanes, total[v]);
            }
            for (Index c = 0; c < count; ++c) {
                if (some_high[c] > high[c]) {
                    sum[c] = sum[c] * std::exp(static_cast<double>(high[c]) - some_high[c]) + some_sum[c];
                    high[c] = some_high[c];
                } else {
                    sum[c] += some_sum[c] * std::exp(static_cast<double>(some_high[c]) - high[c]);
                }
            }
        }
        for (Index c = 0; c < count; ++c)
            out[c] = high[c] == kFloor ? kNothing : static_cast<float>(high[c] + std::log(sum[c]));
    }

    static void log_sum_exp(const AttentionParams& p, float* lse, const ParallelFor& parallel_for) {
        const Index panels = pieces(p.queries, kPanel);
        parallel_for(p.heads * panels, [&](Index begin, Index end) {
            Scratch<float> keys(pieces(p.keys, kRows) * kRows * p.head_dim), panel(p.head_dim * kPanel);
            const Tokens all_keys{nullptr, 0, p.keys}, all_queries{nullptr, 0, p.queries};
            Index packed = -1;
            for (Index item = begin; item < end; ++item) {
                const Index h = item / panels, first = item % panels * kPanel, count = least(kPanel, p.queries - first);
                if (packed != key_head(p, h)) {
                    packed = key_head(p, h);
                    pack_rows(keys.data(), keys_of(p, h), all_keys, p.head_dim);
                }
                with_vectors(count, [&](auto nv) {
                    pack_panel(panel.data(), nv() * kLanes, queries_of(p, h), all_queries, first, count, p.head_dim);
                    lse_panel<nv()>(p, h, keys.data(), panel.data(), first, count, lse + h * p.queries + first);
                });
            }
        });
    }

    template <int NV>
    static void apply_panel(const AttentionParams& p, Index h, const float* packed_keys, const float* panel,
                            const float* packed_values, Index dim, Index first, Index count, float* sums, float* out) {
        constexpr Index kGroups = 8;  // the map of 64 keys x 48 queries stays in the first cache
        constexpr Index kWidth = NV * kLanes;
        alignas(64) float map[kGroups * kRows][kWidth];
        alignas(64) float shift[kWidth] = {};
        for (Index c = 0; c < count; ++c) shift[c] = shift_of(p, h, first + c);
        const Index bands = pieces(dim, kRows), padded_keys = pieces(p.keys, kRows) * kRows;
        for (Index x = 0; x < bands * kRows * kWidth; ++x) sums[x] = 0;
        const Index groups = pieces(p.keys, kRows);
        for (Index g0 = 0; g0 < groups; g0 += kGroups) {
            const Index g1 = least(g0 + kGroups, groups);
            for (Index g = g0; g < g1; ++g) {
                Float acc[kRows][NV];
                scores<NV>(p, h, packed_keys, g, panel, first, count, acc);
#pragma GCC unroll 8
                for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v)
                        S::store(map[(g - g0) * kRows + m] + v * kLanes,
                                 exponential(S::add(acc[m][v], S::load(shift + v * kLanes))));
            }
            for (Index b = 0; b < bands; ++b) {
                Float acc[kRows][NV];
                float* band = sums + b * kRows * kWidth;
#pragma GCC unroll 8
                for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v) acc[m][v] = S::load(band + m * kWidth + v * kLanes);
                multiply<NV>(map[0], kWidth, packed_values + (b * padded_keys + g0 * kRows) * kRows, (g1 - g0) * kRows,
                             acc);
#pragma GCC unroll 8
                for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v) S::store(band + m * kWidth + v * kLanes, acc[m][v]);
            }
        }
        for (Index c = 0; c < count; ++c)
            for (Index d = 0; d < dim; ++d) out[c * dim + d] = sums[d * kWidth + c];
    }

    static void map_apply(const AttentionParams& p, const float* v, const Index v_stride[2], Index dim, float* out,
                          const ParallelFor& parallel_for) {
        const Index panels = pieces(p.queries, kPanel), padded_keys = pieces(p.keys, kRows) * kRows,
                    bands = pieces(dim, kRows);
        parallel_for(p.heads * panels, [&](Index begin, Index end) {
            Scratch<float> keys(padded_keys * p.head_dim), panel(p.head_dim * kPanel),
                values(padded_keys * bands * kRows), sums(bands * kRows * kPanel);
            const Tokens all_keys{nullptr, 0, p.keys}, all_queries{nullptr, 0, p.queries};
            Index packed = -1;
            for (Index item = begin; item < end; ++item) {
                const Index h = item / panels, first = item % panels * kPanel, count = least(kPanel, p.queries - first);
                if (packed != h) {
                    packed = h;
                    pack_rows(keys.data(), keys_of(p, h), all_keys, p.head_dim);
                    // Values as [band of kRows coordinates][key][kRows]; keys beyond the last weigh nothing, and are
                    // finite here.
                    for (Index b = 0; b < bands; ++b)
                        for (Index j = 0; j < padded_keys; ++j)
                            for (Index m = 0; m < kRows; ++m)
                                values[(b * padded_keys + j) * kRows + m] =
                                    j < p.keys && b * kRows + m < dim
                                        ? v[h * v_stride[0] + j * v_stride[1] + b * kRows + m]
                                        : 0;
                }
                with_vectors(count, [&](auto nv) {
                    pack_panel(panel.data(), nv() * kLanes, queries_of(p, h), all_queries, first, count, p.head_dim);
                    apply_panel<nv()>(p, h, keys.data(), panel.data(), values.data(), dim, first, count, sums.data(),
                                      out + (h * p.queries + first) * dim);
                });
            }
        });
    }

    static AttentionKernels table(const char* name, const char* (*machine)() noexcept,
                                  const char* (*why_not)(Operation, const AttentionParams&) noexcept) {
        return {name,
                machine,
                why_not,
                &log_sum_exp,
                &map_rows,
                &map_rows_layers,
                &map_rows_top,
                &map_columns,
                &map_columns_layers,
                &map_tile,
                &map_sweep,
                &map_sweep_counts,
                &map_sweep_gradient,
                &map_apply,
                &pack_keys};
    }
};

}  // namespace
}  // namespace vitrine::kernels
