// OFD locks on single bytes of a file.
//
// A lock belongs to the open file description, not to the process: duplicates of a descriptor share it, two openings in
// one process exclude each other, and the kernel drops it when the last duplicate is closed, also by SIGKILL. Nothing
// here blocks.

#ifndef ISTHMUS_NATIVE_LOCKS_H_
#define ISTHMUS_NATIVE_LOCKS_H_

#include <napi.h>

namespace isthmus {

// Takes the write lock on one byte. False if another opening holds one.
bool Lock(int fd, const Napi::Value& byte);

void Unlock(int fd, const Napi::Value& byte);

// Whether another opening holds a lock on the byte. Locks of this opening do not count.
bool Locked(int fd, const Napi::Value& byte);

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_LOCKS_H_
