// What the configuration files around a checkpoint say: preprocessing and class names, in every dialect people publish
// them in.
#pragma once

#include <cstdint>

#include <vitrine/checkpoint.h>
#include <vitrine/labels.h>
#include <vitrine/preprocess.h>

namespace vitrine {

/// Preprocessing from timm's config.json, transformers' preprocessor_config.json, OpenCLIP's configuration or a
/// NAME.json in timm's words.
///
/// @param otherwise  what to take where the files are silent, usually a family's published preset; every field taken
/// from it is
///                   named in `assumed`, and its `source` stands when the files say nothing at all
/// @error BadInput   a field of the wrong kind: "mean is \"a\", expected three numbers"
/// @source           timm.data.create_transform (eval), transformers image processors, OpenCLIP image_transform
Result<Preprocess> preprocess_for(const Checkpoint& checkpoint, Preprocess otherwise);

/// Class names: `labels` of NAME.json (a list or a file beside it), id2label, label_names, else the bundled list with
/// that many classes (then `assumed` unless a tag in the configuration names the data set).
///
/// @error BadInput  a label list whose length is not the number of classes
Result<Labels> labels_for(const Checkpoint& checkpoint, std::int64_t classes);

}  // namespace vitrine
