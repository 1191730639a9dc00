// The canvas in a real window: on a display of our own (Xvfb), or on a headless surface where the driver has that.
#include <vulkan/vulkan.h>
#ifdef VITRINE_XCB
#include <xcb/xcb.h>

#include <vulkan/vulkan_xcb.h>
#endif

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>
#include <thread>

#include "vulkan/test_scene.h"

namespace vitrine::viz {
namespace {

#ifdef VITRINE_XCB
// A virtual display for the life of this object; it picks a free number itself.
class Display {
  public:
    Display() {
        int ends[2];
        if (pipe(ends) != 0) return;
        child_ = fork();
        if (child_ == 0) {
            close(ends[0]);
            const std::string fd = std::to_string(ends[1]);
            if (!freopen("/dev/null", "w", stderr)) _exit(127);
            execlp("Xvfb", "Xvfb", "-displayfd", fd.c_str(), "-screen", "0", "1600x1000x24", "-noreset", "-nolisten",
                   "tcp", nullptr);
            _exit(127);
        }
        close(ends[1]);
        // Up to the newline, which is written by itself: a server that cannot write it ends. Ends too when the server
        // does.
        std::string text;
        for (char c; read(ends[0], &c, 1) == 1 && c != '\n';) text += c;
        close(ends[0]);
        if (!text.empty()) name_ = ":" + text;
    }
    ~Display() {
        if (child_ <= 0) return;
        kill(child_, SIGTERM);
        waitpid(child_, nullptr, 0);
    }
    const std::string& name() const { return name_; }  // empty when there is none

  private:
    pid_t child_ = -1;
    std::string name_;
};

class Window {
  public:
    Window(const std::string& display, int width, int height) {
        connection_ = xcb_connect(display.c_str(), nullptr);
        if (xcb_connection_has_error(connection_)) return;
        const auto* screen = xcb_setup_roots_iterator(xcb_get_setup(connection_)).data;
        id_ = xcb_generate_id(connection_);
        xcb_create_window(connection_, XCB_COPY_FROM_PARENT, id_, screen->root, 0, 0, static_cast<std::uint16_t>(width),
                          static_cast<std::uint16_t>(height), 0, XCB_WINDOW_CLASS_INPUT_OUTPUT, screen->root_visual, 0,
                          nullptr);
        xcb_map_window(connection_, id_);
        sync();
    }
    ~Window() { xcb_disconnect(connection_); }
    void resize(int width, int height) {
        const std::uint32_t size[] = {static_cast<std::uint32_t>(width), static_cast<std::uint32_t>(height)};
        xcb_configure_window(connection_, id_, XCB_CONFIG_WINDOW_WIDTH | XCB_CONFIG_WINDOW_HEIGHT, size);
        sync();
    }
    Image pixels(int width, int height) {
        Image image(width, height);
        auto* reply = xcb_get_image_reply(
            connection_,
            xcb_get_image(connection_, XCB_IMAGE_FORMAT_Z_PIXMAP, id_, 0, 0, static_cast<std::uint16_t>(width),
                          static_cast<std::uint16_t>(height), ~0u),
            nullptr);
        if (!reply) return {};
        const std::uint8_t* from = xcb_get_image_data(reply);
        for (std::size_t i = 0; i < image.pixels.size(); i += 3, from += 4) {
            image.pixels[i] = from[2];
            image.pixels[i + 1] = from[1];
            image.pixels[i + 2] = from[0];
        }
        std::free(reply);
        return image;
    }
    void destroy() {
        xcb_destroy_window(connection_, id_);
        sync();
    }
    xcb_connection_t* connection() const { return connection_; }
    xcb_window_t id() const { return id_; }

  private:
    void sync() { std::free(xcb_get_input_focus_reply(connection_, xcb_get_input_focus(connection_), nullptr)); }
    xcb_connection_t* connection_ = nullptr;
    xcb_window_t id_ = 0;
};
#endif

class CanvasTest : public DeviceTest {
  protected:
#ifdef VITRINE_XCB
    static void SetUpTestSuite() { display = std::make_unique<Display>(); }
    static void TearDownTestSuite() { display.reset(); }
    std::vector<std::string> extensions() override {
        return {VK_KHR_SURFACE_EXTENSION_NAME, VK_KHR_XCB_SURFACE_EXTENSION_NAME};
    }

