// Plans and records the compute dispatches of a scene.
#include "vulkan/painter.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "overlay/colour_map.h"
#include "overlay/normalisation.h"
#include "overlay/pyramid.h"
#include "scene_block.h"

namespace vitrine::viz {

namespace {

constexpr std::uint32_t kRoomCode[] =
#include <shaders/room.comp.inc>
    ;
constexpr std::uint32_t kPictureCode[] =
#include <shaders/picture.comp.inc>
    ;
constexpr std::uint32_t kLayerCode[] =
#include <shaders/layer.comp.inc>
    ;
constexpr std::uint32_t kGridCode[] =
#include <shaders/grid.comp.inc>
    ;
constexpr std::uint32_t kOutlineCode[] =
#include <shaders/outline.comp.inc>
    ;

// Rows of 16 keep a warp's accesses together on GPUs and fill the vectors of the software driver.
constexpr std::uint32_t kGroupWidth = 16, kGroupHeight = 8;

// 67 megapixels, a third of a gigabyte with all levels: beyond it a picture is reduced before it is uploaded.
constexpr std::int64_t kMaxPicturePixels = std::int64_t{1} << 26;

// In logical pixels. A bright room needs less of a shadow than a dark one to lift the picture off it.
constexpr float kShadowPx = 28, kShadowInDark = 0.4f, kShadowInLight = 0.14f;
constexpr float kHatchPeriodPx = 10;
constexpr double kSmallestGridCellPx = 8;
constexpr float kGridLight = 0.26f, kGridDark = 0.22f;
constexpr int kOutlinePx = 2;

std::uint32_t pack(Rgb c) { return c.r | std::uint32_t{c.g} << 8 | std::uint32_t{c.b} << 16 | 0xFF000000u; }
bool same(Rgb a, Rgb b) { return pack(a) == pack(b); }
bool is_finite(const Box& box) {
    return std::isfinite(box.x0) && std::isfinite(box.y0) && std::isfinite(box.x1) && std::isfinite(box.y1);
}

// Far off the screen is far enough: keeps whole numbers in range of int and float.
double bounded(double v) { return std::clamp(v, -1e6, 1e6); }

}  // namespace

// Pixels [x0, x1) x [y0, y1).
struct Painter::PixelRect {
    std::int64_t x0 = 0, y0 = 0, x1 = 0, y1 = 0;
    bool empty() const { return x1 <= x0 || y1 <= y0; }
    PixelRect clipped(std::int64_t width, std::int64_t height) const {
        return {std::clamp<std::int64_t>(x0, 0, width), std::clamp<std::int64_t>(y0, 0, height),
                std::clamp<std::int64_t>(x1, 0, width), std::clamp<std::int64_t>(y1, 0, height)};
    }
};

// Where the photograph lies on the screen.
struct Painter::Placement {
    std::int64_t width = 0, height = 0;
    Point origin;  // of the photo's corner, screen pixels
    double zoom = 1;

