// OFD locks on single bytes of a file, and the lease that proves that a file has no other opening.
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

// Takes the write lease on the file (F_SETLEASE), which the kernel gives only if no other open file description of it
// exists: in no process of any user, pid namespace or container; a mapping has one, and a reader counts too (Linux 5.3).
// While it is held, open(2) of other processes waits, or fails with EWOULDBLOCK: drop it at once. False: there is another
// opening. Throws EACCES if the file belongs to another user and this process has not CAP_LEASE, EINVAL if its file system
// has no leases.
bool Lease(Napi::Env env, int fd);

void DropLease(Napi::Env env, int fd);

}  // namespace isthmus

#endif  // ISTHMUS_NATIVE_LOCKS_H_
