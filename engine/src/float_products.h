// How a device multiplies matrices of float32, for a while.
#pragma once

#include <string>

#include <ATen/Context.h>

namespace vitrine {

/// While it lives: "tf32" lets the device keep ten bits after the point of each factor, "fp32" all of them.
class FloatProducts {
  public:
    explicit FloatProducts(const std::string& products) : before_(at::globalContext().float32MatmulPrecision()) {
        at::globalContext().setFloat32MatmulPrecision(products == "tf32" ? "high" : "highest");
    }
    ~FloatProducts() {
        at::globalContext().setFloat32MatmulPrecision(before_ == at::Float32MatmulPrecision::HIGHEST ? "highest"
                                                      : before_ == at::Float32MatmulPrecision::HIGH  ? "high"
                                                                                                     : "medium");
    }
    FloatProducts(const FloatProducts&) = delete;
    FloatProducts& operator=(const FloatProducts&) = delete;

  private:
    at::Float32MatmulPrecision before_;
};

}  // namespace vitrine
