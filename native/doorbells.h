// Doorbells: FIFOs by which processes of one kernel wake each other.
//
// Nothing is received from another process: each one opens the FIFO itself, and so has an open file description of its
// own, whose flags no other process can change. What stands at the path is examined before it is opened, because opening
// what another user has made may block, and so may closing it.

#ifndef ISTHMUS_NATIVE_DOORBELLS_H_
#define ISTHMUS_NATIVE_DOORBELLS_H_

#include <napi.h>

#include "mapping.h"
#include "unique_fd.h"
#include "watch.h"

namespace isthmus {

// The doorbell of this process.
class Doorbell : public Napi::ObjectWrap<Doorbell> {
 public:
  static Napi::Function Define(Napi::Env env);

  // (path, called): makes a FIFO of mode 0600 at the path, where nothing may be; EEXIST otherwise. While the FIFO is
  // there, byte 0 of it is locked.
  //
  // Calls called(rung, callers): whether a process has rung; and slots and generations of processes that can ring from
  // now on, in alternation, or undefined.
  explicit Doorbell(const Napi::CallbackInfo& info);

 private:
  void Close(const Napi::CallbackInfo& info);

  Watch watch_;
};

// The doorbell of another process.
class PeerDoorbell : public Napi::ObjectWrap<PeerDoorbell> {
 public:
  static Napi::Function Define(Napi::Env env);

  // (path, slot, generation): opens it, and tells its owner which process can ring from now on. ENOENT: there is none.
  // EPERM: it is no FIFO that only this user, or only root, may open. EAGAIN: its owner is flooded.
  explicit PeerDoorbell(const Napi::CallbackInfo& info);

 private:
  // Does not block, also when the FIFO is full or its owner gone. Nothing after close().
  void Ring(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  static void OnCleanup(void* bell);

  UniqueFd fd_;
  CleanupHook hook_;
};

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_DOORBELLS_H_
