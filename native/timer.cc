#include "timer.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <utility>

#include "arguments.h"
#include "errors.h"

namespace isthmus {

namespace {

int Expired(Napi::Env, int fd, napi_value*) {
  // The open file description is this object's alone, so it is still non-blocking.
  uint64_t count = 0;
  return read(fd, &count, sizeof count) > 0 ? 0 : Watch::kNoCall;
}

}  // namespace

Napi::Function Timer::Define(Napi::Env env) {
  return DefineClass(env, "Timer", {InstanceMethod<&Timer::Set>("set"), InstanceMethod<&Timer::Close>("close")});
}

Timer::Timer(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Env env = info.Env();
  const Napi::Function expired = Callback(info[0], "expired");
  UniqueFd fd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (fd.get() < 0) throw SystemError(env, errno, "timerfd_create", "timerfd_create");
  watch_.Start(env, std::move(fd), UniqueName(), Expired, expired);
}

void Timer::Set(const Napi::CallbackInfo& info) {
  const uint64_t microseconds = Integer(info[0], "microseconds");
  const int fd = watch_.fd();
  if (fd < 0) return;
  itimerspec when = {};
  when.it_value.tv_sec = static_cast<time_t>(microseconds / 1000000);
  when.it_value.tv_nsec = static_cast<long>(microseconds % 1000000) * 1000;
  if (timerfd_settime(fd, 0, &when, nullptr) != 0) {
    throw SystemError(info.Env(), errno, "timerfd_settime", "timer to " + std::to_string(microseconds) + " us");
  }
}

void Timer::Close(const Napi::CallbackInfo&) { watch_.Close(); }

}  // namespace isthmus
