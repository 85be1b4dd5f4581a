// Buffer sizes of a socket: the API of Node.js has no way to set them.

#ifndef ISTHMUS_NATIVE_SOCKETS_H_
#define ISTHMUS_NATIVE_SOCKETS_H_

#include <napi.h>

namespace isthmus {

// setSocketBuffers(fd, send, receive): SO_SNDBUF and SO_RCVBUF in bytes; 0 keeps the kernel's default.
void SetSocketBuffers(const Napi::CallbackInfo& info);

// socketBuffers(fd): { send, receive } as the kernel reports them: twice the values set, for its own bookkeeping.
Napi::Value SocketBuffers(const Napi::CallbackInfo& info);

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_SOCKETS_H_
