// Errors for JavaScript. The caller throws them.

#ifndef ISTHMUS_NATIVE_ERRORS_H_
#define ISTHMUS_NATIVE_ERRORS_H_

#include <napi.h>

#include <string>

namespace isthmus {

// An Error with `code` ('ENOSPC'), `errno` (28) and `syscall` ('posix_fallocate'). `what` describes the failed
// operation, with its numbers: "posix_fallocate of 4096 bytes" becomes "posix_fallocate of 4096 bytes: No space left on
// device (ENOSPC)".
Napi::Error SystemError(Napi::Env env, int error, const char* syscall, const std::string& what);

// An argument of the wrong type: a TypeError with the code 'ERR_INVALID_ARG_TYPE', as from Node.js itself.
Napi::Error WrongType(Napi::Env env, const std::string& message);

// An argument of the right type with an invalid value: a RangeError with the code 'ERR_OUT_OF_RANGE'.
Napi::Error OutOfRange(Napi::Env env, const std::string& message);

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_ERRORS_H_
