/**
 * The peer table: who is attached, who is gone, and which connections want to be looked at.
 *
 * A slot's word changes by compare-and-swap alone. Its generation counts up with each claim and never repeats, so
 * (slot, generation) names one attachment for ever.
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

/** Ours; generation 0: none. */
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

/** Which kernel claimed the slot: 24 bits of a hash over boot id and backing. Known even if it died right behind the claim. */
export function slotKernel(index: u32): u32 {
  return index < slots ? (<u32>word(index) >> 8) & 0xffffff : 0;
}

/** Whether (index, generation) is attached or about to be, so that its frames are its own. */
export function alive(index: u32, ofGeneration: u32): bool {
  if (index >= slots) return false;
  const w = word(index);
  const state = <u32>w & 0xff;
  return <u32>(w >> 32) == ofGeneration && (state == SLOT_ATTACHED || state == SLOT_CLAIMED);
}

/** Whether what (index, generation) holds is still its own: it may write there at this moment. */
export function keeps(index: u32, ofGeneration: u32): bool {
  if (index >= slots) return false;
  const w = word(index);
  return <u32>(w >> 32) == ofGeneration && ((<u32>w & 0xff) == SLOT_FENCED || alive(index, ofGeneration));
}

/** Claim a free slot. The caller holds the lock on its byte, where there are locks. @returns whether it was free */
export function claimSlot(index: u32, kernel: u32): bool {
  if (index >= slots) return false;
  const w = word(index);
  if ((<u32>w & 0xff) != SLOT_FREE) return false;
  let next = <u32>(w >> 32) + 1;
  if (next == 0) next = 1;
  if (atomic.cmpxchg<u64>(slotAddress(index) + SLOT_WORD, w, wordOf(next, kernel, SLOT_CLAIMED)) != w) return false;
  // What a former owner left behind, or a peer that still believed in it.
  memory.fill(slotAddress(index) + SLOT_HEARTBEAT, 0, SLOT_SIZE - SLOT_HEARTBEAT);
  slot = index;
  generation = next;
  return true;
}

/** The slot's texts and numbers are written: let others see us. @returns false if the slot was taken away */
export function publishSlot(): bool {
  const w = word(slot);
  if (<u32>(w >> 32) != generation || (<u32>w & 0xff) != SLOT_CLAIMED) return false;
  return atomic.cmpxchg<u64>(slotAddress(slot) + SLOT_WORD, w, (w & ~0xff) | SLOT_ATTACHED) == w;
}

/** Give our slot up: frames.leave() lets go of the frames around it. */
export function freeSlot(): void {
  asleep = false;
  if (generation == 0) return;
  const w = word(slot);
  // Once somebody declared us dead it is his to free: it may have a new owner before we are through.
  if (<u32>(w >> 32) == generation && (<u32>w & 0xff) != SLOT_DEAD) {
    // Not the generation: it must never repeat. Nor what tells others that its lock is theirs to ask for: should we die
    // here, it proves our death. The next owner clears the rest.
    atomic.cmpxchg<u64>(slotAddress(slot) + SLOT_WORD, w, wordOf(generation, 0, SLOT_FREE));
  }
  generation = 0;
}

/** Whether our slot is still ours: false once somebody declared us dead. */
export function holdsSlot(): bool {
  return generation != 0 && alive(slot, generation);
}

/**
 * Shut a peer out of which nobody knows whether it will go on: it finds that its slot is not its own, and its peers that
 * it is gone; its frames are nobody else's. @returns whether it is (now, or already)
 */
export function fence(index: u32, ofGeneration: u32): bool {
  if (index >= slots || (generation != 0 && index == slot)) return false;
  const w = word(index);
  if (<u32>(w >> 32) != ofGeneration) return false;
  if ((<u32>w & 0xff) == SLOT_FENCED) return true;
  if (!alive(index, ofGeneration)) return false;
  return atomic.cmpxchg<u64>(slotAddress(index) + SLOT_WORD, w, (w & ~0xff) | SLOT_FENCED) == w;
}

