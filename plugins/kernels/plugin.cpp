// Registers every implementation of every attention kernel, so that they are listed, explained and can be forced by
// name.
#include <vitrine/kernels/chooser.h>
#include <vitrine/registry.h>

#if VITRINE_DEVICE_KERNELS
#include <vitrine/kernels/cuda/attention.h>
#endif

namespace vitrine::plugin::kernel_list {
namespace {

constexpr const char* kLeanPaper =
    "R. Sanovar et al., Lean Attention: Hardware-Aware Scalable Attention Mechanism for the Decode-Phase of "
    "Transformers, 2024, arXiv 2405.10480";
constexpr int kLeanSystem = 46;

class AttentionKernel final : public Kernel {
  public:
    AttentionKernel(kernels::Operation operation, const kernels::AttentionKernels& table)
        : operation_(operation), table_(table) {}

    Description description() const override {
        const std::string name = kernels::name_of(operation_);
        Description d{name + "_" + table_.name, name + ", " + table_.name, kernels::summary_of(operation_), "", 0};
        if (operation_ == kernels::Operation::Probe) {
            d.source = kLeanPaper;
            d.system = kLeanSystem;
        }
        return d;
    }
    std::string operation() const override { return kernels::name_of(operation_); }
    std::string implementation() const override { return table_.name; }
    std::optional<std::string> why_not() const override {
        const char* why = table_.machine();
        return why == nullptr ? std::nullopt : std::optional<std::string>(why);
    }

  private:
    kernels::Operation operation_;
    const kernels::AttentionKernels& table_;
};

/// A kernel that runs on a CUDA device alone.
class DeviceKernel final : public Kernel {
  public:
    explicit DeviceKernel(kernels::Operation operation) : operation_(operation) {}
    Description description() const override {
        const std::string name = kernels::name_of(operation_);
        const bool lean = operation_ == kernels::Operation::Probe;
        return {name + "_cuda", name + ", CUDA", kernels::summary_of(operation_), lean ? kLeanPaper : "",
                lean ? kLeanSystem : 0};
    }
    std::string operation() const override { return kernels::name_of(operation_); }
    std::string implementation() const override { return "cuda"; }
    std::optional<std::string> why_not() const override {
#if VITRINE_DEVICE_KERNELS
        if (kernels::cuda::device_count() == 0) return "there is no CUDA device";
        if (kernels::cuda::compute_capability(0) < 80) return "the CUDA device is older than compute capability 8.0";
        return std::nullopt;
#else
        return "this program was built without nvcc";
#endif
    }

  private:
    kernels::Operation operation_;
};

/// The probe under the name of its system, in the form that this machine runs.
class LeanDecode final : public Kernel {
  public:
    Description description() const override {
        return {"attn_decode_lean", "LeanAttention for few queries", kernels::summary_of(kernels::Operation::Probe),
                kLeanPaper, kLeanSystem};
    }
    std::string operation() const override { return kernels::name_of(kernels::Operation::Probe); }
    std::string implementation() const override {
        std::string name;
        for (const kernels::AttentionKernels* table : kernels::attention_kernels())
            if (table->machine() == nullptr) name = table->name;  // by growing speed
        return name;
    }
    std::optional<std::string> why_not() const override { return std::nullopt; }
};

}  // namespace
}  // namespace vitrine::plugin::kernel_list

VITRINE_PLUGIN(kernels) {
    using namespace vitrine;
    for (const kernels::Operation operation : kernels::kOperations)
        for (const kernels::AttentionKernels* table : kernels::attention_kernels())
            registry.add(std::make_unique<plugin::kernel_list::AttentionKernel>(operation, *table));
    for (const kernels::Operation operation : {kernels::Operation::SmallAttention, kernels::Operation::Probe})
        registry.add(std::make_unique<plugin::kernel_list::DeviceKernel>(operation));
    registry.add(std::make_unique<plugin::kernel_list::LeanDecode>());
}
