/**
 * The one error class and its codes.
 *
 * `docs/errors.md` is generated from the table below (`npm run docs`): a code that is added here is documented there.
 */
import { printable } from './printable.js';

/** One row of `docs/errors.md`. */
export interface ErrorDescription {
  /** The cause, as a general sentence. */
  readonly cause: string;
  /** What the user should do next. */
  readonly action: string;
}

export const ERRORS = {
  ERR_ISTHMUS_INVALID_ARGUMENT: {
    cause: 'A function of the public API was called with a value that it does not accept.',
    action: 'Correct the call; the message names the argument and the values that it accepts.',
  },
  ERR_ISTHMUS_CONFIG: {
    cause: 'An option or an environment variable (`PSP_*`) has a value that is not valid.',
    action:
      'Correct the variable or the option that the message names; `isthmus info` lists all of them with their values.',
  },
  ERR_ISTHMUS_NATIVE_MISSING: {
    cause: 'The native part could not be loaded, so no region can be mapped. `tcp` and `loop` work without it.',
    action:
      'On Linux run `npm rebuild isthmus` (it uses the shipped binary, or compiles one, which needs python3, make and a C++ compiler). On other systems use `tcp`.',
  },
  ERR_ISTHMUS_SYSCALL: {
    cause: 'A system call failed. The error carries `syscall` and `errno`; the message says what was tried.',
    action:
      'Correct what the message names: the path, its owner or mode, the size. Where there is an errno, it says what to do (the table at the end of this page).',
  },
  ERR_ISTHMUS_ADDRESS_SPACE: {
    cause:
      'A limit leaves too few addresses for a WebAssembly memory. V8 reserves some 10 GiB for each; a runtime has one for `tcp` and `loop`, and one for each region.',
    action:
      'Raise the limit (`ulimit -v unlimited`; `LimitAS=infinity` in a unit file; `vm.overcommit_memory=0`), or start Node.js with `NODE_OPTIONS=--disable-wasm-trap-handler`: then a memory takes only its own size, and access to it is somewhat slower.',
  },
  ERR_ISTHMUS_REGION_NOT_FOUND: {
    cause: 'No region of that name exists, or its device has disappeared.',
    action:
      'Start `isthmus server -s NAME -m MB -c migration-framework` first, or correct the name; `isthmus info` lists the regions of this machine.',
  },
  ERR_ISTHMUS_REGION_TOO_SMALL: {
    cause:
      'The file or device is smaller than the smallest region (1 MiB), or smaller than its header says (truncated).',
    action: 'Create the region again with a larger size, `-m MB`.',
  },
  ERR_ISTHMUS_REGION_SIZE: {
    cause:
      'The size is not a power of two, which a PCI memory BAR requires; or (`shm`) other processes use the region with another size.',
    action: 'Use 1, 2, 4, … MiB; give all processes of a user the same `PSP_SHM_SIZE`.',
  },
  ERR_ISTHMUS_REGION_NO_SPACE: {
    cause:
      'The file system of the region has no space for all of its pages. An access to a missing page would be a SIGBUS.',
    action:
      'Make the region smaller or the file system larger (`mount -o remount,size=… /dev/shm`; Docker: `--shm-size`).',
  },
  ERR_ISTHMUS_REGION_PERMISSIONS: {
    cause:
      'The file is not a regular file, others may write to it, or a pattern matches it and it belongs to another user; or this user may not open the file or the device.',
    action:
      'Run `chmod o-w` on the file; name the region without a pattern if you trust its owner. For a device install the driver and the udev rule (`vendor/ivshmem`), and join the group of the rule; `resource2` without a driver is for root only.',
  },
  ERR_ISTHMUS_REGION_NOT_NAMED: {
    cause: 'There is a region file that is not used, because nothing names it. Only devices are found without a name.',
    action:
      'Set `PSP_IVSHMEM_REGIONS=NAME` or the option `regions`, if this process is meant to use it and you trust its owner.',
  },
  ERR_ISTHMUS_REGION_DISABLED: {
    cause:
      'The memory of a PCI device without a driver is disabled or has no addresses, so that nothing that is written to it is kept.',
    action:
      'Do what the message says (`echo 1 > /sys/bus/pci/devices/ADDRESS/enable`, as root), or install the driver (`vendor/ivshmem/driver`), which does it.',
  },
  ERR_ISTHMUS_REGION_VERSION: {
    cause: 'The region was formatted by another version of Isthmus, with another layout.',
    action:
      'Run the same version on both sides, or let the server format the region again. The region of `shm` is formatted again when no process uses it any more.',
  },
  ERR_ISTHMUS_REGION_FOREIGN: {
    cause: 'The memory carries the mark of another program (0xcb: in use by the C pscom plugin).',
    action: 'Give Isthmus a device or a file of its own.',
  },
  ERR_ISTHMUS_REGION_FORMATTING: {
    cause: 'A process began to format the region, or (`shm`) to create, join or leave it, and did not finish in time.',
    action: 'Try again; if no process is formatting the region any more, create it again.',
  },
  ERR_ISTHMUS_REGION_CORRUPT: {
    cause: 'The header of the region contradicts itself.',
    action: 'Create the region again.',
  },
  ERR_ISTHMUS_REGION_IN_USE: {
    cause: 'A server already serves this region, or a process uses the region that was to be replaced.',
    action: 'Use another name, or stop the other server or process.',
  },
  ERR_ISTHMUS_REGION_FULL: {
    cause: 'Every peer slot of the region is taken.',
    action: 'End some of the processes that use it, or use a larger region (it has more slots).',
  },
  ERR_ISTHMUS_REGION_FENCED: {
    cause:
      'An operator shut this process out of the region or declared it dead while it was paused (`isthmus region fence`, `confirm-dead`).',
    action: 'Create a new runtime, and open the connections over that region again.',
  },
  ERR_ISTHMUS_REGION_LOST: {
    cause:
      'Pages of the region are gone: its file was truncated, its device was removed, or the memory has failed. What lay in the region is lost, messages that were under way over it included.',
    action:
      'Connect again: another plugin is used. Let no other process truncate or rewrite the file; create the region again, and start the processes that use it.',
  },
  ERR_ISTHMUS_NO_FRAMES: {
    cause: 'The region has no run of free frames of the required size.',
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
    cause: 'The TCP connection for the handshake could not be opened, not even by retries (`PSP_RETRY`).',
    action: 'Check host and port, and that the other side listens; it binds 127.0.0.1 unless told otherwise.',
  },
  ERR_ISTHMUS_HANDSHAKE: {
    cause: 'The other side of the handshake sent something that the protocol does not allow.',
    action: 'Check that a pscom or Isthmus process listens at that address.',
  },
  ERR_ISTHMUS_HANDSHAKE_VERSION: {
    cause: 'The other side uses another protocol version, or is a pscom of another generation.',
    action: 'Use a pscom of protocol version 0x0200, or the same Isthmus version.',
  },
  ERR_ISTHMUS_HANDSHAKE_TIMEOUT: {
    cause: 'The other side of the handshake did not answer in time.',
    action: 'Check that it is a pscom or Isthmus process and that it is not paused; raise `handshakeTimeout`.',
  },
  ERR_ISTHMUS_HANDSHAKE_REFUSED: {
    cause:
      'The other side closed the handshake, or `accept` or the block list of the listener refused it. With `temporary`: it closed every try (`PSP_RETRY`) without an answer.',
    action:
      'Check the log of the listener. With `temporary`: it had too much to do or no descriptors left, so connect again later; or it is a C program, which refuses without an answer.',
  },
  ERR_ISTHMUS_NO_PLUGIN: {
    cause: 'No plugin works between these two processes.',
    action: 'Enable `tcp` (`PSP_TCP`) on both sides; the message says why each plugin was refused.',
  },
  ERR_ISTHMUS_PEER_DIED: {
    cause:
      'The peer ended without closing the connection, or, over `tcp`, its host did not answer for `keepAlive` (`PSP_TCP_KEEPALIVE`) and 10 seconds (ETIMEDOUT in the message). All messages that arrived before were delivered first.',
    action:
      'Connect again once the peer is back. ETIMEDOUT, EHOSTUNREACH: check the network and the host of the peer; raise `PSP_TCP_KEEPALIVE` where virtual machines are paused for longer.',
  },
  ERR_ISTHMUS_PEER_TIMEOUT: {
    cause:
      'The peer, over shared memory, has shown no heartbeat for `peerTimeout` (`PSP_PEER_TIMEOUT`): its process or its virtual machine is paused, or its event loop is blocked. All messages that it had committed were delivered first.',
    action:
      'Connect again once the peer is back, or raise `peerTimeout`. The frames that it holds stay taken until it continues, ends, or is confirmed dead (`isthmus region confirm-dead`).',
  },
  ERR_ISTHMUS_PEER_PROTOCOL: {
    cause: 'The peer wrote something impossible into the ring or the stream.',
    action: 'Treat the peer as broken or hostile; other connections are not affected.',
  },
  ERR_ISTHMUS_CLOSED: {
    cause: 'The connection or the runtime is closed.',
    action: 'Check `connection.closed`, which says which side closed it and why, and connect again.',
  },
  ERR_ISTHMUS_SUSPEND: {
    cause:
      'The runtime could not be suspended in time (`PSP_SUSPEND_TIMEOUT`), or was resumed before the suspension was complete.',
    action: 'The message says which peers did not answer; the runtime continues as before. Suspend it again.',
  },
  ERR_ISTHMUS_RESUME_TIMEOUT: {
    cause: 'The connection was suspended, and its peer has not come back in time (`PSP_RESUME_TIMEOUT`).',
    action:
      'Check whether the peer was resumed, and whether it can reach this machine from where it is now. Then connect again.',
  },
  ERR_ISTHMUS_BROKER: {
    cause: 'The MQTT broker cannot be reached, or it refused a request.',
    action:
      'Start a broker (`isthmus broker`), or correct `--broker` or `PSP_MQTT_BROKER`, the credentials and the certificates, or the access list of the broker (docs/migration.md).',
  },
  ERR_ISTHMUS_CONTROL_FOLDER: {
    cause:
      'The folder of the control sockets of this user is not safe to use: others could reach the sockets, or put their own there.',
    action:
      'Do what the message says, or set `XDG_RUNTIME_DIR` to a folder of this user. Runtimes without a control socket run as before; `isthmus ps` does not list them.',
  },
  ERR_ISTHMUS_RMA_DENIED: {
    cause:
      'The peer refused to have its memory read or written: the token is unknown or withdrawn, the range is beyond its end, or the token does not give that right.',
    action:
      'Ask the peer for a new token; a token is valid on one connection, until it is withdrawn or its memory is released.',
  },
  ERR_ISTHMUS_GROUP: {
    cause:
      'An operation of a group cannot be completed: a member is gone (the message names it), or a call was aborted.',
    action: 'Close the group; open a new one, under another id, with the remaining members.',
  },
  ERR_ISTHMUS_CANCELLED: {
    cause: '`cancel()` withdrew a posted receive or send before it had started.',
    action: 'Nothing: `done` of a cancelled request always ends like this.',
  },
  ERR_ISTHMUS_CLOSE_TIMEOUT: {
    cause: 'The other side did not complete the close in time; the connection was cut.',
    action: 'Let the other side receive the messages that were sent, or raise `timeout`.',
  },
  ERR_ISTHMUS_MESSAGE_TOO_LARGE: {
    cause: 'A message is larger than the limit (`maxMessageSize`), or an xheader is longer than 65,535 bytes.',
    action: 'Send the message in parts, or raise the limit on both sides.',
  },
  ERR_ISTHMUS_SUSPENDED_LIMIT: {
    cause:
      'More connections wait for suspended peers than `PSP_SUSPENDED_LIMIT` allows, or half as many from one remote address. The one that had waited longest has ended, first among those that no message went over.',
    action:
      'Open the connection again. If that many peers of yours are suspended at the same time, raise `PSP_SUSPENDED_LIMIT`; otherwise strangers leave connections behind: restrict which peers may connect (`accept`, `blockList`, the address that is listened on).',
  },
  ERR_ISTHMUS_BUFFER_TOO_SMALL: {
    cause: 'The target of `tryReceiveInto` is shorter than the next message. The message stays where it is.',
    action: 'Pass a larger target; `needed` of the error is the length.',
  },
  ERR_ISTHMUS_RELEASED: {
    cause: 'A borrowed message, a loan or shared memory was used after it was released, or a loan after it was sent.',
    action: 'Copy the bytes that you still need before you release them; a loan that was sent belongs to the peer.',
  },
} as const satisfies Record<string, ErrorDescription>;

