/** The exports of the core, and nothing else. Offsets are u32 addresses in the instance's memory; no i64 crosses. */

import * as connections from './connection';
import {
  addressOf,
  adopt,
  collect,
  extentFrames,
  extentGeneration,
  extentSlot,
  extentTagValid,
  extentUse,
  freeFrames,
  giveBack,
  halfFrames,
  halfFree,
  halfGeneration,
  halfKind,
  halfSlot,
  leave,
  letGo,
  reclaim,
  sweep,
  tableBytes,
  take,
  trim,
} from './frames';
import * as framing from './framing';
import {
  BROKEN,
  C_STATE,
  EVENT_OPEN,
  FAILURE_HEAD,
  FAILURE_LOST,
  NOTHING,
  PRIVATE,
  RX_HEAD,
  RX_HOLDS,
  RX_MASK,
  RX_READ,
  RX_RING,
  TX_RING,
  TX_WANTS_ROOM,
} from './layout';
import * as peers from './peers';
import * as ring from './ring';

export * from './layout';

// ─── region ──────────────────────────────────────────────────────────────────────────────────────────────────────────

export {
  beginFormat,
  finishFormat,
  format,
  formattingKernel,
  frames as regionFrames,
  geometry,
  inspect,
  slots as regionSlots,
} from './region';

/** Whether the statics of the module end below PRIVATE (layout.ts). */
export function fits(): bool {
  return __heap_base <= PRIVATE;
}

// ─── peers ───────────────────────────────────────────────────────────────────────────────────────────────────────────

export {
  addToPollSet,
  alive,
  beat,
  claimSlot,
  declareDead,
  fence,
  heartbeat,
  holdsSlot,
  poll,
  pollSetSize,
  publishSlot,
  removeFromPollSet,
  slotAddress,
  slotGeneration,
  slotKernel,
  slotState,
  trySleep,
} from './peers';

export function mySlot(): u32 {
  return peers.slot;
}

export function myGeneration(): u32 {
  return peers.generation;
}

// ─── frames ──────────────────────────────────────────────────────────────────────────────────────────────────────────

export {
  addressOf,
  adopt,
  collect,
  extentFrames,
  extentGeneration,
  extentSlot,
  extentTagValid,
  extentUse,
  freeFrames,
  giveBack,
  halfFrames,
  halfFree,
  halfGeneration,
  halfKind,
  halfSlot,
  leave,
  letGo,
  reclaim,
  sweep,
  tableBytes,
  take,
  trim,
};

// ─── connections ─────────────────────────────────────────────────────────────────────────────────────────────────────

export {
  attachRing,
  createRing,
  dropReceive,
  dropTransmit,
  free,
  join,
  open,
  setNonce,
  transition,
} from './connection';

/** Both rings are bound: messages may be sent and received. */
export function start(index: u32): void {
  connections.handle(connections.at(index), EVENT_OPEN);
}

/** Break the connection: the peer is gone. */
export function lose(index: u32): void {
  connections.fail(connections.at(index), FAILURE_LOST);
}

export function state(index: u32): u32 {
  return load<u32>(connections.at(index), C_STATE);
}

/** Address of the receive ring. */
export function ringAddress(index: u32): u32 {
  return load<u32>(connections.at(index), RX_RING);
}

/** Capacity of the receive ring in bytes. */
export function ringCapacity(index: u32): u32 {
  return load<u32>(connections.at(index), RX_MASK) + 1;
}

/** Address of the entry in the connection table: its counters are read there. */
export function entry(index: u32): u32 {
  return <u32>connections.at(index);
}

// ─── migration ───────────────────────────────────────────────────────────────────────────────────────────────────────

export { migration } from './migration';

// ─── memory of an application ────────────────────────────────────────────────────────────────────────────────────────

export {
  adoptAnnounced,
  adoptGranted,
  announce,
  giveBackRun,
  grant,
  granted,
  letGoRun,
  revoke,
  runLength,
  takeRun,
} from './runs';

// ─── messages ────────────────────────────────────────────────────────────────────────────────────────────────────────

export {
  atMessageBoundary,
  claim,
  claimMore,
  commit,
  decode,
  decoded,
  drain,
  drained,
  peek,
  release,
  sendEof,
} from './framing';

/** Whether poll() is to report room for the last refused claim. */
export function wantRoom(index: u32, on: bool): void {
  store<u32>(connections.at(index), on ? 1 : 0, TX_WANTS_ROOM);
}

export function readable(index: u32): bool {
  return ring.readable(connections.at(index));
}

/** Bytes of the ring that the peer has not consumed; BROKEN if its head is invalid. */
export function unread(index: u32): u32 {
  const c = connections.at(index);
  if (load<u32>(c, TX_RING) == 0) return 0;
  const positions = ring.unread(c);
  if (positions == BROKEN) connections.fail(c, FAILURE_HEAD);
  return positions;
}

/** Whether the peer, at this moment, waits for a message that it will copy out. */
export function receiverWaits(index: u32): bool {
  return ring.consumerWaits(connections.at(index));
}

/** Whether the peer reads messages in place, and a body of this length does not fit into one record. */
export function wantsRun(index: u32, body: u32): bool {
  return ring.wantsRun(connections.at(index), body);
}

/** Tell the peer how this side receives messages: RECEIVE_MODE_…. */
export function setReceiveMode(index: u32, mode: u32): void {
  ring.setReceiveMode(connections.at(index), mode);
}

/** As claimMore(), checking up to `rounds` times for room: for a peer that is copying fragments out at this moment. */
export function claimMoreSpin(index: u32, rounds: u32): u32 {
  const c = connections.at(index);
  let offset = framing.claimMore(index);
  while (offset == NOTHING && rounds-- != 0) if (ring.hasRoom(c)) offset = framing.claimMore(index);
  return offset;
}

export function arm(index: u32): bool {
  return ring.arm(connections.at(index));
}

export function disarm(index: u32): void {
  ring.disarm(connections.at(index));
}

// Borrowed records: their bytes stay because the published head stays.

/** Position of the peeked record, for hold() and publish(). */
export function position(index: u32): u32 {
  return load<u32>(connections.at(index), RX_READ);
}

/** Keep the published head in place until publish() moves it. */
export function hold(index: u32): void {
  const c = connections.at(index);
  const holds = load<u32>(c, RX_HOLDS);
  if (holds == 0) ring.publishHead(c, load<u32>(c, RX_READ));
  store<u32>(c, holds + 1, RX_HOLDS);
}

/** End one hold. @param head position of the oldest record still borrowed, or the read position */
export function publish(index: u32, head: u32): void {
  const c = connections.at(index);
  const holds = load<u32>(c, RX_HOLDS) - 1;
  store<u32>(c, 0, RX_HOLDS);
  if (head != load<u32>(c, RX_HEAD)) ring.publishHead(c, head);
  store<u32>(c, holds, RX_HOLDS);
}

/** Check up to `rounds` times for a record, inside the core. @returns as peek() */
export function peekSpin(index: u32, rounds: u32): u32 {
  const c = connections.at(index);
  while (rounds != 0 && !ring.readable(c)) --rounds;
  return rounds == 0 ? NOTHING : framing.peek(index);
}
