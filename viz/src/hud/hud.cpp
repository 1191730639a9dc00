// Lays out the HUD and draws it through ImGui's Vulkan back end.
#include "hud/hud.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include <imgui.h>

#include <backends/imgui_impl_vulkan.h>
#ifdef VITRINE_FREETYPE
#include <imgui_freetype.h>
#endif

#include "hud/fonts.h"
#include "hud/style.h"

namespace vitrine::viz {

namespace {

// Latin, Greek, punctuation, arrows and mathematical signs: what values, units and class names are written with.
constexpr ImWchar kGlyphs[] = {0x20, 0x17F, 0x370, 0x3FF, 0x2000, 0x206F, 0x2190, 0x21FF, 0x2200, 0x22FF, 0};

// ImGui's back end takes one function for all contexts and devices; the first failure of a call is kept here.
VkResult first_failure = VK_SUCCESS;
void note_failure(VkResult result) {
    if (result < 0 && first_failure == VK_SUCCESS) first_failure = result;
}
Status check_imgui(Device::Parts& device, const char* what) {
    const VkResult result = std::exchange(first_failure, VK_SUCCESS);
    if (result == VK_SUCCESS) return {};
    device.noted(result);
    return vulkan_error(what, result);
}

ImU32 colour(Rgb c, float alpha = 1) { return IM_COL32(c.r, c.g, c.b, static_cast<int>(std::lround(alpha * 255))); }

// One style of text at the current scale.
struct Type {
    ImFont* font = nullptr;
    float em = 0;  // device pixels
    ImVec2 measure(const std::string& text, float wrap = 0) const {
        return font->CalcTextSizeA(font->FontSize, FLT_MAX, wrap, text.c_str(), text.c_str() + text.size());
    }
    float width(const std::string& text) const { return text.empty() ? 0 : std::ceil(measure(text).x); }
};

// Cuts at the end so that the text fits, with an ellipsis.
std::string shortened(const Type& type, const std::string& text, float width) {
    if (type.width(text) <= width) return text;
    std::string cut = text;
    while (!cut.empty()) {
        // Whole characters: bytes 10xxxxxx continue one.
        do cut.pop_back();
        while (!cut.empty() && (static_cast<unsigned char>(cut.back()) & 0xC0) == 0x80 && cut.size() > 1 &&
               (static_cast<unsigned char>(cut[cut.size() - 1]) & 0xC0) == 0x80);
        if (!cut.empty() && static_cast<unsigned char>(cut.back()) >= 0xC0) cut.pop_back();
        while (!cut.empty() && cut.back() == ' ') cut.pop_back();
        if (type.width(cut + "\u2026") <= width) return cut + "\u2026";
    }
    return {};
}

}  // namespace

struct HudPainter::Parts {
    Device::Parts& device;
    VkRenderPass render_pass{};
    OwnedPool pool;
    ImGuiContext* context = nullptr;
    bool backend = false;
    float scale = 0;
    Type body, small, numbers, value;
    // The widest each field has been: so nothing moves when a shorter text arrives.
    struct Reserved {
        float value = 0, where = 0, what = 0, timing = 0;
    } reserved;

    explicit Parts(Device::Parts& d) : device(d) {}
    ~Parts() {
        if (!context) return;
        ImGui::SetCurrentContext(context);
        if (backend) ImGui_ImplVulkan_Shutdown();
        ImGui::DestroyContext(context);
    }

