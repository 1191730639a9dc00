// Shows scenes in a window: swapchain, the painter's output copied into it, the HUD on top.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "vulkan/painter.h"
#ifdef VITRINE_IMGUI
#include "hud/hud.h"
#endif

namespace vitrine::viz {

namespace {

// A window that is covered may keep an image for ever (Wayland); then the frame is skipped and the interface goes on.
constexpr std::uint64_t kAcquireTimeoutNs = 200'000'000;

struct Frame {
    VkImage image{};
    OwnedImageView view;
    OwnedFramebuffer framebuffer;
    OwnedSemaphore drawn;
};

VkSurfaceKHR surface_handle(std::uint64_t value) {
    VkSurfaceKHR surface{};
    static_assert(sizeof(surface) == sizeof(value));
    std::memcpy(&surface, &value, sizeof(surface));
    return surface;
}

// Our bytes are copied as they are, so 8 bits in either order will do; encoded (sRGB) formats show them alike, but the
// HUD's blending would be encoded twice, so they come last.
Result<VkSurfaceFormatKHR> choose_format(Device::Parts& device, VkSurfaceKHR surface) {
    std::uint32_t count = 0;
    VITRINE_VK(vkGetPhysicalDeviceSurfaceFormatsKHR(device.physical, surface, &count, nullptr));
    std::vector<VkSurfaceFormatKHR> formats(count);
    VITRINE_VK(vkGetPhysicalDeviceSurfaceFormatsKHR(device.physical, surface, &count, formats.data()));
    for (const VkFormat wanted :
         {VK_FORMAT_B8G8R8A8_UNORM, VK_FORMAT_R8G8B8A8_UNORM, VK_FORMAT_B8G8R8A8_SRGB, VK_FORMAT_R8G8B8A8_SRGB}) {
        for (const auto& format : formats) {
            if (format.format == wanted && format.colorSpace == VK_COLOR_SPACE_SRGB_NONLINEAR_KHR) return format;
        }
    }
    return fail(ErrorCode::Unsupported, "none of the window's {} colour formats has 8 bits a channel", count);
}

VkPresentModeKHR choose_present_mode(Device::Parts& device, VkSurfaceKHR surface) {
    std::uint32_t count = 0;
    vkGetPhysicalDeviceSurfacePresentModesKHR(device.physical, surface, &count, nullptr);
    std::vector<VkPresentModeKHR> modes(count);
    vkGetPhysicalDeviceSurfacePresentModesKHR(device.physical, surface, &count, modes.data());
    // The newest frame wins and nobody waits for the display; without it, FIFO is always there.
    const bool mailbox = std::find(modes.begin(), modes.end(), VK_PRESENT_MODE_MAILBOX_KHR) != modes.end();
    return mailbox ? VK_PRESENT_MODE_MAILBOX_KHR : VK_PRESENT_MODE_FIFO_KHR;
}

}  // namespace

struct Canvas::Parts {
    Device::Parts& device;
    VkSurfaceKHR surface{};
    std::int64_t width = 0, height = 0;  // as the window last said
    VkSurfaceFormatKHR format{};
    VkPresentModeKHR present_mode = VK_PRESENT_MODE_FIFO_KHR;
    OwnedRenderPass render_pass;
    std::unique_ptr<Painter> painter;
#ifdef VITRINE_IMGUI
    std::unique_ptr<HudPainter> hud;
#endif
    Commands commands;
    OwnedSemaphore acquired;
    OwnedSwapchain swapchain;
    std::vector<Frame> frames;
    VkExtent2D extent{};
    bool stale = true;  // the swapchain no longer fits

    explicit Parts(Device::Parts& d) : device(d) {}
    ~Parts() {
        // Presentation may still read what is destroyed next.
        if (device.device) vkDeviceWaitIdle(device.device);
    }

