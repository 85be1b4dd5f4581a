/**
 * One instance of the Wasm core with its memory: the typed exports, and the constants of `assembly/layout.ts`.
 *
 * Nothing but numbers crosses, and no i64. An offset is an address in `memory`, below 2 GiB; -1 stands for BROKEN.
 */
import bytes from '#core.wasm';
import { IsthmusError } from '../base/errors.js';
import { type WasmExports, type WasmMemory, wasm } from './webassembly.js';

/** Constants that the host reads from the module; it repeats none of them. */
const NAMES = [
  'WINDOW', 'REGION_MAX', 'REGION_MIN', 'FRAME', 'LAYOUT_VERSION',
  'HEADER_VERSION', 'HEADER_STATE', 'HEADER_SIZE', 'REGION_FORMATTING', 'HEADER_UUID', 'HEADER_HOST', 'HEADER_HOST_LENGTH',
  'RESULT_TYPE', 'RESULT_XLENGTH', 'RESULT_DLENGTH', 'RESULT_OFFSET', 'RESULT_LENGTH', 'RESULT_FLAGS', 'RESULT_FRAME', 'RESULT_BYTES', 'FLAG_FIRST', 'FLAG_LAST',
  'SLOT_SIZE', 'SLOT_HEARTBEAT', 'SLOT_INSTANCE', 'SLOT_DEV', 'SLOT_INO', 'SLOT_BOOT', 'SLOT_PIDNS', 'SLOT_PID', 'SLOT_CONNECTIONS',
  'SLOT_HOST', 'SLOT_NAME', 'SLOT_TEXT_LENGTH', 'SLOT_FREE', 'SLOT_CLAIMED', 'SLOT_ATTACHED', 'SLOT_DEAD', 'SLOT_FENCED',
  'LOCK_FORMAT', 'LOCK_SERVER', 'LOCK_LIFECYCLE', 'SLOTS_MAX',
  'KIND_HELD', 'KIND_OFFERED', 'HALF_CONSUMER', 'HALF_PRODUCER',
  'SLOT_SLEEPING', 'SLOT_SUMMARY', 'SLOT_READY', 'RING_READY', 'RING_START', 'RING_DATA',
  'RECORD_HEADER', 'RECORD_PAD', 'RECORD_FIRST', 'RECORD_MORE', 'RECORD_SHIFT', 'RECORD_EXTRA', 'NET_HEADER',
  'GRANTS', 'GRANT_SIZE', 'GRANT_TOKEN', 'GRANT_OFFSET', 'GRANT_LENGTH', 'GRANT_RIGHTS',
  'RING_MIN', 'RING_MAX', 'RING_CAPACITY', 'RING_TAIL', 'RING_HEAD', 'RING_ARMED', 'RING_RECEIVE_MODE', 'RECEIVE_MODE_COPY', 'RECEIVE_MODE_IN_PLACE', 'CONNECTIONS', 'MESSAGE_USER', 'MESSAGE_RMA_WRITE', 'MESSAGE_RMA_READ', 'MESSAGE_RMA_READ_ANSWER', 'MESSAGE_RENDEZVOUS_REQ', 'MESSAGE_RENDEZVOUS_FIN',
  'MESSAGE_BCAST', 'MESSAGE_BARRIER', 'MESSAGE_EOF', 'MESSAGE_SHUTDOWN_REQ', 'MESSAGE_SHUTDOWN_ACK', 'MESSAGE_SUSPEND',
  'COUNT_SENT', 'COUNT_SENT_BYTES', 'COUNT_RECEIVED', 'COUNT_RECEIVED_BYTES', 'COUNT_FULL', 'TX_MASK', 'C_FAILURE', 'C_IGNORED',
  'STATE_FREE', 'STATE_OPENING', 'STATE_OPEN', 'STATE_CLOSING', 'STATE_PEER_CLOSED', 'STATE_CLOSED', 'STATE_BROKEN',
  'FAILURE_HEAD', 'FAILURE_RECORD', 'FAILURE_MESSAGE', 'FAILURE_LOST',
  'INSPECT_READY', 'INSPECT_BLANK', 'INSPECT_FORMATTING', 'INSPECT_VERSION', 'INSPECT_FOREIGN', 'INSPECT_CORRUPT', 'INSPECT_SIZE',
  'DECODED_RECORD', 'DECODED_EMPTY', 'COMMIT_ASLEEP', 'SLEEP_BUSY', 'SLEEP_ASLEEP',
  'GRANT_READ', 'GRANT_WRITE', 'REQUEST_SIZE',
  'SUSPENSION_NONE', 'SUSPENSION_SUSPENDING', 'SUSPENSION_SENT', 'SUSPENSION_RECEIVED', 'SUSPENSION_SUSPENDED', 'SUSPENSION_RESUMING',
  'SUSPENSION_EVENT_SUSPEND', 'SUSPENSION_EVENT_SENT', 'SUSPENSION_EVENT_REQ', 'SUSPENSION_EVENT_ACK', 'SUSPENSION_EVENT_RESUME', 'SUSPENSION_EVENT_UP',
  'MIGRATION_INACTIVE', 'MIGRATION_REQUESTED', 'MIGRATION_PREPARING', 'MIGRATION_ALLOWED', 'MIGRATION_FINISHED', 'MIGRATION_RESUMING',
  'MIGRATION_EVENT_REQUEST', 'MIGRATION_EVENT_PREPARE', 'MIGRATION_EVENT_ALLOW', 'MIGRATION_EVENT_FAIL', 'MIGRATION_EVENT_RESUME', 'MIGRATION_EVENT_ATTACHED', 'MIGRATION_EVENT_BACK',
  'ATTACH_OK', 'ATTACH_OFFER', 'ATTACH_NONCE', 'ATTACH_SHAPE',
] as const; // biome-ignore format: one line for one thing