    Status start_backend();
    Status load_fonts(float new_scale);
    float px(float logical) const { return std::round(logical * scale); }
    void panel(ImDrawList& list, const Palette& palette, ImVec2 at, ImVec2 size) const;
    // Text with its line centred on `middle`, starting at x.
    void text(ImDrawList& list, const Type& type, float x, float middle, ImU32 ink, const std::string& words) const;
    ImVec2 draw_reading(ImDrawList& list, const Hud& hud, const Palette& palette, ImVec2 view);
    void draw_colour_bar(ImDrawList& list, const Hud& hud, const Palette& palette, ImVec2 view, ImVec2 reading) const;
    void draw_notice(ImDrawList& list, const std::string& words, const Palette& palette, ImVec2 view) const;
};

HudPainter::HudPainter(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
HudPainter::~HudPainter() = default;

Result<std::unique_ptr<HudPainter>> HudPainter::create(Device::Parts& device, VkRenderPass render_pass) {
    auto parts = std::make_unique<Parts>(device);
    parts->render_pass = render_pass;
    parts->context = ImGui::CreateContext();
    ImGui::SetCurrentContext(parts->context);
    ImGuiIO& io = ImGui::GetIO();
    io.IniFilename = nullptr;
    io.LogFilename = nullptr;
    VITRINE_CHECK(parts->load_fonts(1));
    return std::unique_ptr<HudPainter>(new HudPainter(std::move(parts)));
}

// ImGui 1.86 cannot replace its font texture (it forgets the old one), so its back end starts anew with the pool it
// drew from.
Status HudPainter::Parts::start_backend() {
    if (backend) ImGui_ImplVulkan_Shutdown();
    backend = false;
    pool = {};
    const VkDescriptorPoolSize size{VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER, 8};
    VkDescriptorPoolCreateInfo pool_info{VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO};
    pool_info.flags = VK_DESCRIPTOR_POOL_CREATE_FREE_DESCRIPTOR_SET_BIT;
    pool_info.maxSets = 8;
    pool_info.poolSizeCount = 1;
    pool_info.pPoolSizes = &size;
    VkDescriptorPool pool_handle{};
    VITRINE_VK(vkCreateDescriptorPool(device.device, &pool_info, nullptr, &pool_handle));
    pool = {device.device, pool_handle};

    ImGui_ImplVulkan_InitInfo info{};
    info.Instance = device.instance;
    info.PhysicalDevice = device.physical;
    info.Device = device.device;
    info.QueueFamily = device.queue_family;
    info.Queue = device.queue;
    info.DescriptorPool = pool;
    // Buffers in flight, not swapchain images: we wait for each frame, two satisfy the back end's own check.
    info.MinImageCount = 2;
    info.ImageCount = 2;
    info.MSAASamples = VK_SAMPLE_COUNT_1_BIT;
    info.CheckVkResultFn = note_failure;
    backend = ImGui_ImplVulkan_Init(&info, render_pass);
    return check_imgui(device, "ImGui_ImplVulkan_Init");
}

Status HudPainter::Parts::load_fonts(float new_scale) {
    VITRINE_CHECK(start_backend());
    scale = new_scale;
    reserved = {};
    ImGuiIO& io = ImGui::GetIO();
    io.Fonts->Clear();
#ifdef VITRINE_FREETYPE
    io.Fonts->FontBuilderIO = ImGuiFreeType::GetBuilderForFreeType();
    io.Fonts->FontBuilderFlags = ImGuiFreeTypeBuilderFlags_LightHinting;
#endif
    const auto add = [&](const std::optional<FontFile>& found, float em) {
        Type type;
        type.em = std::round(em * scale);
        ImFontConfig config;
        config.GlyphRanges = kGlyphs;
#ifndef VITRINE_FREETYPE
        config.OversampleH = 2;
        config.OversampleV = 1;
#endif
        if (found)
            type.font =
                io.Fonts->AddFontFromFileTTF(found->file.c_str(), std::round(type.em * found->line_per_em), &config);
        if (!type.font) {
            config.SizePixels = std::max(1.0f, type.em);
            config.GlyphRanges = nullptr;
            type.font = io.Fonts->AddFontDefault(&config);
        }
        return type;
    };
    const auto sans = find_sans(), mono = find_mono();
    body = add(sans, 13);
    small = add(sans, 11);
    numbers = add(mono, 11);
    value = add(mono, 16);

    Commands upload = VITRINE_TRY(make_commands(device));
    VITRINE_CHECK(begin(device, upload));
    ImGui_ImplVulkan_CreateFontsTexture(upload.buffer);
    VITRINE_CHECK(submit(device, upload));
    VITRINE_CHECK(wait(device, upload));
    ImGui_ImplVulkan_DestroyFontUploadObjects();
    return check_imgui(device, "ImGui_ImplVulkan_CreateFontsTexture");
}

void HudPainter::Parts::panel(ImDrawList& list, const Palette& palette, ImVec2 at, ImVec2 size) const {
    const ImVec2 end{at.x + size.x, at.y + size.y};
    list.AddRectFilled(at, end, colour(palette.panel, kPanelAlpha), px(kCorner));
    list.AddRect({at.x + 0.5f, at.y + 0.5f}, {end.x - 0.5f, end.y - 0.5f}, colour(palette.line, 0.9f), px(kCorner), 0,
                 std::max(1.0f, px(1)));
}

void HudPainter::Parts::text(ImDrawList& list, const Type& type, float x, float middle, ImU32 ink,
                             const std::string& words) const {
    // ImGui's line runs from ascender to descender; the x-height's middle lies a little below its centre.
    const float top = std::round(middle - type.font->FontSize / 2);
    list.AddText(type.font, type.font->FontSize, {std::round(x), top}, ink, words.c_str(),
                 words.c_str() + words.size());
}

// Bottom left: value, where, what, timing, in reserved widths. Returns the panel's size, zero when there is nothing to
// say.
ImVec2 HudPainter::Parts::draw_reading(ImDrawList& list, const Hud& hud, const Palette& palette, ImVec2 view) {
    if (hud.value.empty() && hud.where.empty() && hud.what.empty()) return {0, 0};
    const float gap = px(kGap), padding = px(kPadding);
    const std::string& shown = hud.value.empty() ? std::string("\u2013") : hud.value;
    reserved.value = std::max({reserved.value, value.width(shown), value.width("0.0000")});
    reserved.where = std::max({reserved.where, body.width(hud.where), body.width("patch 00, 00")});
    reserved.what = std::max(reserved.what, body.width(hud.what));
    reserved.timing = std::max(reserved.timing, numbers.width(hud.timing));
    // What is said elsewhere, too, gives way to the colour bar before the bar has to move over the picture.
    const float room = view.x - 2 * px(kMargin) - 2 * padding;
    const float short_of = hud.show_colour_bar ? px(kBarPanelWidth) + px(kGap) : 0;
    const float rule = 2 * gap + px(1);
    float width = reserved.value + rule + reserved.where;
    const bool with_what = reserved.what > 0 && width + gap + reserved.what <= room - short_of;
    if (with_what) width += gap + reserved.what;
    const bool with_timing = reserved.timing > 0 && width + rule + reserved.timing <= room - short_of;
    if (with_timing) width += rule + reserved.timing;
    const ImVec2 size{std::min(width, room) + 2 * padding, px(kPillHeight)};
    const ImVec2 at{px(kMargin), view.y - px(kMargin) - size.y};
    panel(list, palette, at, size);

    const float middle = at.y + size.y / 2;
    float x = at.x + padding;
    const auto separator = [&] {
        x += gap;
        list.AddRectFilled({x, at.y + px(10)}, {x + px(1), at.y + size.y - px(10)}, colour(palette.line));
        x += px(1) + gap;
    };
    // Right-aligned in its place, so that the last digit stays put.
    text(list, value, x + reserved.value - value.width(shown), middle,
         colour(hud.value.empty() ? palette.secondary : palette.text), shown);
    x += reserved.value;
    separator();
    text(list, body, x, middle, colour(palette.text), shortened(body, hud.where, at.x + size.x - padding - x));
    x += reserved.where;
    if (with_what) {
        x += gap;
        text(list, body, x, middle, colour(palette.secondary), hud.what);
        x += reserved.what;
    }
    if (with_timing) {
        separator();
        text(list, numbers, x, middle, colour(palette.secondary), hud.timing);
    }
    return size;
}

// Bottom right: what the colours mean.
void HudPainter::Parts::draw_colour_bar(ImDrawList& list, const Hud& hud, const Palette& palette, ImVec2 view,
                                        ImVec2 reading) const {
    if (!hud.show_colour_bar) return;
    const float padding = px(kPadding), line = px(16);
    // In a narrow window it becomes narrower, and where even that is too wide it moves up above the reading.
    const float beside = view.x - 2 * px(kMargin) - (reading.x > 0 ? reading.x + px(kGap) : 0);
    const ImVec2 size{std::min(px(kBarPanelWidth), beside >= px(kBarPanelLeast) ? beside : view.x - 2 * px(kMargin)),
                      2 * padding + line + px(8) + px(kBarHeight) + px(4) + line};
    ImVec2 at{view.x - px(kMargin) - size.x, view.y - px(kMargin) - size.y};
    if (reading.x > 0 && px(kMargin) + reading.x + px(kGap) > at.x) at.y -= reading.y + px(8);
    if (size.x < px(96) || at.y < 0) return;
    panel(list, palette, at, size);

    const float left = at.x + padding, right = at.x + size.x - padding;
    float middle = at.y + padding + line / 2;
    const float upsampling = small.width(hud.upsampling);
    text(list, body, left, middle, colour(palette.text), shortened(body, hud.unit, right - left - upsampling - px(8)));
    text(list, small, right - upsampling, middle, colour(palette.secondary), hud.upsampling);

    const float top = at.y + padding + line + px(8), bottom = top + px(kBarHeight);
    const int strips = std::max(1, static_cast<int>(right - left));
    const float step = (right - left) / static_cast<float>(strips);
    for (int i = 0; i < strips; ++i) {
        const float x = left + static_cast<float>(i) * step;
        list.AddRectFilled({x, top}, {x + step, bottom}, colour(colour_at(hud.colours, (i + 0.5) / strips)));
    }
    list.AddRect({left - 0.5f, top - 0.5f}, {right + 0.5f, bottom + 0.5f}, colour(palette.line), px(2), 0,
                 std::max(1.0f, px(1)));

    middle = bottom + px(4) + line / 2;
    const auto labels = bar_labels(hud.scale);
    const float widths[] = {numbers.width(labels[0]), numbers.width(labels[1]), numbers.width(labels[2])};
    const float centre = (left + right - widths[1]) / 2;
    text(list, numbers, left, middle, colour(palette.text), labels[0]);
    text(list, numbers, right - widths[2], middle, colour(palette.text), labels[2]);
    // The middle gives way when the ends are long.
    if (left + widths[0] + px(8) <= centre && centre + widths[1] + px(8) <= right - widths[2]) {
        text(list, numbers, centre, middle, colour(palette.secondary), labels[1]);
    }
}

// Top, centred: a state or an error sentence, wrapped.
void HudPainter::Parts::draw_notice(ImDrawList& list, const std::string& words, const Palette& palette,
                                    ImVec2 view) const {
    if (words.empty()) return;
    const float padding = px(kPadding);
    const float wrap = std::min(px(kNoticeWidth), view.x - 2 * px(kMargin)) - 2 * padding;
    if (wrap < px(48)) return;
    const ImVec2 measured = body.measure(words, wrap);
    const ImVec2 size{std::ceil(measured.x) + 2 * padding,
                      std::max(px(kPillHeight), std::ceil(measured.y) + 2 * px(8))};
    const ImVec2 at{std::round((view.x - size.x) / 2), px(kMargin)};
    panel(list, palette, at, size);
    list.AddText(body.font, body.font->FontSize, {at.x + padding, std::round(at.y + (size.y - measured.y) / 2)},
                 colour(palette.text), words.c_str(), words.c_str() + words.size(), wrap);
}

Status HudPainter::prepare(const Hud& hud, const Palette& palette, std::uint32_t width, std::uint32_t height) {
    Parts& p = *parts_;
    ImGui::SetCurrentContext(p.context);
    const float scale = std::isfinite(hud.display_scale) ? std::clamp(hud.display_scale, 0.5f, 8.0f) : 1.0f;
    if (scale != p.scale) {
        if (auto loaded = p.load_fonts(scale); !loaded) {
            p.scale = 0;  // tried again with the next frame
            return loaded;
        }
    }
    ImGuiIO& io = ImGui::GetIO();
    const ImVec2 view{static_cast<float>(width), static_cast<float>(height)};
    io.DisplaySize = view;
    io.DeltaTime = 1.0f / 60;  // nothing here moves by itself
    ImGui_ImplVulkan_NewFrame();
    ImGui::NewFrame();
    ImDrawList& list = *ImGui::GetBackgroundDrawList();
    const ImVec2 reading = p.draw_reading(list, hud, palette, view);
    p.draw_colour_bar(list, hud, palette, view, reading);
    p.draw_notice(list, hud.notice, palette, view);
    ImGui::Render();
    return {};
}

void HudPainter::record(VkCommandBuffer commands) {
    ImGui::SetCurrentContext(parts_->context);
    ImDrawData* data = ImGui::GetDrawData();
    if (data && data->TotalVtxCount > 0) ImGui_ImplVulkan_RenderDrawData(data, commands);
}

}  // namespace vitrine::viz
