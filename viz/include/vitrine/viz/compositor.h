// The Vulkan device, the compute pass that composes a scene, and the canvas that shows it in a window.
//
// All of it lives on the interface thread. A lost device or missing Vulkan is an error value, never a crash.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <vitrine/base/image.h>
#include <vitrine/base/result.h>
#include <vitrine/viz/scene.h>

// Handles as opaque pointers, so that who includes this needs no Vulkan headers.
struct VkInstance_T;
struct VkSurfaceKHR_T;

namespace vitrine::viz {

struct DeviceOptions {
    std::vector<std::string> instance_extensions;  ///< what the window system asks for; empty for off-screen use
    bool validation = false;                       ///< the Khronos layer, when installed; its messages are counted
};

/// Our own instance, physical and logical device and queue. Prefers a discrete device, takes a software one.
class Device {
  public:
    static Result<std::unique_ptr<Device>> create(const DeviceOptions& options = {});
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    VkInstance_T* instance() const;
    std::string name() const;  ///< as the driver says it
    bool is_software() const;
    const std::uint8_t* uuid() const;  ///< 16 bytes
    int validation_messages() const;   ///< errors and warnings the layer reported so far
    bool validates() const;            ///< the layer was asked for and is installed
    bool is_lost() const;              ///< true after the driver reported a lost device: create a new one
    /// For tests: from now on the driver seems to answer that the device is lost, as after a reset of the graphics
    /// card.
    void lose();
    struct Parts;
    Parts& parts() const { return *parts_; }

  private:
    explicit Device(std::unique_ptr<Parts> parts);
    std::unique_ptr<Parts> parts_;
};

/// Composes scenes off screen.
///
///     VITRINE_TRY(Device::create()) ... VITRINE_TRY(Compositor::create(*device))->render(scene, 1280, 800)
class Compositor {
  public:
    static Result<std::unique_ptr<Compositor>> create(Device& device);
    ~Compositor();

    /// Draws the scene at width x height device pixels and reads it back.
    /// @error BadInput sizes below 1 or above 16,384; a map that is not {1, rows, cols} in host memory
    Result<Image> render(const Scene& scene, std::int64_t width, std::int64_t height);

    struct Parts;
    Parts& parts() const { return *parts_; }

  private:
    explicit Compositor(std::unique_ptr<Parts> parts);
    std::unique_ptr<Parts> parts_;
};

/// Shows scenes in a window: swapchain, compute pass, copy, HUD by ImGui. Device and surface must outlive it.
class Canvas {
  public:
    /// @param surface  VkSurfaceKHR of the window (64-bit handle or pointer, as the platform has it)
    static Result<std::unique_ptr<Canvas>> create(Device& device, std::uint64_t surface, std::int64_t width,
                                                  std::int64_t height);
    ~Canvas();

    /// Device pixels; 0 x 0 (minimised) is fine and draws nothing.
    Status resize(std::int64_t width, std::int64_t height);
    /// Draws one frame. After a lost surface or an out-of-date swapchain it recreates it by itself.
    /// @error Internal  the device was lost; create a new Device and Canvas
    Status draw(const Scene& scene, const Hud& hud);
    /// What `draw` put on the screen without the HUD, read back: for tests and "copy picture".
    Result<Image> last_frame();
    /// True when the frame includes the HUD by ImGui.
    bool has_hud() const;

    struct Parts;

  private:
    explicit Canvas(std::unique_ptr<Parts> parts);
    std::unique_ptr<Parts> parts_;
};

}  // namespace vitrine::viz
