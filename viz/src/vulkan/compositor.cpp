// Draws scenes off screen and reads them back.
#include "vulkan/painter.h"

namespace vitrine::viz {

struct Compositor::Parts {
    Device::Parts& device;
    std::unique_ptr<Painter> painter;
    Commands commands;
    ~Parts() { static_cast<void>(wait(device, commands)); }
};

Compositor::Compositor(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Compositor::~Compositor() = default;

Result<std::unique_ptr<Compositor>> Compositor::create(Device& device) {
    auto painter = VITRINE_TRY(Painter::create(device.parts(), false));
    auto commands = VITRINE_TRY(make_commands(device.parts()));
    return std::unique_ptr<Compositor>(
        new Compositor(std::unique_ptr<Parts>(new Parts{device.parts(), std::move(painter), std::move(commands)})));
}

Result<Image> Compositor::render(const Scene& scene, std::int64_t width, std::int64_t height) {
    Parts& p = *parts_;
    VITRINE_CHECK(wait(p.device, p.commands));
    VITRINE_CHECK(p.painter->prepare(scene, width, height));
    VITRINE_CHECK(p.painter->prepare_read_back());
    VITRINE_CHECK(begin(p.device, p.commands));
    p.painter->record(p.commands.buffer);
    p.painter->record_read_back(p.commands.buffer);
    VITRINE_CHECK(submit(p.device, p.commands));
    VITRINE_CHECK(wait(p.device, p.commands));
    return p.painter->read();
}

}  // namespace vitrine::viz