    void SetUp() override {
        if (display->name().empty()) GTEST_SKIP() << "Xvfb is not installed: the canvas is not tested";
        DeviceTest::SetUp();
        if (!device) return;
        window = std::make_unique<Window>(display->name(), 320, 240);
        VkXcbSurfaceCreateInfoKHR info{VK_STRUCTURE_TYPE_XCB_SURFACE_CREATE_INFO_KHR, nullptr, 0, window->connection(),
                                       window->id()};
        ASSERT_EQ(xcb_connection_has_error(window->connection()), 0)
            << "Xvfb on " << display->name() << " takes no connections";
        ASSERT_EQ(vkCreateXcbSurfaceKHR(device->instance(), &info, nullptr, &surface), VK_SUCCESS);
        open(320, 240);
    }
    void TearDown() override {
        canvas.reset();
        if (surface) vkDestroySurfaceKHR(device->instance(), surface, nullptr);
        DeviceTest::TearDown();
        window.reset();
    }
    void open(int width, int height) {
        auto made = Canvas::create(*device, reinterpret_cast<std::uint64_t>(surface), width, height);
        ASSERT_TRUE(made) << made.error().message;
        canvas = std::move(*made);
    }
    // What the window shows; presentation runs behind, so it is asked for until it is as wanted or patience is over.
    template <class Wanted>
    Image shown(int width, int height, Wanted wanted) {
        const auto end = std::chrono::steady_clock::now() + kPatience;
        while (true) {
            Image now = window->pixels(width, height);
            if ((!now.empty() && wanted(now)) || std::chrono::steady_clock::now() > end) return now;
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
    }
    static constexpr std::chrono::seconds kPatience{60};  // waited for in full only where something is wrong

    static std::unique_ptr<Display> display;
    std::unique_ptr<Window> window;
#else
    void SetUp() override { GTEST_SKIP() << "libxcb1-dev was not found: the canvas is not tested"; }
#endif
    VkSurfaceKHR surface{};
    std::unique_ptr<Canvas> canvas;
};

#ifdef VITRINE_XCB
std::unique_ptr<Display> CanvasTest::display;

Scene scene_for(int width, int height) {
    Scene scene;
    scene.picture = landscape(300, 200);
    scene.picture_id = 1;
    scene.seen = Box{50, 0, 250, 200};
    scene.grid_rows = scene.grid_cols = 8;
    scene.hovered = Cell{2, 5};
    MapLayer layer;
    layer.map = map_of(two_blobs(8, 8), 8, 8);
    layer.area = *scene.seen;
    scene.layers = {layer};
    scene.view = ViewTransform::fit(300, 200, width, height, 8);
    return scene;
}

Hud full_hud() {
    Hud hud;
    hud.value = "0.0413";
    hud.where = "patch 2, 5";
    hud.what = "layer 9 head 2";
    hud.upsampling = "nearest";
    hud.unit = "attention";
    hud.timing = "map_rows reference 0.4 ms";
    hud.show_colour_bar = true;
    hud.scale.low = 0.0002f;
    hud.scale.high = 0.0831f;
    return hud;
}

#define ASSERT_OK(status)                                \
    do {                                                 \
        const auto status_ = (status);                   \
        ASSERT_TRUE(status_) << status_.error().message; \
    } while (false)

TEST_F(CanvasTest, TheWindowShowsWhatTheCompositorDraws) {
    const Scene scene = scene_for(320, 240);
    ASSERT_OK(canvas->draw(scene, {}));
    const auto frame = canvas->last_frame();
    ASSERT_TRUE(frame) << frame.error().message;
    auto compositor = Compositor::create(*device);
    ASSERT_TRUE(compositor);
    const auto wanted = (*compositor)->render(scene, 320, 240);
    ASSERT_TRUE(wanted);
    EXPECT_EQ(frame->pixels, wanted->pixels);
    // An empty HUD adds nothing.
    const auto same = [&](const Image& now) { return now.pixels == wanted->pixels; };
    EXPECT_EQ(shown(320, 240, same).pixels, wanted->pixels);
}

TEST_F(CanvasTest, AskingForAFrameBeforeTheFirstIsRefused) { EXPECT_FALSE(canvas->last_frame()); }

TEST_F(CanvasTest, ResizingAndMinimisingAreFollowed) {
    ASSERT_OK(canvas->draw(scene_for(320, 240), {}));
    for (const auto& [width, height] : {std::pair{500, 310}, {97, 401}, {640, 480}}) {
        window->resize(width, height);
        ASSERT_OK(canvas->resize(width, height));
        ASSERT_OK(canvas->draw(scene_for(width, height), full_hud()));
        const auto frame = canvas->last_frame();
        ASSERT_TRUE(frame);
        EXPECT_EQ(frame->width, width);
        EXPECT_EQ(frame->height, height);
        ASSERT_OK(canvas->resize(0, 0));
        ASSERT_OK(canvas->draw(scene_for(width, height), full_hud()));
        ASSERT_OK(canvas->resize(width, height));
        ASSERT_OK(canvas->draw(scene_for(width, height), full_hud()));
    }
    EXPECT_FALSE(canvas->resize(1 << 20, 10));
}

TEST_F(CanvasTest, AWindowThatWasResizedUnawaresIsCaughtUpWith) {
    ASSERT_OK(canvas->draw(scene_for(320, 240), {}));
    window->resize(410, 220);
    // The canvas was not told: the driver says so, mostly with the frame after.
    const auto end = std::chrono::steady_clock::now() + kPatience;
    int width = 0, height = 0;
    while ((width != 410 || height != 220) && std::chrono::steady_clock::now() < end) {
        ASSERT_OK(canvas->draw(scene_for(410, 220), {}));
        const auto frame = canvas->last_frame();
        ASSERT_TRUE(frame);
        width = frame->width;
        height = frame->height;
    }
    EXPECT_EQ(width, 410);
    EXPECT_EQ(height, 220);
}

TEST_F(CanvasTest, AWindowThatWentAwayIsAnErrorAndNoCrash) {
    ASSERT_OK(canvas->draw(scene_for(320, 240), {}));
    window->destroy();
    Status status;
    for (int i = 0; i < 4 && status; ++i) {
        ASSERT_OK(canvas->resize(300 + i, 240));
        status = canvas->draw(scene_for(300, 240), {});
    }
    ASSERT_FALSE(status);
    EXPECT_NE(status.error().message.find("window"), std::string::npos) << status.error().message;
}

TEST_F(CanvasTest, ALostDeviceIsAnErrorThatNamesItAndANewOneDrawsTheSame) {
    const Scene scene = scene_for(320, 240);
    ASSERT_TRUE(canvas->draw(scene, {}));
    const auto before = canvas->last_frame();
    ASSERT_TRUE(before);
    ASSERT_FALSE(device->is_lost());
    device->lose();
    const auto lost = canvas->draw(scene, {});
    ASSERT_FALSE(lost);
    EXPECT_NE(lost.error().message.find("device was lost in vk"), std::string::npos) << lost.error().message;
    EXPECT_TRUE(device->is_lost());
    // It stays lost, whatever is asked of it.
    EXPECT_FALSE(canvas->draw(scene, {}));
    EXPECT_FALSE(canvas->last_frame());
    EXPECT_FALSE(Compositor::create(*device).value()->render(scene, 320, 240));
    canvas.reset();
    vkDestroySurfaceKHR(device->instance(), surface, nullptr);
    surface = {};
    window.reset();
    device.reset();
    SetUp();
    ASSERT_TRUE(canvas);
    ASSERT_TRUE(canvas->draw(scene, {}));
    const auto after = canvas->last_frame();
    ASSERT_TRUE(after);
    EXPECT_EQ(before->pixels, after->pixels);
}

TEST_F(CanvasTest, ABadSceneIsRefusedAndTheNextOneDrawn) {
    Scene bad = scene_for(320, 240);
    bad.layers[0].map.shape[0] = 2;
    const auto refused = canvas->draw(bad, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::BadInput);
    ASSERT_OK(canvas->draw(scene_for(320, 240), {}));
}

TEST_F(CanvasTest, TheHudLiesOverThePictureAndOnlyThere) {
    if (!canvas->has_hud()) GTEST_SKIP() << "built without Dear ImGui: no HUD";
    for (const bool dark : {true, false}) {
        for (const float scale : {1.0f, 1.5f}) {
            const int width = static_cast<int>(960 * scale), height = static_cast<int>(560 * scale);
            window->resize(width, height);
            ASSERT_OK(canvas->resize(width, height));
            Scene scene = scene_for(width, height);
            scene.palette = dark ? Palette::dark() : Palette::light();
            scene.display_scale = scale;
            Hud hud = full_hud();
            hud.display_scale = scale;
            hud.notice = "Loading ViT-Ti/16: reading 152 tensors\u2026";
            ASSERT_OK(canvas->draw(scene, hud));
            const auto below = canvas->last_frame();
            ASSERT_TRUE(below);
            int changed_left = 0, changed_right = 0, changed_top = 0, elsewhere = 0;
            const auto whole = [&](const Image& now) {
                changed_left = changed_right = changed_top = elsewhere = 0;
                for (int y = 0; y < height; ++y) {
                    for (int x = 0; x < width; ++x) {
                        if (near(rgb_at(now, x, y), rgb_at(*below, x, y), 0)) continue;
                        if (y < 60 * scale)
                            ++changed_top;
                        else if (y > height - 56 * scale && x < width / 2 + 60)
                            ++changed_left;
                        else if (y > height - 104 * scale && x > width - 244 * scale)
                            ++changed_right;
                        else
                            ++elsewhere;
                    }
                }
                return changed_left > 5000 && changed_right > 5000 && changed_top > 3000 && elsewhere == 0;
            };
            const Image image = shown(width, height, whole);
            ASSERT_EQ(image.width, width);
            EXPECT_GT(changed_left, 5000);
            EXPECT_GT(changed_right, 5000);
            EXPECT_GT(changed_top, 3000);
            EXPECT_EQ(elsewhere, 0);
            // Left behind for people to look at.
            const std::string name = std::string(VITRINE_BINARY_DIR) + "/hud_" + (dark ? "dark" : "light") +
                                     (scale > 1 ? "_150" : "") + ".ppm";
            std::ofstream(name, std::ios::binary) << "P6\n"
                                                  << width << ' ' << height << "\n255\n"
                                                  << std::string(image.pixels.begin(), image.pixels.end());
        }
    }
}

TEST_F(CanvasTest, HudTextOfAnyLengthAndAnyWindowIsHarmless) {
    Hud hud = full_hud();
    hud.where = std::string(300, 'w');
    hud.unit =
        "\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9"
        "\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9";
    hud.notice = std::string(2000, 'n') + " \xff\xfe";
    hud.display_scale = 1;
    for (const auto& [width, height] : {std::pair{1, 1}, {40, 30}, {200, 60}, {800, 300}}) {
        window->resize(width, height);
        ASSERT_OK(canvas->resize(width, height));
        ASSERT_OK(canvas->draw(scene_for(width, height), hud));
    }
    hud.display_scale = std::numeric_limits<float>::quiet_NaN();
    ASSERT_OK(canvas->draw(scene_for(800, 300), hud));
}
#else
TEST_F(CanvasTest, TheWindowShowsWhatTheCompositorDraws) {}
#endif

TEST(CanvasWithoutWindow, ADeviceWithoutWindowsAndASurfaceThatIsNoneAreRefused) {
    auto device = Device::create();
    if (!device) GTEST_SKIP() << "no Vulkan device here: " << device.error().message;
    EXPECT_FALSE(Canvas::create(**device, 0, 10, 10));
    EXPECT_FALSE(Canvas::create(**device, 1, 10, 10));
}

TEST(DeviceCreation, AnUnknownExtensionIsNamed) {
    DeviceOptions options;
    options.instance_extensions = {"VK_KHR_no_such_thing"};
    const auto device = Device::create(options);
    ASSERT_FALSE(device);
    EXPECT_EQ(device.error().code, ErrorCode::Unsupported);
}

}  // namespace
}  // namespace vitrine::viz
