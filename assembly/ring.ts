/**
 * The ring: records from one producer to one consumer.
 *
 * Producer:  claim → (bytes) → commit.   Consumer:  peek → (bytes) → release.
 *
 * `c` is the address of an entry of the connection table: private memory. What the peer writes (record headers, head)
 * is loaded once, checked against private state and used from the local; an invalid value breaks the connection.
 */
import {
  BROKEN,
  C_FAILURE,
  COUNT_FULL,
  FAILURE_HEAD,
  FAILURE_RECORD,
  NET_HEADER,
  NOTHING,
  PIECE_MIN,
  PIECE_SHIFT,
  PUBLISH_SHIFT,
  RECEIVE_MODE_COPY,
  RECEIVE_MODE_IN_PLACE,
  RECORD_EXTRA,
  RECORD_HEADER,
  RECORD_PAD,
  RECORD_SHIFT,
  RING_ARMED,
  RING_CAPACITY,
  RING_DATA,
  RING_HEAD,
  RING_NONCE,
  RING_READY,
  RING_RECEIVE_MODE,
  RING_START,
  RING_TAIL,
  RX_ARMED,
  RX_HEAD,
  RX_HOLDS,
  RX_MASK,
  RX_READ,
  RX_RING,
  RX_SPAN,
  TX_CLAIMED,
  TX_HEAD,
  TX_KIND,
  TX_MASK,
  TX_NEED,
  TX_PAD,
  TX_RING,
  TX_TAIL,
} from './layout';

/** Bytes that a record with this payload occupies. */
// @ts-ignore: decorator
@inline
function spanOf(payload: u32): u32 {
  return (payload + RECORD_HEADER + 7) & ~7;
}

/** The header of a record. Bits 3–26 of its position distinguish a record of this lap from bytes of an earlier lap. */
// @ts-ignore: decorator
@inline
function headerOf(payload: u32, kind: u32, position: u32): u64 {
  return <u64>payload | ((<u64>(((position >> 3) & 0xffffff) | (kind << 24))) << 32);
}

// @ts-ignore: decorator
@inline
function broken(c: usize, failure: u32): u32 {
  if (load<u32>(c, C_FAILURE) == 0) store<u32>(c, failure, C_FAILURE);
  return BROKEN;
}

/** Largest payload of a record in the transmit ring. */
// @ts-ignore: decorator
@inline
export function recordMax(c: usize): u32 {
  return ((load<u32>(c, TX_MASK) + 1) >> RECORD_SHIFT) + RECORD_EXTRA - RECORD_HEADER;
}

/** Initialise a ring; called by its consumer. `start` is 0, except in tests of positions that wrap. */
export function create(ring: usize, capacity: u32, readyIndex: u32, start: u32): void {
  store<u64>(ring, 0, RING_NONCE);
  store<u32>(ring, capacity, RING_CAPACITY);
  store<u32>(ring, readyIndex, RING_READY);
  store<u32>(ring, start, RING_START);
  store<u32>(ring, start, RING_TAIL);
  store<u32>(ring, start, RING_HEAD);
  store<u32>(ring, 0, RING_ARMED);
  store<u32>(ring, 0, RING_RECEIVE_MODE);
  atomic.store<u64>(ring + RING_DATA + (start & (capacity - 1)), 0);
}

export function bindConsumer(c: usize, ring: usize, capacity: u32, start: u32): void {
  store<u32>(c, <u32>ring, RX_RING);
  store<u32>(c, capacity - 1, RX_MASK);
  store<u32>(c, start, RX_READ);
  store<u32>(c, start, RX_HEAD);
  store<u32>(c, 0, RX_SPAN);
  store<u32>(c, 0, RX_ARMED);
  store<u32>(c, 0, RX_HOLDS);
}

export function bindProducer(c: usize, ring: usize, capacity: u32, start: u32): void {
  store<u32>(c, <u32>ring, TX_RING);
  store<u32>(c, capacity - 1, TX_MASK);
  store<u32>(c, start, TX_TAIL);
  store<u32>(c, start, TX_HEAD);
  store<u32>(c, 0, TX_CLAIMED);
  store<u32>(c, 0, TX_PAD);
}

// ─── producer ────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Claim room for a record of `payload` bytes, at most recordMax(). (wake.pml: claim)
 * @returns address of the payload; NOTHING if the ring is full; BROKEN if the peer's head is invalid
 */