/** Declare a peer dead, on proof. @returns whether it is (now, or already) */
export function declareDead(index: u32, ofGeneration: u32): bool {
  if (index >= slots || (generation != 0 && index == slot)) return false;
  const w = word(index);
  if (<u32>(w >> 32) != ofGeneration) return false;
  const state = <u32>w & 0xff;
  if (state == SLOT_DEAD) return true;
  if (state == SLOT_FREE) return false;
  return atomic.cmpxchg<u64>(slotAddress(index) + SLOT_WORD, w, (w & ~0xff) | SLOT_DEAD) == w;
}

/** Free the slot of a dead peer of which nothing is left. */
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

/** The lower half of a peer's heartbeat: enough to see that it moves. */
export function heartbeat(index: u32): u32 {
  return index < slots ? <u32>atomic.load<u64>(slotAddress(index) + SLOT_HEARTBEAT) : 0;
}

// ─── ready bits ──────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Tell the peer that this ring has something. Bit before summary, so that a summary bit never comes too early.
 *
 * wake.pml: set_ready, set_summary, load_sleeping. The summary is set before `sleeping` is read, and trySleep() does it the
 * other way round, all of it sequentially consistent: either we see that he sleeps, or he sees the summary and does not. Of
 * several who see it one has to ring.
 * @returns whether the peer sleeps, and we have to ring
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

/** Move the connections whose ready bits are set to the hot ones. (wake.pml: take_ready) */
function takeReady(): void {
  const at = slotAddress(slot);
  // Summary first: a bit that is set behind our back sets its summary again.
  let summary = atomic.xchg<u64>(at + SLOT_SUMMARY, 0);
  while (summary != 0) {
    const w = <u32>ctz(summary);
    summary &= summary - 1;
    let bits = atomic.xchg<u64>(at + SLOT_READY + (w << 3), 0);
    while (bits != 0) {
      const index = (w << 6) + <u32>ctz(bits);
      bits &= bits - 1;
      const c = TABLE + index * CONNECTION_SIZE;
      // Any peer may set any bit; one that means nothing does nothing.
      if (polled(c)) {
        ring.disarm(c);
        addToPollSet(index);
      }
    }
  }
}

// ─── hot connections ─────────────────────────────────────────────────────────────────────────────────────────────────

let pollSetCount: u32 = 0;
let cursor: u32 = 0;

// @ts-ignore: decorator
@inline
function polled(c: usize): bool {
  return load<u32>(c, RX_RING) != 0 && load<u32>(c, C_STATE) >= STATE_OPEN;
}

/** Let poll() look at the connection. */
export function addToPollSet(index: u32): void {
  const c = TABLE + index * CONNECTION_SIZE;
  if (load<u32>(c, C_POLL_PLACE) != 0) return;
  store<u16>(POLL_SET + (pollSetCount << 1), <u16>index);
  store<u32>(c, ++pollSetCount, C_POLL_PLACE);
}

/** Let poll() look at it no more. The caller arms the ring if it is to come back by itself. */
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
 * Arm the rings of all hot connections and look at them no more: from here on the summary word tells of all of them.
 * Those that wait for room stay hot. Where there are none of those, announce that we sleep: whoever sets a ready bit from
 * here on has to ring.
 *
 * wake.pml: try_sleep, sleep, recheck_summary. Announce, then look at the summary once more (see setReady).
 * @param canRing whether all peers can ring
 * @returns SLEEP_BUSY: one of them has a record after all; SLEEP_QUIET: there is nothing, but nobody would ring; SLEEP_ASLEEP
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

/** Whether we have announced that we sleep. */
let asleep = false;

/** Nobody has to ring any more. (wake.pml: cancel_sleep) */
function cancelSleep(): void {
  asleep = false;
  atomic.store<u32>(slotAddress(slot) + SLOT_SLEEPING, 0);
}

/**
 * The next connection that wants attention: a record to read, or room that it waits for. Looks up to `rounds` times, and
 * begins behind the one that it found last.
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
