/** Bytes of every kind, and what is none: for all calls that take bytes. */
import { runInNewContext } from 'node:vm';

type Named = [name: string, value: any];

/** Eight bytes in each form that there is, in memory of their own. */
export function kindsOfBytes(content: readonly number[]): Named[] {
  const kinds: Named[] = [['Buffer', Buffer.from(content)]];
  const foreign = runInNewContext('globalThis') as typeof globalThis;
  for (const [realm, from] of [
    ['', globalThis],
    ['another ', foreign],
  ] as const) {
    const filled = <T extends ArrayBufferLike>(buffer: T): T => {
      new Uint8Array(buffer).set(content);
      return buffer;
    };
    const buffer = () => filled(new from.ArrayBuffer(content.length));
    for (const view of [
      'Uint8Array',
      'Int16Array',
      'Uint32Array',
      'Float64Array',
      'BigUint64Array',
      'DataView',
    ] as const) {
      kinds.push([`${realm}${view}`, new (from[view] as new (buffer: ArrayBuffer) => ArrayBufferView)(buffer())]);
    }
    const inside = filled(new from.ArrayBuffer(content.length + 8).slice(0));
    new Uint8Array(inside).copyWithin(3, 0, content.length);
    kinds.push([`${realm}Uint8Array within`, new from.Uint8Array(inside, 3, content.length)]);
    kinds.push([`${realm}ArrayBuffer`, buffer()]);
    kinds.push([`${realm}SharedArrayBuffer`, filled(new from.SharedArrayBuffer(content.length))]);
    kinds.push([`${realm}view of shared`, new from.Uint8Array(filled(new from.SharedArrayBuffer(content.length)))]);
  }
  return kinds;
}

/** What is no bytes, although some of it has a length. */
export const NO_BYTES_AT_ALL: readonly any[] = [
  'text',
  '',
  7,
  0,
  8n,
  null,
  true,
  [1, 2],
  { length: 2, 0: 1, 1: 2 },
  new Date(),
  () => {},
  Symbol('bytes'),
];

/** Bytes whose memory is gone. */
export function transferred(): Named[] {
  const gone: Named[] = [];
  for (const make of [
    (buffer: ArrayBuffer) => new Uint8Array(buffer),
    (buffer: ArrayBuffer) => new Float32Array(buffer, 4),
    (buffer: ArrayBuffer) => new DataView(buffer),
    (buffer: ArrayBuffer) => Buffer.from(buffer),
    (buffer: ArrayBuffer) => buffer,
  ]) {
    const buffer = new ArrayBuffer(64);
    const value = make(buffer);
    structuredClone(buffer, { transfer: [buffer] });
    gone.push([`detached ${value.constructor.name}`, value]);
  }
  const { buffer, shrink } = shrinkable(64);
  const views = [new Uint8Array(buffer, 32, 8), new DataView(buffer, 32, 8), new Uint16Array(buffer, 40)];
  shrink(16);
  for (const view of views) gone.push([`cut short ${view.constructor.name}`, view]);
  return gone;
}

/** A resizable buffer; TypeScript's library for Node 20 does not know them. */
export function shrinkable(length: number): { buffer: ArrayBuffer; shrink(length: number): void } {
  const Resizable = ArrayBuffer as unknown as new (
    length: number,
    options: { maxByteLength: number },
  ) => ArrayBuffer & { resize(length: number): void };
  const buffer = new Resizable(length, { maxByteLength: length });
  return { buffer, shrink: (to) => buffer.resize(to) };
}
