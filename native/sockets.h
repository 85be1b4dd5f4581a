// Buffers of a socket, which Node's own sockets give no way to set.

#ifndef ISTHMUS_NATIVE_SOCKETS_H_
#define ISTHMUS_NATIVE_SOCKETS_H_

#include <napi.h>

namespace isthmus {

// setSocketBuffers(fd, send, receive): SO_SNDBUF and SO_RCVBUF in bytes; 0 leaves the kernel's own.
void SetSocketBuffers(const Napi::CallbackInfo& info);

// socketBuffers(fd): { send, receive }, as the kernel has them: it doubles what was set, for its own books.
Napi::Value SocketBuffers(const Napi::CallbackInfo& info);

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_SOCKETS_H_
