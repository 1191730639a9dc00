// What the commands share that work for long: they stop when interrupted, and their settings stand beside the model's.
#pragma once

#include <memory>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "cli/common.h"

namespace vitrine::cli {

/// An interrupt asks the work to stop at the next step, where it leaves what it has; a second one ends the program.
class StopOnInterrupt {
  public:
    StopOnInterrupt();
    ~StopOnInterrupt();
    std::stop_token token() const { return source_.get_token(); }

  private:
    std::stop_source source_;
};

/// The model, and the job's own settings among --set: those have no owner, what belongs to the model is preprocess.key.
Result<std::shared_ptr<Model>> open_for_job(const Common& common,
                                            std::vector<std::pair<std::string, std::string>>& settings);

/// --batch as the job's own setting of that name, which is not given too.
Status add_batch(const Common& common, const std::string& name,
                 std::vector<std::pair<std::string, std::string>>& settings);

}  // namespace vitrine::cli
