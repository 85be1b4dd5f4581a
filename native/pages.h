// Pages mapped at an address of the kernel's choice, and moved from there into a window of a memory.
//
// A window lies inside memory that V8 reserved. There must never be a hole in it: the next malloc or mmap of any thread
// would fill the hole, and Wasm stores would go there from then on. A plain mmap(MAP_FIXED) leaves a hole if the driver
// refuses, because the kernel unmaps the old pages before it calls the driver. So the pages are mapped elsewhere first,
// where a failure does no harm, and then moved as a whole.

#ifndef ISTHMUS_NATIVE_PAGES_H_
#define ISTHMUS_NATIVE_PAGES_H_

#include <sys/types.h>

#include <cstddef>

namespace isthmus {

size_t PageSize();

class Pages {
 public:
  // Shared pages of a file or device. On failure `*error` is an errno and the result is empty.
  static Pages OfFile(int fd, off_t offset, size_t length, bool read_only, int* error);

  // Private zeros, readable and writable, like the pages that V8 had mapped there.
  static Pages Anonymous(size_t length, int* error);

  Pages(Pages&& other) noexcept;
  ~Pages();

  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  Pages& operator=(Pages&&) = delete;

  // Moves these pages to `window`, replacing the pages there. Returns 0 or an errno. After a failure the window has
  // either its old pages or zeros, and this object still owns its pages.
  int MoveTo(void* window);

 private:
  Pages(void* address, size_t length) : address_(address), length_(length) {}

  void* address_;  // nullptr: empty
  size_t length_;
};

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_PAGES_H_
