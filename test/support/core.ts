/**
 * Cores under test: on private memory, or several on one file, as in several processes; pairs of connections with rings
 * of a given capacity and start; messages on them; and watches over bytes that must not change.
 */

import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import bytes from '#core.wasm';
import { BROKEN, Core, NOTHING, readLayout } from '../../host/core/core.js';
import type { Layout } from '../../host/core/layout.js';
import { wasm } from '../../host/core/webassembly.js';
import { addon, type Mapping } from '../../host/native/native.js';

/** The constants, from an instance of their own: test/crash replaces the module before the host compiles it. */
export const L: Layout = readLayout(
  new wasm.Instance(new wasm.Module(bytes), { env: { memory: new wasm.Memory({ initial: 1 }), abort() {} } }).exports,
);

export type ConstantName = keyof Layout;
export const constantNames = Object.keys(L) as readonly ConstantName[];

/** A constant by its name, for a test with a table of names; a name put together from parts is checked here. */
export function constant(name: ConstantName): number {
  const value: number | undefined = L[name];
  if (value === undefined) throw new Error(`the core exports no constant ${name}`);
  return value;
}

export { BROKEN, NOTHING };
export const MIB = 0x100000;

/** A core, with additional accessors for tests. */
export class TestCore extends Core {
  u32(at: number): number {
    return this.view.getUint32(at, true);
  }

  setU32(at: number, value: number): void {
    this.view.setUint32(at, value, true);
  }

  u64(at: number): bigint {
    return this.view.getBigUint64(at, true);
  }

  setU64(at: number, value: bigint): void {
    this.view.setBigUint64(at, value, true);
  }

  get frames(): number {
    return this.call.regionFrames.value;
  }

  get slots(): number {
    return this.call.regionSlots.value;
  }

  get slot(): number {
    return this.call.mySlot();
  }

  get generation(): number {
    return this.call.myGeneration() >>> 0;
  }

  /** Address of the tag of one half of the run that begins at the frame. */
  half(frame: number, which: number): number {
    return L.WINDOW + this.u32(L.HEADER_MAP_AT) + frame * L.HALVES + which;
  }

  extent(index: number): number {
    return L.WINDOW + this.u32(L.HEADER_EXTENTS_AT) + index * 8;
  }

  /** Tags of all extents after the tables: 0 for a free one. */
  extents(): bigint[] {
    const tags: bigint[] = [];
    for (let i = this.u32(L.HEADER_FIRST); i < this.u32(L.HEADER_EXTENTS); i++) tags.push(this.u64(this.extent(i)));
    return tags;
  }

  /** Frames in free extents: those that a process without extents could take. */
  unclaimed(): number {
    return this.extents().filter((tag) => tag === 0n).length * this.u32(L.HEADER_EXTENT);
  }

  /** Tags in the frame map. */
  tags(): bigint[] {
    const tags: bigint[] = [];
    for (let i = 0; i < this.frames * 2; i++) {
      const tag = this.u64(this.half(0, 0) + i * 8);
      if (tag !== 0n) tags.push(tag);
    }
    return tags;
  }

  tag(kind: number, frames: number, slot = this.slot, generation = this.generation): bigint {
    return (BigInt(generation) << 32n) | BigInt(((kind << 30) | (slot << 20) | frames) >>> 0);
  }

  field(index: number, offset: number): number {
    return this.u32(this.call.entry(index) + offset);
  }

  state(index: number): number {
    return this.call.state(index);
  }

  failure(index: number): number {
    return this.field(index, L.C_FAILURE);
  }

  result(at: number): number {
    return this.words[at >> 2]!;
  }

  join(slot: number, kernel = 0): this {
    assert.is(this.call.claimSlot(slot, kernel), 1, `slot ${slot} is in use`);
    assert.is(this.call.publishSlot(), 1);
    return this;
  }
}

/** A core on private memory, formatted, attached in slot 0. */
export function newCore(mib = 1): TestCore {
  const core = new TestCore(mib * MIB);
  assert.is(core.call.geometry(mib * MIB), 1);
  core.call.format(0);
  core.call.finishFormat();
  return core.join(0);
}

/** Folders of views that were not closed, because their test failed. */
const left = new Set<string>();
process.on('exit', () => {
  for (const folder of left) rmSync(folder, { recursive: true, force: true });
});

/** Several cores on one file, which is removed with `close()`. The first has formatted it; core i has slot i. */
export class Shared {
  readonly folder = mkdtempSync('/dev/shm/isthmus-core-');
  readonly path = join(this.folder, 'region');
  readonly cores: TestCore[] = [];
  readonly #mappings: Mapping[] = [];
  readonly #size: number;

