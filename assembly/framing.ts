/**
 * Messages on rings: the net header, fragments, and a byte stream cut into records.
 *
 * The first record of a message begins with its net header; what follows, there and in MORE records, is the body:
 * xheader, then data, cut anywhere. The payloads of consecutive records are therefore the byte stream of the wire
 * (docs/protocol.md, "Phase 2: messages"), and tcp copies them without parsing.
 */

import * as connection from './connection';
import {
  BROKEN,
  C_STATE,
  COMMIT_ASLEEP,
  COMMIT_POLLED,
  COMMIT_READY_SET,
  COUNT_RECEIVED,
  COUNT_RECEIVED_BYTES,
  COUNT_SENT,
  COUNT_SENT_BYTES,
  DECODE_BODY,
  DECODE_HAVE,
  DECODE_HEADER,
  DECODED_EMPTY,
  DECODED_RECORD,
  EVENT_EOF_RECEIVED,
  EVENT_EOF_SENT,
  FAILURE_MESSAGE,
  FAILURE_RECORD,
  FLAG_FIRST,
  FLAG_LAST,
  MESSAGE_EOF,
  NET_HEADER,
  NOTHING,
  RECORD_FIRST,
  RECORD_MORE,
  RESULT_DLENGTH,
  RESULT_FLAGS,
  RESULT_LENGTH,
  RESULT_OFFSET,
  RESULT_TYPE,
  RESULT_XLENGTH,
  RX_ARMED,
  RX_BODY,
  RX_NET,
  RX_READ,
  RX_REST,
  STATE_CLOSED,
  STATE_CLOSING,
  STATE_OPENING,
  TX_CLAIMED,
  TX_KIND,
  TX_PIECE,
  TX_REST,
} from './layout';
import * as peers from './peers';
import * as ring from './ring';

// @ts-ignore: decorator
@inline
function netHeader(type: u32, xlength: u32, dlength: u32): u64 {
  return <u64>(type & 0xffff) | ((<u64>(xlength & 0xffff)) << 16) | ((<u64>dlength) << 32);
}

// @ts-ignore: decorator
@inline
function bodyOf(net: u64): u64 {
  return ((net >> 16) & 0xffff) + (net >> 32);
}

// ─── sending ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Begin a message: claim its first record. BROKEN if the message before is not complete.
 * @returns address for the first RESULT_LENGTH bytes of the body; NOTHING if the ring is full; BROKEN
 */
export function claim(index: u32, type: u32, xlength: u32, dlength: u32): u32 {
  const c = connection.at(index);
  const state = load<u32>(c, C_STATE);
  if (state <= STATE_OPENING || state == STATE_CLOSING || state >= STATE_CLOSED) return BROKEN;
  if (load<u64>(c, TX_REST) != 0) return BROKEN;
  const body = <u64>xlength + <u64>dlength;
  const most = ring.recordMax(c);
  const piece = ring.pieceOf(c, body, most);
  const first = min<u32>(piece, most - NET_HEADER);
  const here = body <= <u64>first ? <u32>body : first;
  const offset = ring.claim(c, NET_HEADER + here, RECORD_FIRST);
  if (offset == NOTHING) return NOTHING;
  if (offset == BROKEN) return broken(c);
  store<u64>(offset, netHeader(type, xlength, dlength));
  store<u64>(c, body - here, TX_REST);
  store<u32>(c, piece, TX_PIECE);
  store<u32>(RESULT_LENGTH, here);
  return offset + NET_HEADER;
}

/** Claim the next record of the message. @returns address for its RESULT_LENGTH bytes; NOTHING: ring full; BROKEN */
export function claimMore(index: u32): u32 {
  const c = connection.at(index);
  if (load<u32>(c, C_STATE) >= STATE_CLOSED) return BROKEN;
  const rest = load<u64>(c, TX_REST);
  // No message is incomplete, and a MORE record without a byte violates the protocol.
  if (rest == 0) return BROKEN;
  const most = load<u32>(c, TX_PIECE);
  const here = rest <= <u64>most ? <u32>rest : most;
  const offset = ring.claim(c, here, RECORD_MORE);
  if (offset == NOTHING) return NOTHING;
  if (offset == BROKEN) return broken(c);
  store<u64>(c, rest - here, TX_REST);
  store<u32>(RESULT_LENGTH, here);
  return offset;
}

