#include "status.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace isthmus {

int StatusOf(int fd, FileStatus* status) {
  // statx, because the symbol of fstat needs glibc 2.33: the binary is to run with 2.28, as Node 20 does.
  struct statx found = {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_TYPE | STATX_MODE | STATX_UID | STATX_SIZE, &found) == 0) {
    *status = {found.stx_mode, found.stx_uid, found.stx_size};
    return 0;
  }
  const int error = errno;
#if defined(SYS_fstat) && defined(__LP64__)
  // Sandboxes that are older than statx refuse it, with EPERM or ENOSYS.
  struct stat old = {};
  if (syscall(SYS_fstat, fd, &old) == 0) {
    *status = {old.st_mode, old.st_uid, static_cast<uint64_t>(old.st_size)};
    return 0;
  }
#endif
  return error;
}

}  // namespace isthmus
