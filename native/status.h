// What a descriptor refers to: type, mode, owner and size.

#ifndef ISTHMUS_NATIVE_STATUS_H_
#define ISTHMUS_NATIVE_STATUS_H_

#include <cstdint>

namespace isthmus {

struct FileStatus {
  // Type and permissions, as in st_mode.
  uint32_t mode;
  uint32_t uid;
  uint64_t size;
};

// Returns 0 or an errno.
int StatusOf(int fd, FileStatus* status);

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_STATUS_H_