export type Layout = { readonly [name in (typeof NAMES)[number]]: number };

/** The functions of `assembly/index.ts`; booleans come as 0 and 1. */
export interface CoreExports {
  fits(): number;
  geometry(bytes: number): number;
  inspect(): number;
  beginFormat(kernel: number): number;
  formattingKernel(): number;
  format(kernel: number): void;
  finishFormat(): void;
  alive(slot: number, generation: number): number;
  beat(): void;
  heartbeat(slot: number): number;
  claimSlot(slot: number, kernel: number): number;
  publishSlot(): number;
  holdsSlot(): number;
  declareDead(slot: number, generation: number): number;
  fence(slot: number, generation: number): number;
  slotAddress(slot: number): number;
  slotState(slot: number): number;
  slotGeneration(slot: number): number;
  slotKernel(slot: number): number;
  mySlot(): number;
  myGeneration(): number;
  addToPollSet(index: number): void;
  removeFromPollSet(index: number): void;
  pollSetSize(): number;
  poll(rounds: number): number;
  trySleep(canRing: number): number;
  take(frames: number, half: number): number;
  freeFrames(): number;
  tableBytes(): number;
  extentFrames(): number;
  extentUse(extent: number): number;
  extentSlot(extent: number): number;
  extentGeneration(extent: number): number;
  extentTagValid(extent: number): number;
  halfFree(frame: number, which: number): number;
  halfKind(frame: number, which: number): number;
  halfSlot(frame: number, which: number): number;
  halfGeneration(frame: number, which: number): number;
  halfFrames(frame: number, which: number): number;
  collect(): void;
  trim(): void;
  leave(): void;
  reclaim(slot: number, generation: number): void;
  sweep(): void;
  open(): number;
  createRing(index: number, capacity: number, start: number): number;
  setNonce(index: number, low: number, high: number): void;
  attachRing(
    index: number,
    frame: number,
    capacity: number,
    slot: number,
    generation: number,
    low: number,
    high: number,
  ): number;
  join(a: number, b: number): void;
  dropTransmit(index: number): void;
  dropReceive(index: number): void;
  free(index: number): void;
  start(index: number): void;
  lose(index: number): void;
  state(index: number): number;
  suspension(state: number, event: number): number;
  migration(state: number, event: number): number;
  entry(index: number): number;
  ringAddress(index: number): number;
  ringCapacity(index: number): number;
  claim(index: number, type: number, xlength: number, dlength: number): number;
  claimMore(index: number): number;
  claimMoreSpin(index: number, rounds: number): number;
  receiverWaits(index: number): number;
  wantsRun(index: number, body: number): number;
  setReceiveMode(index: number, mode: number): void;
  commit(index: number): number;
  sendEof(index: number): number;
  peek(index: number): number;
  peekSpin(index: number, rounds: number): number;
  release(index: number): void;
  drain(index: number): number;
  drained(index: number): void;
  decode(index: number, available: number): number;
  decoded(index: number, length: number): number;
  atMessageBoundary(index: number): number;
  wantRoom(index: number, on: number): void;
  readable(index: number): number;
  unread(index: number): number;
  arm(index: number): number;
  disarm(index: number): void;
  position(index: number): number;
  hold(index: number): void;
  publish(index: number, head: number): void;
  giveBack(frame: number, count: number, half: number): number;
  addressOf(frame: number): number;
  takeRun(bytes: number): number;
  grant(frame: number, low: number, high: number, offset: number, length: number, rights: number): number;
  revoke(frame: number, place: number): void;
  granted(
    index: number,
    frame: number,
    place: number,
    low: number,
    high: number,
    offset: number,
    length: number,
    rights: number,
  ): number;
  adoptGranted(index: number, frame: number, place: number, low: number, high: number, length: number): number;
  announce(index: number, frame: number, place: number, length: number, low: number, high: number): number;
  giveBackRun(frame: number, bytes: number): number;
  adoptAnnounced(index: number, at: number): number;
  letGoRun(frame: number, bytes: number): void;
  runLength(index: number, frame: number): number;
  readonly regionFrames: { readonly value: number };
  readonly regionSlots: { readonly value: number };
}

