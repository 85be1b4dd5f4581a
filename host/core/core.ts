/**
 * The Wasm core: its instances, each with a memory of its own, and its constants. The types of the exports in
 * `exports.ts` and `layout.ts` come from the compiler (`scripts/exports.mjs`).
 *
 * Only numbers of up to 32 bits cross the border. An offset is an address in `memory`, below 2 GiB.
 */
import bytes from '#core.wasm';
import { IsthmusError } from '../base/errors.js';
import type { CoreExports } from './exports.js';
import type { Layout } from './layout.js';
import { type WasmExports, type WasmMemory, wasm } from './webassembly.js';

/** Results of claim, peek, drain and decode besides an offset: constants of the core, with BROKEN as an i32. */
export const NOTHING = 0;
export const BROKEN = -1;

/** Wakes the runtime when a peer has put a message into the memory that both share. */
export interface Sleeper {
  /** Whether every peer can wake this process. */
  readonly heard: boolean;
  /** Called when a peer has woken this process. */
  rung: () => void;
}

export class Core {
  readonly memory: WasmMemory;
  /** All of the memory. A peer may change the bytes of a region at any time: copy them out before use. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly words: Uint32Array<ArrayBuffer>;
  readonly view: DataView<ArrayBuffer>;
  /** The functions of the core: the object that the engine made, without a wrapper around a call. */
  readonly call: CoreExports;
  readonly layout: Layout;
  /** Bytes of the window. */
  readonly size: number;
  /** Set where the window is a shared region. */
  sleeper: Sleeper | undefined;
  /** The window has lost its pages. Set where the window is a shared region. @returns the error for those that use it */
  onLost: (() => IsthmusError) | undefined;
  /** Index into `words` of LOST. */
  readonly lostAt: number;

  /**
   * @param size bytes of the window, a multiple of 1 MiB, at most REGION_MAX
   * @throws ERR_ISTHMUS_ADDRESS_SPACE if the process has too little of it
   */
  constructor(size: number) {
    const layout = coreLayout();
    // Not a shared memory: a copy into an ArrayBuffer is four times as fast as one into a SharedArrayBuffer. Never
    // growing: the buffer stays the same.
    this.memory = newMemory((layout.WINDOW + size) / 65536, `a window of ${size} bytes`, size);
    this.layout = layout;
    this.size = size;
    this.bytes = new Uint8Array(this.memory.buffer);
    this.words = new Uint32Array(this.memory.buffer);
    this.view = new DataView(this.memory.buffer);
    this.lostAt = layout.LOST >> 2;
    this.call = instantiate(compile(), this.memory) as unknown as CoreExports;
    if (!this.call.fits()) throw new Error('the statics of the core reach into its private part');
  }

  /**
   * Whether the window has lost its pages, and has zeros instead: the file was truncated, or the device is gone
   * (native/faults.h). To be read behind a copy: what was copied before may be zeros.
   */
  get lost(): boolean {
    return this.words[this.lostAt] !== 0;
  }

  /** For those that find the window lost: tells the region. @returns why */
  lostError(): IsthmusError {
    return this.onLost?.() ?? new IsthmusError('ERR_ISTHMUS_REGION_LOST', 'the pages of the region are gone');
  }

  /** The number of free frames, of 4 KiB each. */
  freeFrames(): number {
    this.call.collect();
    return this.call.freeFrames();
  }

  /** @returns the value of a 64-bit counter of a connection (COUNT_…), exact up to 2^53 */
  count(index: number, counter: number): number {
    const at = this.call.entry(index) + counter;
    return this.view.getUint32(at, true) + this.view.getUint32(at + 4, true) * 2 ** 32;
  }

  /** @returns the text of a field of fixed length, up to its first NUL. The bytes are copied before they are decoded. */
  text(offset: number, length: number): string {
    const copy = this.bytes.slice(offset, offset + length);
    const end = copy.indexOf(0);
    return new TextDecoder().decode(end < 0 ? copy : copy.subarray(0, end));
  }

  /** Write a text into a field of fixed length: UTF-8, cut where it is too long, and at least one NUL behind it. */
  setText(offset: number, length: number, text: string): void {
    const field = new Uint8Array(length);
    new TextEncoder().encodeInto(text, field.subarray(0, length - 1));
    this.bytes.set(field, offset);
  }
}

// ── The module ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** What the core has besides functions that work on a memory. */
interface Pure {
  readonly layout: Layout;
  /** Row: state of a migration; column: event. */
  readonly transitions: Uint8Array;
}

let compiled: object | undefined;
let pure: Pure | undefined;

/** @throws ERR_ISTHMUS_ADDRESS_SPACE */
function newMemory(pages: number, what: string, needed: number): WasmMemory {
  try {
    return new wasm.Memory({ initial: pages, maximum: pages });
  } catch (cause) {
    throw new IsthmusError(
      'ERR_ISTHMUS_ADDRESS_SPACE',
      `no address space for ${what}: V8 reserves 10 GiB around each ('ulimit -v', LimitAS=, vm.overcommit_memory), ` +
        'and little more than the bytes themselves with NODE_OPTIONS=--disable-wasm-trap-handler',
      { cause, syscall: 'mmap', needed },
    );
  }
}

function compile(): object {
  compiled ??= new wasm.Module(bytes);
  return compiled;
}

function instantiate(module: object, memory: WasmMemory): WasmExports {
  const abort = (_message: number, _file: number, line: number, column: number): never => {
    throw new Error(`the core aborted at ${line}:${column}`);
  };
  return new wasm.Instance(module, { env: { memory, abort } }).exports;
}

/**
 * Read from an instance that is garbage then: even one page of memory takes 10 GiB of address space, which a process may
 * have for one instance only. V8 collects it when a memory is refused, before it gives up.
 */
function pureCore(): Pure {
  if (pure) return pure;
  const instance = instantiate(compile(), newMemory(1, 'the constants of the core', 65536));
  const layout = readLayout(instance);
  const { migration } = instance as unknown as CoreExports;
  const transitions = new Uint8Array(layout.MIGRATION_STATES * layout.MIGRATION_EVENTS);
  for (let i = 0; i < transitions.length; i++) {
    const event = i % layout.MIGRATION_EVENTS;
    transitions[i] = migration((i - event) / layout.MIGRATION_EVENTS, event);
  }
  pure = { layout, transitions };
  return pure;
}

/** @returns the constants among the exports of an instance */
export function readLayout(exports: WasmExports): Layout {
  const values: [name: string, value: number][] = [];
  for (const [name, constant] of Object.entries(exports)) {
    // Only a constant has a capital letter in front: `scripts/exports.mjs` checks it. A bigint is for the core alone.
    if (!/^[A-Z]/.test(name) || !(constant instanceof wasm.Global) || typeof constant.value !== 'number') continue;
    values.push([name, constant.value >>> 0]);
  }
  // fromEntries() keeps the object a fast one; assignments one by one would turn it into a dictionary.
  return Object.freeze(Object.fromEntries(values)) as unknown as Layout;
}

/** @returns the constants of the core. @throws ERR_ISTHMUS_ADDRESS_SPACE, the first time */
export function coreLayout(): Layout {
  return pureCore().layout;
}

/** The state machine of `assembly/migration.ts`. */
export function stateMachine(): Pick<CoreExports, 'migration'> {
  const { layout, transitions } = pureCore();
  return { migration: (state, event) => transitions[state * layout.MIGRATION_EVENTS + event] as number };
}
