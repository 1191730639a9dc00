// Results and errors: what crosses a module's edge instead of exceptions.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <tl/expected.hpp>

namespace vitrine {

enum class ErrorCode : std::uint8_t { BadInput, NotFound, Unsupported, Io, OutOfMemory, Cancelled, Internal };

/// One sentence a person can act on: what was found, what was wanted.
struct Error {
    ErrorCode code = ErrorCode::Internal;
    std::string message;

    /// Puts where it happened in front: "opening a.pt: ...".
    Error with_context(const std::string& context) && {
        message = context + ": " + message;
        return std::move(*this);
    }
};

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

template <class... Args>
tl::unexpected<Error> fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
    return tl::make_unexpected(Error{code, fmt::format(format, std::forward<Args>(args)...)});
}

/// Process exit status of an error (the command line's promise): 3 for "cannot be done here", else 1.
inline int exit_status(const Error& error) { return error.code == ErrorCode::Unsupported ? 3 : 1; }

}  // namespace vitrine

/// The value of a Result, or returns its error from the enclosing function.
#define VITRINE_TRY(expression)                                                              \
    ({                                                                                       \
        auto vitrine_result_ = (expression);                                                 \
        if (!vitrine_result_) return tl::make_unexpected(std::move(vitrine_result_).error()); \
        std::move(vitrine_result_).value();                                                  \
    })

/// The same for a Status, which holds no value.
#define VITRINE_CHECK(expression)                                                            \
    do {                                                                                     \
        auto vitrine_status_ = (expression);                                                 \
        if (!vitrine_status_) return tl::make_unexpected(std::move(vitrine_status_).error()); \
    } while (false)
