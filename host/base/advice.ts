/**
 * What the reader of an error should do next: by its errno, where that says more than its code.
 *
 * `docs/errors.md` has this table too (`npm run docs`).
 */
import { ERRORS, type ErrorCode, type IsthmusError } from './errors.js';

/** For an operator: what to do about an errno, whatever was tried. The message says what that was, and of which path. */
export const ERRNO_ADVICE: Readonly<Record<string, string>> = {
  E2BIG: 'The request is longer than the system allows: shorten it.',
  EACCES:
    'This user may not do that: check owner, group and mode of the path in the message and of the folders above it; in a container or a systemd unit also what its profile allows.',
  EADDRINUSE: 'Another process uses that address: stop it, or use another port or name.',
  EADDRNOTAVAIL: 'That address is not one of this machine: correct it.',
  EAFNOSUPPORT: 'The system, or the profile of the container or unit, has no sockets of that kind: allow them.',
  EAGAIN:
    'A resource is used up for the moment: try again; check the limits of processes and locked memory (`ulimit -a`).',
  EBADF: 'A descriptor was closed by other code of this process: look for code that closes descriptors by number.',
  EBADMSG: 'The other process sent something else than was expected: look what it is.',
  EBUSY: 'Another process or driver has it: stop that, or use another device or name.',
  ECONNREFUSED: 'No process listens there: start it, or correct the address.',
  ECONNRESET: 'The other side ended the connection: look at its log.',
  EDEADLK: 'Another process waits for a lock of this one: end one of them.',
  EDQUOT: 'The quota of this user is used up: remove files, or raise the quota.',
  EEXIST: 'The path in the message exists already: remove it, or use another name.',
  EFAULT: 'The memory of a region is gone: its file was truncated. Create the region again.',
  EFBIG: 'The file would be larger than allowed: raise the limit (`ulimit -f`), or make the region smaller.',
  EHOSTDOWN: 'The other host does not answer: check that it runs, and the network between.',
  EHOSTUNREACH: 'There is no way to the other host: check the address, the network and its firewalls.',
  EINVAL:
    'The system refuses the value: correct the size or the option in the message; the file or device may be of another kind.',
  EIO: 'The device failed: look at the log of the kernel (`dmesg`).',
  EISDIR: 'The path in the message is a folder, and a file is required: correct it.',
  ELOOP: 'The path in the message is a symbolic link, which is not followed: name the file itself.',
  EMFILE:
    'This process has as many open files as it may: allow more (`ulimit -n`; `LimitNOFILE=` of a systemd unit; `--ulimit nofile=` of Docker), or close connections.',
  ENAMETOOLONG: 'The path or the name is too long: use a shorter one (`XDG_RUNTIME_DIR`, `PSP_SHM_NAME`).',
  ENETDOWN: 'A network interface is down: bring it up.',
  ENETUNREACH: 'There is no way to that network: check the address and the routes of this machine.',
  ENFILE:
    'The system has as many open files as it may: raise `fs.file-max`, or find the process that has them (`lsof`).',
  ENOBUFS:
    'The kernel has no memory for sockets at the moment: try again; check the load and `net.core` of this machine.',
  ENODEV: 'The device is gone, or cannot be mapped: plug it in again, and check its driver (`isthmus doctor`).',
  ENOENT:
    'The path in the message does not exist: correct it, or create what is missing; in a container, mount it. `isthmus info` lists the regions that were found.',
  ENOLCK: 'The file system has no locks, or no more of them: use a local one, such as a tmpfs.',
  ENOMEM:
    'There is not enough memory or address space: allow more (`ulimit -v`, `vm.overcommit_memory`, the memory limit of the container), some 10 GiB of address space for each region.',
  ENOPROTOOPT: 'The kernel does not have that option of sockets: use a newer one, or leave the setting at its default.',
  ENOSPC:
    'The file system is full: remove files, or make it larger (`mount -o remount,size=… /dev/shm`; Docker: `--shm-size`).',
  ENOSYS: 'The kernel does not have that call, or the profile of the container or unit forbids it: allow it.',
  ENOTDIR: 'A part of the path in the message is a file, and a folder is required: correct it.',
  ENOTSOCK:
    'A descriptor was closed and opened again by other code of this process: look for code that closes descriptors by number.',
  ENOTSUP: 'The file system or the device cannot do that: use another one, for example a tmpfs.',
  ENXIO: 'The device is not there any more: plug it in again, and check its driver (`isthmus doctor`).',
  EOPNOTSUPP: 'The file system or the device cannot do that: use another one, for example a tmpfs.',
  EOVERFLOW: 'The file is larger than this system can tell: use a smaller one.',
  EPERM:
    'Only a more privileged user may do that, or a profile (seccomp, AppArmor) forbids it: run it as that user, or allow it.',
  EPIPE: 'The other side has closed the connection: look at its log.',
  EROFS: 'The file system is read-only: use a path that can be written.',
  ESPIPE: 'The path in the message is a pipe or a socket, and a file is required: correct it.',
  ESRCH: 'The process has ended meanwhile: try again.',
  ETIMEDOUT: 'The other host does not answer: check that it runs, and the network between.',
  ETXTBSY: 'The file is being executed: stop that program.',
  EWOULDBLOCK: 'Another process holds the file for a moment: try again.',
};

/** What stands in the way whatever was tried: more to the point than the advice of any code. */
const DECISIVE: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'EDQUOT', 'EIO', 'ENOBUFS', 'EROFS']);

/** The errno of an error, for example `ENOENT`. */
function errnoOf({ errno, syscall, cause }: IsthmusError): string | undefined {
  if (errno !== undefined) return errno;
  const { code, info } = (cause ?? {}) as { code?: unknown; info?: { code?: unknown } };
  for (const found of [code, info?.code]) {
    if (adviceForErrno(found) !== undefined) return found as string;
  }
  // V8 does not tell why it got no memory.
  return syscall === 'mmap' ? 'ENOMEM' : undefined;
}

/** What to do about an errno, for people, in Markdown; undefined: there is no general advice. */
export function adviceForErrno(errno: unknown): string | undefined {
  return typeof errno === 'string' && Object.hasOwn(ERRNO_ADVICE, errno) ? ERRNO_ADVICE[errno] : undefined;
}

/** The same for an error. */
export function adviceFor(error: IsthmusError): string {
  // Its own advice is that for ENOMEM, and more.
  if (error.code === ('ERR_ISTHMUS_ADDRESS_SPACE' satisfies ErrorCode)) return ERRORS[error.code].action;
  const errno = errnoOf(error);
  const advice = adviceForErrno(errno);
  const general = error.code === ('ERR_ISTHMUS_SYSCALL' satisfies ErrorCode);
  if (advice !== undefined && (general || DECISIVE.has(errno as string))) return advice;
  return ERRORS[error.code].action;
}
