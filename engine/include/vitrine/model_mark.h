// Whether a model is still the one that something was computed with, for what is kept between calls.
#pragma once

#include <cstdint>
#include <vector>

#include <c10/core/StorageImpl.h>
#include <c10/util/intrusive_ptr.h>

#include <vitrine/model.h>

namespace vitrine {

/// Of one object, its weights where they lie and what is steered in it. Holds no weights, and yet no later model is
/// taken for it: an address that is given again is told apart.
class ModelMark {
  public:
    explicit ModelMark(Model& model);
    bool operator==(const ModelMark&) const = default;

  private:
    const Model* model_;
    std::uint64_t steering_;
    std::vector<c10::weak_intrusive_ptr<c10::StorageImpl>> weights_;
};

}  // namespace vitrine
