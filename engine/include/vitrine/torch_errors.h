// The edge where libtorch's exceptions become sentences.
#pragma once

#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include <c10/util/Exception.h>

#include <vitrine/base/result.h>

namespace vitrine {

/// The first line of what libtorch says, without its stack traces.
std::string first_sentence(const std::string& text);

/// The error of the exception being handled; call it inside a catch block only.
Error current_exception_error();

/// Calls f, which gives a Result, and turns what it throws into that Result's error.
template <class F>
auto guarded(F&& f) -> std::invoke_result_t<F> {
    try {
        return std::forward<F>(f)();
    } catch (...) {
        return tl::make_unexpected(current_exception_error());
    }
}

}  // namespace vitrine
