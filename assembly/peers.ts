/**
 * The peer table (attached, fenced and dead peers), the ready bits, and the poll set of connections.
 *
 * The word of a slot is changed only by compare-and-swap. Its generation counts up with each claim and never repeats,
 * so (slot, generation) names one attachment for ever.
 */
import {
  C_POLL_PLACE,
  C_STATE,
  CONNECTION_SIZE,
  CONNECTIONS,
  NOTHING,
  POLL_SET,
  RX_RING,
  SLEEP_ASLEEP,
  SLEEP_BUSY,
  SLEEP_QUIET,
  SLOT_ATTACHED,
  SLOT_CLAIMED,
  SLOT_DEAD,
  SLOT_FENCED,
  SLOT_FREE,
  SLOT_HEARTBEAT,
  SLOT_READY,
  SLOT_SIZE,
  SLOT_SLEEPING,
  SLOT_SUMMARY,
  SLOT_WORD,
  STATE_OPEN,
  TABLE,
  TX_READY,
  TX_SLOT,
  TX_WANTS_ROOM,
  WINDOW,
} from './layout';
import { slots, slotsAt } from './region';
import * as ring from './ring';

/** The own slot; generation 0: none. */
export let slot: u32 = 0;
export let generation: u32 = 0;

// @ts-ignore: decorator
@inline
export function slotAddress(index: u32): u32 {
  return WINDOW + slotsAt + index * SLOT_SIZE;
}

// @ts-ignore: decorator
@inline
function wordOf(generation: u32, kernel: u32, state: u32): u64 {
  return ((<u64>generation) << 32) | <u64>(((kernel & 0xffffff) << 8) | state);
}

// @ts-ignore: decorator
@inline
function word(index: u32): u64 {
  return atomic.load<u64>(slotAddress(index) + SLOT_WORD);
}

export function slotState(index: u32): u32 {
  return index < slots ? <u32>word(index) & 0xff : SLOT_FREE;
}

export function slotGeneration(index: u32): u32 {
  return index < slots ? <u32>(word(index) >> 32) : 0;
}

/** Kernel of the claimer: 24 bits of a hash over boot id and backing. Known even if it died right after the claim. */
export function slotKernel(index: u32): u32 {
  return index < slots ? (<u32>word(index) >> 8) & 0xffffff : 0;
}

/** Whether (index, generation) is attached or attaching: the frames that it holds are its own. */
export function alive(index: u32, ofGeneration: u32): bool {
  if (index >= slots) return false;
  const w = word(index);
  const state = <u32>w & 0xff;
  return <u32>(w >> 32) == ofGeneration && (state == SLOT_ATTACHED || state == SLOT_CLAIMED);
}

/** Whether (index, generation) still owns what it holds, alive or fenced: it may be writing there at this moment. */
export function ownsFrames(index: u32, ofGeneration: u32): bool {
  if (index >= slots) return false;
  const w = word(index);
  return <u32>(w >> 32) == ofGeneration && ((<u32>w & 0xff) == SLOT_FENCED || alive(index, ofGeneration));
}

/** Claim a free slot. Where locks exist, the caller holds the lock on its byte. @returns whether it was free */
export function claimSlot(index: u32, kernel: u32): bool {
  if (index >= slots) return false;
  const w = word(index);
  if ((<u32>w & 0xff) != SLOT_FREE) return false;
  let next = <u32>(w >> 32) + 1;
  if (next == 0) next = 1;
  if (atomic.cmpxchg<u64>(slotAddress(index) + SLOT_WORD, w, wordOf(next, kernel, SLOT_CLAIMED)) != w) return false;
  // Clear what a former owner left, or a peer that still took the former owner for attached.
  memory.fill(slotAddress(index) + SLOT_HEARTBEAT, 0, SLOT_SIZE - SLOT_HEARTBEAT);
  slot = index;
  generation = next;
  return true;
}

/** Show the own slot to peers, after its texts and numbers are written. @returns false if the slot is lost */
export function publishSlot(): bool {
  const w = word(slot);
  if (<u32>(w >> 32) != generation || (<u32>w & 0xff) != SLOT_CLAIMED) return false;
  return atomic.cmpxchg<u64>(slotAddress(slot) + SLOT_WORD, w, (w & ~0xff) | SLOT_ATTACHED) == w;
}

