// The HUD over the picture: what is under the cursor, the colour bar, a notice. Drawn by Dear ImGui, laid out by us.
#pragma once

#include <memory>

#include <vulkan/vulkan.h>

#include <vitrine/base/result.h>
#include <vitrine/viz/scene.h>

#include "vulkan/device.h"

namespace vitrine::viz {

/// Lives on the interface thread. Each has an ImGui context of its own, so that several windows do not meet.
class HudPainter {
  public:
    /// @param render_pass  one colour attachment, in which `record` is called
    static Result<std::unique_ptr<HudPainter>> create(Device::Parts& device, VkRenderPass render_pass);
    ~HudPainter();

    /// Lays the HUD out for a view of so many device pixels. Nothing drawn by `record` may still be running.
    Status prepare(const Hud& hud, const Palette& palette, std::uint32_t width, std::uint32_t height);
    void record(VkCommandBuffer commands);

  private:
    struct Parts;
    explicit HudPainter(std::unique_ptr<Parts> parts);
    std::unique_ptr<Parts> parts_;
};

}  // namespace vitrine::viz