    Placement(const ViewTransform& view, std::int64_t w, std::int64_t h) : width(w), height(h), zoom(view.zoom) {
        origin = view.to_screen({0, 0}, w, h);
        // At whole zooms photo pixels land on screen pixels exactly; half a pixel aside they would be blurred for
        // nothing.
        if (zoom >= 1 && zoom == std::floor(zoom)) origin = {std::round(origin.x), std::round(origin.y)};
    }
    double x(double photo) const { return origin.x + photo * zoom; }
    double y(double photo) const { return origin.y + photo * zoom; }
    double photo_x(double screen) const { return (screen - origin.x) / zoom; }
    double photo_y(double screen) const { return (screen - origin.y) / zoom; }
    // The pixels whose centres lie in a box of photo pixels.
    PixelRect pixels(const Box& box) const {
        const auto first = [](double edge) { return static_cast<std::int64_t>(std::ceil(bounded(edge) - 0.5)); };
        return {first(x(box.x0)), first(y(box.y0)), first(x(box.x1)), first(y(box.y1))};
    }
};

bool Painter::GroundKey::operator==(const GroundKey& other) const {
    return width == other.width && height == other.height && picture == other.picture && origin.x == other.origin.x &&
           origin.y == other.origin.y && zoom == other.zoom && hatched == other.hatched && seen.x0 == other.seen.x0 &&
           seen.y0 == other.seen.y0 && seen.x1 == other.seen.x1 && seen.y1 == other.seen.y1 && same(room, other.room) &&
           same(line, other.line) && same(hatch, other.hatch) && display_scale == other.display_scale;
}

Result<std::unique_ptr<Painter>> Painter::create(Device::Parts& device, bool swap_red_blue) {
    std::unique_ptr<Painter> painter(new Painter(device));
    painter->swap_red_blue_ = swap_red_blue;
    VITRINE_CHECK(painter->create_layouts());
    const auto& texels = kColourMapTexels;
    painter->texels_ = VITRINE_TRY(make_buffer(device, sizeof(texels), VK_BUFFER_USAGE_STORAGE_BUFFER_BIT, true));
    auto* to = static_cast<std::uint32_t*>(painter->texels_.mapped);
    for (const std::uint32_t t : texels) {
        *to++ =
            pack({static_cast<std::uint8_t>(t >> 16), static_cast<std::uint8_t>(t >> 8), static_cast<std::uint8_t>(t)});
    }
    return painter;
}

Status Painter::create_layouts() {
    VkSamplerCreateInfo sampler{VK_STRUCTURE_TYPE_SAMPLER_CREATE_INFO};  // texels are fetched, so the defaults do
    VkSampler sampler_handle{};
    VITRINE_VK(vkCreateSampler(device_.device, &sampler, nullptr, &sampler_handle));
    sampler_ = {device_.device, sampler_handle};

    std::array<VkDescriptorSetLayoutBinding, 4> bindings{};
    constexpr VkDescriptorType types[] = {VK_DESCRIPTOR_TYPE_STORAGE_IMAGE, VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER,
                                          VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, VK_DESCRIPTOR_TYPE_STORAGE_BUFFER};
    for (std::uint32_t i = 0; i < bindings.size(); ++i) {
        bindings[i].binding = i;
        bindings[i].descriptorType = types[i];
        bindings[i].descriptorCount = 1;
        bindings[i].stageFlags = VK_SHADER_STAGE_COMPUTE_BIT;
    }
    VkDescriptorSetLayoutCreateInfo set{VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO};
    set.bindingCount = static_cast<std::uint32_t>(bindings.size());
    set.pBindings = bindings.data();
    VkDescriptorSetLayout set_handle{};
    VITRINE_VK(vkCreateDescriptorSetLayout(device_.device, &set, nullptr, &set_handle));
    set_layout_ = {device_.device, set_handle};

    const VkPushConstantRange push{VK_SHADER_STAGE_COMPUTE_BIT, 0, 128};
    VkPipelineLayoutCreateInfo layout{VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO};
    layout.setLayoutCount = 1;
    layout.pSetLayouts = set_layout_.address();
    layout.pushConstantRangeCount = 1;
    layout.pPushConstantRanges = &push;
    VkPipelineLayout layout_handle{};
    VITRINE_VK(vkCreatePipelineLayout(device_.device, &layout, nullptr, &layout_handle));
    pipeline_layout_ = {device_.device, layout_handle};

    const VkDescriptorPoolSize sizes[] = {{VK_DESCRIPTOR_TYPE_STORAGE_IMAGE, 2},
                                          {VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER, 2},
                                          {VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, 4}};
    VkDescriptorPoolCreateInfo pool{VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO};
    pool.maxSets = 2;
    pool.poolSizeCount = 3;
    pool.pPoolSizes = sizes;
    VkDescriptorPool pool_handle{};
    VITRINE_VK(vkCreateDescriptorPool(device_.device, &pool, nullptr, &pool_handle));
    pool_ = {device_.device, pool_handle};
    const VkDescriptorSetLayout layouts[] = {set_layout_, set_layout_};
    VkDescriptorSetAllocateInfo allocate{VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO};
    allocate.descriptorPool = pool_;
    allocate.descriptorSetCount = 2;
    allocate.pSetLayouts = layouts;
    VkDescriptorSet sets[2] = {};
    VITRINE_VK(vkAllocateDescriptorSets(device_.device, &allocate, sets));
    ground_set_ = sets[0];
    output_set_ = sets[1];
    return {};
}

Result<VkPipeline> Painter::pipeline(Variant variant) {
    if (const auto found = pipelines_.find(variant); found != pipelines_.end()) return VkPipeline{found->second};
    const auto [stage, taps, first_switch, second_switch] = variant;
    const auto code = [stage = stage]() -> std::pair<const std::uint32_t*, std::size_t> {
        switch (stage) {
            case Stage::Room:
                return {kRoomCode, sizeof(kRoomCode)};
            case Stage::Picture:
                return {kPictureCode, sizeof(kPictureCode)};
            case Stage::Layer:
                return {kLayerCode, sizeof(kLayerCode)};
            case Stage::Grid:
                return {kGridCode, sizeof(kGridCode)};
            case Stage::Outline:
                return {kOutlineCode, sizeof(kOutlineCode)};
        }
        return {};
    }();
    VkShaderModuleCreateInfo module{VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO};
    module.pCode = code.first;
    module.codeSize = code.second;
    VkShaderModule module_handle{};
    VITRINE_VK(vkCreateShaderModule(device_.device, &module, nullptr, &module_handle));
    const OwnedShader shader(device_.device, module_handle);

    // The order of constant_id in target.glsl and in the stages.
    const std::uint32_t constants[] = {kGroupWidth,  kGroupHeight, swap_red_blue_, static_cast<std::uint32_t>(taps),
                                       first_switch, second_switch};
    std::array<VkSpecializationMapEntry, std::size(constants)> entries{};
    for (std::uint32_t i = 0; i < entries.size(); ++i) entries[i] = {i, i * 4, 4};
    const VkSpecializationInfo specialization{static_cast<std::uint32_t>(entries.size()), entries.data(),
                                              sizeof(constants), constants};
    VkComputePipelineCreateInfo info{VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO};
    info.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
    info.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
    info.stage.module = shader;
    info.stage.pName = "main";
    info.stage.pSpecializationInfo = &specialization;
    info.layout = pipeline_layout_;
    VkPipeline handle{};
    VITRINE_VK(vkCreateComputePipelines(device_.device, VK_NULL_HANDLE, 1, &info, nullptr, &handle));
    pipelines_.emplace(variant, OwnedPipeline(device_.device, handle));
    return handle;
}

Status Painter::ensure_targets(std::uint32_t width, std::uint32_t height) {
    if (output_.image && output_.width == width && output_.height == height) return {};
    ground_ = {};
    output_ = {};
    constexpr VkImageUsageFlags usage =
        VK_IMAGE_USAGE_STORAGE_BIT | VK_IMAGE_USAGE_TRANSFER_SRC_BIT | VK_IMAGE_USAGE_TRANSFER_DST_BIT;
    ground_ = VITRINE_TRY(make_texture(device_, width, height, 1, usage));
    output_ = VITRINE_TRY(make_texture(device_, width, height, 1, usage));
    targets_fresh_ = true;
    descriptors_stale_ = true;
    ground_stale_ = true;
    return {};
}

Status Painter::ensure_picture(const Scene& scene) {
    const ImageView& view = scene.picture;
    const bool none = view.data == nullptr || view.width < 1 || view.height < 1;
    const std::int64_t width = none ? 0 : view.width, height = none ? 0 : view.height;
    if (picture_known_ && picture_id_ == scene.picture_id && picture_width_ == width && picture_height_ == height)
        return {};
    if (!none && (view.channels < 3 || view.channels > 4)) {
        return fail(ErrorCode::BadInput, "the picture has {} channels, wanted 3 or 4", view.channels);
    }
    if (!none && view.row_bytes < width * view.channels) {
        return fail(ErrorCode::BadInput, "the picture's rows are {} bytes apart, wanted at least {}", view.row_bytes,
                    width * view.channels);
    }
    picture_ = {};
    picture_copies_.clear();
    picture_known_ = false;
    ++picture_serial_;
    // One black pixel stands in for no picture: drivers read every binding of a set, used or not.
    static constexpr std::uint8_t kBlack[3] = {};
    const ImageView blank{kBlack, 1, 1, 3, 3, {}};
    const Pyramid pyramid =
        build_pyramid(none ? blank : view, device_.properties.limits.maxImageDimension2D, kMaxPicturePixels);
    const auto& base = pyramid.levels.front();
    const auto levels = static_cast<std::uint32_t>(pyramid.levels.size());
    picture_ = VITRINE_TRY(make_texture(device_, static_cast<std::uint32_t>(base.width),
                                        static_cast<std::uint32_t>(base.height), levels,
                                        VK_IMAGE_USAGE_SAMPLED_BIT | VK_IMAGE_USAGE_TRANSFER_DST_BIT));
    descriptors_stale_ = true;
    staging_ = VITRINE_TRY(make_buffer(device_, pyramid.pixels.size(), VK_BUFFER_USAGE_TRANSFER_SRC_BIT, true));
    std::memcpy(staging_.mapped, pyramid.pixels.data(), pyramid.pixels.size());
    for (std::uint32_t i = 0; i < levels; ++i) {
        const auto& level = pyramid.levels[i];
        VkBufferImageCopy copy{};
        copy.bufferOffset = level.offset;
        copy.imageSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, i, 0, 1};
        copy.imageExtent = {static_cast<std::uint32_t>(level.width), static_cast<std::uint32_t>(level.height), 1};
        picture_copies_.push_back(copy);
    }
    picture_id_ = scene.picture_id;
    picture_width_ = width;
    picture_height_ = height;
    picture_known_ = true;
    return {};
}