/**
 * Publish the claimed record, and set the peer's ready bit if its ring is armed.
 * @returns COMMIT_POLLED: the peer polls this ring; COMMIT_READY_SET: the peer will find the ready bit; COMMIT_ASLEEP:
 * the peer sleeps, and the caller has to ring its doorbell
 */
export function commit(index: u32): u32 {
  const c = connection.at(index);
  if (load<u32>(c, TX_KIND) == RECORD_FIRST) {
    store<u64>(c, load<u64>(c, COUNT_SENT) + 1, COUNT_SENT);
    store<u64>(c, load<u64>(c, COUNT_SENT_BYTES) + load<u32>(c, TX_CLAIMED) - NET_HEADER, COUNT_SENT_BYTES);
  } else {
    store<u64>(c, load<u64>(c, COUNT_SENT_BYTES) + load<u32>(c, TX_CLAIMED), COUNT_SENT_BYTES);
  }
  if (!ring.commit(c)) return COMMIT_POLLED;
  return peers.setReady(c) ? COMMIT_ASLEEP : COMMIT_READY_SET;
}

/**
 * Send EOF: the end of this direction.
 * @returns COMMIT_… + 1; NOTHING if the ring is full: call again; BROKEN
 */
export function sendEof(index: u32): u32 {
  const offset = claim(index, MESSAGE_EOF, 0, 0);
  if (offset == NOTHING || offset == BROKEN) return offset;
  const told = commit(index);
  connection.handle(connection.at(index), EVENT_EOF_SENT);
  return told + 1;
}

function broken(c: usize): u32 {
  connection.fail(c, FAILURE_RECORD);
  return BROKEN;
}

// ─── receiving ───────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Check the next record. Fills RESULT_…: type and lengths of the message, address and length of the body bytes in this
 * record, FIRST and LAST. A second call without release() gives the same.
 * @returns address of the body bytes; NOTHING if there is no record; BROKEN
 */
export function peek(index: u32): u32 {
  const c = connection.at(index);
  const header = ring.peek(c);
  if (header == 0) return NOTHING;
  if (~header == 0) return broken(c);
  // The receiver polls: the producer need not set the ready bit.
  if (load<u32>(c, RX_ARMED) != 0) ring.disarm(c);
  let length = <u32>header;
  let offset = ring.payloadAt(c);
  let rest = load<u64>(c, RX_REST);
  let net: u64;
  let flags: u32 = 0;
  if (<u32>(header >> 56) == RECORD_FIRST) {
    if (rest != 0 || length < NET_HEADER) return protocol(c);
    // One load: the same value is checked, used and kept.
    net = atomic.load<u64>(offset);
    store<u64>(c, net, RX_NET);
    rest = bodyOf(net);
    offset += NET_HEADER;
    length -= NET_HEADER;
    flags = FLAG_FIRST;
  } else {
    if (<u32>(header >> 56) != RECORD_MORE || rest == 0 || length == 0) return protocol(c);
    net = load<u64>(c, RX_NET);
  }
  if (<u64>length > rest) return protocol(c);
  if (<u64>length == rest) flags |= FLAG_LAST;
  store<u32>(c, length, RX_BODY);
  store<u32>(RESULT_TYPE, <u32>net & 0xffff);
  store<u32>(RESULT_XLENGTH, (<u32>net >> 16) & 0xffff);
  store<u32>(RESULT_DLENGTH, <u32>(net >> 32));
  store<u32>(RESULT_OFFSET, offset);
  store<u32>(RESULT_LENGTH, length);
  store<u32>(RESULT_FLAGS, flags);
  return offset;
}

function protocol(c: usize): u32 {
  connection.fail(c, FAILURE_MESSAGE);
  return BROKEN;
}

/** Release the peeked record. */
export function release(index: u32): void {
  const c = connection.at(index);
  advance(c);
  ring.release(c);
}

