#include "doorbells.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "arguments.h"
#include "errors.h"
#include "unique_fd.h"

namespace isthmus {

namespace {

Napi::Error Failed(Napi::Env env, const char* syscall, const std::string& what) {
  return SystemError(env, errno, syscall, what);
}

std::string Of(int fd) { return " of fd " + std::to_string(fd); }

struct Caller {
  uint32_t slot;
  uint32_t generation;
};

// An abstract address: a zero byte, then the name without a terminating zero.
socklen_t Address(const Napi::Value& value, sockaddr_un* address) {
  if (!value.IsString()) throw WrongType(value.Env(), "name must be a string");
  const std::string name = value.As<Napi::String>().Utf8Value();
  if (name.empty() || name.size() > sizeof address->sun_path - 1) {
    throw OutOfRange(value.Env(), "name must have 1 to " + std::to_string(sizeof address->sun_path - 1) + " bytes");
  }
  std::memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  std::memcpy(address->sun_path + 1, name.data(), name.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

Napi::Number Released(Napi::Env env, UniqueFd* fd) {
  const int number = fd->Release();
  return Napi::Number::New(env, number);
}

// Connections of other users that one call of acceptFrom() refuses at most: a process that connects again and again
// must not keep the event loop busy.
constexpr int kMaxRefused = 64;

constexpr int kSocket = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;

}  // namespace

Napi::Value CreateDoorbell(const Napi::CallbackInfo& info) {
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) throw Failed(info.Env(), "eventfd", "eventfd");
  return Napi::Number::New(info.Env(), fd);
}

void Ring(const Napi::CallbackInfo& info) {
  const int fd = Descriptor(info[0], "fd");
  const uint64_t one = 1;
  ssize_t written;
  do written = write(fd, &one, sizeof one);
  while (written < 0 && errno == EINTR);
  // EAGAIN: the counter is at its maximum, so the owner has been woken and has not read it yet.
  if (written < 0 && errno != EAGAIN) throw Failed(info.Env(), "write", "ringing" + Of(fd));
}

Napi::Value CreateTimer(const Napi::CallbackInfo& info) {
  const int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (fd < 0) throw Failed(info.Env(), "timerfd_create", "timerfd_create");
  return Napi::Number::New(info.Env(), fd);
}

void SetTimer(const Napi::CallbackInfo& info) {
  const int fd = Descriptor(info[0], "fd");
  const uint64_t microseconds = Integer(info[1], "microseconds");
  itimerspec when = {};
  when.it_value.tv_sec = static_cast<time_t>(microseconds / 1000000);
  when.it_value.tv_nsec = static_cast<long>(microseconds % 1000000) * 1000;
  if (timerfd_settime(fd, 0, &when, nullptr) != 0) {
    throw Failed(info.Env(), "timerfd_settime", "timer" + Of(fd) + " to " + std::to_string(microseconds) + " us");
  }
}

Napi::Value ListenAbstract(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  sockaddr_un address;
  const socklen_t length = Address(info[0], &address);
  UniqueFd fd(socket(AF_UNIX, kSocket, 0));
  if (fd.get() < 0) throw Failed(env, "socket", "socket");
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    throw Failed(env, "bind", "bind to an abstract name");
  }
  constexpr int kBacklog = 128;
  if (listen(fd.get(), kBacklog) != 0) throw Failed(env, "listen", "listen");
  return Released(env, &fd);
}

Napi::Value AcceptFrom(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int listening = Descriptor(info[0], "fd");
  for (int refused = 0; refused < kMaxRefused;) {
    UniqueFd fd(accept4(listening, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd.get() < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN) return Napi::Number::New(env, -1);
      throw Failed(env, "accept4", "accept" + Of(listening));
    }
    ucred caller;
    socklen_t length = sizeof caller;
    if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &caller, &length) != 0) {
      throw Failed(env, "getsockopt", "SO_PEERCRED" + Of(fd.get()));
    }
    // An abstract name has no permissions, so the user is checked here.
    if (caller.uid == geteuid() || caller.uid == 0) return Released(env, &fd);
    ++refused;
  }
  // The event loop calls again for the connections that are left.
  return Napi::Number::New(env, -1);
}

Napi::Value Answer(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int fd = Descriptor(info[0], "fd");
  const int doorbell = Descriptor(info[1], "doorbell");
  Caller caller;
  const ssize_t got = recv(fd, &caller, sizeof caller, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return env.Undefined();
  if (got < 0) throw Failed(env, "recv", "recv" + Of(fd));
  // A peer sends slot and generation in one call, so they arrive together; anything else is no peer.
  if (got != sizeof caller) throw SystemError(env, EBADMSG, "recv", "a caller without slot and generation");

  char byte = 0;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof doorbell)] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof doorbell);
  std::memcpy(CMSG_DATA(header), &doorbell, sizeof doorbell);
  if (sendmsg(fd, &message, MSG_NOSIGNAL) != 1) throw Failed(env, "sendmsg", "sending a doorbell over fd" + Of(fd));

  Napi::Object identity = Napi::Object::New(env);
  identity.Set("slot", Napi::Number::New(env, caller.slot));
  identity.Set("generation", Napi::Number::New(env, caller.generation));
  return identity;
}

Napi::Value ConnectAbstract(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  sockaddr_un address;
  const socklen_t length = Address(info[0], &address);
  const Caller caller = {static_cast<uint32_t>(Integer(info[1], "slot")),
                         static_cast<uint32_t>(Integer(info[2], "generation"))};
  UniqueFd fd(socket(AF_UNIX, kSocket, 0));
  if (fd.get() < 0) throw Failed(env, "socket", "socket");
  // A Unix-domain socket connects at once or fails.
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    throw Failed(env, "connect", "connect to an abstract name");
  }
  if (send(fd.get(), &caller, sizeof caller, MSG_NOSIGNAL) != sizeof caller) {
    throw Failed(env, "send", "send" + Of(fd.get()));
  }
  return Released(env, &fd);
}

Napi::Value ReceiveDoorbell(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int fd = Descriptor(info[0], "fd");
  char byte = 0;
  iovec data = {&byte, 1};
  int received = -1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof received)] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  // The kernel closes descriptors that do not fit into `control`.
  const ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Napi::Number::New(env, -1);
  if (got < 0) throw Failed(env, "recvmsg", "recvmsg" + Of(fd));
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
      header->cmsg_len == CMSG_LEN(sizeof received)) {
    std::memcpy(&received, CMSG_DATA(header), sizeof received);
  }
  if (received < 0) throw SystemError(env, ECONNRESET, "recvmsg", "no doorbell received over fd " + std::to_string(fd));
  return Napi::Number::New(env, received);
}

}  // namespace isthmus
