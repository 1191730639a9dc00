// Turns the exceptions of libtorch into one-sentence errors.
#include <vitrine/torch_errors.h>

#include <exception>

namespace vitrine {

std::string first_sentence(const std::string& text) {
    // TorchScript puts its own traceback first and the cause last, after "RuntimeError: ".
    std::string cause = text;
    if (const auto at = cause.rfind("RuntimeError: "); at != std::string::npos) cause = cause.substr(at + 14);
    cause = cause.substr(0, cause.find('\n'));
    while (!cause.empty() && (cause.back() == ' ' || cause.back() == '\r')) cause.pop_back();
    return cause.empty() ? "libtorch gave no reason" : cause;
}

namespace {

Error error_of(const std::string& text) {
    if (text.find("not enough memory") != std::string::npos || text.find("can't allocate memory") != std::string::npos)
        return {ErrorCode::OutOfMemory, "not enough memory: " + text};
    // Autograd's words name tensors that nobody outside the model's program knows.
    if (text.find("modified by an inplace operation") != std::string::npos)
        return {ErrorCode::Unsupported,
                "the model writes over an activation that its gradient needs, so it has no gradient as it is written; "
                "methods that only run it work"};
    if (text.starts_with("derivative for ") && text.find(" is not implemented") != std::string::npos)
        return {ErrorCode::Unsupported, "the model was written with a step that has no gradient (" +
                                            text.substr(15, text.find(" is not") - 15) +
                                            "): trace it with gradients on; methods that only run it work"};
    return {ErrorCode::Internal, text};
}

}  // namespace

Error current_exception_error() {
    try {
        throw;
    } catch (const c10::OutOfMemoryError& e) {
        return {ErrorCode::OutOfMemory,
                "the device has not enough memory: " + first_sentence(e.what_without_backtrace())};
    } catch (const c10::Error& e) {
        return error_of(first_sentence(e.what_without_backtrace()));
    } catch (const std::bad_alloc&) {
        return {ErrorCode::OutOfMemory, "not enough memory"};
    } catch (const std::exception& e) {
        return error_of(first_sentence(e.what()));
    } catch (...) {
        return {ErrorCode::Internal, "an unknown exception was thrown"};
    }
}

}  // namespace vitrine