// @ts-ignore: decorator
@inline
export function claim(c: usize, payload: u32, kind: u32): u32 {
  const ring = load<u32>(c, TX_RING);
  // The ring has been released: nothing may be written there.
  if (ring == 0) return BROKEN;
  const mask = load<u32>(c, TX_MASK);
  const tail = load<u32>(c, TX_TAIL);
  const place = tail & mask;
  const span = spanOf(payload);
  const toEnd = mask + 1 - place;
  const pad = select<u32>(toEnd, 0, span > toEnd);
  // commit() clears the word after the record, so that word must be free as well.
  const needed = pad + span + RECORD_HEADER;
  if (tail + needed - load<u32>(c, TX_HEAD) > mask + 1) {
    if (!refreshHead(c, tail)) return broken(c, FAILURE_HEAD);
    if (tail + needed - load<u32>(c, TX_HEAD) > mask + 1) {
      store<u64>(c, load<u64>(c, COUNT_FULL) + 1, COUNT_FULL);
      store<u32>(c, needed, TX_NEED);
      return NOTHING;
    }
  }
  store<u32>(c, payload, TX_CLAIMED);
  store<u32>(c, pad, TX_PAD);
  store<u32>(c, kind, TX_KIND);
  return ring + RING_DATA + ((tail + pad) & mask) + RECORD_HEADER;
}

/** Read the consumer's head. @returns false if it is not between the last known head and the tail */
export function refreshHead(c: usize, tail: u32): bool {
  const head = atomic.load<u32>(load<u32>(c, TX_RING) + RING_HEAD);
  const known = load<u32>(c, TX_HEAD);
  if (head - known > tail - known || (head & 7) != 0) return false;
  store<u32>(c, head, TX_HEAD);
  return true;
}

/**
 * Publish the claimed record.
 *
 * wake.pml: clear_next, publish, load_armed. The store of the header and the load of `armed` after it are both
 * sequentially consistent, as are store and load in arm(): at least one of the two sides sees the other's store.
 * @returns whether the consumer is armed: it no longer polls, and needs its ready bit
 */
// @ts-ignore: decorator
@inline
export function commit(c: usize): bool {
  const ring = load<u32>(c, TX_RING);
  const mask = load<u32>(c, TX_MASK);
  const tail = load<u32>(c, TX_TAIL);
  const payload = load<u32>(c, TX_CLAIMED);
  const pad = load<u32>(c, TX_PAD);
  const start = tail + pad;
  const next = start + spanOf(payload);
  const data = ring + RING_DATA;
  store<u64>(data + (next & mask), 0);
  const header = headerOf(payload, load<u32>(c, TX_KIND), start);
  atomic.store<u64>(data + (start & mask), header);
  // The padding is published after the record that it leads to: a consumer that sees the padding sees the record too.
  if (pad) atomic.store<u64>(data + (tail & mask), headerOf(pad - RECORD_HEADER, RECORD_PAD, tail));
  store<u32>(c, next, TX_TAIL);
  store<u32>(ring, next, RING_TAIL);
  return atomic.load<u32>(ring + RING_ARMED) != 0;
}

/**
 * Whether the room that the last refused claim needed is free now. Also true if the head is invalid: claim() reports
 * it.
 */
export function hasRoom(c: usize): bool {
  const tail = load<u32>(c, TX_TAIL);
  if (!refreshHead(c, tail)) return true;
  return tail + load<u32>(c, TX_NEED) - load<u32>(c, TX_HEAD) <= load<u32>(c, TX_MASK) + 1;
}

/**
 * Whether the consumer, at this moment, waits for a message that it will copy out: its receive mode is copy, it is not
 * armed, and it has released everything. A hint: only the time that a message takes depends on it, never correctness.
 */
export function consumerWaits(c: usize): bool {
  const ring = load<u32>(c, TX_RING);
  if (ring == 0 || atomic.load<u32>(ring + RING_RECEIVE_MODE) != RECEIVE_MODE_COPY) return false;
  if (atomic.load<u32>(ring + RING_ARMED) != 0) return false;
  const tail = load<u32>(c, TX_TAIL);
  // An invalid head is found by claim().
  return atomic.load<u32>(ring + RING_HEAD) == tail;
}

/**
 * Whether the consumer reads messages in place, and this one would need more than one record. A hint, as
 * consumerWaits() is.
 */
export function wantsRun(c: usize, body: u64): bool {
  const ring = load<u32>(c, TX_RING);
  return (
    ring != 0 &&
    body > <u64>(recordMax(c) - NET_HEADER) &&
    atomic.load<u32>(ring + RING_RECEIVE_MODE) == RECEIVE_MODE_IN_PLACE
  );
}

/** @returns bytes of the body that go into one record, at most `most` */
// @ts-ignore: decorator
@inline
export function pieceOf(c: usize, body: u64, most: u32): u32 {
  if (body <= 2 * PIECE_MIN || !consumerWaits(c)) return most;
  // Whole cache lines: each piece begins aligned, where a copy is fast.
  const piece = <u64>max<u64>(body >> PIECE_SHIFT, PIECE_MIN) & ~63;
  return piece < <u64>most ? <u32>piece : most;
}

/** Bytes before the tail that the consumer has not published as consumed; BROKEN if its head is invalid. */
export function unread(c: usize): u32 {
  const tail = load<u32>(c, TX_TAIL);
  if (!refreshHead(c, tail)) return broken(c, FAILURE_HEAD);
  return tail - load<u32>(c, TX_HEAD);
}

