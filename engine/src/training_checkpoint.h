// What a trainer finds where it stopped: the checkpoint beside its output.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <vitrine/base/result.h>

#include "tensor_io.h"

namespace vitrine {

struct CheckpointWanted {
    std::string format;             ///< its "format"
    std::string of;                 ///< "a mask", for the words
    std::string settings;           ///< this run's record: a JSON object, perhaps with objects in it
    std::vector<std::string> free;  ///< settings that may differ, because the result does not depend on them
    std::int64_t steps = 0;
};

struct TrainingCheckpoint {
    std::map<std::string, std::string> facts;
    NamedTensors state;     ///< float32, on the CPU
    std::int64_t step = 0;  ///< 0 to steps
    std::string fact(const std::string& key) const;
    /// -1 where it is no whole number.
    std::int64_t whole(const std::string& key) const;
    /// 0 where it is no finite number.
    double number(const std::string& key) const;
};

/// Whether there will be a place for what is trained: what would be found out only at the end.
///
/// @error Io        no such folder, or it is read-only
/// @error BadInput  a folder lies there
Status can_train_into(const std::filesystem::path& out);

/// Nothing where there is no file.
///
/// @error BadInput  another format, other settings (the first that differs is named), a step that cannot be
Result<std::optional<TrainingCheckpoint>> read_training_checkpoint(const std::filesystem::path& file,
                                                                   const CheckpointWanted& wanted);

}  // namespace vitrine