Status Painter::pack_maps(const Scene& scene) {
    first_values_.clear();
    std::uint64_t count = 0;
    const std::uint64_t limit = device_.properties.limits.maxStorageBufferRange / sizeof(float);
    for (const MapLayer& layer : scene.layers) {
        const auto& shape = layer.map.shape;
        if ((shape[0] != 1 && shape[0] != 3) || shape[1] < 1 || shape[2] < 1) {
            return fail(ErrorCode::BadInput, "a map to draw has shape {} x {} x {}, wanted 1 or 3 x rows x cols",
                        shape[0], shape[1], shape[2]);
        }
        if (layer.map.data == nullptr)
            return fail(ErrorCode::BadInput, "a map to draw lies outside host memory; copy it to the host first");
        if (!is_finite(layer.area) || !(layer.area.width() > 0) || !(layer.area.height() > 0)) {
            return fail(ErrorCode::BadInput, "a map to draw has an area of {} x {} photo pixels, wanted more than none",
                        layer.area.width(), layer.area.height());
        }
        const auto planes = static_cast<std::uint64_t>(shape[0]), rows = static_cast<std::uint64_t>(shape[1]);
        const std::uint64_t room = (limit - count) / planes;
        if (rows > room || static_cast<std::uint64_t>(shape[2]) > room / rows) {
            return fail(ErrorCode::BadInput,
                        "maps of {} x {} values are more than the {} the graphics device takes at once", shape[1],
                        shape[2], limit);
        }
        first_values_.push_back(static_cast<std::uint32_t>(count));
        count += static_cast<std::uint64_t>(shape[0] * shape[1] * shape[2]);
    }
    const VkDeviceSize bytes = std::max<std::uint64_t>(count, 4) * sizeof(float);
    if (values_.size < bytes) {
        // Doubled, so that growing maps do not allocate each time; never beyond what a shader may see.
        const VkDeviceSize room =
            std::min<VkDeviceSize>(std::max<VkDeviceSize>(bytes * 2, 1 << 16), limit * sizeof(float));
        values_ = {};
        values_ = VITRINE_TRY(make_buffer(device_, room, VK_BUFFER_USAGE_STORAGE_BUFFER_BIT, true));
        descriptors_stale_ = true;
    }
    auto* to = static_cast<float*>(values_.mapped);
    for (const MapLayer& layer : scene.layers) {
        for (std::int64_t line = 0; line < layer.map.shape[0] * layer.map.shape[1]; ++line) {
            const std::int64_t plane = line / layer.map.shape[1], row = line % layer.map.shape[1];
            const float* from = layer.map.data + plane * layer.map.stride[0] + row * layer.map.stride[1];
            // Infinities would turn to NaN between cells; anything this large is at the end of the scale anyway.
            for (std::int64_t col = 0; col < layer.map.shape[2]; ++col, from += layer.map.stride[2]) {
                *to++ = std::isinf(*from) ? std::copysign(1e30f, *from) : *from;
            }
        }
    }
    return {};
}