// @ts-ignore: decorator
@inline
function advance(c: usize): void {
  const body = load<u32>(c, RX_BODY);
  let rest = load<u64>(c, RX_REST);
  if (rest == 0) {
    rest = bodyOf(load<u64>(c, RX_NET));
    store<u64>(c, load<u64>(c, COUNT_RECEIVED) + 1, COUNT_RECEIVED);
    if ((<u32>load<u64>(c, RX_NET) & 0xffff) == MESSAGE_EOF) connection.handle(c, EVENT_EOF_RECEIVED);
  }
  store<u64>(c, rest - body, RX_REST);
  store<u64>(c, load<u64>(c, COUNT_RECEIVED_BYTES) + body, COUNT_RECEIVED_BYTES);
}

// ─── a byte stream ───────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * The next record as RESULT_LENGTH bytes of the stream, not parsed.
 * @returns their address; NOTHING if there is no record; BROKEN
 */
export function drain(index: u32): u32 {
  const c = connection.at(index);
  const header = ring.peek(c);
  if (header == 0) return NOTHING;
  if (~header == 0) return broken(c);
  store<u32>(RESULT_LENGTH, <u32>header);
  return ring.payloadAt(c);
}

/** Release the record that drain() gave. */
export function drained(index: u32): void {
  const c = connection.at(index);
  ring.release(c);
  // The pump is the only consumer, and its producer never polls: publish the head at once.
  ring.publishHead(c, load<u32>(c, RX_READ));
}

/**
 * Room for the next bytes of an incoming stream, of which `available` have arrived.
 * @returns address for RESULT_LENGTH (1 to `available`) bytes; NOTHING if the ring is full; BROKEN
 */
export function decode(index: u32, available: u32): u32 {
  const c = connection.at(index);
  const state = load<u32>(c, C_STATE);
  // Nothing may follow an EOF.
  if (state <= STATE_OPENING || state == STATE_CLOSING || state >= STATE_CLOSED) return BROKEN;
  const have = load<u32>(c, DECODE_HAVE);
  if (have < NET_HEADER) {
    store<u32>(RESULT_LENGTH, min<u32>(available, NET_HEADER - have));
    return <u32>c + DECODE_HEADER + have;
  }
  const rest = load<u64>(c, TX_REST);
  const first = load<u32>(c, DECODE_BODY) == 0;
  const overhead = first ? NET_HEADER : 0;
  const most = ring.recordMax(c) - overhead;
  let here = rest < <u64>available ? <u32>rest : available;
  if (here > most) here = most;
  const offset = ring.claim(c, overhead + here, first ? RECORD_FIRST : RECORD_MORE);
  if (offset == NOTHING) return NOTHING;
  if (offset == BROKEN) return broken(c);
  if (first) store<u64>(offset, load<u64>(c, DECODE_HEADER));
  store<u32>(RESULT_LENGTH, here);
  return offset + overhead;
}

/**
 * `length` bytes were written to the address that decode() gave.
 * @returns DECODED_RECORD if a record was published; DECODED_EMPTY if the header of a message without a body is
 * complete: its record takes no more bytes, so call decode() with 0 available; else 0
 */
export function decoded(index: u32, length: u32): u32 {
  const c = connection.at(index);
  const have = load<u32>(c, DECODE_HAVE);
  if (have < NET_HEADER) {
    store<u32>(c, have + length, DECODE_HAVE);
    if (have + length < NET_HEADER) return 0;
    const rest = bodyOf(load<u64>(c, DECODE_HEADER));
    store<u64>(c, rest, TX_REST);
    return rest == 0 ? DECODED_EMPTY : 0;
  }
  commit(index);
  const rest = load<u64>(c, TX_REST) - length;
  store<u64>(c, rest, TX_REST);
  store<u32>(c, 1, DECODE_BODY);
  if (rest == 0) {
    if (load<u16>(c, DECODE_HEADER) == MESSAGE_EOF) connection.handle(c, EVENT_EOF_SENT);
    store<u32>(c, 0, DECODE_HAVE);
    store<u32>(c, 0, DECODE_BODY);
  }
  return DECODED_RECORD;
}

/** Whether the stream is between two messages. */
export function atMessageBoundary(index: u32): bool {
  const c = connection.at(index);
  return load<u32>(c, DECODE_HAVE) == 0;
}