/** Answers of claim, peek, drain and decode besides an offset. */
export const NOTHING = 0;
export const BROKEN = -1;

let compiled: object | undefined;
let layout: Layout | undefined;

function readLayout(exports: WasmExports): Layout {
  const values: Partial<Record<string, number>> = {};
  for (const name of NAMES) {
    const constant = exports[name];
    if (!(constant instanceof wasm.Global)) throw new Error(`the core exports no constant ${name}`);
    values[name] = (constant.value as number) >>> 0;
  }
  return Object.freeze(values) as Layout;
}

/** Who wakes us when peers put something into memory that they share with us. */
export interface Sleeper {
  /** Whether all of them can. */
  readonly heard: boolean;
  /** Called when one of them did. */
  rung: () => void;
}

export class Core {
  readonly memory: WasmMemory;
  /** All of the memory. Region bytes are only ever copied out of it: they change under one's hands. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly words: Uint32Array<ArrayBuffer>;
  readonly view: DataView<ArrayBuffer>;
  readonly call: CoreExports;
  readonly layout: Layout;
  /** Bytes of the window. */
  readonly size: number;
  /** Where the memory is shared. */
  sleeper: Sleeper | undefined;

  /**
   * @param size bytes of the window, a multiple of 1 MiB, at most `regionMax()`
   * @throws ERR_ISTHMUS_SYSCALL if there is no address space for it
   */
  constructor(size: number) {
    const layout = coreLayout();
    const pages = (layout.WINDOW + size) / 65536;
    try {
      // Not shared: copies into an ArrayBuffer are four times as fast as into a SharedArrayBuffer. Never growing.
      this.memory = new wasm.Memory({ initial: pages, maximum: pages });
    } catch (cause) {
      throw new IsthmusError(
        'ERR_ISTHMUS_SYSCALL',
        `no address space for a window of ${size} bytes (look at 'ulimit -v' and vm.overcommit_memory)`,
        { cause, syscall: 'mmap', needed: size },
      );
    }
    this.layout = layout;
    this.size = size;
    this.bytes = new Uint8Array(this.memory.buffer);
    this.words = new Uint32Array(this.memory.buffer);
    this.view = new DataView(this.memory.buffer);
    this.call = instantiate(compile(), this.memory) as unknown as CoreExports;
    if (!this.call.fits()) throw new Error('the statics of the core reach into its private part');
  }

  /** Frames of 4 KiB that could be taken now. */
  freeFrames(): number {
    this.call.collect();
    return this.call.freeFrames();
  }

  /** A counter of a connection. Exact up to 2^53. */
  count(index: number, counter: number): number {
    const at = this.call.entry(index) + counter;
    return this.view.getUint32(at, true) + this.view.getUint32(at + 4, true) * 2 ** 32;
  }

  /** Text of a fixed field, up to its first NUL. Copied before it is decoded. */
  text(offset: number, length: number): string {
    const copy = this.bytes.slice(offset, offset + length);
    const end = copy.indexOf(0);
    return new TextDecoder().decode(end < 0 ? copy : copy.subarray(0, end));
  }

  setText(offset: number, length: number, text: string): void {
    const field = new Uint8Array(length);
    new TextEncoder().encodeInto(text, field.subarray(0, length - 1));
    this.bytes.set(field, offset);
  }
}

function instantiate(module: object, memory: WasmMemory): WasmExports {
  const abort = (_message: number, _file: number, line: number, column: number): never => {
    throw new Error(`the core aborted at ${line}:${column}`);
  };
  return new wasm.Instance(module, { env: { memory, abort } }).exports;
}

function compile(): object {
  compiled ??= new wasm.Module(bytes);
  return compiled;
}

let pure: WasmExports | undefined;

/** The core on a memory of one page: for its constants, and for what looks at no memory. */
function pureCore(): WasmExports {
  pure ??= instantiate(compile(), new wasm.Memory({ initial: 1 }));
  return pure;
}

/** The constants of the layout. */
export function coreLayout(): Layout {
  layout ??= readLayout(pureCore());
  return layout;
}

/** The state machines of `assembly/migration.ts`, which need no memory. */
export function machines(): Pick<CoreExports, 'suspension' | 'migration'> {
  return pureCore() as unknown as CoreExports;
}
