/**
 * The codec of the handshake: phase 1 of the wire protocol, as the C pscom of protocol version 0x0200 uses it over TCP.
 *
 * ```
 *  0       4       8             8 + size
 * ┌───────┬───────┬─────────────┐
 * │ type  │ size  │ payload     │   type and size: u32 big-endian
 * └───────┴───────┴─────────────┘   payload fields: the sender's byte order, which is little-endian
 *
 * con_info, the payload of CON_INFO, CON_INFO_DEMAND and BACK_CONNECT
 *  0         4       8               16              24
 * ┌─────────┬───────┬───────────────┬───────────────┐
 * │ node_id │ pid   │ id u64        │ name          │   name: NUL-padded
 * └─────────┴───────┴───────────────┴───────────────┘
 * ```
 *
 * Source: docs/protocol.md, "Phase 1: the handshake", and the captures in `test/wire/`.
 */
import { isIPv4 } from 'node:net';
import type { ConInfo, MessageCounts } from '../api/peer.js';
import { IsthmusError } from '../base/errors.js';
import { STEP } from '../plugins/plugin.js';

/** Types of frames. */
export const FRAME = {
  /** Not used over TCP; ignored. */
  EOF: 0x100000,
  CON_INFO: 0x100002,
  VERSION: 0x100003,
  /** CON_INFO of the side that connects for an on-demand connection. */
  CON_INFO_DEMAND: 0x100004,
  /** Asks the receiver to connect to the sender; the only frame of its TCP connection. */
  BACK_CONNECT: 0x100005,
  BACK_ACK: 0x100006,
  ARCH_REQ: 0x100010,
  ARCH_OK: 0x100011,
  ARCH_NEXT: 0x100012,
  ...STEP,
  /**
   * An extension of this project, as the next three: {@link MessageCounts}, behind CON_INFO, of a connection that has been
   * up. The C implementation ignores frame types that it does not know.
   */
  COUNTS: 0x100080,
  /** con_info, the only frame of its TCP connection: asks the receiver to read on (a drain request). */
  HURRY: 0x100081,
  /** port u32, from the connecting side: where it accepts HURRY. */
  LISTENS: 0x100082,
  /**
   * From the accepting side, as its only frame: it does not let this peer in. A connection that is closed without any frame
   * may have been one too many at that moment: the connecting side tries again later.
   */
  REFUSED: 0x100083,
} as const;

/** The one protocol version of this implementation. */
export const PROTOCOL_VERSION = 0x0200;

/** Bytes of a frame's header. */
export const FRAME_HEADER_SIZE = 8;

/** Bytes of con_info. Newer pscom generations send 40. */
export const CON_INFO_SIZE = 24;

/** Bytes of a name in con_info. */
export const NAME_SIZE = 8;

/** Bytes that one handshake may send to this side. */
export interface FrameLimits {
  /** Largest payload of a frame, also of an unknown type. */
  readonly maxPayload: number;
  /** All frames of one handshake, headers included. Bytes behind the last frame do not count. */
  readonly maxTotal: number;
}

export const FRAME_LIMITS: FrameLimits = { maxPayload: 4096, maxTotal: 64 * 1024 };

/** COUNTS: sent u64, received u64. */
export function encodeCounts({ sent, received }: MessageCounts): Buffer {
  const payload = Buffer.alloc(16);
  payload.writeBigUInt64LE(BigInt(sent), 0);
  payload.writeBigUInt64LE(BigInt(received), 8);
  return encodeFrame(FRAME.COUNTS, payload);
}

/** @throws ERR_ISTHMUS_HANDSHAKE */
export function decodeCounts(payload: Buffer): MessageCounts {
  if (payload.length < 16) {
    throw new IsthmusError('ERR_ISTHMUS_HANDSHAKE', `COUNTS of ${payload.length} bytes`);
  }
  return { sent: Number(payload.readBigUInt64LE(0)), received: Number(payload.readBigUInt64LE(8)) };
}

/** LISTENS: port u32. */
export function encodeListens(port: number): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt32LE(port);
  return encodeFrame(FRAME.LISTENS, payload);
}

/** @returns undefined: the payload is not a port */
export function decodeListens(payload: Buffer): number | undefined {
  const port = payload.length >= 4 ? payload.readUInt32LE() : 0;
  return port > 0 && port < 65_536 ? port : undefined;
}

export interface Frame {
  readonly type: number;
  /** A copy, which belongs to the receiver. */
  readonly payload: Buffer;
}

