// Turns an attribution into a scene to draw: the same for exported files and for the window.
#include "cli/overlay.h"

#if VITRINE_VIZ

#include <algorithm>
#include <cmath>

namespace vitrine::cli {

viz::ValueScale display_scale(const Attribution& attribution, double* clipped) {
    const at::Tensor flat = attribution.map.detach().to(at::kCPU, at::kFloat).contiguous().reshape({-1});
    std::vector<float> values(flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel());
    std::erase_if(values, [](float v) { return !std::isfinite(v); });
    viz::ValueScale scale;
    if (values.empty()) return scale;
    std::sort(values.begin(), values.end());
    const auto quantile = [&](double q) {
        return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1))];
    };
    const bool robust = !attribution.on_tokens;
    scale.low = values.front();
    scale.high = robust ? quantile(0.995) : values.back();
    if (attribution.is_signed) {
        const float reach = std::max(std::abs(robust ? quantile(0.005) : values.front()), std::abs(scale.high));
        scale.low = -reach;
        scale.high = reach;
        scale.symmetric = true;
    }
    if (scale.high <= scale.low) scale.high = scale.low + 1;
    if (clipped != nullptr) {
        const auto outside =
            std::count_if(values.begin(), values.end(), [&](float v) { return v < scale.low || v > scale.high; });
        *clipped = static_cast<double>(outside) / static_cast<double>(values.size());
    }
    return scale;
}

MapView view_of(const at::Tensor& map) {
    auto held = std::make_shared<at::Tensor>(map.detach().to(at::kCPU, at::kFloat).contiguous());
    MapView view;
    view.data = held->data_ptr<float>();
    view.shape[0] = 1, view.shape[1] = held->size(0), view.shape[2] = held->size(1);
    view.stride[0] = held->numel(), view.stride[1] = held->size(1), view.stride[2] = 1;
    view.keep_alive = std::move(held);
    return view;
}

viz::Scene overlay_scene(const Input& input, const Attribution& attribution) {
    viz::Scene scene;
    scene.picture = {input.photo.pixels.data(), input.photo.width, input.photo.height, 3, input.photo.width * 3, {}};
    scene.picture_id = 1;
    scene.seen = input.geometry.seen();
    viz::MapLayer layer;
    layer.map = view_of(attribution.map);
    layer.area = input.geometry.seen();
    layer.scale = display_scale(attribution);
    layer.colours = attribution.is_signed ? viz::ColourMap::Diverging : viz::ColourMap::Viridis;
    scene.layers.push_back(std::move(layer));
    scene.view.centre = {static_cast<double>(input.photo.width) / 2, static_cast<double>(input.photo.height) / 2};
    scene.view.zoom = 1;
    return scene;
}

}  // namespace vitrine::cli
#endif
