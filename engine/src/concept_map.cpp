// Neighbours of decoder rows by cosine, and their layout on a plane.
#include "concept_map.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include <vitrine/base/random.h>

namespace vitrine {

namespace {

constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
// The curve 1 / (1 + a d^2b) that comes nearest to min_dist 0.1, spread 1 (McInnes et al., 2018).
constexpr float kA = 1.576943F, kB = 0.8950609F;
constexpr int kNegatives = 5;

at::Tensor directions(const at::Tensor& rows) {
    const at::Tensor x = rows.detach().to(at::kFloat);
    return x / at::linalg_vector_norm(x, 2, {1}, true).clamp_min(1e-30);
}

/// Into the square from -1 to 1, its middle kept in the middle.
void fit_square(std::vector<float>& places) {
    double x = 0, y = 0;
    for (std::size_t i = 0; i < places.size(); i += 2) x += places[i], y += places[i + 1];
    const auto n = static_cast<double>(places.size()) / 2;
    double most = 0;
    for (std::size_t i = 0; i < places.size(); i += 2) {
        places[i] -= static_cast<float>(x / n);
        places[i + 1] -= static_cast<float>(y / n);
        most = std::max({most, std::abs(double{places[i]}), std::abs(double{places[i + 1]})});
    }
    if (most > 0)
        for (float& p : places) p = static_cast<float>(p / most);
}

struct Edge {
    std::uint32_t from = 0, to = 0;
    float weight = 0;
};

/// UMAP's fuzzy graph: how much each row takes another for its neighbour, joined with what the other thinks.
std::vector<Edge> graph_of(const NearRows& near) {
    std::vector<Edge> half;
    const auto k = static_cast<std::size_t>(near.count);
    for (std::size_t i = 0; i < static_cast<std::size_t>(near.rows); ++i) {
        std::vector<float> distance;
        for (std::size_t j = i * k; j < (i + 1) * k && !std::isnan(near.cosine[j]); ++j)
            distance.push_back(std::max(0.0F, 1 - near.cosine[j]));
        if (distance.empty()) continue;
        const float nearest = distance.front();
        // The width at which all weights together are log2 of the neighbours' number.
        const double wanted = std::log2(static_cast<double>(distance.size()) + 1);
        double low = 0, high = 0, width = 1;
        for (int step = 0; step < 64; ++step) {
            double sum = 0;
            for (const float d : distance) sum += std::exp(-std::max(0.0F, d - nearest) / width);
            if (std::abs(sum - wanted) < 1e-5) break;
            if (sum > wanted)
                high = width;
            else
                low = width;
            width = high > 0 ? (low + high) / 2 : width * 2;
        }
        width = std::max(width, 1e-3 * std::max(1e-6, static_cast<double>(distance.back())));
        for (std::size_t j = 0; j < distance.size(); ++j) {
            const auto other = near.row[i * k + j];
            const auto self = static_cast<std::uint32_t>(i);
            half.push_back({std::min(self, other), std::max(self, other),
                            static_cast<float>(std::exp(-std::max(0.0F, distance[j] - nearest) / width))});
        }
    }
    std::sort(half.begin(), half.end(), [](const Edge& a, const Edge& b) {
        return std::array{a.from, a.to} < std::array{b.from, b.to} ||
               (a.from == b.from && a.to == b.to && a.weight > b.weight);
    });
    std::vector<Edge> out;
    for (const Edge& one : half) {
        if (!out.empty() && out.back().from == one.from && out.back().to == one.to)
            out.back().weight += one.weight - out.back().weight * one.weight;
        else
            out.push_back(one);
    }
    return out;
}

}  // namespace

Result<NearRows> near_rows(const at::Tensor& rows, std::int64_t count, std::stop_token stop) {
    const at::NoGradGuard no_grad;
    constexpr std::int64_t kPiece = 1024;
    NearRows out;
    out.rows = rows.size(0);
    out.count = count;
    out.row.resize(static_cast<std::size_t>(out.rows * count));
    out.cosine.resize(out.row.size(), kNone);
    const std::int64_t found = std::min(count, out.rows - 1);
    if (found < 1) return out;
    const at::Tensor all = directions(rows);
    const at::Tensor none = at::linalg_vector_norm(all, 2, {1}).lt(0.5).to(at::kCPU).contiguous();
    const bool* empty = none.const_data_ptr<bool>();
    for (std::int64_t from = 0; from < out.rows; from += kPiece) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const std::int64_t piece = std::min(kPiece, out.rows - from);
        at::Tensor cosine = at::matmul(all.narrow(0, from, piece), all.t());
        cosine.diagonal(from).fill_(-2);  // itself
        const auto [values, places] = at::topk(cosine, found, 1);
        const at::Tensor v = values.to(at::kCPU).contiguous(), p = places.to(at::kCPU).contiguous();
        for (std::int64_t i = 0; i < piece; ++i) {
            if (empty[from + i]) continue;
            const float* value = v.const_data_ptr<float>() + i * found;
            const std::int64_t* place = p.const_data_ptr<std::int64_t>() + i * found;
            std::vector<std::int64_t> order(static_cast<std::size_t>(found));
            std::iota(order.begin(), order.end(), 0);
            std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
                return value[a] != value[b] ? value[a] > value[b] : place[a] < place[b];
            });
            auto at = static_cast<std::size_t>((from + i) * count);
            for (const std::int64_t j : order) {
                if (empty[place[j]]) continue;
                out.row[at] = static_cast<std::uint32_t>(place[j]);
                out.cosine[at++] = value[j];
            }
        }
    }
    return out;
}

