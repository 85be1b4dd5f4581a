#include "pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace isthmus {

namespace {

constexpr int kReadWrite = PROT_READ | PROT_WRITE;
// No swap is reserved, as for the rest of a Wasm memory: an untouched window of 2 GiB costs nothing.
constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

void* Map(void* address, size_t length, int protection, int flags, int fd, off_t offset, int* error) {
  void* mapped = mmap(address, length, protection, flags, fd, offset);
  *error = mapped == MAP_FAILED ? errno : 0;
  return mapped == MAP_FAILED ? nullptr : mapped;
}

// On Linux, msync with MS_ASYNC has one effect: it fails with ENOMEM if a page is not mapped.
bool HasHole(void* address, size_t length) { return msync(address, length, MS_ASYNC) != 0 && errno == ENOMEM; }

// A hole in V8's memory cannot be reported as an error: another thread may have mapped something there before it is
// read.
[[noreturn]] void DieOfHole(void* window, size_t length, int error) {
  std::fprintf(stderr, "isthmus: cannot fill the hole of %zu bytes at %p in a WebAssembly memory: %s\n", length, window,
               std::strerror(error));
  std::abort();
}

}  // namespace

size_t PageSize() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

Pages Pages::OfFile(int fd, off_t offset, size_t length, bool read_only, int* error) {
  return Pages(Map(nullptr, length, read_only ? PROT_READ : kReadWrite, MAP_SHARED, fd, offset, error), length);
}

Pages Pages::Anonymous(size_t length, int* error) {
  return Pages(Map(nullptr, length, kReadWrite, kAnonymous, -1, 0, error), length);
}

Pages::Pages(Pages&& other) noexcept : address_(other.address_), length_(other.length_) { other.address_ = nullptr; }

Pages::~Pages() {
  // Fails only for an address without a mapping, that is never.
  if (address_ != nullptr) munmap(address_, length_);
}

int Pages::MoveTo(void* window) {
  if (mremap(address_, length_, length_, MREMAP_MAYMOVE | MREMAP_FIXED, window) != MAP_FAILED) {
    address_ = nullptr;
    return 0;
  }
  const int error = errno;
  // Early failures leave the window unchanged; later ones come after the kernel has unmapped it.
  if (HasHole(window, length_)) {
    int fill_error = 0;
    Map(window, length_, kReadWrite, kAnonymous | MAP_FIXED, -1, 0, &fill_error);
    if (fill_error != 0) DieOfHole(window, length_, fill_error);
  }
  return error;
}

}  // namespace isthmus
