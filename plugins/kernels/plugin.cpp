// Registers every implementation of every attention kernel, so that they are listed, explained and can be forced by
// name.
#include <vitrine/kernels/chooser.h>
#include <vitrine/registry.h>

namespace vitrine::plugin::kernel_list {
namespace {

class AttentionKernel final : public Kernel {
  public:
    AttentionKernel(kernels::Operation operation, const kernels::AttentionKernels& table)
        : operation_(operation), table_(table) {}

    Description description() const override {
        const std::string name = kernels::name_of(operation_);
        return {name + "_" + table_.name, name + ", " + table_.name, kernels::summary_of(operation_), "", 0};
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

}  // namespace
}  // namespace vitrine::plugin::kernel_list

VITRINE_PLUGIN(kernels) {
    using namespace vitrine;
    for (const kernels::Operation operation : kernels::kOperations)
        for (const kernels::AttentionKernels* table : kernels::attention_kernels())
            registry.add(std::make_unique<plugin::kernel_list::AttentionKernel>(operation, *table));
}
