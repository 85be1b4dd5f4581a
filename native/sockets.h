// What the API of Node.js cannot do with a socket: set its buffer sizes, and tell how long the other host has been silent.

#ifndef ISTHMUS_NATIVE_SOCKETS_H_
#define ISTHMUS_NATIVE_SOCKETS_H_

#include <napi.h>

namespace isthmus {

// setSocketBuffers(fd, send, receive): SO_SNDBUF and SO_RCVBUF in bytes; 0 keeps the kernel's default.
void SetSocketBuffers(const Napi::CallbackInfo& info);

// socketBuffers(fd): { send, receive } as the kernel reports them: twice the values set, for its own bookkeeping.
Napi::Value SocketBuffers(const Napi::CallbackInfo& info);

// unansweredFor(fd): milliseconds since the last acknowledgement, while the kernel repeats data or probes of a TCP socket
// without an answer; 0 otherwise (TCP_INFO). A peer that does not read acknowledges the probes of its closed window.
Napi::Value UnansweredFor(const Napi::CallbackInfo& info);

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_SOCKETS_H_
