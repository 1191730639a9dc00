// Creates the Vulkan instance and device and hands out buffers, images and command buffers.
#include "vulkan/device.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

namespace vitrine::viz {

const char* name_of(VkResult result) {
    switch (result) {
        case VK_SUCCESS:
            return "VK_SUCCESS";
        case VK_NOT_READY:
            return "VK_NOT_READY";
        case VK_TIMEOUT:
            return "VK_TIMEOUT";
        case VK_INCOMPLETE:
            return "VK_INCOMPLETE";
        case VK_SUBOPTIMAL_KHR:
            return "VK_SUBOPTIMAL_KHR";
        case VK_ERROR_OUT_OF_HOST_MEMORY:
            return "VK_ERROR_OUT_OF_HOST_MEMORY";
        case VK_ERROR_OUT_OF_DEVICE_MEMORY:
            return "VK_ERROR_OUT_OF_DEVICE_MEMORY";
        case VK_ERROR_INITIALIZATION_FAILED:
            return "VK_ERROR_INITIALIZATION_FAILED";
        case VK_ERROR_DEVICE_LOST:
            return "VK_ERROR_DEVICE_LOST";
        case VK_ERROR_MEMORY_MAP_FAILED:
            return "VK_ERROR_MEMORY_MAP_FAILED";
        case VK_ERROR_LAYER_NOT_PRESENT:
            return "VK_ERROR_LAYER_NOT_PRESENT";
        case VK_ERROR_EXTENSION_NOT_PRESENT:
            return "VK_ERROR_EXTENSION_NOT_PRESENT";
        case VK_ERROR_FEATURE_NOT_PRESENT:
            return "VK_ERROR_FEATURE_NOT_PRESENT";
        case VK_ERROR_INCOMPATIBLE_DRIVER:
            return "VK_ERROR_INCOMPATIBLE_DRIVER";
        case VK_ERROR_TOO_MANY_OBJECTS:
            return "VK_ERROR_TOO_MANY_OBJECTS";
        case VK_ERROR_FORMAT_NOT_SUPPORTED:
            return "VK_ERROR_FORMAT_NOT_SUPPORTED";
        case VK_ERROR_FRAGMENTED_POOL:
            return "VK_ERROR_FRAGMENTED_POOL";
        case VK_ERROR_OUT_OF_POOL_MEMORY:
            return "VK_ERROR_OUT_OF_POOL_MEMORY";
        case VK_ERROR_SURFACE_LOST_KHR:
            return "VK_ERROR_SURFACE_LOST_KHR";
        case VK_ERROR_NATIVE_WINDOW_IN_USE_KHR:
            return "VK_ERROR_NATIVE_WINDOW_IN_USE_KHR";
        case VK_ERROR_OUT_OF_DATE_KHR:
            return "VK_ERROR_OUT_OF_DATE_KHR";
        default:
            return "an unknown Vulkan error";
    }
}

tl::unexpected<Error> vulkan_error(const char* call, VkResult result) {
    std::string_view function = call;
    if (const auto at = function.find("(vk"); at != function.npos) function.remove_prefix(at + 1);  // device.noted(...)
    function = function.substr(0, function.find('('));
    switch (result) {
        case VK_ERROR_DEVICE_LOST:
            return fail(ErrorCode::Internal, "the graphics device was lost in {}; try again", function);
        case VK_ERROR_SURFACE_LOST_KHR:
            return fail(ErrorCode::Internal, "the window's surface was lost in {}; try again", function);
        case VK_ERROR_OUT_OF_HOST_MEMORY:
        case VK_ERROR_OUT_OF_DEVICE_MEMORY:
            return fail(ErrorCode::OutOfMemory,
                        "the graphics device has not enough memory ({} in {}); use a smaller picture or window",
                        name_of(result), function);
        default:
            return fail(ErrorCode::Internal, "the graphics driver failed: {} in {}", name_of(result), function);
    }
}

namespace {

constexpr char kValidationLayer[] = "VK_LAYER_KHRONOS_validation";

// A driver that reports messages without end must not flood the terminal.
constexpr int kPrintedMessages = 20;

std::atomic<int> all_messages{0};

VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT, VkDebugUtilsMessageTypeFlagsEXT,
                                          const VkDebugUtilsMessengerCallbackDataEXT* data, void* user) {
    auto& parts = *static_cast<Device::Parts*>(user);
    ++all_messages;
    if (parts.messages.fetch_add(1) < kPrintedMessages) std::fprintf(stderr, "vulkan: %s\n", data->pMessage);
    return VK_FALSE;
}

VkDebugUtilsMessengerCreateInfoEXT messenger_info(Device::Parts& parts) {
    VkDebugUtilsMessengerCreateInfoEXT info{VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT};
    info.messageSeverity =
        VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
    // Not the general ones: there the loader speaks of drivers it could not load, which is no fault of ours.
    info.messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT;
    info.pfnUserCallback = on_message;
    info.pUserData = &parts;
    return info;
}

template <class Properties>
bool offers(const std::vector<Properties>& all, std::string_view name) {
    return std::any_of(all.begin(), all.end(), [&](const auto& one) {
        if constexpr (requires { one.extensionName; })
            return name == one.extensionName;
        else
            return name == one.layerName;
    });
}

std::vector<VkExtensionProperties> instance_extensions() {
    std::uint32_t count = 0;
    vkEnumerateInstanceExtensionProperties(nullptr, &count, nullptr);
    std::vector<VkExtensionProperties> all(count);
    vkEnumerateInstanceExtensionProperties(nullptr, &count, all.data());
    return all;
}

std::vector<VkExtensionProperties> device_extensions(VkPhysicalDevice device) {
    std::uint32_t count = 0;
    vkEnumerateDeviceExtensionProperties(device, nullptr, &count, nullptr);
    std::vector<VkExtensionProperties> all(count);
    vkEnumerateDeviceExtensionProperties(device, nullptr, &count, all.data());
    return all;
}

std::optional<std::uint32_t> drawing_queue(VkPhysicalDevice device) {
    std::uint32_t count = 0;
    vkGetPhysicalDeviceQueueFamilyProperties(device, &count, nullptr);
    std::vector<VkQueueFamilyProperties> families(count);
    vkGetPhysicalDeviceQueueFamilyProperties(device, &count, families.data());
    constexpr VkQueueFlags both = VK_QUEUE_GRAPHICS_BIT | VK_QUEUE_COMPUTE_BIT;
    for (std::uint32_t i = 0; i < count; ++i) {
        if ((families[i].queueFlags & both) == both) return i;
    }
    // Compute cards without graphics still serve off screen.
    for (std::uint32_t i = 0; i < count; ++i) {
        if (families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) return i;
    }
    return std::nullopt;
}

// Larger is better; 0 cannot be used.
int rank(VkPhysicalDevice device) {
    VkPhysicalDeviceProperties properties;
    vkGetPhysicalDeviceProperties(device, &properties);
    if (properties.apiVersion < VK_API_VERSION_1_2 || !drawing_queue(device)) return 0;
    switch (properties.deviceType) {
        case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
            return 5;
        case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
            return 4;
        case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU:
            return 3;
        case VK_PHYSICAL_DEVICE_TYPE_CPU:
            return 2;
        default:
            return 1;
    }
}

Status create_instance(Device::Parts& parts, const DeviceOptions& options) {
    std::uint32_t version = 0;
    if (vkEnumerateInstanceVersion(&version) != VK_SUCCESS || version < VK_API_VERSION_1_2) {
        return fail(ErrorCode::Unsupported,
                    "Vulkan 1.2 was not found on this machine; install a graphics driver or mesa-vulkan-drivers");
    }
    const auto offered = instance_extensions();
    std::vector<const char*> extensions;
    for (const std::string& wanted : options.instance_extensions) {
        if (!offers(offered, wanted)) {
            return fail(ErrorCode::Unsupported, "the Vulkan driver does not offer {}, which the window system needs",
                        wanted);
        }
        extensions.push_back(wanted.c_str());
    }
    std::vector<const char*> layers;
    if (options.validation) {
        std::uint32_t count = 0;
        vkEnumerateInstanceLayerProperties(&count, nullptr);
        std::vector<VkLayerProperties> installed(count);
        vkEnumerateInstanceLayerProperties(&count, installed.data());
        if (offers(installed, kValidationLayer) && offers(offered, VK_EXT_DEBUG_UTILS_EXTENSION_NAME)) {
            parts.validation = true;
            layers.push_back(kValidationLayer);
            extensions.push_back(VK_EXT_DEBUG_UTILS_EXTENSION_NAME);
        }
    }
    VkApplicationInfo application{VK_STRUCTURE_TYPE_APPLICATION_INFO};
    application.pApplicationName = "Vitrine";
    application.apiVersion = VK_API_VERSION_1_2;
    const auto messages = messenger_info(parts);
    VkInstanceCreateInfo info{VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO};
    info.pNext = parts.validation ? &messages : nullptr;
    info.pApplicationInfo = &application;
    info.enabledLayerCount = static_cast<std::uint32_t>(layers.size());
    info.ppEnabledLayerNames = layers.data();
    info.enabledExtensionCount = static_cast<std::uint32_t>(extensions.size());
    info.ppEnabledExtensionNames = extensions.data();
    const VkResult result = vkCreateInstance(&info, nullptr, &parts.instance);
    if (result == VK_ERROR_INCOMPATIBLE_DRIVER) {
        return fail(ErrorCode::Unsupported,
                    "no Vulkan driver was found on this machine; install a graphics driver or mesa-vulkan-drivers");
    }
    if (result != VK_SUCCESS) return vulkan_error("vkCreateInstance", result);
    if (parts.validation) {
        const auto create = reinterpret_cast<PFN_vkCreateDebugUtilsMessengerEXT>(
            vkGetInstanceProcAddr(parts.instance, "vkCreateDebugUtilsMessengerEXT"));
        if (create) VITRINE_VK(create(parts.instance, &messages, nullptr, &parts.messenger));
    }
    return {};
}

Status choose_device(Device::Parts& parts) {
    std::uint32_t count = 0;
    vkEnumeratePhysicalDevices(parts.instance, &count, nullptr);
    std::vector<VkPhysicalDevice> devices(count);
    vkEnumeratePhysicalDevices(parts.instance, &count, devices.data());
    const auto best =
        std::max_element(devices.begin(), devices.end(), [](auto a, auto b) { return rank(a) < rank(b); });
    if (best == devices.end() || rank(*best) == 0) {
        return fail(
            ErrorCode::Unsupported,
            "none of the {} Vulkan devices here offers Vulkan 1.2 with compute; install a newer graphics driver",
            devices.size());
    }
    parts.physical = *best;
    parts.queue_family = *drawing_queue(parts.physical);
    vkGetPhysicalDeviceProperties(parts.physical, &parts.properties);
    vkGetPhysicalDeviceMemoryProperties(parts.physical, &parts.memory);
    VkPhysicalDeviceIDProperties id{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES};
    VkPhysicalDeviceProperties2 properties{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
    properties.pNext = &id;
    vkGetPhysicalDeviceProperties2(parts.physical, &properties);
    std::memcpy(parts.uuid, id.deviceUUID, VK_UUID_SIZE);
    return {};
}

Status create_device(Device::Parts& parts, bool window) {
    const auto offered = device_extensions(parts.physical);
    std::vector<const char*> extensions;
    const auto want = [&](const char* name) {
        if (!offers(offered, name)) return false;
        extensions.push_back(name);
        return true;
    };
    if (window) parts.can_present = want(VK_KHR_SWAPCHAIN_EXTENSION_NAME);
    parts.external_memory_fd = want(VK_KHR_EXTERNAL_MEMORY_FD_EXTENSION_NAME);
    want(VK_KHR_EXTERNAL_SEMAPHORE_FD_EXTENSION_NAME);

    VkPhysicalDeviceTimelineSemaphoreFeatures timeline{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES};
    VkPhysicalDeviceFeatures2 features{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2};
    features.pNext = &timeline;
    vkGetPhysicalDeviceFeatures2(parts.physical, &features);
    parts.timeline_semaphores = timeline.timelineSemaphore;
    timeline.pNext = nullptr;

    const float priority = 1;
    VkDeviceQueueCreateInfo queue{VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO};
    queue.queueFamilyIndex = parts.queue_family;
    queue.queueCount = 1;
    queue.pQueuePriorities = &priority;
    VkDeviceCreateInfo info{VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO};
    info.pNext = &timeline;
    info.queueCreateInfoCount = 1;
    info.pQueueCreateInfos = &queue;
    info.enabledExtensionCount = static_cast<std::uint32_t>(extensions.size());
    info.ppEnabledExtensionNames = extensions.data();
    VITRINE_VK(vkCreateDevice(parts.physical, &info, nullptr, &parts.device));
    vkGetDeviceQueue(parts.device, parts.queue_family, 0, &parts.queue);
    return {};
}

Result<std::uint32_t> memory_type(const Device::Parts& device, std::uint32_t allowed, VkMemoryPropertyFlags wanted,
                                  VkMemoryPropertyFlags preferred) {
    for (const VkMemoryPropertyFlags flags : {wanted | preferred, wanted}) {
        for (std::uint32_t i = 0; i < device.memory.memoryTypeCount; ++i) {
            if ((allowed >> i & 1) && (device.memory.memoryTypes[i].propertyFlags & flags) == flags) return i;
        }
    }
    return fail(ErrorCode::Unsupported, "{} offers no memory of the kind that is needed", device.properties.deviceName);
}

}  // namespace

Device::Parts::~Parts() {
    if (device) {
        vkDeviceWaitIdle(device);
        vkDestroyDevice(device, nullptr);
    }
    if (messenger) {
        const auto destroy = reinterpret_cast<PFN_vkDestroyDebugUtilsMessengerEXT>(
            vkGetInstanceProcAddr(instance, "vkDestroyDebugUtilsMessengerEXT"));
        if (destroy) destroy(instance, messenger, nullptr);
    }
    if (instance) vkDestroyInstance(instance, nullptr);
}

Device::Device(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Device::~Device() = default;

Result<std::unique_ptr<Device>> Device::create(const DeviceOptions& options) {
    auto parts = std::make_unique<Parts>();
    VITRINE_CHECK(create_instance(*parts, options));
    VITRINE_CHECK(choose_device(*parts));
    VITRINE_CHECK(create_device(*parts, !options.instance_extensions.empty()));
    return std::unique_ptr<Device>(new Device(std::move(parts)));
}

VkInstance_T* Device::instance() const { return parts_->instance; }
std::string Device::name() const { return parts_->properties.deviceName; }
bool Device::is_software() const { return parts_->properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU; }
const std::uint8_t* Device::uuid() const { return parts_->uuid; }
int Device::validation_messages() const { return parts_->messages; }
bool Device::validates() const { return parts_->validation; }
int all_validation_messages() { return all_messages; }
bool Device::is_lost() const { return parts_->lost; }
void Device::lose() { parts_->loses_next = true; }

Result<Buffer> make_buffer(Device::Parts& device, VkDeviceSize size, VkBufferUsageFlags usage, bool host_visible) {
    Buffer made;
    made.size = size;
    VkBufferCreateInfo info{VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO};
    info.size = size;
    info.usage = usage;
    VkBuffer buffer{};
    VITRINE_VK(vkCreateBuffer(device.device, &info, nullptr, &buffer));
    made.buffer = {device.device, buffer};
    VkMemoryRequirements needs;
    vkGetBufferMemoryRequirements(device.device, buffer, &needs);
    VkMemoryAllocateInfo allocate{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO};
    allocate.allocationSize = needs.size;
    constexpr VkMemoryPropertyFlags host = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    // What the host reads back comes from cached memory where there is such: uncached reads are a hundred times slower.
    const bool read_back = usage == VK_BUFFER_USAGE_TRANSFER_DST_BIT;
    allocate.memoryTypeIndex = VITRINE_TRY(memory_type(device, needs.memoryTypeBits, host_visible ? host : 0,
                                                       read_back      ? VK_MEMORY_PROPERTY_HOST_CACHED_BIT
                                                       : host_visible ? 0
                                                                      : VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT));
    VkDeviceMemory memory{};
    VITRINE_VK(vkAllocateMemory(device.device, &allocate, nullptr, &memory));
    made.memory = {device.device, memory};
    VITRINE_VK(vkBindBufferMemory(device.device, buffer, memory, 0));
    if (host_visible) VITRINE_VK(vkMapMemory(device.device, memory, 0, VK_WHOLE_SIZE, 0, &made.mapped));
    return made;
}

Result<Texture> make_texture(Device::Parts& device, std::uint32_t width, std::uint32_t height, std::uint32_t levels,
                             VkImageUsageFlags usage) {
    Texture made;
    made.width = width;
    made.height = height;
    made.levels = levels;
    VkImageCreateInfo info{VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO};
    info.imageType = VK_IMAGE_TYPE_2D;
    info.format = VK_FORMAT_R8G8B8A8_UNORM;
    info.extent = {width, height, 1};
    info.mipLevels = levels;
    info.arrayLayers = 1;
    info.samples = VK_SAMPLE_COUNT_1_BIT;
    info.tiling = VK_IMAGE_TILING_OPTIMAL;
    info.usage = usage;
    VkImage image{};
    VITRINE_VK(vkCreateImage(device.device, &info, nullptr, &image));
    made.image = {device.device, image};
    VkMemoryRequirements needs;
    vkGetImageMemoryRequirements(device.device, image, &needs);
    VkMemoryAllocateInfo allocate{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO};
    allocate.allocationSize = needs.size;
    allocate.memoryTypeIndex =
        VITRINE_TRY(memory_type(device, needs.memoryTypeBits, 0, VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT));
    VkDeviceMemory memory{};
    VITRINE_VK(vkAllocateMemory(device.device, &allocate, nullptr, &memory));
    made.memory = {device.device, memory};
    VITRINE_VK(vkBindImageMemory(device.device, image, memory, 0));
    VkImageViewCreateInfo view{VK_STRUCTURE_TYPE_IMAGE_VIEW_CREATE_INFO};
    view.image = image;
    view.viewType = VK_IMAGE_VIEW_TYPE_2D;
    view.format = info.format;
    view.subresourceRange = {VK_IMAGE_ASPECT_COLOR_BIT, 0, levels, 0, 1};
    VkImageView handle{};
    VITRINE_VK(vkCreateImageView(device.device, &view, nullptr, &handle));
    made.view = {device.device, handle};
    return made;
}

Result<Commands> make_commands(Device::Parts& device) {
    Commands made;
    VkCommandPoolCreateInfo pool{VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
    pool.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
    pool.queueFamilyIndex = device.queue_family;
    VkCommandPool handle{};
    VITRINE_VK(vkCreateCommandPool(device.device, &pool, nullptr, &handle));
    made.pool = {device.device, handle};
    VkCommandBufferAllocateInfo allocate{VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO};
    allocate.commandPool = handle;
    allocate.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
    allocate.commandBufferCount = 1;
    VITRINE_VK(vkAllocateCommandBuffers(device.device, &allocate, &made.buffer));
    VkFenceCreateInfo fence{VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    VkFence fence_handle{};
    VITRINE_VK(vkCreateFence(device.device, &fence, nullptr, &fence_handle));
    made.fence = {device.device, fence_handle};
    return made;
}

Status begin(Device::Parts&, Commands& commands) {
    VkCommandBufferBeginInfo info{VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    info.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
    VITRINE_VK(vkBeginCommandBuffer(commands.buffer, &info));
    return {};
}

Status submit(Device::Parts& device, Commands& commands, VkSemaphore wait, VkSemaphore signal) {
    if (device.takes_no_work()) return vulkan_error("vkQueueSubmit", VK_ERROR_DEVICE_LOST);
    VITRINE_VK(vkEndCommandBuffer(commands.buffer));
    const VkPipelineStageFlags stage = VK_PIPELINE_STAGE_ALL_COMMANDS_BIT;
    VkSubmitInfo info{VK_STRUCTURE_TYPE_SUBMIT_INFO};
    info.waitSemaphoreCount = wait ? 1 : 0;
    info.pWaitSemaphores = &wait;
    info.pWaitDstStageMask = &stage;
    info.commandBufferCount = 1;
    info.pCommandBuffers = &commands.buffer;
    info.signalSemaphoreCount = signal ? 1 : 0;
    info.pSignalSemaphores = &signal;
    VITRINE_VK(device.noted(vkQueueSubmit(device.queue, 1, &info, commands.fence)));
    commands.submitted = true;
    return {};
}

Status wait(Device::Parts& device, Commands& commands) {
    if (!commands.submitted) return {};
    VITRINE_VK(device.noted(vkWaitForFences(device.device, 1, commands.fence.address(), VK_TRUE, UINT64_MAX)));
    commands.submitted = false;
    VITRINE_VK(vkResetFences(device.device, 1, commands.fence.address()));
    return {};
}

void full_barrier(VkCommandBuffer commands) {
    VkMemoryBarrier barrier{VK_STRUCTURE_TYPE_MEMORY_BARRIER};
    barrier.srcAccessMask = VK_ACCESS_MEMORY_WRITE_BIT;
    barrier.dstAccessMask = VK_ACCESS_MEMORY_READ_BIT | VK_ACCESS_MEMORY_WRITE_BIT;
    vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, 0, 1,
                         &barrier, 0, nullptr, 0, nullptr);
}

void change_layout(VkCommandBuffer commands, VkImage image, VkImageLayout from, VkImageLayout to,
                   std::uint32_t levels) {
    VkImageMemoryBarrier barrier{VK_STRUCTURE_TYPE_IMAGE_MEMORY_BARRIER};
    barrier.srcAccessMask = VK_ACCESS_MEMORY_WRITE_BIT;
    barrier.dstAccessMask = VK_ACCESS_MEMORY_READ_BIT | VK_ACCESS_MEMORY_WRITE_BIT;
    barrier.oldLayout = from;
    barrier.newLayout = to;
    barrier.srcQueueFamilyIndex = barrier.dstQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED;
    barrier.image = image;
    barrier.subresourceRange = {VK_IMAGE_ASPECT_COLOR_BIT, 0, levels, 0, 1};
    vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, 0, 0,
                         nullptr, 0, nullptr, 1, &barrier);
}

}  // namespace vitrine::viz