// ─── consumer ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Whether there is a record at the read position. One load, nothing checked. */
// @ts-ignore: decorator
@inline
export function readable(c: usize): bool {
  return atomic.load<u64>(load<u32>(c, RX_RING) + RING_DATA + (load<u32>(c, RX_READ) & load<u32>(c, RX_MASK))) != 0;
}

/**
 * Check the header at the read position. (wake.pml: peek, publish_head_when_empty)
 * @returns the header (length u32, position tag u24, kind u8); 0 if there is no record; all ones if it is invalid
 */
// @ts-ignore: decorator
@inline
export function peek(c: usize): u64 {
  const mask = load<u32>(c, RX_MASK);
  const data = load<u32>(c, RX_RING) + RING_DATA;
  let read = load<u32>(c, RX_READ);
  let header = atomic.load<u64>(data + (read & mask));
  if (header == 0) {
    if (read != load<u32>(c, RX_HEAD)) publishHead(c, read);
    return 0;
  }
  if (<u32>(header >> 56) == RECORD_PAD) {
    const toEnd = mask + 1 - (read & mask);
    if (header != headerOf(toEnd - RECORD_HEADER, RECORD_PAD, read))
      return <u64>(<i64>(<i32>broken(c, FAILURE_RECORD)));
    read += toEnd;
    store<u32>(c, read, RX_READ);
    header = atomic.load<u64>(data + (read & mask));
    // The padding was published after the record that follows it.
    if (header == 0) return <u64>(<i64>(<i32>broken(c, FAILURE_RECORD)));
  }
  const payload = <u32>header;
  const limit = ((mask + 1) >> RECORD_SHIFT) + RECORD_EXTRA;
  if (
    payload > limit - RECORD_HEADER ||
    spanOf(payload) > mask + 1 - (read & mask) ||
    (<u32>(header >> 32) & 0xffffff) != ((read >> 3) & 0xffffff) ||
    <u32>(header >> 56) == RECORD_PAD
  ) {
    return <u64>(<i64>(<i32>broken(c, FAILURE_RECORD)));
  }
  store<u32>(c, spanOf(payload), RX_SPAN);
  return header;
}

/** Address of the payload of the record at the read position. */
// @ts-ignore: decorator
@inline
export function payloadAt(c: usize): u32 {
  return load<u32>(c, RX_RING) + RING_DATA + (load<u32>(c, RX_READ) & load<u32>(c, RX_MASK)) + RECORD_HEADER;
}

/**
 * Release the peeked record. Its bytes may be overwritten once the head is next published.
 *
 * The head is published when an eighth of the ring has been released, else when the ring is next found empty: outside
 * the path of a message, and one store for many messages. (wake.pml: release)
 */
// @ts-ignore: decorator
@inline
export function release(c: usize): void {
  const read = load<u32>(c, RX_READ) + load<u32>(c, RX_SPAN);
  store<u32>(c, read, RX_READ);
  store<u32>(c, 0, RX_SPAN);
  if (read - load<u32>(c, RX_HEAD) > (load<u32>(c, RX_MASK) + 1) >> PUBLISH_SHIFT) publishHead(c, read);
}

/** Let the producer reuse everything before `head`, unless borrowed records hold it back. (wake.pml: publish_head) */
export function publishHead(c: usize, head: u32): void {
  if (load<u32>(c, RX_HOLDS) != 0) return;
  store<u32>(c, head, RX_HEAD);
  atomic.store<u32>(load<u32>(c, RX_RING) + RING_HEAD, head);
}

/**
 * Stop polling: from here on the producer sets this side's ready bit.
 *
 * wake.pml: arm, recheck_record. Store `armed` first, then check for a record again: a record published before the
 * store is found here; the producer of a later one sees the store.
 * @returns false if there is a record; the ring is then not armed
 */
export function arm(c: usize): bool {
  const armed = load<u32>(c, RX_RING) + RING_ARMED;
  publishHead(c, load<u32>(c, RX_READ));
  atomic.store<u32>(armed, 1);
  if (readable(c)) {
    atomic.store<u32>(armed, 0);
    return false;
  }
  store<u32>(c, 1, RX_ARMED);
  return true;
}

/** Tell the producer how this side receives messages: RECEIVE_MODE_…. */
export function setReceiveMode(c: usize, mode: u32): void {
  const ring = load<u32>(c, RX_RING);
  if (ring != 0) atomic.store<u32>(ring + RING_RECEIVE_MODE, mode);
}

/** Poll again: the producer need not set the ready bit. (wake.pml: disarm) */
export function disarm(c: usize): void {
  if (load<u32>(c, RX_ARMED) == 0) return;
  store<u32>(c, 0, RX_ARMED);
  atomic.store<u32>(load<u32>(c, RX_RING) + RING_ARMED, 0);
}