/** The name of a frame type, for messages. */
export function frameName(type: number): string {
  const found = Object.entries(FRAME).find(([, value]) => value === type);
  return found ? found[0] : `0x${type.toString(16)}`;
}

/** Any frame; the payload is copied. */
export function encodeFrame(type: number, payload: Uint8Array = new Uint8Array(0)): Buffer {
  const frame = Buffer.alloc(FRAME_HEADER_SIZE + payload.length);
  frame.writeUInt32BE(type, 0);
  frame.writeUInt32BE(payload.length, 4);
  frame.set(payload, FRAME_HEADER_SIZE);
  return frame;
}

/** VERSION: the range of protocol versions that the sender supports. */
export function encodeVersion(from: number = PROTOCOL_VERSION, to: number = PROTOCOL_VERSION): Buffer {
  const payload = Buffer.alloc(8);
  payload.writeUInt32LE(from, 0);
  payload.writeUInt32LE(to, 4);
  return encodeFrame(FRAME.VERSION, payload);
}

/**
 * A STEP frame of a plugin.
 *
 * Throws ERR_ISTHMUS_INVALID_ARGUMENT for a type other than STEP1 to STEP4, or a payload of more than 4 KiB.
 */
export function encodeStep(type: number, payload: Uint8Array): Buffer {
  if (isStep(type) && payload.length <= FRAME_LIMITS.maxPayload) return encodeFrame(type, payload);
  throw new IsthmusError(
    'ERR_ISTHMUS_INVALID_ARGUMENT',
    `step: STEP1 to STEP4 with up to ${FRAME_LIMITS.maxPayload} bytes, not 0x${type.toString(16)} with ${payload.length}`,
  );
}

/** ARCH_REQ for the architecture id of a plugin. */
export function encodeArchReq(archId: number): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt32LE(archId, 0);
  return encodeFrame(FRAME.ARCH_REQ, payload);
}

/**
 * CON_INFO, or another frame whose payload is con_info.
 *
 * Throws ERR_ISTHMUS_INVALID_ARGUMENT: the node is not an IPv4 address, or the name is longer than {@link NAME_SIZE}
 * bytes or contains a NUL. (A name is not cut: two names must not become one.)
 */
export function encodeConInfo(
  info: ConInfo,
  type:
    | typeof FRAME.CON_INFO
    | typeof FRAME.CON_INFO_DEMAND
    | typeof FRAME.BACK_CONNECT
    | typeof FRAME.HURRY = FRAME.CON_INFO,
): Buffer {
  if (!isIPv4(info.node)) {
    throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `node: not an IPv4 address: ${JSON.stringify(info.node)}`);
  }
  const name = Buffer.from(info.name, 'utf8');
  if (name.length > NAME_SIZE || name.includes(0)) {
    throw new IsthmusError(
      'ERR_ISTHMUS_INVALID_ARGUMENT',
      `name: up to ${NAME_SIZE} bytes without NUL, not ${JSON.stringify(info.name)}`,
    );
  }
  const payload = Buffer.alloc(CON_INFO_SIZE);
  // The address is an integer in the sender's byte order, so that 127.0.0.1 is the bytes 01 00 00 7f.
  payload.set(info.node.split('.').map(Number).reverse(), 0);
  payload.writeUInt32LE(info.pid >>> 0, 4);
  payload.writeBigUInt64LE(BigInt.asUintN(64, info.id), 8);
  payload.set(name, 16);
  return encodeFrame(type, payload);
}

/** The payload of CON_INFO. Throws ERR_ISTHMUS_HANDSHAKE_VERSION if it has the size of another generation. */
export function decodeConInfo(payload: Buffer): ConInfo {
  if (payload.length !== CON_INFO_SIZE) {
    throw new IsthmusError(
      'ERR_ISTHMUS_HANDSHAKE_VERSION',
      `the peer is of another pscom generation: its con_info has ${payload.length} bytes, ` +
        `that of protocol version 0x0200 has ${CON_INFO_SIZE}`,
    );
  }
  const name = payload.subarray(16, 16 + NAME_SIZE);
  const end = name.indexOf(0);
  return {
    node: Array.from(payload.subarray(0, 4)).reverse().join('.'),
    pid: payload.readUInt32LE(4),
    id: payload.readBigUInt64LE(8),
    name: name.toString('utf8', 0, end < 0 ? NAME_SIZE : end),
  };
}

/**
 * Throws ERR_ISTHMUS_HANDSHAKE_VERSION unless the range in a VERSION frame contains {@link PROTOCOL_VERSION}. A longer
 * payload is legal.
 */
