// The exports of the addon. `host/native/native.ts` describes them.

#include <fcntl.h>
#include <napi.h>

#include <cerrno>
#include <memory>
#include <string>

#include "arguments.h"
#include "doorbells.h"
#include "errors.h"
#include "locks.h"
#include "mapping.h"
#include "pages.h"
#include "sockets.h"
#include "timer.h"

namespace isthmus {

namespace {

// State of the addon in one environment. It is loaded into several worker threads at once, so it has no global state.
struct Instance {
  Napi::FunctionReference mapping;
};

Napi::Value Map(const Napi::CallbackInfo& info) {
  const Instance* instance = info.Env().GetInstanceData<Instance>();
  return instance->mapping.New({info[0], info[1], info[2], info[3], info[4], info[5]});
}

void Reserve(const Napi::CallbackInfo& info) {
  const int fd = Descriptor(info[0], "fd");
  const uint64_t length = Integer(info[1], "length");
  if (length == 0) throw OutOfRange(info.Env(), "length must not be 0");
  // A signal (of a profiler, for example) interrupts posix_fallocate(), which may undo its progress: without a limit, a
  // frequent signal would keep this loop running for ever.
  constexpr int kAttempts = 100;
  int error = EINTR;
  for (int i = 0; i < kAttempts && error == EINTR; i++) {
    error = posix_fallocate(fd, 0, static_cast<off_t>(length));  // returns the error, leaves errno alone
  }
  if (error != 0) {
    throw SystemError(info.Env(), error, "posix_fallocate", "posix_fallocate of " + std::to_string(length) + " bytes");
  }
}

Napi::Value LockByte(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), Lock(Descriptor(info[0], "fd"), info[1]));
}

Napi::Value LockedByte(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), Locked(Descriptor(info[0], "fd"), info[1]));
}

Napi::Value TakeLease(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), Lease(info.Env(), Descriptor(info[0], "fd")));
}

void GiveLeaseBack(const Napi::CallbackInfo& info) { DropLease(info.Env(), Descriptor(info[0], "fd")); }

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto instance = std::make_unique<Instance>();
  instance->mapping = Napi::Persistent(Mapping::Define(env));
  env.SetInstanceData(instance.release());  // the environment deletes it

  exports.Set("map", Napi::Function::New<Map>(env, "map"));
  exports.Set("reserve", Napi::Function::New<Reserve>(env, "reserve"));
  exports.Set("lock", Napi::Function::New<LockByte>(env, "lock"));
  exports.Set("locked", Napi::Function::New<LockedByte>(env, "locked"));
  exports.Set("lease", Napi::Function::New<TakeLease>(env, "lease"));
  exports.Set("dropLease", Napi::Function::New<GiveLeaseBack>(env, "dropLease"));
  exports.Set("setSocketBuffers", Napi::Function::New<SetSocketBuffers>(env, "setSocketBuffers"));
  exports.Set("socketBuffers", Napi::Function::New<SocketBuffers>(env, "socketBuffers"));
  exports.Set("unansweredFor", Napi::Function::New<UnansweredFor>(env, "unansweredFor"));
  exports.Set("Timer", Timer::Define(env));
  exports.Set("Doorbell", Doorbell::Define(env));
  exports.Set("PeerDoorbell", PeerDoorbell::Define(env));
  exports.Set("pageSize", Napi::Number::New(env, static_cast<double>(PageSize())));
  return exports;
}

}  // namespace

}  // namespace isthmus

static Napi::Object InitIsthmus(Napi::Env env, Napi::Object exports) { return isthmus::Init(env, exports); }

NODE_API_MODULE(isthmus, InitIsthmus)