    Status create_render_pass();
    Status rebuild();
    Result<bool> acquire(std::uint32_t& index);
    void record(const Frame& frame);
    Result<OwnedSemaphore> make_semaphore();
};

Canvas::Canvas(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Canvas::~Canvas() = default;

bool Canvas::has_hud() const {
#ifdef VITRINE_IMGUI
    return parts_->hud != nullptr;
#else
    return false;
#endif
}

Result<OwnedSemaphore> Canvas::Parts::make_semaphore() {
    VkSemaphoreCreateInfo info{VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO};
    VkSemaphore handle{};
    VITRINE_VK(vkCreateSemaphore(device.device, &info, nullptr, &handle));
    return OwnedSemaphore(device.device, handle);
}

Status Canvas::Parts::create_render_pass() {
    VkAttachmentDescription attachment{};
    attachment.format = format.format;
    attachment.samples = VK_SAMPLE_COUNT_1_BIT;
    attachment.loadOp = VK_ATTACHMENT_LOAD_OP_LOAD;
    attachment.storeOp = VK_ATTACHMENT_STORE_OP_STORE;
    attachment.stencilLoadOp = VK_ATTACHMENT_LOAD_OP_DONT_CARE;
    attachment.stencilStoreOp = VK_ATTACHMENT_STORE_OP_DONT_CARE;
    attachment.initialLayout = VK_IMAGE_LAYOUT_COLOR_ATTACHMENT_OPTIMAL;
    attachment.finalLayout = VK_IMAGE_LAYOUT_PRESENT_SRC_KHR;
    const VkAttachmentReference colour{0, VK_IMAGE_LAYOUT_COLOR_ATTACHMENT_OPTIMAL};
    VkSubpassDescription subpass{};
    subpass.pipelineBindPoint = VK_PIPELINE_BIND_POINT_GRAPHICS;
    subpass.colorAttachmentCount = 1;
    subpass.pColorAttachments = &colour;
    VkRenderPassCreateInfo info{VK_STRUCTURE_TYPE_RENDER_PASS_CREATE_INFO};
    info.attachmentCount = 1;
    info.pAttachments = &attachment;
    info.subpassCount = 1;
    info.pSubpasses = &subpass;
    VkRenderPass handle{};
    VITRINE_VK(vkCreateRenderPass(device.device, &info, nullptr, &handle));
    render_pass = {device.device, handle};
    return {};
}

// Makes a swapchain of the window's present size; an extent of 0 x 0 leaves none, and nothing is drawn.
Status Canvas::Parts::rebuild() {
    VITRINE_CHECK(wait(device, commands));
    VITRINE_VK(device.noted(vkDeviceWaitIdle(device.device)));
    frames.clear();
    VkSurfaceCapabilitiesKHR can{};
    VITRINE_VK(vkGetPhysicalDeviceSurfaceCapabilitiesKHR(device.physical, surface, &can));
    // All ones: the window takes the size of what is shown in it, so our own size holds.
    extent = can.currentExtent;
    if (extent.width == UINT32_MAX) {
        extent.width =
            std::clamp(static_cast<std::uint32_t>(width), can.minImageExtent.width, can.maxImageExtent.width);
        extent.height =
            std::clamp(static_cast<std::uint32_t>(height), can.minImageExtent.height, can.maxImageExtent.height);
    }
    // A frame that failed half-way may have left it signalled.
    acquired = VITRINE_TRY(make_semaphore());
    if (extent.width == 0 || extent.height == 0) {
        swapchain = {};
        extent = {};
        return {};
    }
    if (!(can.supportedUsageFlags & VK_IMAGE_USAGE_TRANSFER_DST_BIT)) {
        return fail(ErrorCode::Unsupported, "the window system does not let {} copy into the window",
                    device.properties.deviceName);
    }
    const std::uint32_t wanted = std::max(can.minImageCount, present_mode == VK_PRESENT_MODE_MAILBOX_KHR ? 3u : 2u);
    VkSwapchainCreateInfoKHR info{VK_STRUCTURE_TYPE_SWAPCHAIN_CREATE_INFO_KHR};
    info.surface = surface;
    info.minImageCount = can.maxImageCount > 0 ? std::min(wanted, can.maxImageCount) : wanted;
    info.imageFormat = format.format;
    info.imageColorSpace = format.colorSpace;
    info.imageExtent = extent;
    info.imageArrayLayers = 1;
    info.imageUsage = VK_IMAGE_USAGE_TRANSFER_DST_BIT | VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT;
    info.imageSharingMode = VK_SHARING_MODE_EXCLUSIVE;
    info.preTransform = can.supportedTransforms & VK_SURFACE_TRANSFORM_IDENTITY_BIT_KHR
                            ? VK_SURFACE_TRANSFORM_IDENTITY_BIT_KHR
                            : can.currentTransform;
    info.compositeAlpha = VK_COMPOSITE_ALPHA_OPAQUE_BIT_KHR;
    if (!(can.supportedCompositeAlpha & info.compositeAlpha)) {
        // The lowest bit that is offered: our pixels are opaque under any of them.
        info.compositeAlpha =
            static_cast<VkCompositeAlphaFlagBitsKHR>(can.supportedCompositeAlpha & (~can.supportedCompositeAlpha + 1));
    }
    info.presentMode = present_mode;
    info.clipped = VK_TRUE;
    info.oldSwapchain = swapchain;
    VkSwapchainKHR handle{};
    const VkResult made = device.noted(vkCreateSwapchainKHR(device.device, &info, nullptr, &handle));
    swapchain = {device.device, handle};
    if (made != VK_SUCCESS) return vulkan_error("vkCreateSwapchainKHR", made);

    std::uint32_t count = 0;
    VITRINE_VK(vkGetSwapchainImagesKHR(device.device, swapchain, &count, nullptr));
    std::vector<VkImage> images(count);
    VITRINE_VK(vkGetSwapchainImagesKHR(device.device, swapchain, &count, images.data()));
    for (const VkImage image : images) {
        Frame frame;
        frame.image = image;
        frame.drawn = VITRINE_TRY(make_semaphore());
        VkImageViewCreateInfo view{VK_STRUCTURE_TYPE_IMAGE_VIEW_CREATE_INFO};
        view.image = image;
        view.viewType = VK_IMAGE_VIEW_TYPE_2D;
        view.format = format.format;
        view.subresourceRange = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 0, 1};
        VkImageView view_handle{};
        VITRINE_VK(vkCreateImageView(device.device, &view, nullptr, &view_handle));
        frame.view = {device.device, view_handle};
        VkFramebufferCreateInfo buffer{VK_STRUCTURE_TYPE_FRAMEBUFFER_CREATE_INFO};
        buffer.renderPass = render_pass;
        buffer.attachmentCount = 1;
        buffer.pAttachments = frame.view.address();
        buffer.width = extent.width;
        buffer.height = extent.height;
        buffer.layers = 1;
        VkFramebuffer buffer_handle{};
        VITRINE_VK(vkCreateFramebuffer(device.device, &buffer, nullptr, &buffer_handle));
        frame.framebuffer = {device.device, buffer_handle};
        frames.push_back(std::move(frame));
    }
    stale = false;
    return {};
}

// False when the swapchain must be made anew first.
Result<bool> Canvas::Parts::acquire(std::uint32_t& index) {
    const VkResult result = device.noted(
        vkAcquireNextImageKHR(device.device, swapchain, kAcquireTimeoutNs, acquired, VK_NULL_HANDLE, &index));
    switch (result) {
        case VK_SUCCESS:
            return true;
        case VK_SUBOPTIMAL_KHR:
            stale = true;
            return true;  // this image still shows; the next frame gets a new swapchain
        case VK_ERROR_OUT_OF_DATE_KHR:
        case VK_ERROR_SURFACE_LOST_KHR:
            stale = true;
            return false;
        case VK_TIMEOUT:
        case VK_NOT_READY:
            index = UINT32_MAX;
            return true;
        default:
            return vulkan_error("vkAcquireNextImageKHR", result);
    }
}

void Canvas::Parts::record(const Frame& frame) {
    const VkCommandBuffer buffer = commands.buffer;
    painter->record(buffer);
    change_layout(buffer, frame.image, VK_IMAGE_LAYOUT_UNDEFINED, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL);
    VkImageCopy copy{};
    copy.srcSubresource = copy.dstSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1};
    copy.extent = {extent.width, extent.height, 1};
    // A plain copy: both are four bytes a pixel and the painter wrote them in the window's order.
    vkCmdCopyImage(buffer, painter->output(), VK_IMAGE_LAYOUT_GENERAL, frame.image,
                   VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, 1, &copy);
#ifdef VITRINE_IMGUI
    if (hud) {
        change_layout(buffer, frame.image, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL,
                      VK_IMAGE_LAYOUT_COLOR_ATTACHMENT_OPTIMAL);
        VkRenderPassBeginInfo pass{VK_STRUCTURE_TYPE_RENDER_PASS_BEGIN_INFO};
        pass.renderPass = render_pass;
        pass.framebuffer = frame.framebuffer;
        pass.renderArea.extent = extent;
        vkCmdBeginRenderPass(buffer, &pass, VK_SUBPASS_CONTENTS_INLINE);
        hud->record(buffer);
        vkCmdEndRenderPass(buffer);
        return;
    }
#endif
    change_layout(buffer, frame.image, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, VK_IMAGE_LAYOUT_PRESENT_SRC_KHR);
}