template <class Block>
Status Painter::add(std::vector<Dispatch>& list, Variant variant, const PixelRect& rect, Block block) {
    static_assert(sizeof(Block) <= 128 && std::is_trivially_copyable_v<Block>);
    Dispatch dispatch;
    dispatch.pipeline = VITRINE_TRY(pipeline(variant));
    block.rect_x = static_cast<int>(rect.x0);
    block.rect_y = static_cast<int>(rect.y0);
    block.rect_w = static_cast<int>(rect.x1 - rect.x0);
    block.rect_h = static_cast<int>(rect.y1 - rect.y0);
    std::memcpy(dispatch.block.data(), &block, sizeof(Block));
    dispatch.block_bytes = sizeof(Block);
    dispatch.groups_x = (static_cast<std::uint32_t>(block.rect_w) + kGroupWidth - 1) / kGroupWidth;
    dispatch.groups_y = (static_cast<std::uint32_t>(block.rect_h) + kGroupHeight - 1) / kGroupHeight;
    list.push_back(dispatch);
    return {};
}

Status Painter::plan_ground(const Scene& scene, const Placement& at) {
    GroundKey key;
    key.width = at.width;
    key.height = at.height;
    key.picture = picture_serial_;
    key.origin = at.origin;
    key.zoom = at.zoom;
    key.hatched = scene.seen.has_value() && !scene.bare;
    if (key.hatched) key.seen = *scene.seen;
    key.room = scene.palette.room;
    key.line = scene.palette.line;
    key.hatch = scene.palette.secondary;
    key.display_scale = scene.display_scale;
    if (key == ground_key_ && !ground_stale_) return {};
    ground_key_ = key;
    ground_stale_ = true;
    ground_list_.clear();

    const bool has_picture = picture_width_ > 0;
    const PixelRect box =
        has_picture ? at.pixels({0, 0, static_cast<double>(picture_width_), static_cast<double>(picture_height_)})
                    : PixelRect{1'000'000, 1'000'000, 1'000'001, 1'000'001};
    RoomBlock room{};
    room.box_x0 = static_cast<float>(box.x0);
    room.box_y0 = static_cast<float>(box.y0);
    room.box_x1 = static_cast<float>(box.x1);
    room.box_y1 = static_cast<float>(box.y1);
    room.room = pack(scene.palette.room);
    room.line = pack(scene.palette.line);
    room.shadow_px = kShadowPx * scene.display_scale;
    room.shadow_alpha = scene.palette.room.g < 128 ? kShadowInDark : kShadowInLight;
    room.line_px = std::max(1.0f, std::round(scene.display_scale));
    // Only around the picture: above and below it over the whole width, then what is left beside it.
    const PixelRect rect = box.clipped(at.width, at.height);
    std::vector<PixelRect> around = {{0, 0, at.width, at.height}};
    if (!rect.empty()) {
        around = {{0, 0, at.width, rect.y0},
                  {0, rect.y1, at.width, at.height},
                  {0, rect.y0, rect.x0, rect.y1},
                  {rect.x1, rect.y0, at.width, rect.y1}};
    }
    for (const PixelRect& part : around) {
        if (!part.empty()) VITRINE_CHECK(add(ground_list_, {Stage::Room, 1, false, false}, part, room));
    }
    if (!has_picture || rect.empty()) return {};

    PictureBlock block{};
    // The level whose texels are between one and two to a pixel; enlarged pictures take the first.
    const double texels_per_pixel =
        static_cast<double>(picture_.width) / (static_cast<double>(picture_width_) * at.zoom);
    const int level = std::clamp(static_cast<int>(std::floor(std::log2(std::max(texels_per_pixel, 1.0)))), 0,
                                 static_cast<int>(picture_.levels) - 1);
    block.level = level;
    block.level_w = std::max(1, static_cast<int>(picture_.width >> level));
    block.level_h = std::max(1, static_cast<int>(picture_.height >> level));
    const double per_photo_x = block.level_w / static_cast<double>(picture_width_);
    const double per_photo_y = block.level_h / static_cast<double>(picture_height_);
    const double left = at.photo_x(static_cast<double>(rect.x0)) * per_photo_x,
                 top = at.photo_y(static_cast<double>(rect.y0)) * per_photo_y;
    block.base_x = static_cast<int>(std::floor(left));
    block.base_y = static_cast<int>(std::floor(top));
    block.frac_x = static_cast<float>(left - std::floor(left));
    block.frac_y = static_cast<float>(top - std::floor(top));
    block.step_x = static_cast<float>(per_photo_x / at.zoom);
    block.step_y = static_cast<float>(per_photo_y / at.zoom);
    PixelRect seen{-1'000'000, -1'000'000, 1'000'000, 1'000'000};
    if (key.hatched) seen = at.pixels(key.seen);
    block.seen_x0 = static_cast<float>(seen.x0);
    block.seen_y0 = static_cast<float>(seen.y0);
    block.seen_x1 = static_cast<float>(seen.x1);
    block.seen_y1 = static_cast<float>(seen.y1);
    block.room = pack(scene.palette.room);
    block.hatch = pack(scene.palette.secondary);
    block.hatch_period = kHatchPeriodPx * scene.display_scale;
    // Fixed to the photo, so that the lines do not swim over it while it is moved.
    block.hatch_phase =
        static_cast<float>(std::fmod(std::round(at.origin.x) + std::round(at.origin.y), block.hatch_period));
    const bool enlarged = texels_per_pixel <= 1;
    const bool interpolate = enlarged && texels_per_pixel > 0.25;
    return add(ground_list_, {Stage::Picture, enlarged ? 2 : 3, interpolate, false}, rect, block);
}

