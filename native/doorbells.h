// Doorbells (eventfds), timers, and the passing of an eventfd to another process.
//
// The owner of a doorbell listens at an abstract Unix-domain socket. A peer that is to ring connects, sends its slot
// and generation (8 bytes), and receives the eventfd as SCM_RIGHTS. Nothing here blocks: all descriptors are
// non-blocking, and `watch` reports when one is readable.

#ifndef ISTHMUS_NATIVE_DOORBELLS_H_
#define ISTHMUS_NATIVE_DOORBELLS_H_

#include <napi.h>

namespace isthmus {

// createDoorbell(): an eventfd.
Napi::Value CreateDoorbell(const Napi::CallbackInfo& info);

// ring(fd): add one to the counter. A full counter is no error: it wakes as well.
void Ring(const Napi::CallbackInfo& info);

// createTimer(): a timerfd of the monotonic clock. setTimer(fd, microseconds): expire once, after that time; 0: disarm.
Napi::Value CreateTimer(const Napi::CallbackInfo& info);
void SetTimer(const Napi::CallbackInfo& info);

// listenAbstract(name): a listening socket. EADDRINUSE if the name is in use.
Napi::Value ListenAbstract(const Napi::CallbackInfo& info);

// acceptFrom(fd): the next connection from a process of the same user or of root; -1: none is waiting.
Napi::Value AcceptFrom(const Napi::CallbackInfo& info);

// answer(fd, doorbell): read the peer's slot and generation (two u32) and send it the doorbell. Undefined: not received
// yet.
Napi::Value Answer(const Napi::CallbackInfo& info);

// connectAbstract(name, slot, generation): connect, and send slot and generation. ECONNREFUSED if no process listens.
Napi::Value ConnectAbstract(const Napi::CallbackInfo& info);

// receiveDoorbell(fd): the received descriptor; -1: not received yet. ECONNRESET if the peer closed without sending
// one.
Napi::Value ReceiveDoorbell(const Napi::CallbackInfo& info);

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_DOORBELLS_H_
