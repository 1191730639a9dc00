// Registers TorchScript as an architecture: recognised by its container, opened by the engine with consent only.
#include <vitrine/registry.h>
#include <vitrine/torchscript.h>

namespace vitrine::plugin::torchscript {
namespace {

class TorchScript final : public Architecture {
  public:
    Description description() const override {
        return {"torchscript", "TorchScript",
                "Any traced or scripted model; its attention is intercepted, its tokens and layers are probed",
                "PyTorch, torch.jit", 0};
    }

    Recognition recognise(const Checkpoint& checkpoint) const override {
        if (checkpoint.kind != FileKind::TorchScript) return {0, "not a TorchScript archive"};
        return {1, "a TorchScript archive: it holds code beside its tensors"};
    }

    /// A checkpoint carries no consent, so this refuses in words; the engine asks and calls open_torchscript itself.
    Result<std::unique_ptr<Model>> build(const Checkpoint& checkpoint) const override {
        return open_torchscript(checkpoint.path, false, checkpoint.config);
    }

    Result<std::unique_ptr<Model>> tiny(std::uint64_t seed) const override { return tiny_torchscript(seed); }
};

}  // namespace
}  // namespace vitrine::plugin::torchscript

VITRINE_PLUGIN(torchscript) { registry.add(std::make_unique<vitrine::plugin::torchscript::TorchScript>()); }
