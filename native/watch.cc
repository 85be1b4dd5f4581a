#include "watch.h"

#include <memory>
#include <string>

#include "errors.h"

namespace isthmus {

struct Watch::Handle {
  uv_poll_t poll;
  UniqueFd fd;
  UniqueName name;
  Take take;
  napi_env env;
  // The object, while it exists: the first of the two to go clears the pointer of the other.
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
  Napi::Env env(self->env);
  Napi::HandleScope scope(env);
  try {
    napi_value arguments[kMaxArguments];
    const int count = self->take(env, self->fd.get(), arguments);
    // Interrupted, or another reader was faster: if there is something to read, the loop reports it again.
    if (count == kNoCall) return;
    self->called.MakeCallback(env.Global(), static_cast<size_t>(count), arguments, *self->context);
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
  // libuv does not use the descriptor any more. The name goes first: while it is there, the descriptor is locked.
  name.Reset();
  fd.Reset();
}

void Watch::Start(Napi::Env env, UniqueFd fd, UniqueName name, Take take, Napi::Function called) {
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) throw Napi::Error::New(env);

  auto handle = std::make_unique<Handle>();
  handle->env = env;
  handle->fd = std::move(fd);
  handle->name = std::move(name);
  handle->take = take;
  handle->owner = this;
  handle->poll.data = handle.get();
  const std::string what = "watching fd " + std::to_string(handle->fd.get());
  const int initialised = uv_poll_init(loop, &handle->poll, handle->fd.get());
  if (initialised < 0) throw SystemError(env, -initialised, "epoll_ctl", what);
  // From here on libuv refers to the handle: only Close() may end it.
  Handle* owned = handle.release();
  handle_ = owned;
  try {
    owned->called = Napi::Persistent(called);
    owned->context = std::make_unique<Napi::AsyncContext>(env, "isthmus:watch");
    if (napi_add_async_cleanup_hook(env, Handle::OnCleanup, owned, &owned->hook) != napi_ok) {
      throw Napi::Error::New(env);
    }
    const int started = uv_poll_start(&owned->poll, UV_READABLE, Handle::OnReadable);
    if (started < 0) throw SystemError(env, -started, "epoll_ctl", what);
  } catch (...) {
    owned->Close();
    throw;
  }
  uv_unref(reinterpret_cast<uv_handle_t*>(&owned->poll));
}

int Watch::fd() const { return handle_ != nullptr ? handle_->fd.get() : -1; }

void Watch::Close() {
  if (handle_ != nullptr) handle_->Close();
}

}  // namespace isthmus
