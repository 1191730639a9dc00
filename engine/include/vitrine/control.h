// Controls: maps made without asking the model, beside which every method has to show that it says more.
#pragma once

#include <string_view>

#include <vitrine/explainer.h>

namespace vitrine {

/// What a control names as explained. Its map may be flat, and a measure of it tells what the measure rewards by
/// itself.
inline constexpr std::string_view kExplainsNothing = "nothing: a control";

inline bool is_control(const Attribution& attribution) { return attribution.explained == kExplainsNothing; }

}  // namespace vitrine