Status Painter::plan_overlays(const Scene& scene, const Placement& at) {
    overlay_list_.clear();
    if (scene.bare) return {};
    const float hatch_period = kHatchPeriodPx * scene.display_scale;
    const float hatch_phase =
        static_cast<float>(std::fmod(std::round(at.origin.x) + std::round(at.origin.y), hatch_period));
    for (std::size_t i = 0; i < scene.layers.size(); ++i) {
        const MapLayer& layer = scene.layers[i];
        const PixelRect rect = at.pixels(layer.area).clipped(at.width, at.height);
        if (rect.empty()) continue;
        const auto rows = layer.map.shape[1], cols = layer.map.shape[2];
        LayerBlock block{};
        const double cells_x = static_cast<double>(cols) / layer.area.width(),
                     cells_y = static_cast<double>(rows) / layer.area.height();
        block.u0 = static_cast<float>((at.photo_x(static_cast<double>(rect.x0) + 0.5) - layer.area.x0) * cells_x);
        block.v0 = static_cast<float>((at.photo_y(static_cast<double>(rect.y0) + 0.5) - layer.area.y0) * cells_y);
        block.du = static_cast<float>(cells_x / at.zoom);
        block.dv = static_cast<float>(cells_y / at.zoom);
        block.rows = static_cast<int>(rows);
        block.cols = static_cast<int>(cols);
        block.first = first_values_[i];
        block.first_texel = layer.hue ? pack(*layer.hue) : static_cast<std::uint32_t>(layer.colours) * kTexels;
        block.opacity = std::clamp(layer.opacity, 0.0f, 1.0f);
        block.flags = (layer.scale.symmetric ? LAYER_SYMMETRIC : 0u) | (layer.hue     ? LAYER_HUE
                                                                        : layer.solid ? LAYER_SOLID
                                                                                      : 0u);
        block.room = pack(scene.palette.room);
        block.hatch = pack(scene.palette.secondary);
        block.hatch_period = hatch_period;
        block.hatch_phase = hatch_phase;
        block.gamma = layer.scale.gamma;
        if (layer.map.shape[0] == 3) {
            VITRINE_CHECK(add(overlay_list_, {Stage::Layer, 0, false, false}, rect, block));
            continue;
        }
        const Normalisation n = normalisation(layer.scale);
        block.scale = n.scale;
        block.bias = n.bias;
        block.log_floor = n.log_floor;
        const int taps = layer.upsampling == Upsampling::Nearest ? 1 : layer.upsampling == Upsampling::Bilinear ? 2 : 4;
        VITRINE_CHECK(add(overlay_list_, {Stage::Layer, taps, n.logarithmic, n.gamma}, rect, block));
    }

    const int width = std::max(1, static_cast<int>(std::lround(kOutlinePx * scene.display_scale)));
    const int contour = std::max(1, static_cast<int>(std::lround(scene.display_scale)));
    const auto outline_box = [&](const Box& box, Rgb colour, int inset) -> Status {
        const PixelRect edge = at.pixels(box);
        const std::int64_t reach = contour - inset;
        const PixelRect covered =
            PixelRect{edge.x0 - reach, edge.y0 - reach, edge.x1 + reach, edge.y1 + reach}.clipped(at.width, at.height);
        if (covered.empty()) return {};
        OutlineBlock block{};
        block.box_x0 = static_cast<int>(edge.x0);
        block.box_y0 = static_cast<int>(edge.y0);
        block.box_x1 = static_cast<int>(edge.x1);
        block.box_y1 = static_cast<int>(edge.y1);
        block.colour = pack(colour);
        block.contour = 0xFF000000u;
        block.width = width;
        block.contour_width = contour;
        block.inset = inset;
        return add(overlay_list_, {Stage::Outline, 1, false, false}, covered, block);
    };
    // The line lies half in, half out.
    const int straddling = -width / 2;
    if (scene.region && is_finite(*scene.region) && scene.region->width() > 0 && scene.region->height() > 0)
        VITRINE_CHECK(outline_box(*scene.region, scene.palette.region, straddling));

    if (scene.grid_rows < 1 || scene.grid_cols < 1) return {};
    const Box seen =
        scene.seen.value_or(Box{0, 0, static_cast<double>(picture_width_), static_cast<double>(picture_height_)});
    if (!is_finite(seen) || !(seen.width() > 0) || !(seen.height() > 0)) return {};
    const double cell_w = seen.width() / static_cast<double>(scene.grid_cols),
                 cell_h = seen.height() / static_cast<double>(scene.grid_rows);
    const PixelRect rect = at.pixels(seen).clipped(at.width, at.height);
    if (scene.show_grid && !rect.empty() &&
        std::min(cell_w, cell_h) * at.zoom >= kSmallestGridCellPx * scene.display_scale) {
        GridBlock block{};
        block.u0 = static_cast<float>((at.photo_x(static_cast<double>(rect.x0) - 0.5) - seen.x0) / cell_w);
        block.v0 = static_cast<float>((at.photo_y(static_cast<double>(rect.y0) - 0.5) - seen.y0) / cell_h);
        block.du = static_cast<float>(1 / (cell_w * at.zoom));
        block.dv = static_cast<float>(1 / (cell_h * at.zoom));
        block.light = 0xFFFFFFFFu;
        block.dark = 0xFF000000u;
        block.light_alpha = kGridLight;
        block.dark_alpha = kGridDark;
        block.rows = static_cast<int>(scene.grid_rows);
        block.cols = static_cast<int>(scene.grid_cols);
        VITRINE_CHECK(add(overlay_list_, {Stage::Grid, 1, false, false}, rect, block));
    }

    const auto outline = [&](Cell cell, Rgb colour, int inset) {
        return outline_box(
            {seen.x0 + static_cast<double>(cell.col) * cell_w, seen.y0 + static_cast<double>(cell.row) * cell_h,
             seen.x0 + static_cast<double>(cell.col + 1) * cell_w,
             seen.y0 + static_cast<double>(cell.row + 1) * cell_h},
            colour, inset);
    };
    const auto inside = [&](const std::optional<Cell>& cell) {
        return cell && cell->row >= 0 && cell->col >= 0 && cell->row < scene.grid_rows && cell->col < scene.grid_cols;
    };
    // Where both are on one cell the hovered one moves inwards, and the pinned one stays.
    if (inside(scene.hovered) && scene.hovered != scene.pinned)
        VITRINE_CHECK(outline(*scene.hovered, scene.palette.hovered, straddling));
    if (inside(scene.pinned)) {
        VITRINE_CHECK(outline(*scene.pinned, scene.palette.pinned, straddling));
        if (scene.hovered == scene.pinned && std::min(cell_w, cell_h) * at.zoom >= 6 * width) {
            VITRINE_CHECK(outline(*scene.pinned, scene.palette.hovered, straddling + width + contour));
        }
    }
    return {};
}