  constructor(count: number, mib = 1, joined = true) {
    this.#size = mib * MIB;
    left.add(this.folder);
    const fd = openSync(this.path, 'wx+', 0o600);
    ftruncateSync(fd, this.#size);
    closeSync(fd);
    for (let i = 0; i < count; i++) this.add();
    if (!joined) return;
    this.cores[0]!.call.format(0);
    this.cores[0]!.call.finishFormat();
    for (const [slot, core] of this.cores.entries()) core.join(slot);
  }

  /** One more view of the region; without a slot. */
  add(): TestCore {
    const core = new TestCore(this.#size);
    this.#mappings.push(mapInto(core, this.path));
    this.cores.push(core);
    return core;
  }

  close(): void {
    for (const mapping of this.#mappings) mapping.detach();
    rmSync(this.folder, { recursive: true, force: true });
    left.delete(this.folder);
  }
}

/** Map a file into the window of a core and compute the geometry for it. */
export function mapInto(core: TestCore, path: string): Mapping {
  const fd = openSync(path, 'r+');
  try {
    const mapping = addon().map(core.memory.buffer, L.WINDOW, core.size, fd, 0);
    assert.is(core.call.geometry(core.size), 1);
    return mapping;
  } finally {
    closeSync(fd);
  }
}

/** Run with several cores on one file. */
export function shared(count: number, mib: number, body: (...cores: TestCore[]) => void): void {
  const region = new Shared(count, mib);
  try {
    body(...region.cores);
  } finally {
    region.close();
  }
}

// ── Connections ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** Open an entry with a ring of its own. */
export function openEntry(core: TestCore, capacity: number, start = 0): number {
  const index = core.call.open() - 1;
  assert.ok(index >= 0, 'no entry left');
  assert.ok(core.call.createRing(index, capacity, start) > 0, 'no frames for the ring');
  return index;
}

/** One direction between two joined entries of a core, and the other. */
export class Pair {
  readonly core: TestCore;
  /** Sends to `b`. */
  readonly a: number;
  readonly b: number;
  readonly capacity: number;
  /** Address of the ring that `b` reads from, and of its records. */
  readonly ring: number;
  readonly data: number;

  constructor(core: TestCore, capacity = L.RING_MIN, start = 0) {
    this.core = core;
    this.capacity = capacity;
    this.a = openEntry(core, capacity, start);
    this.b = openEntry(core, capacity, start);
    core.call.join(this.a, this.b);
    core.call.start(this.a);
    core.call.start(this.b);
    this.ring = core.call.ringAddress(this.b);
    this.data = this.ring + L.RING_DATA;
  }

  free(): void {
    for (const index of [this.a, this.b]) this.core.call.dropTransmit(index);
    for (const index of [this.a, this.b]) this.core.call.free(index);
  }

  /** Largest payload of a record. */
  get recordMax(): number {
    return this.capacity / 4 + L.RECORD_EXTRA - L.RECORD_HEADER;
  }

  /** Where the record at a position lies. */
  at(position: number): number {
    return this.data + ((position & (this.capacity - 1)) >>> 0);
  }

  get tail(): number {
    return this.core.field(this.a, L.TX_TAIL);
  }

  get read(): number {
    return this.core.field(this.b, L.RX_READ);
  }

  /** The head as the producer sees it. */
  get head(): number {
    return this.core.u32(this.ring + L.RING_HEAD);
  }

  /** Write a record header at the next read position of the consumer. */
  forge(header: bigint, position = this.read): void {
    this.core.setU64(this.at(position), header);
  }

  send(body: Uint8Array, type = 0, xlength = 0): boolean {
    return new Sender(this.core, this.a, body, type, xlength).go();
  }

  receive(): Message | undefined {
    return receive(this.core, this.b);
  }
}

/** The header of a record. */
export function recordHeader(length: number, kind: number, position: number): bigint {
  return BigInt(length >>> 0) | (BigInt((position >>> 3) & 0xffffff) << 32n) | (BigInt(kind) << 56n);
}

/** `length` bytes that depend on their offset and on the salt. */
export function pattern(length: number, salt: number): Uint8Array {
  const result = new Uint8Array(length);
  let x = Math.imul(salt + 1, 0x9e3779b1) | 1;
  for (let i = 0; i < length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) | 0;
    result[i] = x >>> 24;
  }
  return result;
}

/** One message on its way into a ring, as far as there is room. */
export class Sender {
  /** Bytes of the body that are in the ring; -1 before the first record. */
  done = -1;
  broken = false;
  records = 0;
  readonly #core: TestCore;
  readonly #index: number;
  readonly #body: Uint8Array;
  readonly #type: number;
  readonly #xlength: number;

  constructor(core: TestCore, index: number, body: Uint8Array, type = 0, xlength = 0) {
    this.#core = core;
    this.#index = index;
    this.#body = body;
    this.#type = type;
    this.#xlength = xlength;
  }

  /** Write the part that fits. @returns whether all of it is in the ring */
  go(): boolean {
    const { call, bytes } = this.#core;
    while (this.done < this.#body.length) {
      const offset =
        this.done < 0
          ? call.claim(this.#index, this.#type, this.#xlength, this.#body.length - this.#xlength)
          : call.claimMore(this.#index);
      if (offset === NOTHING) return false;
      if (offset === BROKEN) {
        this.broken = true;
        return false;
      }
      const from = Math.max(0, this.done);
      const length = this.#core.result(L.RESULT_LENGTH);
      bytes.set(this.#body.subarray(from, from + length), offset);
      call.commit(this.#index);
      this.done = from + length;
      this.records++;
    }
    return true;
  }
}

export interface Message {
  readonly type: number;
  readonly xlength: number;
  readonly body: Uint8Array;
  readonly records: number;
}

export interface Peeked {
  readonly type: number;
  readonly xlength: number;
  readonly dlength: number;
  readonly offset: number;
  readonly length: number;
  readonly flags: number;
}

/** Check the next record. */
export function peek(core: TestCore, index: number): Peeked | 'nothing' | 'broken' {
  const offset = core.call.peek(index);
  if (offset === NOTHING) return 'nothing';
  if (offset === BROKEN) return 'broken';
  assert.is(core.result(L.RESULT_OFFSET), offset);
  return {
    type: core.result(L.RESULT_TYPE),
    xlength: core.result(L.RESULT_XLENGTH),
    dlength: core.result(L.RESULT_DLENGTH),
    offset,
    length: core.result(L.RESULT_LENGTH),
    flags: core.result(L.RESULT_FLAGS),
  };
}

/** Read fragments until a message is complete. */
export class Receiver {
  broken = false;
  #parts: Uint8Array[] = [];
  readonly #core: TestCore;
  readonly #index: number;

  constructor(core: TestCore, index: number) {
    this.#core = core;
    this.#index = index;
  }

  /** A whole message, or undefined if there is no more in the ring. */
  next(): Message | undefined {
    for (;;) {
      const record = peek(this.#core, this.#index);
      if (record === 'broken') this.broken = true;
      if (typeof record === 'string') return undefined;
      assert.is((record.flags & L.FLAG_FIRST) !== 0, this.#parts.length === 0, 'FIRST');
      this.#parts.push(this.#core.bytes.slice(record.offset, record.offset + record.length));
      this.#core.call.release(this.#index);
      if ((record.flags & L.FLAG_LAST) === 0) continue;
      const body = Buffer.concat(this.#parts);
      assert.is(body.length, record.xlength + record.dlength);
      const message = { type: record.type, xlength: record.xlength, body, records: this.#parts.length };
      this.#parts = [];
      return message;
    }
  }
}

/** The next message, which is in the ring completely. */
export function receive(core: TestCore, index: number): Message | undefined {
  return new Receiver(core, index).next();
}

export function assertBytes(found: Uint8Array, expected: Uint8Array, what = 'bytes'): void {
  if (Buffer.compare(found, expected) === 0) return;
  const at = expected.findIndex((byte, i) => found[i] !== byte);
  assert.unreachable(`${what} differ at ${at} of ${expected.length} (${found.length} received)`);
}

/** Watch all memory of a core except the given ranges: `[from, to)` each. @returns a check that nothing changed */
export function watch(core: TestCore, ...allowed: readonly (readonly [number, number])[]): () => void {
  const edges = [...allowed].sort((a, b) => a[0] - b[0]);
  const ranges: [number, number][] = [];
  let from = 0;
  for (const [start, end] of edges) {
    if (start > from) ranges.push([from, start]);
    from = Math.max(from, end);
  }
  ranges.push([from, core.bytes.length]);
  const copies = ranges.map(([start, end]) => core.bytes.slice(start, end));
  return () => {
    for (const [i, [start, end]] of ranges.entries()) {
      const now = core.bytes.subarray(start, end);
      if (Buffer.compare(now, copies[i]!) === 0) continue;
      const at = now.findIndex((byte, j) => byte !== copies[i]![j]);
      assert.unreachable(`the byte at 0x${(start + at).toString(16)} has changed`);
    }
  };
}

/** Memory that a connection may change: statics and results of the core, its own entry, and the rings of a pair. */
export function allowedTo(pair: Pair): [number, number][] {
  const { core, a, b, capacity } = pair;
  const entry = (index: number): [number, number] => [
    core.call.entry(index),
    core.call.entry(index) + L.CONNECTION_SIZE,
  ];
  const ring = (index: number): [number, number] => {
    const at = core.call.ringAddress(index);
    return [at, at + L.RING_DATA + capacity];
  };
  return [[0, constant('PRIVATE') + 64], entry(a), entry(b), ring(a), ring(b)];
}