/** Free the own slot. Part of frames.leave(), which releases the frames before. */
export function freeSlot(): void {
  asleep = false;
  if (generation == 0) return;
  const w = word(slot);
  // A slot that was declared dead is freed by the declaring peer: it may have a new owner before this function ends.
  if (<u32>(w >> 32) == generation && (<u32>w & 0xff) != SLOT_DEAD) {
    // The generation stays: it must never repeat. Boot id, dev and ino stay too: if this process dies here, they let a
    // peer on the same kernel prove the death by the lock. The next owner clears the rest.
    atomic.cmpxchg<u64>(slotAddress(slot) + SLOT_WORD, w, wordOf(generation, 0, SLOT_FREE));
  }
  generation = 0;
}

/** Whether this process still holds its slot: false once a peer fenced it or declared it dead. */
export function holdsSlot(): bool {
  return generation != 0 && alive(slot, generation);
}

/**
 * Fence a peer that may be dead or only paused: it finds that it has lost its slot, and its peers find that it is gone,
 * but no other process takes its frames. @returns whether it is fenced (now, or already)
 */
export function fence(index: u32, ofGeneration: u32): bool {
  if (index >= slots || (generation != 0 && index == slot)) return false;
  const w = word(index);
  if (<u32>(w >> 32) != ofGeneration) return false;
  if ((<u32>w & 0xff) == SLOT_FENCED) return true;
  if (!alive(index, ofGeneration)) return false;
  return atomic.cmpxchg<u64>(slotAddress(index) + SLOT_WORD, w, (w & ~0xff) | SLOT_FENCED) == w;
}

/** Declare a peer dead, on proof. @returns whether it is declared dead (now, or already) */
export function declareDead(index: u32, ofGeneration: u32): bool {
  if (index >= slots || (generation != 0 && index == slot)) return false;
  const w = word(index);
  if (<u32>(w >> 32) != ofGeneration) return false;
  const state = <u32>w & 0xff;
  if (state == SLOT_DEAD) return true;
  if (state == SLOT_FREE) return false;
  return atomic.cmpxchg<u64>(slotAddress(index) + SLOT_WORD, w, (w & ~0xff) | SLOT_DEAD) == w;
}

/** Free the slot of a dead peer, after everything that it held has been reclaimed. */
export function freeDead(index: u32, ofGeneration: u32): void {
  if (index >= slots) return;
  const w = word(index);
  if (<u32>(w >> 32) != ofGeneration || (<u32>w & 0xff) != SLOT_DEAD) return;
  atomic.cmpxchg<u64>(slotAddress(index) + SLOT_WORD, w, wordOf(ofGeneration, 0, SLOT_FREE));
}

export function beat(): void {
  const at = slotAddress(slot) + SLOT_HEARTBEAT;
  atomic.store<u64>(at, load<u64>(at) + 1);
}

/** The lower half of a peer's heartbeat: enough to see whether it counts. */
export function heartbeat(index: u32): u32 {
  return index < slots ? <u32>atomic.load<u64>(slotAddress(index) + SLOT_HEARTBEAT) : 0;
}

// ─── ready bits ──────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Set the peer's ready bit for this ring. Bit before summary, so that no summary bit is set too early.
 *
 * wake.pml: set_ready, set_summary, load_sleeping. The summary is set before `sleeping` is read; trySleep() sets
 * `sleeping` before it reads the summary; all four accesses are sequentially consistent. So either the producer sees
 * that the peer sleeps, or the peer sees the summary and does not sleep. If several producers see it, the exchange
 * picks the one that rings.
 * @returns whether the peer sleeps and the caller has to ring
 */
export function setReady(c: usize): bool {
  const peer = load<u32>(c, TX_SLOT);
  const index = load<u32>(c, TX_READY);
  const at = slotAddress(peer);
  atomic.or<u64>(at + SLOT_READY + ((index >> 6) << 3), (<u64>1) << (<u64>(index & 63)));
  atomic.or<u64>(at + SLOT_SUMMARY, (<u64>1) << (<u64>(index >> 6)));
  const sleeping = at + SLOT_SLEEPING;
  return atomic.load<u32>(sleeping) != 0 && atomic.xchg<u32>(sleeping, 0) != 0;
}

/** Add the connections whose ready bits are set to the poll set, and clear the bits. (wake.pml: take_ready) */
function takeReady(): void {
  const at = slotAddress(slot);
  // Summary first: a peer that sets a bit meanwhile sets the summary again.
  let summary = atomic.xchg<u64>(at + SLOT_SUMMARY, 0);
  while (summary != 0) {
    const w = <u32>ctz(summary);
    summary &= summary - 1;
    let bits = atomic.xchg<u64>(at + SLOT_READY + (w << 3), 0);
    while (bits != 0) {
      const index = (w << 6) + <u32>ctz(bits);
      bits &= bits - 1;
      const c = TABLE + index * CONNECTION_SIZE;
      // Any peer may set any bit; a bit without an open connection is ignored.
      if (pollable(c)) {
        ring.disarm(c);
        addToPollSet(index);
      }
    }
  }
}

