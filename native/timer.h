// A timer in microseconds.

#ifndef ISTHMUS_NATIVE_TIMER_H_
#define ISTHMUS_NATIVE_TIMER_H_

#include <napi.h>

#include "watch.h"

namespace isthmus {

// A timerfd of the monotonic clock, in the event loop.
class Timer : public Napi::ObjectWrap<Timer> {
 public:
  static Napi::Function Define(Napi::Env env);

  // (expired)
  explicit Timer(const Napi::CallbackInfo& info);

 private:
  // (microseconds): expire once, after that time; 0: disarm. Nothing after close().
  void Set(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  Watch watch_;
};

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_TIMER_H_
