// A file descriptor with exactly one owner.

#ifndef ISTHMUS_NATIVE_UNIQUE_FD_H_
#define ISTHMUS_NATIVE_UNIQUE_FD_H_

#include <unistd.h>

namespace isthmus {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  ~UniqueFd() { Reset(); }

  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(other.Release());
    return *this;
  }

  int get() const { return fd_; }

  // Gives up ownership: the caller closes the descriptor.
  int Release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

  void Reset(int fd = -1) {
    // Linux frees the descriptor whatever close() returns; a second call could close a descriptor of another owner.
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_UNIQUE_FD_H_
