// The precompiled header of the window: Qt's widgets and what is included everywhere. No torch.
#pragma once

#include <QtWidgets>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <tl/expected.hpp>
