#include "watch.h"

#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>

#include "arguments.h"
#include "errors.h"

namespace isthmus {

namespace {

// Reads, and so resets, the counter of an eventfd or a timer. Returns whether it was not 0.
bool ResetCounter(int fd) {
  uint64_t count = 0;
  iovec where = {&count, sizeof count};
  // A process that received this doorbell may make it blocking and read it first: they share one open file description.
  const ssize_t got = preadv2(fd, &where, 1, -1, RWF_NOWAIT);
  const bool without = errno == EOPNOTSUPP || errno == ENOSYS || errno == EPERM;
  if (got >= 0 || !without) return got > 0;
  // A timer, which is never shared; a kernel before 5.8; or a sandbox that refuses the call.
  return read(fd, &count, sizeof count) > 0;
}

}  // namespace

struct Watch::Handle {
  uv_poll_t poll;
  // Descriptor of a counter; else -1.
  int counter = -1;
  napi_env env;
  // The JavaScript object, while it exists: the first of the two to go clears the pointer of the other.
  Watch* owner;
  Napi::FunctionReference called;
  std::unique_ptr<Napi::AsyncContext> context;
  // Delays the end of the environment until libuv has closed the handle: a worker must not end with a handle in its
  // loop.
  napi_async_cleanup_hook_handle hook = nullptr;
  bool closing = false;

  static void OnReadable(uv_poll_t* poll, int status, int events);
  static void OnCleanup(napi_async_cleanup_hook_handle hook, void* handle);
  void Close();
};

void Watch::Handle::OnReadable(uv_poll_t* poll, int, int) {
  Handle* self = static_cast<Handle*>(poll->data);
  if (self->closing) return;
  // Interrupted, or another reader was faster: if the counter is not 0, the loop reports it again.
  if (self->counter >= 0 && !ResetCounter(self->counter)) return;
  Napi::Env env(self->env);
  Napi::HandleScope scope(env);
  try {
    self->called.MakeCallback(env.Global(), {}, *self->context);
  } catch (const Napi::Error& error) {
    napi_fatal_exception(env, error.Value());
  }
}

void Watch::Handle::OnCleanup(napi_async_cleanup_hook_handle, void* handle) { static_cast<Handle*>(handle)->Close(); }

void Watch::Handle::Close() {
  if (owner != nullptr) owner->handle_ = nullptr;
  owner = nullptr;
  if (closing) return;
  closing = true;
  uv_poll_stop(&poll);
  called.Reset();
  context.reset();
  uv_close(reinterpret_cast<uv_handle_t*>(&poll), [](uv_handle_t* closed) {
    Handle* self = static_cast<Handle*>(closed->data);
    if (self->hook != nullptr) napi_remove_async_cleanup_hook(self->hook);
    delete self;
  });
}

Napi::Function Watch::Define(Napi::Env env) {
  return DefineClass(env, "Watch", {InstanceMethod<&Watch::Close>("close")});
}

Watch::Watch(const Napi::CallbackInfo& info) : ObjectWrap(info), handle_(nullptr) {
  const Napi::Env env = info.Env();
  const int fd = Descriptor(info[0], "fd");
  if (!info[1].IsFunction()) throw WrongType(env, "called must be a function");
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) throw Napi::Error::New(env);

  auto handle = std::make_unique<Handle>();
  handle->env = env;
  if (info[2].IsBoolean() && info[2].As<Napi::Boolean>()) handle->counter = fd;
  handle->owner = this;
  handle->poll.data = handle.get();
  const int initialised = uv_poll_init(loop, &handle->poll, fd);
  if (initialised < 0) {
    throw SystemError(env, -initialised, "epoll_ctl", "watching fd " + std::to_string(fd));
  }
  // From here on libuv refers to the handle: only Close() may end it.
  Handle* owned = handle.release();
  handle_ = owned;
  try {
    owned->called = Napi::Persistent(info[1].As<Napi::Function>());
    owned->context = std::make_unique<Napi::AsyncContext>(env, "isthmus:watch");
    if (napi_add_async_cleanup_hook(env, Handle::OnCleanup, owned, &owned->hook) != napi_ok) {
      throw Napi::Error::New(env);
    }
    const int started = uv_poll_start(&owned->poll, UV_READABLE, Handle::OnReadable);
    if (started < 0) throw SystemError(env, -started, "epoll_ctl", "watching fd " + std::to_string(fd));
  } catch (...) {
    owned->Close();
    throw;
  }
  uv_unref(reinterpret_cast<uv_handle_t*>(&owned->poll));
}

Watch::~Watch() {
  // Collected, or the environment is torn down; in the latter case the hook has usually closed it.
  if (handle_ != nullptr) handle_->Close();
}

void Watch::Close(const Napi::CallbackInfo&) {
  if (handle_ != nullptr) handle_->Close();
}

}  // namespace isthmus
