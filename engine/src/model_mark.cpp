// Where a model's weights lie, and the number of its steering.
#include <vitrine/model_mark.h>

#include <vitrine/steering.h>

namespace vitrine {

ModelMark::ModelMark(Model& model) : model_(&model), steering_(steering_number(model)) {
    for (const auto& [name, tensor] : model.parameters()) weights_.push_back(tensor.storage().getWeakStorageImpl());
}

}  // namespace vitrine