Result<std::unique_ptr<Canvas>> Canvas::create(Device& device, std::uint64_t surface, std::int64_t width,
                                               std::int64_t height) {
    auto parts = std::make_unique<Parts>(device.parts());
    Parts& p = *parts;
    if (surface == 0) return fail(ErrorCode::BadInput, "the window gave no Vulkan surface");
    if (!p.device.can_present) {
        return fail(ErrorCode::Unsupported,
                    "{} cannot draw into windows; create the device with the window system's extensions",
                    p.device.properties.deviceName);
    }
    p.surface = surface_handle(surface);
    VkBool32 supported = VK_FALSE;
    VITRINE_VK(vkGetPhysicalDeviceSurfaceSupportKHR(p.device.physical, p.device.queue_family, p.surface, &supported));
    if (!supported)
        return fail(ErrorCode::Unsupported, "{} cannot draw into this window", p.device.properties.deviceName);
    p.width = std::max<std::int64_t>(0, width);
    p.height = std::max<std::int64_t>(0, height);
    p.format = VITRINE_TRY(choose_format(p.device, p.surface));
    p.present_mode = choose_present_mode(p.device, p.surface);
    VITRINE_CHECK(p.create_render_pass());
    const bool swap = p.format.format == VK_FORMAT_B8G8R8A8_UNORM || p.format.format == VK_FORMAT_B8G8R8A8_SRGB;
    p.painter = VITRINE_TRY(Painter::create(p.device, swap));
    p.commands = VITRINE_TRY(make_commands(p.device));
    p.acquired = VITRINE_TRY(p.make_semaphore());
#ifdef VITRINE_IMGUI
    p.hud = VITRINE_TRY(HudPainter::create(p.device, p.render_pass));
#endif
    return std::unique_ptr<Canvas>(new Canvas(std::move(parts)));
}