void Painter::write_descriptors() {
    descriptors_stale_ = false;
    for (const bool ground : {true, false}) {
        const VkDescriptorImageInfo target{VK_NULL_HANDLE, ground ? ground_.view : output_.view,
                                           VK_IMAGE_LAYOUT_GENERAL};
        const VkDescriptorImageInfo picture{sampler_, picture_.view, VK_IMAGE_LAYOUT_SHADER_READ_ONLY_OPTIMAL};
        const VkDescriptorBufferInfo values{values_.buffer, 0, VK_WHOLE_SIZE};
        const VkDescriptorBufferInfo texels{texels_.buffer, 0, VK_WHOLE_SIZE};
        std::vector<VkWriteDescriptorSet> writes;
        const auto write = [&](std::uint32_t binding, VkDescriptorType type, const VkDescriptorImageInfo* image,
                               const VkDescriptorBufferInfo* buffer) {
            VkWriteDescriptorSet one{VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET};
            one.dstSet = ground ? ground_set_ : output_set_;
            one.dstBinding = binding;
            one.descriptorCount = 1;
            one.descriptorType = type;
            one.pImageInfo = image;
            one.pBufferInfo = buffer;
            writes.push_back(one);
        };
        write(0, VK_DESCRIPTOR_TYPE_STORAGE_IMAGE, &target, nullptr);
        write(1, VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER, &picture, nullptr);
        write(2, VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, nullptr, &values);
        write(3, VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, nullptr, &texels);
        vkUpdateDescriptorSets(device_.device, static_cast<std::uint32_t>(writes.size()), writes.data(), 0, nullptr);
    }
}

