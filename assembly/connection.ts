/**
 * The connection table and the state machine of a connection.
 *
 * Every event is defined in every state; an event without a meaning in a state is counted and ignored.
 */

import * as frames from './frames';
import {
  ATTACH_NONCE,
  ATTACH_OFFER,
  ATTACH_OK,
  ATTACH_SHAPE,
  C_FAILURE,
  C_IGNORED,
  C_STATE,
  CONNECTION_SIZE,
  CONNECTIONS,
  EVENT_EOF_RECEIVED,
  EVENT_EOF_SENT,
  EVENT_FAIL,
  EVENT_OPEN,
  EVENTS,
  FAILURE_NONE,
  FRAME_SHIFT,
  HALF_CONSUMER,
  HALF_PRODUCER,
  RING_CAPACITY,
  RING_MAX,
  RING_MIN,
  RING_NONCE,
  RING_READY,
  RING_START,
  RX_FRAME,
  RX_MASK,
  RX_RING,
  STATE_BROKEN,
  STATE_CLOSED,
  STATE_CLOSING,
  STATE_FREE,
  STATE_OPEN,
  STATE_OPENING,
  STATE_PEER_CLOSED,
  TABLE,
  TX_FRAME,
  TX_MASK,
  TX_OWNER,
  TX_OWNER_GENERATION,
  TX_READY,
  TX_RING,
  TX_SLOT,
} from './layout';
import * as peers from './peers';
import * as ring from './ring';

/** No transition. */
const NONE: u8 = 0xff;

// Row: state; column: event.
//                                     OPEN        EOF_SENT       EOF_RECEIVED       FAIL
const TRANSITIONS: StaticArray<u8> = [
  /* FREE        */ NONE,
  NONE,
  NONE,
  NONE,
  /* OPENING     */ <u8>STATE_OPEN,
  NONE,
  NONE,
  <u8>STATE_BROKEN,
  /* OPEN        */ NONE,
  <u8>STATE_CLOSING,
  <u8>STATE_PEER_CLOSED,
  <u8>STATE_BROKEN,
  /* CLOSING     */ NONE,
  NONE,
  <u8>STATE_CLOSED,
  <u8>STATE_BROKEN,
  /* PEER_CLOSED */ NONE,
  <u8>STATE_CLOSED,
  NONE,
  <u8>STATE_BROKEN,
  /* CLOSED      */ NONE,
  NONE,
  NONE,
  NONE,
  /* BROKEN      */ NONE,
  NONE,
  NONE,
  NONE,
];

// @ts-ignore: decorator
@inline
export function at(index: u32): usize {
  return TABLE + index * CONNECTION_SIZE;
}

/** @returns the state after the event; the same state if the event has no meaning there */
export function transition(state: u32, event: u32): u32 {
  const next = unchecked(TRANSITIONS[state * EVENTS + event]);
  return next == NONE ? state : <u32>next;
}

/** Apply an event to a connection. @returns the new state */
export function handle(c: usize, event: u32): u32 {
  const state = load<u32>(c, C_STATE);
  const next = transition(state, event);
  if (next == state) store<u32>(c, load<u32>(c, C_IGNORED) + 1, C_IGNORED);
  else store<u32>(c, next, C_STATE);
  return next;
}

/** Break the connection. The first failure stays recorded. */
export function fail(c: usize, failure: u32): u32 {
  if (load<u32>(c, C_FAILURE) == FAILURE_NONE) store<u32>(c, failure, C_FAILURE);
  return handle(c, EVENT_FAIL);
}

let nextFree: u32 = 0;

/** Reserve an entry. @returns its index + 1, or 0 if the table is full */
export function open(): u32 {
  for (let i: u32 = 0; i < CONNECTIONS; ++i) {
    const index = (nextFree + i) & (CONNECTIONS - 1);
    const c = at(index);
    if (load<u32>(c, C_STATE) != STATE_FREE) continue;
    memory.fill(c, 0, CONNECTION_SIZE);
    store<u32>(c, STATE_OPENING, C_STATE);
    nextFree = index + 1;
    return index + 1;
  }
  return 0;
}

/** Whether a ring can have this capacity and start position. */
function validShape(capacity: u32, start: u32): bool {
  return capacity >= RING_MIN && capacity <= RING_MAX && (capacity & (capacity - 1)) == 0 && (start & 7) == 0;
}

/**
 * Allocate the receive ring of the connection.
 * @returns the address of the ring, or 0 if the region has no room
 */