/** A stable code: a key of the table from which `docs/errors.md` is generated. */
export type ErrorCode = keyof typeof ERRORS;

/** The details that an {@link IsthmusError} may carry besides its message. */
export interface ErrorDetails {
  /** The underlying error. */
  cause?: unknown;
  /** Name of the errno, for example `ENOSPC`. */
  errno?: string | undefined;
  /** The system call that failed, for example `mmap`. */
  syscall?: string | undefined;
  /** The file or the device. */
  path?: string | undefined;
  /** Bytes needed. */
  needed?: number | undefined;
  /** Bytes available. */
  available?: number | undefined;
  /**
   * True: the listener closed the connection before it sent a byte; it may have had too much to do, and a later try may
   * succeed. False: it said that it refuses. Otherwise undefined.
   */
  temporary?: boolean | undefined;
}

/** UTF-16 units of a message; that of ERR_ISTHMUS_NO_PLUGIN has a reason for each plugin. */
const MAX_MESSAGE = 8192;

/**
 * The one error class of Isthmus. `code` is stable; the message is for people: one line, without characters that act on a
 * terminal, whatever a peer or a file had in its name.
 */
export class IsthmusError extends Error {
  override readonly name = 'IsthmusError';
  readonly code: ErrorCode;
  declare readonly errno?: string;
  declare readonly syscall?: string;
  declare readonly path?: string;
  declare readonly needed?: number;
  declare readonly available?: number;
  declare readonly temporary?: boolean;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    const { cause, ...rest } = details;
    super(printable(message, MAX_MESSAGE), cause === undefined ? undefined : { cause });
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