Status Canvas::resize(std::int64_t width, std::int64_t height) {
    Parts& p = *parts_;
    width = std::max<std::int64_t>(0, width);
    height = std::max<std::int64_t>(0, height);
    if (width > kMaxSide || height > kMaxSide) {
        return fail(ErrorCode::BadInput, "a window of {} x {} pixels was asked for, wanted at most {} a side", width,
                    height, kMaxSide);
    }
    if (width != p.width || height != p.height) p.stale = true;
    p.width = width;
    p.height = height;
    return {};
}

Status Canvas::draw(const Scene& scene, [[maybe_unused]] const Hud& hud) {
    Parts& p = *parts_;
    if (p.width == 0 || p.height == 0) return {};
    VITRINE_CHECK(wait(p.device, p.commands));
    // Before an image is acquired: it could not be given back.
    if (p.device.takes_no_work()) return vulkan_error("vkAcquireNextImageKHR", VK_ERROR_DEVICE_LOST);
    std::uint32_t index = 0;
    bool have_image = false;
    // Twice anew is enough for a window that is being dragged; after that the next frame tries again.
    for (int attempt = 0; attempt < 3 && !have_image; ++attempt) {
        if (p.stale) VITRINE_CHECK(p.rebuild());
        if (p.extent.width == 0) return {};
        // Before an image is acquired, since it could not be given back.
        VITRINE_CHECK(p.painter->prepare(scene, p.extent.width, p.extent.height));
#ifdef VITRINE_IMGUI
        if (p.hud) VITRINE_CHECK(p.hud->prepare(hud, scene.palette, p.extent.width, p.extent.height));
#endif
        have_image = VITRINE_TRY(p.acquire(index));
    }
    if (!have_image || index == UINT32_MAX) return {};
    const Frame& frame = p.frames[index];
    const bool was_stale = std::exchange(p.stale, true);  // what fails from here on leaves an image acquired
    VITRINE_CHECK(begin(p.device, p.commands));
    p.record(frame);
    VITRINE_CHECK(submit(p.device, p.commands, p.acquired, frame.drawn));
    p.stale = was_stale;

    VkPresentInfoKHR present{VK_STRUCTURE_TYPE_PRESENT_INFO_KHR};
    present.waitSemaphoreCount = 1;
    present.pWaitSemaphores = frame.drawn.address();
    present.swapchainCount = 1;
    present.pSwapchains = p.swapchain.address();
    present.pImageIndices = &index;
    const VkResult result = p.device.noted(vkQueuePresentKHR(p.device.queue, &present));
    if (result == VK_SUBOPTIMAL_KHR || result == VK_ERROR_OUT_OF_DATE_KHR || result == VK_ERROR_SURFACE_LOST_KHR) {
        p.stale = true;
        return {};
    }
    if (result != VK_SUCCESS) return vulkan_error("vkQueuePresentKHR", result);
    return {};
}

Result<Image> Canvas::last_frame() {
    Parts& p = *parts_;
    if (!p.painter->has_output()) return fail(ErrorCode::BadInput, "nothing was drawn yet");
    VITRINE_CHECK(wait(p.device, p.commands));
    VITRINE_CHECK(p.painter->prepare_read_back());
    VITRINE_CHECK(begin(p.device, p.commands));
    p.painter->record_read_back(p.commands.buffer);
    VITRINE_CHECK(submit(p.device, p.commands));
    VITRINE_CHECK(wait(p.device, p.commands));
    return p.painter->read();
}

}  // namespace vitrine::viz
