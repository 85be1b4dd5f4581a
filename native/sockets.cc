#include "sockets.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <climits>
#include <string>

#include "arguments.h"
#include "errors.h"

namespace isthmus {

namespace {

void Set(Napi::Env env, int fd, int option, const char* name, uint64_t size) {
  if (size == 0) return;
  if (size > INT_MAX) throw OutOfRange(env, std::string(name) + " must be at most 2^31 - 1");
  const int value = static_cast<int>(size);
  if (setsockopt(fd, SOL_SOCKET, option, &value, sizeof value) == 0) return;
  throw SystemError(env, errno, "setsockopt", std::string(name) + " of fd " + std::to_string(fd));
}

Napi::Number Get(Napi::Env env, int fd, int option, const char* name) {
  int value = 0;
  socklen_t length = sizeof value;
  if (getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0) return Napi::Number::New(env, value);
  throw SystemError(env, errno, "getsockopt", std::string(name) + " of fd " + std::to_string(fd));
}

}  // namespace

void SetSocketBuffers(const Napi::CallbackInfo& info) {
  const int fd = Descriptor(info[0], "fd");
  const uint64_t send = Integer(info[1], "send");
  const uint64_t receive = Integer(info[2], "receive");
  Set(info.Env(), fd, SO_SNDBUF, "SO_SNDBUF", send);
  Set(info.Env(), fd, SO_RCVBUF, "SO_RCVBUF", receive);
}

Napi::Value SocketBuffers(const Napi::CallbackInfo& info) {
  const int fd = Descriptor(info[0], "fd");
  Napi::Object sizes = Napi::Object::New(info.Env());
  sizes.Set("send", Get(info.Env(), fd, SO_SNDBUF, "SO_SNDBUF"));
  sizes.Set("receive", Get(info.Env(), fd, SO_RCVBUF, "SO_RCVBUF"));
  return sizes;
}

Napi::Value UnansweredFor(const Napi::CallbackInfo& info) {
  const int fd = Descriptor(info[0], "fd");
  tcp_info state{};
  socklen_t length = sizeof state;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &length) != 0) {
    throw SystemError(info.Env(), errno, "getsockopt", "TCP_INFO of fd " + std::to_string(fd));
  }
  const bool unanswered = state.tcpi_retransmits > 0 || state.tcpi_probes > 0;
  return Napi::Number::New(info.Env(), unanswered ? state.tcpi_last_ack_recv : 0);
}

}  // namespace isthmus
