// Processes that train one module together: each has its share of every batch, all have the same weights.
#pragma once

#include <memory>
#include <span>

#include <vitrine/base/result.h>

namespace vitrine {

class DeviceSums;

/// This process among those that share a training. All of them make the same calls in the same order, one at a time;
/// a call may come from another thread than the one before.
class Peers {
  public:
    virtual ~Peers() = default;
    virtual int rank() const = 0;   ///< from 0; process 0 alone writes files
    virtual int count() const = 0;  ///< at least 1

    /// Replaces each value by the sum of all processes', the same bits everywhere. As many values in every process.
    virtual Status sum(std::span<double> values) = 0;
    /// The first failure of any process, everywhere; success where there is none.
    virtual Status agree(const Status& mine) = 0;
    /// Only this process failed, and the others wait for it: ends them, or makes their calls fail.
    virtual void give_up(const Error& error) = 0;

    /// Sums from device to device, where join_devices() found a way; null: all go through host memory.
    std::shared_ptr<DeviceSums> devices;
};

}  // namespace vitrine
