/**
 * The one error class and its codes.
 *
 * `docs/errors.md` is made from the table below (`npm run docs`), so a code is documented by adding it here.
 */

/** One row of `docs/errors.md`. */
export interface ErrorDescription {
  /** What happened, as a general sentence. */
  readonly cause: string;
  /** What the reader should do next. */
  readonly action: string;
}

export const ERRORS = {
  ERR_ISTHMUS_INVALID_ARGUMENT: {
    cause: 'A function of the public API was called with a value that it does not take.',
    action: 'Correct the call; the message names the argument and what it takes.',
  },
  ERR_ISTHMUS_CONFIG: {
    cause: 'An option or an environment variable (`PSP_*`) has a value that cannot be read.',
    action:
      'Correct the variable or the option that the message names; `isthmus info` lists them all with what they take.',
  },
  ERR_ISTHMUS_NATIVE_MISSING: {
    cause: 'The native part could not be loaded, so no region can be mapped. `tcp` and `loop` work without it.',
    action:
      'On Linux run `npm rebuild isthmus` (it takes the shipped binary or compiles it; that needs python3, make and a C++ compiler). Elsewhere use `tcp`.',
  },
  ERR_ISTHMUS_SYSCALL: {
    cause: 'A system call failed. The error carries `syscall`, `errno` and what was tried.',
    action:
      'Look at the errno and at the path or the size in the message. EMFILE: more descriptors (`ulimit -n`); ENOMEM: more address space (`ulimit -v`, `vm.overcommit_memory`), some 10 GiB for each region.',
  },
  ERR_ISTHMUS_REGION_NOT_FOUND: {
    cause: 'No region of that name exists, or its device went away.',
    action:
      'Start `isthmus server -s NAME -m MB -c migration-framework` first, or correct the name; `isthmus info` lists what was found.',
  },
  ERR_ISTHMUS_REGION_TOO_SMALL: {
    cause: 'The backing is smaller than the smallest region (1 MiB), or than its own header says it is (truncated).',
    action: 'Recreate it with a larger size, `-m MB`.',
  },
  ERR_ISTHMUS_REGION_SIZE: {
    cause:
      'The size is not a power of two, as a PCI memory BAR demands; or (`shm`) others use the region with another size.',
    action: 'Use 1, 2, 4, … MiB; give all processes of a user the same `PSP_SHM_SIZE`.',
  },
  ERR_ISTHMUS_REGION_NO_SPACE: {
    cause:
      'The file system under the region has no room for all of its pages. Touching a missing one would end the process with SIGBUS.',
    action:
      'Make the region smaller or the file system larger (`mount -o remount,size=… /dev/shm`; Docker: `--shm-size`).',
  },
  ERR_ISTHMUS_REGION_PERMISSIONS: {
    cause:
      'The file is not a regular file, belongs to a stranger, or others may write to it; or the device is closed to you.',
    action:
      "`chmod o-w` it, or name a region that belongs to root, to you or to one of your groups. A device: install the driver and the udev rule (`vendor/ivshmem`), and join the group of the rule; `resource2` without a driver is root's.",
  },
  ERR_ISTHMUS_REGION_DISABLED: {
    cause:
      'The memory of a PCI device without a driver is switched off or has no addresses, so that nothing written would stay.',
    action:
      'Do what the message says (`echo 1 > /sys/bus/pci/devices/ADDRESS/enable`, as root), or install the driver (`vendor/ivshmem/driver`), which does it.',
  },
  ERR_ISTHMUS_REGION_VERSION: {
    cause: 'The region was formatted by another version of Isthmus, with another layout.',
    action:
      'Run the same version on both sides, or let the server format it anew. That of `shm` is when nobody uses it any more.',
  },
  ERR_ISTHMUS_REGION_FOREIGN: {
    cause: 'The memory carries the mark of another program (0xcb: in use by the C pscom plugin).',
    action: 'Give Isthmus a device or a file of its own.',
  },
  ERR_ISTHMUS_REGION_FORMATTING: {
    cause: 'Somebody began to format the region, or (`shm`) to create, join or leave it, and did not finish in time.',
    action: 'Try again; if nobody is formatting it any more, recreate it.',
  },
  ERR_ISTHMUS_REGION_CORRUPT: {
    cause: 'The header of the region contradicts itself.',
    action: 'Recreate the region.',
  },
  ERR_ISTHMUS_REGION_IN_USE: {
    cause: 'A server already serves this region, or a process uses what was to be replaced.',
    action: 'Use another name, or stop the other server or process.',
  },
  ERR_ISTHMUS_REGION_FULL: {
    cause: 'Every peer slot of the region is taken.',
    action: 'End some of its users, or use a larger region (it has more slots).',
  },
  ERR_ISTHMUS_REGION_FENCED: {
    cause:
      'This process was shut out of the region or declared dead by an operator while it was paused (`isthmus region fence`, `confirm-dead`).',
    action: 'Create a new runtime; what was connected over the region connects anew.',
  },
  ERR_ISTHMUS_NO_FRAMES: {
    cause: 'The region has no run of free frames of the size that is needed.',
    action: 'Close connections, lower `ringSize` (`PSP_RING_SIZE`), or use a larger region.',
  },
  ERR_ISTHMUS_NO_CONNECTIONS: {
    cause: 'The connection table of the core (4,096 entries) is full.',
    action: 'Close connections, or use more than one runtime.',
  },
  ERR_ISTHMUS_LISTEN: {
    cause: 'The listening socket could not be opened.',
    action: 'Use a free port and an address of this machine.',
  },
  ERR_ISTHMUS_CONNECT: {
    cause: 'The TCP connection for the handshake could not be made, also not by trying again (`PSP_RETRY`).',
    action: 'Check host and port, and that the other side listens; it binds 127.0.0.1 unless told otherwise.',
  },
  ERR_ISTHMUS_HANDSHAKE: {
    cause: 'The other side of the handshake said something that the protocol does not allow.',
    action: 'Check that a pscom or Isthmus process listens at that address.',
  },
  ERR_ISTHMUS_HANDSHAKE_VERSION: {
    cause: 'The other side speaks another protocol version, or is a pscom of another generation.',
    action: 'Use a pscom of protocol version 0x0200, or the same Isthmus version.',
  },
  ERR_ISTHMUS_HANDSHAKE_TIMEOUT: {
    cause: 'The other side of the handshake did not answer in time.',
    action: 'Check that it is a pscom or Isthmus process and that it is not paused; raise `handshakeTimeout`.',
  },
  ERR_ISTHMUS_HANDSHAKE_REFUSED: {
    cause: 'The other side closed the handshake, or `accept` or the block list of the listener refused it.',
    action: "Look at the listener's log.",
  },
  ERR_ISTHMUS_NO_PLUGIN: {
    cause: 'No plugin works between these two processes.',
    action: 'Enable `tcp` (`PSP_TCP`) on both sides; the message says why each plugin was refused.',
  },
  ERR_ISTHMUS_PEER_DIED: {
    cause: 'The other side ended without closing the connection. What it had committed was delivered first.',
    action: 'Connect again once it is back.',
  },
  ERR_ISTHMUS_PEER_TIMEOUT: {
    cause:
      'The other side, over shared memory, has shown no sign of life for `peerTimeout` (`PSP_PEER_TIMEOUT`): its process or its virtual machine is paused, or its event loop blocked. What it had committed was delivered first.',
    action:
      'Connect again once it is back, or raise `peerTimeout`. What it holds of the region stays taken until it goes on, ends, or is confirmed dead (`isthmus region confirm-dead`).',
  },
  ERR_ISTHMUS_PEER_PROTOCOL: {
    cause: 'The other side wrote something impossible into the ring or the stream.',
    action: 'Treat the peer as broken or hostile; other connections are not touched.',
  },
  ERR_ISTHMUS_CLOSED: {
    cause: 'The connection or the runtime is closed.',
    action: 'Look at `connection.closed` for who closed it, and connect again.',
  },
  ERR_ISTHMUS_SUSPEND: {
    cause: 'The runtime could not be suspended in time (`PSP_SUSPEND_TIMEOUT`), or was resumed before it was.',
    action: 'The message says which peers did not answer; it runs on as before. Ask again.',
  },
  ERR_ISTHMUS_RESUME_TIMEOUT: {
    cause: 'The connection was suspended, and its peer has not come back in time (`PSP_RESUME_TIMEOUT`).',
    action: 'Look for the peer: was it resumed, can this machine be reached from where it is now? Then connect again.',
  },
  ERR_ISTHMUS_BROKER: {
    cause: 'The MQTT broker cannot be reached, or it refused what was asked of it.',
    action:
      'Start one (`isthmus broker`), or correct `--broker` or `PSP_MQTT_BROKER`, its credentials and certificates.',
  },
  ERR_ISTHMUS_RMA_DENIED: {
    cause:
      "Reading or writing the peer's memory was refused: the token is unknown or withdrawn, the range is beyond its end, or it does not give that right.",
    action:
      'Ask the peer for a new token; one is valid on one connection, until it is withdrawn or its memory released.',
  },
  ERR_ISTHMUS_GROUP: {
    cause:
      'An operation of a group cannot be finished: a member is gone (the message names it), or a call was aborted.',
    action: 'Close the group; open a new one, under another id, with the members that are left.',
  },
  ERR_ISTHMUS_CANCELLED: {
    cause: 'A posted receive or send was taken back by `cancel()` before it had started.',
    action: 'Nothing: this is how `done` of a cancelled request ends.',
  },
  ERR_ISTHMUS_CLOSE_TIMEOUT: {
    cause: 'The other side did not finish the close in time; the connection was cut.',
    action: 'Let the other side receive what was sent, or raise `timeout`.',
  },
  ERR_ISTHMUS_MESSAGE_TOO_LARGE: {
    cause: 'A message is over the limit (`maxMessageSize`), or an xheader over 65,535 bytes.',
    action: 'Send it in parts, or raise the limit on both sides.',
  },
  ERR_ISTHMUS_BUFFER_TOO_SMALL: {
    cause: '`tryReceiveInto` was given a target shorter than the next message. The message stays where it is.',
    action: 'Give a larger target; `needed` on the error is the length.',
  },
  ERR_ISTHMUS_RELEASED: {
    cause: 'A borrowed message, a loan or shared memory was used after it was released, or a loan after it was sent.',
    action: 'Copy what you keep before you release it; a loan that was sent is the peer’s.',
  },
} as const satisfies Record<string, ErrorDescription>;

/** A stable code: one of the keys of the table that `docs/errors.md` is made from. */
export type ErrorCode = keyof typeof ERRORS;

/** What an {@link IsthmusError} may carry besides its message. */
export interface ErrorDetails {
  /** The error under this one. */
  cause?: unknown;
  /** Name of the errno, as `ENOSPC`. */
  errno?: string | undefined;
  /** The system call that failed, as `mmap`. */
  syscall?: string | undefined;
  /** The file or the device. */
  path?: string | undefined;
  /** Bytes that were needed. */
  needed?: number | undefined;
  /** Bytes that there are. */
  available?: number | undefined;
}

/** The one error class of Isthmus. `code` is stable; the message is for people. */
export class IsthmusError extends Error {
  override readonly name = 'IsthmusError';
  readonly code: ErrorCode;
  declare readonly errno?: string;
  declare readonly syscall?: string;
  declare readonly path?: string;
  declare readonly needed?: number;
  declare readonly available?: number;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    const { cause, ...rest } = details;
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    for (const [key, value] of Object.entries(rest)) {
      if (value !== undefined) Object.defineProperty(this, key, { value, enumerable: true });
    }
  }
}

/** For people: the message of whatever was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
