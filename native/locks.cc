#include "locks.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "arguments.h"
#include "errors.h"

namespace isthmus {

namespace {

struct flock OneByte(short type, const Napi::Value& byte) {
  struct flock lock = {};  // l_pid must be 0 for the OFD commands
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(Integer(byte, "byte"));
  lock.l_len = 1;
  return lock;
}

Napi::Error Failure(const Napi::Value& byte, int error, const char* command, int fd) {
  return SystemError(byte.Env(), error, "fcntl",
                     std::string(command) + " of byte " + byte.ToString().Utf8Value() + " of fd " + std::to_string(fd));
}

}  // namespace

bool Lock(int fd, const Napi::Value& byte) {
  struct flock lock = OneByte(F_WRLCK, byte);
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return true;
  // EAGAIN alone: POSIX allows EACCES as well, but here that is the refusal of a security module, which proves no other lock.
  if (errno == EAGAIN) return false;
  throw Failure(byte, errno, "F_OFD_SETLK (lock)", fd);
}

void Unlock(int fd, const Napi::Value& byte) {
  struct flock lock = OneByte(F_UNLCK, byte);
  if (fcntl(fd, F_OFD_SETLK, &lock) != 0) throw Failure(byte, errno, "F_OFD_SETLK (unlock)", fd);
}

bool Locked(int fd, const Napi::Value& byte) {
  // F_OFD_GETLK asks which lock would conflict with this one, and writes the answer into it.
  struct flock lock = OneByte(F_WRLCK, byte);
  if (fcntl(fd, F_OFD_GETLK, &lock) != 0) throw Failure(byte, errno, "F_OFD_GETLK", fd);
  return lock.l_type != F_UNLCK;
}

bool Lease(Napi::Env env, int fd) {
  // The kernel tells the holder of a lease that another process wants to open the file by SIGIO, which ends a process that
  // does not handle it. SIGURG is ignored by default.
  if (fcntl(fd, F_SETSIG, SIGURG) != 0) {
    throw SystemError(env, errno, "fcntl", "F_SETSIG of fd " + std::to_string(fd));
  }
  if (fcntl(fd, F_SETLEASE, F_WRLCK) == 0) return true;
  if (errno == EAGAIN) return false;
  throw SystemError(env, errno, "fcntl", "F_SETLEASE (write lease) of fd " + std::to_string(fd));
}

void DropLease(Napi::Env env, int fd) {
  if (fcntl(fd, F_SETLEASE, F_UNLCK) != 0) {
    throw SystemError(env, errno, "fcntl", "F_SETLEASE (drop) of fd " + std::to_string(fd));
  }
}

}  // namespace isthmus
