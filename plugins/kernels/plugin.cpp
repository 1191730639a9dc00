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

/// Why no CUDA device can be used; empty when one can.
std::optional<std::string> no_device() {
#if VITRINE_DEVICE_KERNELS
    if (kernels::cuda::device_count() == 0) return "there is no CUDA device";
    if (kernels::cuda::compute_capability(0) < 80) return "the CUDA device is older than compute capability 8.0";
    return std::nullopt;
#else
    return "this program was built without nvcc";
#endif
}

/// A kernel that has one form on a CUDA device.
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
    std::optional<std::string> why_not() const override { return no_device(); }

  private:
    kernels::Operation operation_;
};

#if VITRINE_DEVICE_KERNELS
namespace cuda = kernels::cuda;

const char* summary_of(cuda::Operation operation) {
    switch (operation) {
        case cuda::Operation::LogSumExp:
            return kernels::summary_of(kernels::Operation::LogSumExp);
        case cuda::Operation::MapRows:
            return kernels::summary_of(kernels::Operation::MapRowsLayers);
        case cuda::Operation::MapColumns:
            return kernels::summary_of(kernels::Operation::MapColumnsLayers);
        case cuda::Operation::MapTile:
            return kernels::summary_of(kernels::Operation::MapTile);
        case cuda::Operation::MapApply:
            return kernels::summary_of(kernels::Operation::MapApply);
        case cuda::Operation::MapSweep:
            return kernels::summary_of(kernels::Operation::MapSweep);
        case cuda::Operation::MapSweepGradient:
            return kernels::summary_of(kernels::Operation::MapSweepGradient);
        case cuda::Operation::Fused:
            return kernels::summary_of(kernels::Operation::FusedSweep);
        case cuda::Operation::TopK:
            return "The largest entries of rows, and where they are.";
    }
    return "";
}

/// One form of one map kernel of a CUDA device.
class DeviceMapKernel final : public Kernel {
  public:
    DeviceMapKernel(cuda::Operation operation, cuda::Implementation implementation)
        : operation_(operation), implementation_(implementation) {}
    Description description() const override {
        const std::string name = cuda::name_of(operation_), form = cuda::name_of(implementation_);
        return {name + "_" + form, name + ", " + form, summary_of(operation_), "", 0};
    }
    std::string operation() const override { return cuda::name_of(operation_); }
    std::string implementation() const override { return cuda::name_of(implementation_); }
    std::optional<std::string> why_not() const override {
        if (auto why = no_device()) return why;
        if (implementation_ == cuda::Implementation::Sm90 && cuda::compute_capability(0) != 90)
            return "it needs a device of compute capability 9.0";
        return std::nullopt;
    }

  private:
    cuda::Operation operation_;
    cuda::Implementation implementation_;
};

/// wgmma is for the two sweeps alone, and choosing the largest entries has one form.
bool has_form(cuda::Operation operation, cuda::Implementation implementation) {
    if (operation == cuda::Operation::TopK) return implementation == cuda::Implementation::Sm80;
    return implementation != cuda::Implementation::Sm90 || operation == cuda::Operation::MapSweep ||
           operation == cuda::Operation::MapSweepGradient;
}
#endif

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
#if VITRINE_DEVICE_KERNELS
    for (const kernels::cuda::Operation operation : kernels::cuda::kOperations)
        for (const kernels::cuda::Implementation form : kernels::cuda::kImplementations)
            if (plugin::kernel_list::has_form(operation, form))
                registry.add(std::make_unique<plugin::kernel_list::DeviceMapKernel>(operation, form));
#endif
    registry.add(std::make_unique<plugin::kernel_list::LeanDecode>());
}
