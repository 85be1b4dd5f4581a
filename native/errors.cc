#include "errors.h"

#include <cerrno>
#include <system_error>

namespace isthmus {

namespace {

// Names of the errors that mmap, mremap, statx, fcntl, sigaction, posix_fallocate, eventfd and the socket calls are documented to
// return. (Only new versions of glibc have strerrorname_np.)
std::string NameOf(int error) {
  switch (error) {
#define NAME(code) \
  case code:       \
    return #code
    NAME(EACCES);
    NAME(EADDRINUSE);
    NAME(EAGAIN);
    NAME(EBADF);
    NAME(EBADMSG);
    NAME(EBUSY);
    NAME(ECONNREFUSED);
    NAME(ECONNRESET);
    NAME(EDEADLK);
    NAME(EFAULT);
    NAME(EFBIG);
    NAME(EINTR);
    NAME(EINVAL);
    NAME(EIO);
    NAME(EISDIR);
    NAME(EMFILE);
    NAME(ENFILE);
    NAME(ENODEV);
    NAME(ENOLCK);
    NAME(ENOMEM);
    NAME(ENOPROTOOPT);
    NAME(ENOSPC);
    NAME(ENOSYS);
    NAME(ENOTSOCK);
    NAME(ENXIO);
    NAME(EOPNOTSUPP);
    NAME(EOVERFLOW);
    NAME(EPERM);
    NAME(EPIPE);
    NAME(EDQUOT);
    NAME(EROFS);
    NAME(ESPIPE);
    NAME(ETXTBSY);
#undef NAME
    default:
      return "E" + std::to_string(error);
  }
}

}  // namespace

Napi::Error SystemError(Napi::Env env, int error, const char* syscall, const std::string& what) {
  const std::string name = NameOf(error);
  const std::string reason = std::generic_category().message(error);
  Napi::Error result = Napi::Error::New(env, what + ": " + reason + " (" + name + ")");
  result.Set("code", Napi::String::New(env, name));
  result.Set("errno", Napi::Number::New(env, error));
  result.Set("syscall", Napi::String::New(env, syscall));
  return result;
}

Napi::Error WrongType(Napi::Env env, const std::string& message) {
  Napi::Error result = Napi::TypeError::New(env, message);
  result.Set("code", Napi::String::New(env, "ERR_INVALID_ARG_TYPE"));
  return result;
}

Napi::Error OutOfRange(Napi::Env env, const std::string& message) {
  Napi::Error result = Napi::RangeError::New(env, message);
  result.Set("code", Napi::String::New(env, "ERR_OUT_OF_RANGE"));
  return result;
}

}  // namespace isthmus
