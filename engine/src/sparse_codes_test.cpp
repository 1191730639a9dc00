// Codes as lists against whole ones: selection, reconstruction, gradients, and a training step's losses.
#include "sparse_codes.h"

#include <gmock/gmock.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <vitrine/bench_sparse.h>

#include "autoencoder_objective.h"
#include "concept_steps.h"
#include "thread_peers.h"

namespace vitrine {
namespace {

at::Generator seeded(std::uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

void expect_close(const at::Tensor& found, const at::Tensor& wanted, const std::string& what, double within = 1e-5) {
    ASSERT_EQ(found.sizes(), wanted.sizes()) << what;
    EXPECT_GT(wanted.abs().max().item<double>(), 0) << what;
    EXPECT_LE((found - wanted).abs().max().item<double>(), within * wanted.abs().max().item<double>()) << what;
}

at::Tensor whole(const CodeLists& lists, std::int64_t rows, std::int64_t count) {
    at::Tensor out = at::zeros({rows, count});
    for (std::int64_t i = 0; i < rows; ++i) {
        const std::int64_t from = lists.starts.defined() ? lists.starts[i].item<std::int64_t>() : 0,
                           to = lists.starts.defined() ? lists.starts[i + 1].item<std::int64_t>()
                                                       : lists.indices.size(1);
        const at::Tensor &indices = lists.starts.defined() ? lists.indices : lists.indices[i],
                         &values = lists.starts.defined() ? lists.values : lists.values[i];
        for (std::int64_t j = from; j < to; ++j) out[i][indices[j].item<std::int64_t>()] = values[j];
    }
    return out;
}

TEST(CodeListsOfAll, AreTheLargestOfAllRowsAndOfEqualOnesTheFirst) {
    auto g = seeded(1);
    // Few different numbers, so that many are equal at the edge; larger than the sample that bounds them is drawn from.
    for (const at::Tensor& rows : {at::randint(0, 5, {30, 40}, g, at::kFloat), at::randn({50, 61}, g),
                                   at::randint(-3, 3, {400, 400}, g, at::kFloat), at::zeros({7, 5})})
        for (const std::int64_t count : {std::int64_t{1}, rows.size(0), 5 * rows.size(0) / 2}) {
            const CodeLists lists = largest_of_all(rows, count);
            ASSERT_EQ(lists.indices.size(0), count);
            const auto [sorted, order] = rows.flatten().sort(/*stable=*/true, 0, /*descending=*/true);
            at::Tensor wanted = at::zeros({rows.numel()}, at::kLong), found = at::zeros_like(wanted);
            wanted.index_fill_(0, order.narrow(0, 0, count), 1);
            for (std::int64_t i = 0; i < rows.size(0); ++i)
                for (auto j = lists.starts[i].item<std::int64_t>(); j < lists.starts[i + 1].item<std::int64_t>(); ++j)
                    found[i * rows.size(1) + lists.indices[j].item<std::int64_t>()] += 1;
            EXPECT_TRUE(at::equal(found, wanted)) << rows.sizes() << " " << count;
        }
}

TEST(DecodeLists, HasTheGradientsOfTheProduct) {
    auto g = seeded(2);
    const at::Tensor before = at::randn({13, 50}, g), by = at::randn({13, 24}, g);
    const CodeLists each = *largest_lists(before, 6), all = largest_of_all(before, 70);
    for (const CodeLists& lists : {each, all}) {
        const at::Tensor rows = at::randn({50, 24}, g).set_requires_grad(true),
                         same = rows.detach().clone().set_requires_grad(true),
                         values = lists.values.detach().clone().set_requires_grad(true),
                         dense = whole(lists, 13, 50).set_requires_grad(true);
        const at::Tensor made = decode_lists(lists.indices, values, lists.starts, rows),
                         wanted = at::matmul(dense, same);
        expect_close(made.detach(), wanted.detach(), "decoded");
        (made * by).sum().backward();
        (wanted * by).sum().backward();
        expect_close(rows.grad(), same.grad(), "rows");
        CodeLists slopes = lists;
        slopes.values = values.grad();
        expect_close(whole(slopes, 13, 50), dense.grad() * dense.detach().ne(0), "values");
    }
}

Autoencoder one_of(const std::string& kind, const std::string& normalise = "none") {
    AutoencoderConfig config;
    config.kind = kind;
    config.k = 5;
    config.width = 20;
    config.latents = 64;
    config.normalise = normalise;
    Autoencoder made = Autoencoder::make(config, 3).value();
    auto g = seeded(4);
    const at::NoGradGuard no_grad;
    for (const auto& [name, tensor] : made.tensors())
        if (name != "threshold") const_cast<at::Tensor&>(tensor).add_(0.1 * at::randn(tensor.sizes(), g));
    for (const auto& [name, tensor] : made.tensors()) tensor.set_requires_grad(true);
    return made;
}

TEST(TrainingCodes, AsListsHaveTheLossesAndGradientsOfWholeOnes) {
    auto g = seeded(5);
    const at::Tensor tokens = at::randn({40, 20}, g);
    for (const char* kind : {"top_k", "batch_top_k"})
        for (const char* normalise : {"none", "layer_norm", "constant_norm"})
            for (const int revive_k : {0, 7, 20, 100}) {  // none dead; as lists; as a product; all that are dead
                const bool some_dead = revive_k > 0;
                ConceptObjective objective;
                objective.revive_k = revive_k;
                at::Tensor dead;
                if (some_dead) {
                    dead = at::zeros({64}, at::kBool);
                    dead.narrow(0, 10, 30).fill_(true);
                }
                const Autoencoder a = one_of(kind, normalise), b = one_of(kind, normalise);
                const TrainingCodes lists = training_codes(a, tokens, objective, true),
                                    dense = training_codes(b, tokens, objective, false);
                ASSERT_TRUE(lists.listed());
                ASSERT_FALSE(dense.listed());
                const ConceptLoss x = concept_loss(a, tokens, lists, objective, dead),
                                  y = concept_loss(b, tokens, dense, objective, dead);
                const std::string what = std::string(kind) + " " + normalise + (some_dead ? " dead" : "");
                EXPECT_NEAR(x.total.item<double>(), y.total.item<double>(), 1e-5 * y.total.item<double>()) << what;
                EXPECT_EQ(some_dead, y.revival.item<double>() > 0) << what;
                EXPECT_NEAR(x.revival.item<double>(), y.revival.item<double>(), 1e-6) << what;
                expect_close(x.reconstructed.detach(), y.reconstructed.detach(), what);
                x.total.backward();
                y.total.backward();
                for (const char* name : {"W_enc", "b_enc", "W_dec", "b_dec"})
                    expect_close(a.tensor(name).grad(), b.tensor(name).grad(), what + " " + name, 2e-5);
            }
}

TEST(TrainingCodes, OfABatchCompeteOverAllProcesses) {
    auto g = seeded(6);
    const at::Tensor tokens = at::randn({31, 20}, g);
    const Autoencoder one = one_of("batch_top_k");
    const TrainingCodes alone = training_codes(one, tokens, {}, true);
    const at::Tensor wanted = whole(alone.lists, 31, 64);
    std::vector<at::Tensor> found(3);
    together(3, [&](Peers& peers) {
        const std::int64_t from = 31 * peers.rank() / 3, to = 31 * (peers.rank() + 1) / 3;
        const TrainingCodes mine = training_codes(one, tokens.narrow(0, from, to - from), {}, true, &peers);
        const at::NoGradGuard no_grad;
        found[static_cast<std::size_t>(peers.rank())] = whole(mine.lists, to - from, 64);
    });
    EXPECT_TRUE(at::equal(at::cat(found), wanted));
}

TEST(Decode, OfFewIsTheProductsToo) {
    auto g = seeded(7);
    for (const char* kind : {"top_k", "batch_top_k", "relu", "jump_relu"}) {
        AutoencoderConfig config;
        config.kind = kind;
        config.k = 4;
        config.width = 24;
        config.latents = 200;
        config.weigh_by_decoder = config.kind == "top_k";
        const Autoencoder one = Autoencoder::make(config, 8).value();
        for (const double share : {0.0, 0.01, 0.5}) {
            Codes codes = one.encode(at::randn({9, 24}, g));
            codes.active = at::randn({9, 200}, g) * (at::rand({9, 200}, g) < share);
            at::Tensor of = codes.active;
            const at::Tensor &rows = one.tensor("W_dec"), lengths = at::linalg_vector_norm(rows, 2, {1});
            if (config.weigh_by_decoder) of = of / lengths;
            const at::Tensor wanted = at::addmm(one.tensor("b_dec"), of, rows);
            EXPECT_LE((one.decode(codes.active, codes) - wanted).abs().max().item<double>(),
                      1e-5 * (1e-6 + wanted.abs().max().item<double>()))
                << kind << " " << share;
        }
    }
}

TEST(ConceptSteps, KeepTheirSilenceBeyondWhatFloatsCount) {
    AutoencoderConfig config;
    config.width = 8;
    config.latents = 16;
    config.k = 2;
    ConceptStepsOptions options;
    options.steps = 10;
    options.dead_window = 30000001;
    auto g = seeded(9);
    const at::Tensor x = at::randn({32, 8}, g);
    ConceptSteps a = ConceptSteps::make(config, options, x).value();
    auto state = a.state();
    for (auto& [name, tensor] : state)
        if (name == "silent") tensor = at::cat({at::full({16}, 30000000.F), at::zeros({16}), at::zeros({16})});
    ASSERT_TRUE(a.restore(state, 0));
    EXPECT_EQ(a.step(x)[6].item<double>(), 0);  // 30,000,000 tokens are not more than 30,000,001
    EXPECT_GT(a.step(x)[6].item<double>(), 0);  // 32 later they are
    const auto kept = a.state();
    ConceptSteps b = ConceptSteps::make(config, options, x).value();
    ASSERT_TRUE(b.restore(kept, 2));
    for (const auto& [name, tensor] : b.state())
        for (const auto& [other, same] : kept)
            if (name == other) {
                EXPECT_TRUE(at::equal(tensor, same)) << name;
            }
}

TEST(BenchSparse, VerifiesAndTimes) {
    const auto found = bench_sparse("tiny", 3);
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_LE((*found)["verified"]["row_gradient"].get<double>(), 1e-5);
    EXPECT_GT((*found)["step"]["tokens_per_second"].get<double>(), 0);
    EXPECT_GT((*found)["kernels"]["decode"]["dense_ms"].get<double>(), 0);
    const auto none = bench_sparse("large", 3);
    ASSERT_FALSE(none);
    EXPECT_THAT(none.error().message, testing::HasSubstr("there is no case 'large'"));
}

}  // namespace
}  // namespace vitrine
