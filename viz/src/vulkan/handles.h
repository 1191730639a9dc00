// Owners of Vulkan handles and the check of a Vulkan call where it stands.
#pragma once

#include <utility>

#include <vulkan/vulkan.h>

#include <vitrine/base/result.h>

namespace vitrine::viz {

/// "VK_ERROR_DEVICE_LOST"
const char* name_of(VkResult result);

/// Turns a failed call into an Error that names it; out of memory keeps its own code.
tl::unexpected<Error> vulkan_error(const char* call, VkResult result);

/// Owns one handle that belongs to a device.
template <class Handle, auto Destroy>
class Owned {
  public:
    Owned() = default;
    Owned(VkDevice device, Handle handle) : device_(device), handle_(handle) {}
    Owned(Owned&& other) noexcept
        : device_(std::exchange(other.device_, VkDevice{})), handle_(std::exchange(other.handle_, Handle{})) {}
    Owned& operator=(Owned&& other) noexcept {
        std::swap(device_, other.device_);
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Owned() {
        if (handle_) Destroy(device_, handle_, nullptr);
    }
    operator Handle() const { return handle_; }
    explicit operator bool() const { return handle_ != Handle{}; }
    const Handle* address() const { return &handle_; }

  private:
    VkDevice device_{};
    Handle handle_{};
};

using OwnedBuffer = Owned<VkBuffer, &vkDestroyBuffer>;
using OwnedMemory = Owned<VkDeviceMemory, &vkFreeMemory>;
using OwnedImage = Owned<VkImage, &vkDestroyImage>;
using OwnedImageView = Owned<VkImageView, &vkDestroyImageView>;
using OwnedSampler = Owned<VkSampler, &vkDestroySampler>;
using OwnedShader = Owned<VkShaderModule, &vkDestroyShaderModule>;
using OwnedSetLayout = Owned<VkDescriptorSetLayout, &vkDestroyDescriptorSetLayout>;
using OwnedPool = Owned<VkDescriptorPool, &vkDestroyDescriptorPool>;
using OwnedPipelineLayout = Owned<VkPipelineLayout, &vkDestroyPipelineLayout>;
using OwnedPipeline = Owned<VkPipeline, &vkDestroyPipeline>;
using OwnedCommandPool = Owned<VkCommandPool, &vkDestroyCommandPool>;
using OwnedFence = Owned<VkFence, &vkDestroyFence>;
using OwnedSemaphore = Owned<VkSemaphore, &vkDestroySemaphore>;
using OwnedRenderPass = Owned<VkRenderPass, &vkDestroyRenderPass>;
using OwnedFramebuffer = Owned<VkFramebuffer, &vkDestroyFramebuffer>;
using OwnedSwapchain = Owned<VkSwapchainKHR, &vkDestroySwapchainKHR>;

}  // namespace vitrine::viz

/// Returns the error of a failed Vulkan call from the enclosing function.
#define VITRINE_VK(call)                                                                        \
    do {                                                                                        \
        const VkResult vitrine_vk_ = (call);                                                    \
        if (vitrine_vk_ != VK_SUCCESS) return ::vitrine::viz::vulkan_error(#call, vitrine_vk_); \
    } while (false)
