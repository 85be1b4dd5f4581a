// Pages of a file or device in the window of a WebAssembly.Memory, as a JavaScript object.

#ifndef ISTHMUS_NATIVE_MAPPING_H_
#define ISTHMUS_NATIVE_MAPPING_H_

#include <napi.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "faults.h"
#include "unique_fd.h"

namespace isthmus {

// Calls a function when the environment (the process or a worker thread) is torn down, unless removed before.
class CleanupHook {
 public:
  CleanupHook(napi_env env, void (*function)(void*), void* argument);
  ~CleanupHook() { Remove(); }

  CleanupHook(const CleanupHook&) = delete;
  CleanupHook& operator=(const CleanupHook&) = delete;

  void Remove();
  // Called from the hook itself: the environment has already removed it from its list.
  void Forget() { env_ = nullptr; }

 private:
  napi_env env_;
  void (*function_)(void*);
  void* argument_;
};

// From its constructor to its end a mapping is *attached*: the window has pages of the file, the descriptor is open,
// the buffer is held, the hook is set. The first of these ends it: detach(), the hook, or the garbage collector.
//
// The buffer is held so that its addresses stay its own: V8 reuses the addresses of a collected memory for the next
// one, and placing zeros at a remembered address would wipe that one. The buffer does not refer to the mapping, so
// there is no cycle, and an unreferenced mapping is collected.
//
// With the option `lost` an access to a page that the file has no longer does not end the process (faults.h).
//
// Lifetime: the hook runs before the environment finalizes its objects (hooks run last in, first out, and Node.js sets
// its own when the addon is loaded), and finalizers run outside the garbage collection proper (Node-API 8). So all
// three ends may use handles and references. A mapping that the hook has ended is detached; its finalizer only deletes
// it.
class Mapping : public Napi::ObjectWrap<Mapping> {
 public:
  static Napi::Function Define(Napi::Env env);

  // (buffer, windowOffset, length, fd, fileOffset, options?)
  explicit Mapping(const Napi::CallbackInfo& info);
  ~Mapping() override;

 private:
  Napi::Value Attached(const Napi::CallbackInfo& info);
  Napi::Value Whole(const Napi::CallbackInfo& info);
  void Detach(const Napi::CallbackInfo& info);
  Napi::Value Lock(const Napi::CallbackInfo& info);
  void Unlock(const Napi::CallbackInfo& info);
  Napi::Value Locked(const Napi::CallbackInfo& info);

  static void OnCleanup(void* mapping);

  // Whether the window still belongs to the held buffer.
  bool OwnsWindow() const;
  // Replaces the pages of the window by zeros. Returns 0, or an errno and the failed system call.
  int Cover(const char** syscall);
  // Releases everything except the window.
  void Release();

  // The constructor places the pages last, when nothing else can fail; until then these members clean up after a throw.
  UniqueFd fd_;
  Napi::Reference<Napi::ArrayBuffer> buffer_;
  CleanupHook hook_;
  void* window_ = nullptr;  // nullptr: detached
  size_t length_ = 0;
  uint64_t file_offset_ = 0;
  // In the buffer, below the window: 1 when pages of the window were missing. nullptr: such an access ends the process.
  std::atomic<uint32_t>* lost_ = nullptr;
  GuardedWindow guarded_;
};

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_MAPPING_H_