Status Painter::prepare(const Scene& scene, std::int64_t width, std::int64_t height) {
    const std::int64_t side = std::min<std::int64_t>(kMaxSide, device_.properties.limits.maxImageDimension2D);
    if (width < 1 || height < 1 || width > side || height > side) {
        return fail(ErrorCode::BadInput, "a view of {} x {} pixels was asked for, wanted 1 to {} a side", width, height,
                    side);
    }
    if (!(scene.view.zoom > 0) || !std::isfinite(scene.view.zoom) || !std::isfinite(scene.view.centre.x) ||
        !std::isfinite(scene.view.centre.y)) {
        return fail(ErrorCode::BadInput,
                    "a view with zoom {} at ({}, {}) cannot be drawn, wanted finite numbers and a positive zoom",
                    scene.view.zoom, scene.view.centre.x, scene.view.centre.y);
    }
    if (!(scene.display_scale > 0) || !std::isfinite(scene.display_scale)) {
        return fail(ErrorCode::BadInput, "a display scale of {} cannot be drawn, wanted a positive number",
                    scene.display_scale);
    }
    // What was copied from the last staging is done by now: the caller waited.
    if (picture_copies_.empty()) staging_ = {};
    VITRINE_CHECK(pack_maps(scene));
    VITRINE_CHECK(ensure_targets(static_cast<std::uint32_t>(width), static_cast<std::uint32_t>(height)));
    VITRINE_CHECK(ensure_picture(scene));
    const Placement placement(scene.view, width, height);
    VITRINE_CHECK(plan_ground(scene, placement));
    VITRINE_CHECK(plan_overlays(scene, placement));
    if (descriptors_stale_) write_descriptors();
    return {};
}