export function checkVersion(payload: Buffer): void {
  if (payload.length < 8) {
    throw new IsthmusError('ERR_ISTHMUS_HANDSHAKE_VERSION', `a VERSION frame of ${payload.length} bytes, 8 expected`);
  }
  const from = payload.readUInt32LE(0);
  const to = payload.readUInt32LE(4);
  if (from <= PROTOCOL_VERSION && PROTOCOL_VERSION <= to) return;
  throw new IsthmusError(
    'ERR_ISTHMUS_HANDSHAKE_VERSION',
    `the peer supports protocol versions 0x${from.toString(16)} to 0x${to.toString(16)}, ` +
      `this side 0x${PROTOCOL_VERSION.toString(16)}`,
  );
}

/** The payload of ARCH_REQ. Throws ERR_ISTHMUS_HANDSHAKE if it is not a u32. */
export function decodeArchReq(payload: Buffer): number {
  if (payload.length !== 4) {
    throw new IsthmusError('ERR_ISTHMUS_HANDSHAKE', `an ARCH_REQ frame of ${payload.length} bytes, 4 expected`);
  }
  return payload.readUInt32LE(0);
}

/** Whether a plugin may use frames of this type. */
export function isStep(type: number): boolean {
  return type >= FRAME.STEP1 && type <= FRAME.STEP4;
}

/**
 * Takes frames out of a byte stream that is cut anywhere.
 *
 * It stores only bytes that have arrived: the size in a header is checked before anything else, and never causes an
 * allocation.
 */
export class FrameDecoder {
  readonly #limits: FrameLimits;
  /** Bytes `#start` to `#end` are received and not consumed. */
  #store: Buffer = Buffer.alloc(0);
  #start = 0;
  #end = 0;
  /** Bytes of frames that were taken out. */
  #consumed = 0;

  constructor(limits: Partial<FrameLimits> = {}) {
    this.#limits = { ...FRAME_LIMITS, ...limits };
  }

  /** Take in a chunk; it is copied. */
  push(chunk: Uint8Array): void {
    const pending = this.#end - this.#start;
    if (this.#end + chunk.length > this.#store.length) {
      // Doubled, so that a peer that sends single bytes does not cause a copy of everything for each of them.
      const size = pending + chunk.length;
      const target = size * 2 > this.#store.length ? Buffer.allocUnsafe(size * 2) : this.#store;
      this.#store.copy(target, 0, this.#start, this.#end);
      this.#store = target;
      this.#start = 0;
      this.#end = pending;
    }
    this.#store.set(chunk, this.#end);
    this.#end += chunk.length;
  }

  /**
   * The next frame; undefined: it is not complete yet.
   *
   * Throws ERR_ISTHMUS_HANDSHAKE if a frame claims more than `maxPayload`, or if the frames exceed `maxTotal`.
   */
  next(): Frame | undefined {
    const pending = this.#end - this.#start;
    if (pending < FRAME_HEADER_SIZE) return undefined;
    const type = this.#store.readUInt32BE(this.#start);
    const size = this.#store.readUInt32BE(this.#start + 4);
    if (size > this.#limits.maxPayload) {
      throw new IsthmusError(
        'ERR_ISTHMUS_HANDSHAKE',
        `a ${frameName(type)} frame that claims ${size} bytes; the limit is ${this.#limits.maxPayload}`,
      );
    }
    const length = FRAME_HEADER_SIZE + size;
    this.#checkTotal(length);
    if (pending < length) return undefined;
    const payload = Buffer.from(this.#store.subarray(this.#start + FRAME_HEADER_SIZE, this.#start + length));
    this.#start += length;
    this.#consumed += length;
    return { type, payload };
  }

  /** Throws ERR_ISTHMUS_HANDSHAKE if too many bytes wait. For a reader that has stopped taking frames out. */
  checkPending(): void {
    this.#checkTotal(this.#end - this.#start);
  }

  /** A copy of the bytes behind the last frame that was taken out. It empties the decoder. */
  rest(): Buffer {
    const rest = Buffer.from(this.#store.subarray(this.#start, this.#end));
    this.#store = Buffer.alloc(0);
    this.#start = 0;
    this.#end = 0;
    return rest;
  }

  #checkTotal(more: number): void {
    if (this.#consumed + more <= this.#limits.maxTotal) return;
    throw new IsthmusError('ERR_ISTHMUS_HANDSHAKE', `a handshake of more than ${this.#limits.maxTotal} bytes`);
  }
}