std::vector<float> principal_plane(const at::Tensor& rows) {
    const at::NoGradGuard no_grad;
    const std::int64_t n = rows.size(0), width = rows.size(1);
    std::vector<float> out(static_cast<std::size_t>(2 * n));
    at::Tensor x = directions(rows);
    x = x - x.mean(0, true);
    // Products in the rows' own precision, the decomposition of the small matrix in double on the CPU.
    const auto [values, vectors] = at::linalg_eigh(at::matmul(x.t(), x).to(at::kCPU, at::kDouble));
    for (std::int64_t axis = 0; axis < std::min<std::int64_t>(2, width); ++axis) {
        at::Tensor direction = vectors.select(1, width - 1 - axis);
        if (direction[direction.abs().argmax()].item<double>() < 0) direction = -direction;
        const at::Tensor places = at::matmul(x, direction.to(x.options())).to(at::kCPU).contiguous();
        for (std::int64_t i = 0; i < n; ++i)
            out[static_cast<std::size_t>(2 * i + axis)] = places.const_data_ptr<float>()[i];
    }
    fit_square(out);
    return out;
}

Result<std::vector<float>> lay_out(const NearRows& near, std::vector<float> start, std::int64_t rounds,
                                   std::stop_token stop, const std::function<void(std::int64_t)>& progress) {
    if (rounds < 1 || near.rows < 3) return start;
    const std::vector<Edge> edges = graph_of(near);
    float most = 0;
    for (const Edge& one : edges) most = std::max(most, one.weight);
    // How many rounds go by from one use of an edge to the next.
    std::vector<float> every(edges.size()), next(edges.size());
    for (std::size_t e = 0; e < edges.size(); ++e)
        next[e] = every[e] = edges[e].weight > 0 ? most / edges[e].weight : std::numeric_limits<float>::max();

    const auto n = static_cast<std::uint64_t>(near.rows);
    std::vector<float> y = std::move(start);
    // As wide as UMAP starts, with a little unrest that parts rows of one direction.
    for (std::size_t i = 0; i < y.size(); ++i)
        y[i] =
            10 * y[i] + 1e-4F * (static_cast<float>(random_bits(0, 1, i) >> 40) / static_cast<float>(1 << 24) - 0.5F);
    std::uint64_t drawn = 0;
    const auto clipped = [](float g) { return std::clamp(g, -4.0F, 4.0F); };
    for (std::int64_t round = 0; round < rounds; ++round) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const float rate = 1 - static_cast<float>(round) / static_cast<float>(rounds);
        for (std::size_t e = 0; e < edges.size(); ++e) {
            if (next[e] > static_cast<float>(round + 1)) continue;
            next[e] += every[e];
            // Both ends in turn, as UMAP's graph holds each edge twice.
            for (int side = 0; side < 2; ++side) {
                float* const head = &y[2 * std::size_t{side == 0 ? edges[e].from : edges[e].to}];
                float* const tail = &y[2 * std::size_t{side == 0 ? edges[e].to : edges[e].from}];
                const float dx = head[0] - tail[0], dy = head[1] - tail[1], d2 = dx * dx + dy * dy;
                if (d2 > 0) {
                    const float power = std::pow(d2, kB);
                    const float pull = -2 * kA * kB * power / d2 / (kA * power + 1);
                    const float gx = rate * clipped(pull * dx), gy = rate * clipped(pull * dy);
                    head[0] += gx, head[1] += gy;
                    tail[0] -= gx, tail[1] -= gy;
                }
                for (int negative = 0; negative < kNegatives; ++negative) {
                    const float* const other = &y[2 * (random_bits(0, 2, drawn++) % n)];
                    if (other == head) continue;
                    const float ox = head[0] - other[0], oy = head[1] - other[1], o2 = ox * ox + oy * oy;
                    const float push = o2 > 0 ? 2 * kB / ((0.001F + o2) * (kA * std::pow(o2, kB) + 1)) : 0;
                    head[0] += rate * (o2 > 0 ? clipped(push * ox) : 4);
                    head[1] += rate * (o2 > 0 ? clipped(push * oy) : 4);
                }
            }
        }
        if (progress) progress(round + 1);
    }
    fit_square(y);
    return y;
}

}  // namespace vitrine
