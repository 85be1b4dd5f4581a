#include "doorbells.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <utility>

#include "arguments.h"
#include "errors.h"
#include "locks.h"
#include "status.h"

namespace isthmus {

namespace {

// What goes through a FIFO. Each is written at once, and less than PIPE_BUF, so none is torn. Generation 0 is of no
// process: the doorbell is rung.
struct Call {
  uint32_t slot;
  uint32_t generation;
};

constexpr Call kRing = {0, 0};

// More are left for the next turn of the event loop.
constexpr size_t kMaxCalls = 512;

Napi::Error Failed(Napi::Env env, const char* syscall, const std::string& path) {
  return SystemError(env, errno, syscall, std::string(syscall) + " of " + path);
}

// Opens a FIFO that only this user, or only root, may open. The kernel has then compared the owner with the user of this
// process, or granted a privilege which it does not have over users outside of its user namespace. So the overflow uid
// (65534), as which all of those appear there, does no harm: mode 0600 and the open prove what the number does not.
UniqueFd OpenFifo(Napi::Env env, const std::string& path) {
  // O_PATH does nothing but look up the name.
  UniqueFd found(open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (found.get() < 0) throw Failed(env, "open", path);
  FileStatus status;
  const int error = StatusOf(found.get(), &status);
  if (error != 0) throw SystemError(env, error, "statx", "statx of " + path);
  const bool trusted = status.uid == geteuid() || status.uid == 0;
  if (status.mode != (S_IFIFO | 0600) || !trusted) {
    throw SystemError(env, EPERM, "open",
                      path + " belongs to uid " + std::to_string(status.uid) + " and is no FIFO that only it may open");
  }
  // The file that was examined, whatever the name leads to by now. For writing only, a process would get SIGPIPE when it
  // rings after the owner has ended; with an end for reading, which it never reads, the FIFO just fills.
  const std::string self = "/proc/self/fd/" + std::to_string(found.get());
  UniqueFd fd(open(self.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (fd.get() < 0) throw Failed(env, "open", path);
  return fd;
}

int Answer(Napi::Env env, int fd, napi_value* arguments) {
  Call calls[kMaxCalls];
  const ssize_t got = read(fd, calls, sizeof calls);
  if (got < 0) return Watch::kNoCall;
  // Less than a call is left over only if a process of this user wrote something else.
  const size_t count = static_cast<size_t>(got) / sizeof(Call);
  bool rung = false;
  size_t introduced = 0;
  for (size_t i = 0; i < count; i++) {
    if (calls[i].generation == 0) {
      rung = true;
    } else {
      calls[introduced++] = calls[i];
    }
  }
  arguments[0] = Napi::Boolean::New(env, rung);
  arguments[1] = env.Undefined();
  if (introduced > 0) {
    Napi::Uint32Array callers = Napi::Uint32Array::New(env, 2 * introduced);
    for (size_t i = 0; i < introduced; i++) {
      callers[2 * i] = calls[i].slot;
      callers[2 * i + 1] = calls[i].generation;
    }
    arguments[1] = callers;
  }
  return 2;
}

}  // namespace

Napi::Function Doorbell::Define(Napi::Env env) {
  return DefineClass(env, "Doorbell", {InstanceMethod<&Doorbell::Close>("close")});
}

Doorbell::Doorbell(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Env env = info.Env();
  const std::string path = Path(info[0], "path");
  const Napi::Function called = Callback(info[1], "called");
  if (mkfifo(path.c_str(), 0600) != 0) throw Failed(env, "mkfifo", path);
  UniqueName name(path);
  // Whatever the umask is.
  if (chmod(path.c_str(), 0600) != 0) throw Failed(env, "chmod", path);
  UniqueFd fd = OpenFifo(env, path);
  // Tells processes that look for FIFOs without an owner that this one has an owner. They leave a new one alone.
  if (!Lock(fd.get(), Napi::Number::New(env, 0))) throw SystemError(env, EBUSY, "fcntl", "F_OFD_SETLK of " + path);
  watch_.Start(env, std::move(fd), std::move(name), Answer, called);
}

void Doorbell::Close(const Napi::CallbackInfo&) { watch_.Close(); }

Napi::Function PeerDoorbell::Define(Napi::Env env) {
  return DefineClass(env, "PeerDoorbell",
                     {InstanceMethod<&PeerDoorbell::Ring>("ring"), InstanceMethod<&PeerDoorbell::Close>("close")});
}

PeerDoorbell::PeerDoorbell(const Napi::CallbackInfo& info)
    : ObjectWrap(info), hook_(info.Env(), OnCleanup, this) {
  const Napi::Env env = info.Env();
  const std::string path = Path(info[0], "path");
  const Call self = {static_cast<uint32_t>(Integer(info[1], "slot")),
                     static_cast<uint32_t>(Integer(info[2], "generation"))};
  if (self.generation == 0) throw OutOfRange(env, "generation must not be 0");
  UniqueFd fd = OpenFifo(env, path);
  if (write(fd.get(), &self, sizeof self) != sizeof self) throw Failed(env, "write", path);
  fd_ = std::move(fd);
}

void PeerDoorbell::OnCleanup(void* data) {
  PeerDoorbell* const bell = static_cast<PeerDoorbell*>(data);
  bell->hook_.Forget();
  bell->fd_.Reset();
}

void PeerDoorbell::Ring(const Napi::CallbackInfo& info) {
  if (fd_.get() < 0) return;
  if (write(fd_.get(), &kRing, sizeof kRing) == sizeof kRing) return;
  // EAGAIN: the FIFO is full, so its owner has been woken and has not read it yet.
  if (errno != EAGAIN) throw SystemError(info.Env(), errno, "write", "ringing");
}

void PeerDoorbell::Close(const Napi::CallbackInfo&) {
  hook_.Remove();
  fd_.Reset();
}

}  // namespace isthmus
