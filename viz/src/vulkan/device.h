// What a Device is made of, and the memory it hands out. Lives on the interface thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include <vitrine/viz/compositor.h>

#include "vulkan/handles.h"

namespace vitrine::viz {

struct Device::Parts {
    VkInstance instance{};
    VkDebugUtilsMessengerEXT messenger{};
    VkPhysicalDevice physical{};
    VkPhysicalDeviceProperties properties{};
    VkPhysicalDeviceMemoryProperties memory{};
    std::uint8_t uuid[VK_UUID_SIZE] = {};
    std::uint32_t queue_family = 0;
    VkDevice device{};
    VkQueue queue{};
    bool validation = false;
    bool can_present = false;  ///< VK_KHR_swapchain is enabled
    bool timeline_semaphores = false;
    bool external_memory_fd = false;  ///< VK_KHR_external_memory_fd and _semaphore_fd: for memory shared by CUDA
    bool lost = false;
    bool loses_next = false;  ///< for tests: the next call that can say so finds the device lost
    std::atomic<int> messages{0};

    Parts() = default;
    Parts(const Parts&) = delete;
    Parts& operator=(const Parts&) = delete;
    ~Parts();

    /// Remembers a lost device on the way out.
    VkResult noted(VkResult result) {
        if (result == VK_ERROR_DEVICE_LOST) lost = true;
        return result;
    }
    /// Asked before work is given to the driver: a device that was lost once takes none any more.
    bool takes_no_work() {
        if (loses_next) lost = true;
        return lost;
    }
};

/// Messages of the validation layer from all devices since the program began, those about what was left behind
/// included.
int all_validation_messages();

/// A buffer with memory of its own; host-visible ones stay mapped.
struct Buffer {
    OwnedMemory memory;
    OwnedBuffer buffer;
    void* mapped = nullptr;
    VkDeviceSize size = 0;
};
Result<Buffer> make_buffer(Device::Parts& device, VkDeviceSize size, VkBufferUsageFlags usage, bool host_visible);

/// A two-dimensional RGBA8 image with memory and view of its own.
struct Texture {
    OwnedMemory memory;
    OwnedImage image;
    OwnedImageView view;
    std::uint32_t width = 0, height = 0, levels = 1;
};
Result<Texture> make_texture(Device::Parts& device, std::uint32_t width, std::uint32_t height, std::uint32_t levels,
                             VkImageUsageFlags usage);

/// A command buffer with the fence that tells when it is done.
struct Commands {
    OwnedCommandPool pool;
    VkCommandBuffer buffer{};
    OwnedFence fence;
    bool submitted = false;
};
Result<Commands> make_commands(Device::Parts& device);
Status begin(Device::Parts& device, Commands& commands);
Status submit(Device::Parts& device, Commands& commands, VkSemaphore wait = {}, VkSemaphore signal = {});
/// Waits until what was submitted is done; returns at once when nothing was.
Status wait(Device::Parts& device, Commands& commands);

/// Makes all earlier writes visible to all later accesses: our passes depend on each other one by one anyway.
void full_barrier(VkCommandBuffer commands);
/// Changes an image's layout, with a full barrier.
void change_layout(VkCommandBuffer commands, VkImage image, VkImageLayout from, VkImageLayout to,
                   std::uint32_t levels = 1);

}  // namespace vitrine::viz
