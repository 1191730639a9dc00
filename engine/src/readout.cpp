// Where the answer is read, taken back through a pooling head to the tokens of the last block.
#include <vitrine/mixing.h>

namespace vitrine {

Result<at::Tensor> readout_of_blocks(const Flow& flow) {
    if (!flow.readout.defined())
        return fail(ErrorCode::Unsupported,
                    "it is not known from which tokens this model reads its answer{}; use --query with a token",
                    flow.unknown.empty() ? "" : " (" + flow.unknown + ")");
    at::Tensor r = flow.readout.to(at::kFloat);
    for (auto step = flow.steps.rbegin(); step != flow.steps.rend() && step->layer < 0; ++step) {
        r = VITRINE_TRY(step->mixing->left(r.unsqueeze(0).to(step->mixing->device()))).mean(0).to(at::kCPU);
        if (step->before) r = step->before->back(r);
    }
    return r;
}

}  // namespace vitrine
