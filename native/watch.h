// A function that the event loop calls when a descriptor has something to read.

#ifndef ISTHMUS_NATIVE_WATCH_H_
#define ISTHMUS_NATIVE_WATCH_H_

#include <napi.h>
#include <uv.h>

namespace isthmus {

// watch(fd, called): an object with close(). The descriptor stays the caller's, who closes it after the watch. It keeps no
// process alive.
// watchCounter(fd, called): the same for an eventfd or a timer, whose counter is read away before each call. That is done
// here because a process that was asleep has nothing in its caches: a call from JavaScript for it took 8 us.
class Watch : public Napi::ObjectWrap<Watch> {
 public:
  static Napi::Function Define(Napi::Env env);

  explicit Watch(const Napi::CallbackInfo& info);
  ~Watch() override;

 private:
  // What libuv refers to. It lives until libuv has let go of it, which may be after the object.
  struct Handle;

  void Close(const Napi::CallbackInfo& info);

  Handle* handle_;
};

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_WATCH_H_
