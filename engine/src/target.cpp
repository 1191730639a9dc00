// Checks what is asked against a model and turns it into a number of the model's answer.
#include <vitrine/target.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cosine_similarity.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

namespace vitrine {

at::Tensor Objective::of(const at::Tensor& answer) const {
    const at::Tensor x = answer.to(at::kFloat);
    if (!region.empty()) {
        // [batch, positions, channels], whichever of the two kinds of activation it is
        const at::Tensor cells = x.dim() == 4 ? x.flatten(2).transpose(1, 2) : x;
        return cells.index_select(1, at::tensor(region, at::kLong).to(cells.device())).norm(2, {-1}).mean(1);
    }
    if (reference.defined()) return at::cosine_similarity(x, reference.to(x.device()).unsqueeze(0), 1, 1e-8);
    const at::Tensor numbers = probability ? at::softmax(x, 1) : x;
    at::Tensor out = numbers.select(1, index);
    for (const std::int64_t other : also) out = out + numbers.select(1, other);
    return versus ? out - numbers.select(1, *versus) : out;
}

Result<Objective> objective_of(const Model& model, const Target& target, const at::Tensor& answer, Scale standard) {
    const ModelInfo& info = model.info();
    Objective out;
    if (!target.region.empty()) {
        out.region = target.region;
        out.point = target.point.empty() ? info.cam_point : target.point;
        if (out.point.empty())
            return fail(ErrorCode::Unsupported, "{} has no named point at which a region could be read", info.name);
        for (const std::int64_t token : target.region)
            if (token < 0) return fail(ErrorCode::BadInput, "token {} is not there: tokens count from 0", token);
        out.explained = fmt::format("activation of {} {} at {}", target.region.size(),
                                    target.region.size() == 1 ? "token" : "tokens", out.point);
        return out;
    }
    if (target.reference.defined()) {
        if (info.classes > 0)
            return fail(ErrorCode::Unsupported, "{} has classes: give one of them, not a reference picture", info.name);
        const at::Tensor reference = target.reference.detach().reshape({-1}).to(at::kFloat);
        if (answer.defined()) {
            if (answer.size(-1) != reference.size(0))
                return fail(ErrorCode::BadInput, "the reference has {} features, {} gives {}", reference.size(0),
                            info.name, answer.size(-1));
            if (answer.reshape({-1}).to(at::kCPU, at::kFloat).equal(reference.to(at::kCPU)))
                return fail(ErrorCode::BadInput,
                            "the reference is the picture itself, and its similarity to itself has no gradient: give "
                            "another picture");
        }
        out.reference = reference;
        out.explained =
            "similarity to " + (target.reference_name.empty() ? std::string("the reference") : target.reference_name);
        return out;
    }
    if (info.classes == 0)
        return fail(ErrorCode::Unsupported,
                    "{} has no classes, and this method explains a class: give a reference picture or a region",
                    info.name);
    if (!target.index && (!answer.defined() || answer.dim() != 2 || answer.size(0) != 1))
        return fail(ErrorCode::Internal, "no class was named and no answer is there to read the predicted class from");
    const auto known = [&](std::int64_t index) -> Status {
        if (index >= 0 && index < info.classes) return {};
        return fail(ErrorCode::BadInput, "class {} is not there: {} has {}, from 0 to {}", index, info.name,
                    info.classes, info.classes - 1);
    };
    out.index = target.index ? *target.index : answer[0].argmax().item<std::int64_t>();
    out.versus = target.versus;
    out.also = target.also;
    VITRINE_CHECK(known(out.index));
    if (out.versus) VITRINE_CHECK(known(*out.versus));
    for (const std::int64_t other : out.also) VITRINE_CHECK(known(other));
    out.probability = (target.scale == Scale::Standard ? standard : target.scale) == Scale::Probability;
    out.explained = fmt::format("{} of class {}", out.probability ? "probability" : "logit", out.index);
    for (const std::int64_t other : out.also) out.explained += fmt::format(" and class {}", other);
    if (out.versus) out.explained += fmt::format(" minus that of class {}", *out.versus);
    return out;
}

}  // namespace vitrine
