// SIGBUS in the windows of memories: an access to a page that the file has no longer.
//
// Any process that may write to a file may truncate it, and a device may be unplugged. The kernel answers the next access
// to such a page with SIGBUS, which ends the process. The handler here lays zeros over the whole window instead, stores 1
// to a word of the mapping's owner, and returns: the access is repeated, and finds zeros. The owner reads the word behind
// what it has copied. Every other SIGBUS goes to the handler that was there before, or to the default action.
//
// The handler is there as long as the process has a window of this kind, for all of its threads. It takes no lock,
// allocates nothing, and makes no system call but mmap.

#ifndef ISTHMUS_NATIVE_FAULTS_H_
#define ISTHMUS_NATIVE_FAULTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace isthmus {

// One window that the handler knows, from Guard() to Release().
class GuardedWindow {
 public:
  GuardedWindow() = default;
  ~GuardedWindow() { Release(); }

  GuardedWindow(const GuardedWindow&) = delete;
  GuardedWindow& operator=(const GuardedWindow&) = delete;

  // `lost` gets 1 when the window has lost its pages; it has to exist until Release(). Returns 0 or an errno.
  int Guard(void* window, size_t length, std::atomic<uint32_t>* lost);

  // The window has no pages of a file any more. Idempotent.
  void Release();

 private:
  void* entry_ = nullptr;
};

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_FAULTS_H_