// ─── the poll set ────────────────────────────────────────────────────────────────────────────────────────────────────

let pollSetCount: u32 = 0;
let cursor: u32 = 0;

// @ts-ignore: decorator
@inline
function pollable(c: usize): bool {
  return load<u32>(c, RX_RING) != 0 && load<u32>(c, C_STATE) >= STATE_OPEN;
}

/** Let poll() check the connection. */
export function addToPollSet(index: u32): void {
  const c = TABLE + index * CONNECTION_SIZE;
  if (load<u32>(c, C_POLL_PLACE) != 0) return;
  store<u16>(POLL_SET + (pollSetCount << 1), <u16>index);
  store<u32>(c, ++pollSetCount, C_POLL_PLACE);
}

/** Let poll() skip the connection. The caller arms the ring if a record is to add the connection again. */
export function removeFromPollSet(index: u32): void {
  const c = TABLE + index * CONNECTION_SIZE;
  const place = load<u32>(c, C_POLL_PLACE);
  if (place == 0) return;
  const moved = <u32>load<u16>(POLL_SET + (--pollSetCount << 1));
  store<u16>(POLL_SET + ((place - 1) << 1), <u16>moved);
  store<u32>(TABLE + moved * CONNECTION_SIZE, place, C_POLL_PLACE);
  store<u32>(c, 0, C_POLL_PLACE);
}

export function pollSetSize(): u32 {
  return pollSetCount;
}

/**
 * Arm the rings of the poll set and remove their connections from it: from here on the summary word covers them.
 * Connections that wait for room stay in the set. If none stays, announce that this process sleeps: a peer that sets a
 * ready bit from here on has to ring.
 *
 * wake.pml: try_sleep, sleep, recheck_summary. Announce first, then check the summary again (see setReady).
 * @param canRing whether all peers can ring
 * @returns SLEEP_BUSY: there is a record; SLEEP_QUIET: there is none, but no peer would ring (for room, or because not
 * all can); SLEEP_ASLEEP: there is none, and peers will ring
 */
export function trySleep(canRing: bool): u32 {
  let quiet = true;
  // From the end: removeFromPollSet() moves the last one into the gap.
  for (let i = pollSetCount; i > 0; --i) {
    const index = <u32>load<u16>(POLL_SET + ((i - 1) << 1));
    const c = TABLE + index * CONNECTION_SIZE;
    if (!ring.arm(c)) quiet = false;
    else if (load<u32>(c, TX_WANTS_ROOM) == 0) removeFromPollSet(index);
  }
  if (!quiet) return SLEEP_BUSY;
  if (!canRing || pollSetCount != 0 || generation == 0) return SLEEP_QUIET;
  const at = slotAddress(slot);
  atomic.store<u32>(at + SLOT_SLEEPING, 1);
  asleep = true;
  if (atomic.load<u64>(at + SLOT_SUMMARY) == 0) return SLEEP_ASLEEP;
  cancelSleep();
  return SLEEP_BUSY;
}

/** Whether this process has announced that it sleeps. */
let asleep = false;

/** Take the announcement back: no peer has to ring any more. (wake.pml: cancel_sleep) */
function cancelSleep(): void {
  asleep = false;
  atomic.store<u32>(slotAddress(slot) + SLOT_SLEEPING, 0);
}

/**
 * Find the next connection with a record to read, or with the room that it waits for. Checks the poll set 1 + `rounds`
 * times, beginning after the connection found last.
 * @returns its index + 1, or NOTHING
 */
export function poll(rounds: u32): u32 {
  const mine = slotAddress(slot);
  if (asleep) cancelSleep();
  let round: u32 = 0;
  do {
    if (generation != 0 && atomic.load<u64>(mine + SLOT_SUMMARY) != 0) takeReady();
    for (let i: u32 = 0; i < pollSetCount; ++i) {
      if (++cursor >= pollSetCount) cursor = 0;
      const index = <u32>load<u16>(POLL_SET + (cursor << 1));
      const c = TABLE + index * CONNECTION_SIZE;
      if (ring.readable(c)) return index + 1;
      if (load<u32>(c, TX_WANTS_ROOM) != 0 && ring.hasRoom(c)) return index + 1;
    }
  } while (round++ < rounds);
  return NOTHING;
}
