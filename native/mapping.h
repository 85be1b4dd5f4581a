// Pages of a file or device in the window of a WebAssembly.Memory, as a JavaScript object.

#ifndef ISTHMUS_NATIVE_MAPPING_H_
#define ISTHMUS_NATIVE_MAPPING_H_

#include <napi.h>

#include <cstddef>

#include "unique_fd.h"

namespace isthmus {

// Calls a function when the environment (the process or a worker thread) goes down, unless removed before.
class CleanupHook {
 public:
  CleanupHook(napi_env env, void (*function)(void*), void* argument);
  ~CleanupHook() { Remove(); }

  CleanupHook(const CleanupHook&) = delete;
  CleanupHook& operator=(const CleanupHook&) = delete;

  void Remove();
  // It runs right now, which takes it off the list of the environment.
  void Forget() { env_ = nullptr; }

 private:
  napi_env env_;
  void (*function_)(void*);
  void* argument_;
};

// From its constructor to its end a mapping is *attached*: the window has pages of the file, the descriptor is open,
// the buffer is held, the hook is set. Whichever comes first ends it: detach(), the hook, or the garbage collector.
//
// The buffer is held so that its addresses stay its own: V8 gives those of a collected memory to the next one, and
// laying zeros over a remembered address would wipe that one. The buffer knows nothing of the mapping, so there is no
// cycle, and a mapping that nobody refers to is collected.
//
// Lifetime: the hook runs before the environment finalizes its objects (hooks run last in, first out, and Node.js sets
// its own when the addon is loaded), and finalizers run outside the garbage collection proper (Node-API 8). So all
// three ends may use handles and references. What the hook has ended, the finalizer finds detached, and only deletes.
class Mapping : public Napi::ObjectWrap<Mapping> {
 public:
  static Napi::Function Define(Napi::Env env);

  // (buffer, windowOffset, length, fd, fileOffset, options?)
  explicit Mapping(const Napi::CallbackInfo& info);
  ~Mapping() override;

 private:
  Napi::Value Attached(const Napi::CallbackInfo& info);
  void Detach(const Napi::CallbackInfo& info);
  Napi::Value Lock(const Napi::CallbackInfo& info);
  void Unlock(const Napi::CallbackInfo& info);
  Napi::Value Locked(const Napi::CallbackInfo& info);

  static void OnCleanup(void* mapping);

  // Whether V8 still keeps the window for our buffer.
  bool OwnsWindow() const;
  // Lays zeros over the window. Returns 0, or an errno and what failed.
  int Cover(const char** syscall);
  // Lets go of everything but the window.
  void Release();

  // The pages are placed last in the constructor, when nothing else can fail; until then these clean up after a throw.
  UniqueFd fd_;
  Napi::Reference<Napi::ArrayBuffer> buffer_;
  CleanupHook hook_;
  void* window_ = nullptr;  // nullptr: detached
  size_t length_ = 0;
};

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_MAPPING_H_
