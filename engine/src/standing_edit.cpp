// The standing edits of this thread, innermost first.
#include "standing_edit.h"

#include <utility>

#include <ATen/core/grad_mode.h>

#include "intercept.h"

namespace vitrine {

namespace {
thread_local StandingEdit* t_innermost = nullptr;
}  // namespace

StandingEdit::StandingEdit(std::string point, Change change)
    : point_(std::move(point)), change_(std::move(change)), outer_(std::exchange(t_innermost, this)) {}

StandingEdit::~StandingEdit() { t_innermost = outer_; }

bool StandingEdit::any() { return t_innermost != nullptr; }

at::Tensor StandingEdit::apply(std::string_view point, at::Tensor x, bool shared) {
    for (StandingEdit* edit = t_innermost; edit != nullptr; edit = edit->outer_) {
        if (edit->point_ != point) continue;
        const c10::impl::ExcludeDispatchKeyGuard hidden(kInterceptionKey);
        if (shared && at::GradMode::is_enabled()) x = x.clone();
        edit->used_ = true;
        x = edit->change_(x);
        shared = false;
    }
    return x;
}

StandingEdit::None::None() : hidden_(std::exchange(t_innermost, nullptr)) {}
StandingEdit::None::~None() { t_innermost = hidden_; }

}  // namespace vitrine