void Painter::record_list(VkCommandBuffer commands, VkDescriptorSet set, const std::vector<Dispatch>& list) {
    vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline_layout_, 0, 1, &set, 0, nullptr);
    for (const Dispatch& dispatch : list) {
        vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, dispatch.pipeline);
        vkCmdPushConstants(commands, pipeline_layout_, VK_SHADER_STAGE_COMPUTE_BIT, 0, dispatch.block_bytes,
                           dispatch.block.data());
        vkCmdDispatch(commands, dispatch.groups_x, dispatch.groups_y, 1);
        full_barrier(commands);
    }
}

void Painter::record(VkCommandBuffer commands) {
    if (!picture_copies_.empty()) {
        const std::uint32_t levels = picture_.levels;
        change_layout(commands, picture_.image, VK_IMAGE_LAYOUT_UNDEFINED, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL,
                      levels);
        vkCmdCopyBufferToImage(commands, staging_.buffer, picture_.image, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, levels,
                               picture_copies_.data());
        change_layout(commands, picture_.image, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL,
                      VK_IMAGE_LAYOUT_SHADER_READ_ONLY_OPTIMAL, levels);
        picture_copies_.clear();
    }
    if (targets_fresh_) {
        change_layout(commands, ground_.image, VK_IMAGE_LAYOUT_UNDEFINED, VK_IMAGE_LAYOUT_GENERAL);
        change_layout(commands, output_.image, VK_IMAGE_LAYOUT_UNDEFINED, VK_IMAGE_LAYOUT_GENERAL);
        targets_fresh_ = false;
    }
    full_barrier(commands);
    if (ground_stale_) {
        record_list(commands, ground_set_, ground_list_);
        ground_stale_ = false;
    }
    VkImageCopy copy{};
    copy.srcSubresource = copy.dstSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1};
    copy.extent = {output_.width, output_.height, 1};
    vkCmdCopyImage(commands, ground_.image, VK_IMAGE_LAYOUT_GENERAL, output_.image, VK_IMAGE_LAYOUT_GENERAL, 1, &copy);
    full_barrier(commands);
    record_list(commands, output_set_, overlay_list_);
}

Status Painter::prepare_read_back() {
    const VkDeviceSize bytes = VkDeviceSize{output_.width} * output_.height * 4;
    if (read_back_.size >= bytes) return {};
    read_back_ = {};
    read_back_ = VITRINE_TRY(make_buffer(device_, bytes, VK_BUFFER_USAGE_TRANSFER_DST_BIT, true));
    return {};
}

void Painter::record_read_back(VkCommandBuffer commands) {
    VkBufferImageCopy copy{};
    copy.imageSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1};
    copy.imageExtent = {output_.width, output_.height, 1};
    vkCmdCopyImageToBuffer(commands, output_.image, VK_IMAGE_LAYOUT_GENERAL, read_back_.buffer, 1, &copy);
    full_barrier(commands);
}

Image Painter::read() const {
    Image image(output_.width, output_.height);
    const auto* from = static_cast<const std::uint8_t*>(read_back_.mapped);
    const int red = swap_red_blue_ ? 2 : 0, blue = 2 - red;
    for (std::size_t i = 0; i < image.pixels.size(); i += 3, from += 4) {
        image.pixels[i] = from[red];
        image.pixels[i + 1] = from[1];
        image.pixels[i + 2] = from[blue];
    }
    return image;
}

}  // namespace vitrine::viz