export function createRing(index: u32, capacity: u32, start: u32): u32 {
  const c = at(index);
  if (!validShape(capacity, start)) return 0;
  const frame = frames.take(1 + (capacity >> FRAME_SHIFT), HALF_CONSUMER);
  if (frame == 0) return 0;
  const r = frames.addressOf(frame);
  ring.create(r, capacity, index, start);
  ring.bindConsumer(c, r, capacity, start);
  store<u32>(c, frame, RX_FRAME);
  return r;
}

/** Write the nonce of the handshake into the receive ring: the peer checks it there. */
export function setNonce(index: u32, low: u32, high: u32): void {
  atomic.store<u64>(load<u32>(at(index), RX_RING) + RING_NONCE, ((<u64>high) << 32) | <u64>low);
}

/**
 * Attach to the peer's receive ring. All that the peer said of it is checked against the ring in this mapping.
 * @param frame first frame of the ring, from the offset that the peer sent; the caller checks that it lies on a frame
 * boundary
 * @returns ATTACH_…
 */
export function attachRing(
  index: u32,
  frame: u32,
  capacity: u32,
  ownerSlot: u32,
  ownerGeneration: u32,
  low: u32,
  high: u32,
): u32 {
  const c = at(index);
  if (frames.offered(frame, HALF_PRODUCER, ownerSlot, ownerGeneration) == 0) return ATTACH_OFFER;
  const r = frames.addressOf(frame);
  // Checked before adopting, which uses up the offer: it may be a later offer, made to another process.
  if (atomic.load<u64>(r + RING_NONCE) != (((<u64>high) << 32) | <u64>low)) return ATTACH_NONCE;
  const count = frames.adopt(frame, HALF_PRODUCER, ownerSlot, ownerGeneration);
  if (count == 0) return ATTACH_OFFER;
  const nonce = atomic.load<u64>(r + RING_NONCE);
  const readyIndex = load<u32>(r, RING_READY);
  const start = load<u32>(r, RING_START);
  let result = ATTACH_OK;
  if (nonce != (((<u64>high) << 32) | <u64>low)) result = ATTACH_NONCE;
  else if (
    !validShape(capacity, start) ||
    load<u32>(r, RING_CAPACITY) != capacity ||
    1 + (capacity >> FRAME_SHIFT) != count ||
    readyIndex >= CONNECTIONS
  ) {
    result = ATTACH_SHAPE;
  }
  if (result != ATTACH_OK) {
    frames.letGo(frame, HALF_PRODUCER, count);
    return result;
  }
  ring.bindProducer(c, r, capacity, start);
  store<u32>(c, frame, TX_FRAME);
  store<u32>(c, ownerSlot, TX_OWNER);
  store<u32>(c, ownerGeneration, TX_OWNER_GENERATION);
  store<u32>(c, ownerSlot, TX_SLOT);
  store<u32>(c, readyIndex, TX_READY);
  return ATTACH_OK;
}

/** Join two entries of this memory: each reads what the other writes (loop; and tcp, where the far end is a pump). */
export function join(a: u32, b: u32): void {
  bindTo(at(a), at(b));
  bindTo(at(b), at(a));
}

function bindTo(producer: usize, consumer: usize): void {
  const r = load<u32>(consumer, RX_RING);
  ring.bindProducer(producer, r, load<u32>(consumer, RX_MASK) + 1, load<u32>(r, RING_START));
  store<u32>(producer, load<u32>(r, RING_READY), TX_READY);
  store<u32>(producer, peers.slot, TX_SLOT);
}

/** Release the transmit ring, after the last write to it. */
export function dropTransmit(index: u32): void {
  const c = at(index);
  const frame = load<u32>(c, TX_FRAME);
  if (frame != 0) frames.letGo(frame, HALF_PRODUCER, 1 + ((load<u32>(c, TX_MASK) + 1) >> FRAME_SHIFT));
  store<u32>(c, 0, TX_FRAME);
  store<u32>(c, 0, TX_RING);
}

/** Release the receive ring, after the last read from it. */
export function dropReceive(index: u32): void {
  const c = at(index);
  const frame = load<u32>(c, RX_FRAME);
  store<u32>(c, 0, RX_FRAME);
  store<u32>(c, 0, RX_RING);
  if (frame != 0) frames.giveBack(frame, 1 + ((load<u32>(c, RX_MASK) + 1) >> FRAME_SHIFT), HALF_CONSUMER);
}

/** Free the entry and its rings. */
export function free(index: u32): void {
  const c = at(index);
  peers.removeFromPollSet(index);
  dropTransmit(index);
  dropReceive(index);
  store<u32>(c, STATE_FREE, C_STATE);
}
