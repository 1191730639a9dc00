// Remembers a model's last pieces of device work, and the graph of one that was asked for twice.
#include <vitrine/replay.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <list>
#include <optional>

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <vitrine/torch_errors.h>
#include "device_graph.h"

namespace vitrine {
namespace {

std::atomic<std::int64_t> replays{0};

/// Pieces of work that a model remembers: the methods that are looked at side by side.
constexpr std::size_t kRemembered = 3;

struct Remembered {
    std::string key;
    std::optional<DeviceGraph> graph;
    std::vector<at::Tensor> inputs;  ///< where the recording reads them
    Found found;                     ///< lies in the graph's memory, and goes before it
    bool refused = false;            ///< it cannot be recorded: not tried again
};

/// All that a recording was made of and would not notice: where the weights lie, the shapes, and libtorch's choices.
std::string full_key(Model& model, const std::string& key, const std::vector<at::Tensor>& inputs) {
    std::string all = key;
    const auto add = [&](const void* bytes, std::size_t count) { all.append(static_cast<const char*>(bytes), count); };
    const auto add_tensor = [&](const at::Tensor& x, const void* place) {
        const auto type = x.scalar_type();
        add(&type, sizeof type);
        add(x.sizes().data(), x.sizes().size() * sizeof(std::int64_t));
        add(&place, sizeof place);
    };
    for (const at::Tensor& x : inputs) add_tensor(x, nullptr);
    for (const auto& [name, x] : model.parameters()) add_tensor(x, x.data_ptr());
    const at::Context& context = at::globalContext();
    for (const bool choice :
         {context.userEnabledFlashSDP(), context.userEnabledMemEfficientSDP(), context.userEnabledCuDNNSDP(),
          context.userEnabledMathSDP(), context.deterministicAlgorithms()})
        all += choice ? '1' : '0';
    if (const char* forced = std::getenv("VITRINE_KERNEL")) all += forced;
    return all;
}

bool recordable(Model& model, const std::vector<at::Tensor>& inputs) {
    if (!model.is_native() || inputs.empty()) return false;
    for (const at::Tensor& x : inputs)
        if (!graphs_allowed(x.device())) return false;
    return true;
}

}  // namespace

std::int64_t replay_count() { return replays; }

Result<Found> replayed(Model& model, const std::string& key, const std::vector<at::Tensor>& inputs,
                       const ReplayedWork& work) {
    if (!recordable(model, inputs)) return work(inputs, nullptr);
    return guarded([&]() -> Result<Found> {
        std::string wanted = full_key(model, key, inputs);
        if (!model.remembered) model.remembered = std::make_shared<std::list<Remembered>>();
        auto& all = *static_cast<std::list<Remembered>*>(model.remembered.get());
        const auto known = std::find_if(all.begin(), all.end(), [&](const Remembered& it) { return it.key == wanted; });
        if (known == all.end()) {
            while (all.size() >= kRemembered) all.pop_back();  // before anything new is kept
            Found found = VITRINE_TRY(work(inputs, nullptr));
            all.emplace_front().key = std::move(wanted);
            all.front().found = found;
            return found;
        }
        all.splice(all.begin(), all, known);
        Remembered* const last = &all.front();
        if (last->refused) return work(inputs, nullptr);
        if (!last->graph) {
            for (const at::Tensor& x : inputs) last->inputs.push_back(x.detach().clone());
            Found made;
            auto graph = DeviceGraph::record(inputs.front().device(), [&]() -> Status {
                made = nullptr;  // before the next run takes memory
                made = VITRINE_TRY(work(last->inputs, last->found));
                return {};
            });
            // The runs on a stream of its own left memory there that nobody else would use.
            at::getDeviceAllocator(inputs.front().device().type())->emptyCache();
            if (!graph) {
                last->inputs.clear();
                if (graph.error().code == ErrorCode::Cancelled) return tl::make_unexpected(std::move(graph).error());
                last->refused = true;
                last->found.reset();
                return work(inputs, nullptr);
            }
            last->found = std::move(made);
            last->graph.emplace(std::move(*graph));
        } else {
            for (std::size_t i = 0; i < inputs.size(); ++i) last->inputs[i].copy_(inputs[i], true);
        }
        last->graph->replay();
        ++replays;
        return last->found;
    });
}

}  // namespace vitrine
