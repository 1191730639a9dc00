// Work of a device that is asked for again and again is recorded, and then replayed with one launch.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/model.h>

namespace vitrine {

/// What a piece of work gives. On a replay the tensors in it hold new numbers.
using Found = std::shared_ptr<const void>;
/// Reads `inputs`, and nothing else that changes but the model's weights. `before` is what the run before a recording gave, null in
/// that run: what had to be brought to the device need not come again. While recorded it must not wait for the device.
using ReplayedWork = std::function<Result<Found>(const std::vector<at::Tensor>& inputs, const Found& before)>;

/// Runs work on a model whose many small launches cost the host more than the device needs for them, such as one explanation of a picture.
///
/// The first time it runs as it is. The second time with the same model, `key` and shapes it is recorded as a CUDA graph, which takes
/// two runs more, and from then on replayed. The model holds its last three recordings and their memory. Where nothing can be recorded (the
/// CPU, a model that is not native, a libtorch without graphs, work that waits) it always runs as it is.
///
/// @param key     what the work depends on beside its inputs: the method, its settings
/// @param inputs  on the model's device; a recording has copies of them in places of its own
/// @return        valid until the next call for this model
/// @error         those of `work`
Result<Found> replayed(Model& model, const std::string& key, const std::vector<at::Tensor>& inputs, const ReplayedWork& work);

/// How many replays there were in this process: a test can tell that one ran.
std::int64_t replay_count();

}  // namespace vitrine
