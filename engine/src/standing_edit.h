// A change of one point that is part of the model: made whether a capture listens or not, and before it hears of the
// point.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace vitrine {

/// Stands while it lives, for runs on this thread. Of several at one point the last made comes first: it belongs to the
/// model further inside.
class StandingEdit {
  public:
    using Change = std::function<at::Tensor(const at::Tensor&)>;
    StandingEdit(std::string point, Change change);
    ~StandingEdit();
    StandingEdit(const StandingEdit&) = delete;
    StandingEdit& operator=(const StandingEdit&) = delete;
    /// Whether a run has passed the point.
    bool used() const { return used_; }

    /// Whether any stands on this thread.
    static bool any();
    /// x as the model goes on with it. What the changes compute is seen by no capture.
    ///
    /// @param shared  x may be written over afterwards, so what is made of it must not refer to it
    static at::Tensor apply(std::string_view point, at::Tensor x, bool shared = false);

    /// While it lives none stands: for what is computed inside a run and is no part of it.
    class None {
      public:
        None();
        ~None();
        None(const None&) = delete;
        None& operator=(const None&) = delete;

      private:
        StandingEdit* hidden_;
    };

  private:
    std::string point_;
    Change change_;
    StandingEdit* outer_;
    bool used_ = false;
};

}  // namespace vitrine
