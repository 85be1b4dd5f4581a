// A descriptor that the event loop waits for, and a function that it calls when the descriptor is readable.

#ifndef ISTHMUS_NATIVE_WATCH_H_
#define ISTHMUS_NATIVE_WATCH_H_

#include <napi.h>
#include <uv.h>

#include <string>
#include <utility>

#include "unique_fd.h"

namespace isthmus {

// The name of a file, with exactly one owner, which removes it.
class UniqueName {
 public:
  UniqueName() = default;
  explicit UniqueName(std::string path) : path_(std::move(path)) {}
  ~UniqueName() { Reset(); }

  UniqueName(UniqueName&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  UniqueName& operator=(UniqueName&& other) noexcept {
    if (this == &other) return *this;
    Reset();
    path_ = std::exchange(other.path_, {});
    return *this;
  }

  const std::string& get() const { return path_; }

  void Reset() {
    // Nothing can be done about a failure: the name is gone, or the file system is read-only by now.
    if (!path_.empty()) unlink(path_.c_str());
    path_.clear();
  }

 private:
  std::string path_;
};

// Owns the descriptor: it is closed by Close(), with this object, or when the environment (the process, or a worker
// thread that ends or is terminated) is torn down, whichever comes first. Keeps no process alive.
class Watch {
 public:
  static constexpr int kMaxArguments = 2;
  static constexpr int kNoCall = -1;

  // Reads what made `fd` readable, without blocking, and fills in the arguments of the call. Returns their number, or
  // kNoCall. This is done here because the caches of a process that slept are cold: a call from JavaScript to read a
  // counter took 8 us.
  using Take = int (*)(Napi::Env env, int fd, napi_value* arguments);

  Watch() = default;
  ~Watch() { Close(); }

  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // Once. `name`, if there is one, is removed when the descriptor is closed. Throws a Napi::Error; then both are gone.
  void Start(Napi::Env env, UniqueFd fd, UniqueName name, Take take, Napi::Function called);

  // -1: closed.
  int fd() const;

  // Idempotent.
  void Close();

 private:
  // The part that libuv refers to. It lives until libuv has closed it, which may be after this object is gone.
  struct Handle;

  Handle* handle_ = nullptr;
};

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_WATCH_H_
