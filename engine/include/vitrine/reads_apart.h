// Whether a run can be read by one thread while its model works on another.
#pragma once

#include <vitrine/capture.h>

namespace vitrine {

/// True where all that the Mixings read is their own. A published run is immutable but for what its readers prepare,
/// which is guarded; but queries that are made again from a recipe come from the model's weights, which a measure may
/// have changed for a while (parameter randomisation), and what lies on a device shares its stream with the model.
bool reads_apart(const Capture& capture);

}  // namespace vitrine
