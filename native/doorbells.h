// Doorbells: eventfds and timers, and how an eventfd gets to another process.
//
// The owner listens at an abstract Unix-domain socket; who wants to ring connects, sends who he is (8 bytes), and gets the
// eventfd as SCM_RIGHTS. Nothing here waits: all descriptors are non-blocking, and `watch` tells when to go on.

#ifndef ISTHMUS_NATIVE_DOORBELLS_H_
#define ISTHMUS_NATIVE_DOORBELLS_H_

#include <napi.h>

namespace isthmus {

// createDoorbell(): an eventfd.
Napi::Value CreateDoorbell(const Napi::CallbackInfo& info);

// ring(fd): add one. True: done, or its counter is full, which wakes as well.
void Ring(const Napi::CallbackInfo& info);

// createTimer(): a timerfd of the monotonic clock. setTimer(fd, microseconds): once, so long from now; 0: not at all.
Napi::Value CreateTimer(const Napi::CallbackInfo& info);
void SetTimer(const Napi::CallbackInfo& info);

// listenAbstract(name): a listening socket. EADDRINUSE if there is one.
Napi::Value ListenAbstract(const Napi::CallbackInfo& info);

// acceptFrom(fd): the next caller of the same user, or of root; -1: there is none (any more).
Napi::Value AcceptFrom(const Napi::CallbackInfo& info);

// answer(fd, doorbell): read who it is (two u32) and send him the doorbell. Undefined: not here yet.
Napi::Value Answer(const Napi::CallbackInfo& info);

// connectAbstract(name, slot, generation): connected, and told who we are. ECONNREFUSED if nobody listens there.
Napi::Value ConnectAbstract(const Napi::CallbackInfo& info);

// receiveDoorbell(fd): the descriptor that came; -1: not yet. ECONNRESET if the other side closed without one.
Napi::Value ReceiveDoorbell(const Napi::CallbackInfo& info);

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_DOORBELLS_H_
