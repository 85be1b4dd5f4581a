// A function that the event loop calls when a descriptor is readable.

#ifndef ISTHMUS_NATIVE_WATCH_H_
#define ISTHMUS_NATIVE_WATCH_H_

#include <napi.h>
#include <uv.h>

namespace isthmus {

// watch(fd, called): an object with close(). The caller keeps the descriptor and closes it after the watch. A watch
// keeps no process alive.
//
// watchCounter(fd, called): the same for an eventfd or a timer, whose counter is reset before each call. That is done
// here because the caches of a process that slept are cold: a call from JavaScript to read the counter took 8 us.
class Watch : public Napi::ObjectWrap<Watch> {
 public:
  static Napi::Function Define(Napi::Env env);

  explicit Watch(const Napi::CallbackInfo& info);
  ~Watch() override;

 private:
  // The part that libuv refers to. It lives until libuv has closed it, which may be after the object is gone.
  struct Handle;

  void Close(const Napi::CallbackInfo& info);

  Handle* handle_;
};

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_WATCH_H_
