/**
 * Runs that hold an application's memory: what a peer may read and write of them without our processor.
 *
 * The first frame of such a run is its book: entries that grant a token a range. Who wants to read looks the token up in
 * its own mapping, before and after the copy; the owner withdraws it with one store.
 */

import * as connection from './connection';
import { addressOf, adopt, giveBackSpare, letGo, offered, take } from './frames';
import { claim } from './framing';
import {
  BROKEN,
  FRAME,
  FRAME_SHIFT,
  GRANT_LENGTH,
  GRANT_OFFSET,
  GRANT_READ,
  GRANT_RIGHTS,
  GRANT_SIZE,
  GRANT_TOKEN,
  GRANTS,
  HALF_CONSUMER,
  HALF_PRODUCER,
  MESSAGE_RENDEZVOUS_REQ,
  NOTHING,
  REQUEST_FRAME,
  REQUEST_LENGTH,
  REQUEST_PLACE,
  REQUEST_SIZE,
  REQUEST_TOKEN,
  RESULT_BYTES,
  RESULT_FRAME,
  TX_OWNER,
  TX_OWNER_GENERATION,
} from './layout';

/** Frames of a run for so many bytes, the book included. */
// @ts-ignore: decorator
@inline
function framesOf(bytes: u32): u32 {
  return 1 + (bytes >> FRAME_SHIFT) + (bytes & (FRAME - 1) ? 1 : 0);
}

/** Take a run for `bytes` bytes behind its book. @returns its first frame, or 0 if there is no room */
export function takeRun(bytes: u32): u32 {
  const frame = take(framesOf(bytes), HALF_PRODUCER);
  if (frame != 0) memory.fill(addressOf(frame), 0, FRAME);
  return frame;
}

// @ts-ignore: decorator
@inline
function grantAt(frame: u32, index: u32): usize {
  return <usize>addressOf(frame) + index * GRANT_SIZE;
}

// @ts-ignore: decorator
@inline
function word(low: u32, high: u32): u64 {
  return ((<u64>high) << 32) | <u64>low;
}

/** Grant a token a range of our run. @returns the place of the grant + 1, or 0 if all places are taken */
export function grant(frame: u32, low: u32, high: u32, offset: u32, length: u32, rights: u32): u32 {
  for (let i: u32 = 0; i < GRANTS; ++i) {
    const at = grantAt(frame, i);
    if (atomic.load<u64>(at, GRANT_TOKEN) != 0) continue;
    store<u32>(at, offset, GRANT_OFFSET);
    store<u32>(at, length, GRANT_LENGTH);
    store<u32>(at, rights, GRANT_RIGHTS);
    atomic.store<u64>(at, word(low, high), GRANT_TOKEN);
    return i + 1;
  }
  return 0;
}

/** Nobody may use the token any more. */
export function revoke(frame: u32, index: u32): void {
  atomic.store<u64>(grantAt(frame, index), 0, GRANT_TOKEN);
}

/**
 * Whether the peer of a connection grants a token, in our own mapping, with these very values.
 * @returns the address of the first byte of the granted range, or 0
 */
export function granted(
  index: u32,
  frame: u32,
  place: u32,
  low: u32,
  high: u32,
  offset: u32,
  length: u32,
  rights: u32,
): u32 {
  if (place >= GRANTS) return 0;
  const room = runLength(index, frame);
  // No run there: then the frame may be anywhere.
  if (room == 0 || offset > room || length > room - offset) return 0;
  const at = grantAt(frame, place);
  if (atomic.load<u64>(at, GRANT_TOKEN) != word(low, high) || word(low, high) == 0) return 0;
  if (atomic.load<u32>(at, GRANT_OFFSET) != offset || atomic.load<u32>(at, GRANT_LENGTH) != length) return 0;
  if (atomic.load<u32>(at, GRANT_RIGHTS) != rights) return 0;
  return addressOf(frame) + FRAME + offset;
}

/**
 * Take the reader's half of a run over from the peer that grants a token there: it stays, whatever becomes of the peer,
 * until letGoRun().
 * @returns the address of the first byte of the granted range, or 0
 */
export function adoptGranted(index: u32, frame: u32, place: u32, low: u32, high: u32, length: u32): u32 {
  const address = granted(index, frame, place, low, high, 0, length, GRANT_READ);
  if (address == 0) return 0;
  const c = connection.at(index);
  const count = adopt(frame, HALF_CONSUMER, load<u32>(c, TX_OWNER), load<u32>(c, TX_OWNER_GENERATION));
  if (count == 0) return 0;
  // It may have been given back and taken anew since we looked. And letGoRun() has to find it by its length.
  if (count == framesOf(length) && atomic.load<u64>(grantAt(frame, place), GRANT_TOKEN) == word(low, high)) {
    return address;
  }
  letGo(frame, HALF_CONSUMER, count);
  return 0;
}

/**
 * Adopt the run that a RENDEZVOUS_REQ at `at`, of REQUEST_SIZE bytes, refers to, if no FIN is wanted for it. RESULT_FRAME
 * and RESULT_BYTES say what letGoRun() needs.
 * @returns the address of the message, or 0: not there, or not what was announced, or with a FIN
 */
export function adoptAnnounced(index: u32, at: u32): u32 {
  const token = load<u64>(at, REQUEST_TOKEN);
  if (load<u64>(at) != token) return 0;
  const length = load<u32>(at, REQUEST_LENGTH);
  const frame = load<u32>(at, REQUEST_FRAME);
  const place = load<u32>(at, REQUEST_PLACE);
  const address = adoptGranted(index, frame, place, <u32>token, <u32>(token >> 32), length);
  store<u32>(RESULT_FRAME, frame);
  store<u32>(RESULT_BYTES, length);
  return address;
}

/**
 * Claim a record and announce in it a message that lies in a run of ours, with the grant of its token at `place`. For
 * commit().
 * @returns as claim()
 */
export function announce(index: u32, frame: u32, place: u32, length: u32, low: u32, high: u32): u32 {
  const at = claim(index, MESSAGE_RENDEZVOUS_REQ, 0, REQUEST_SIZE);
  if (at == NOTHING || at == BROKEN) return at;
  store<u64>(at, word(low, high));
  store<u64>(at, word(low, high), REQUEST_TOKEN);
  store<u32>(at, length, REQUEST_LENGTH);
  store<u32>(at, frame, REQUEST_FRAME);
  store<u32>(at, place, REQUEST_PLACE);
  return at;
}

/** Our last access to a run of our own, for `bytes` bytes, is over. @returns whether nobody had adopted it */
export function giveBackRun(frame: u32, bytes: u32): bool {
  return giveBackSpare(frame, framesOf(bytes), HALF_PRODUCER);
}

/** Our last access to an adopted run for `bytes` bytes is over. */
export function letGoRun(frame: u32, bytes: u32): void {
  letGo(frame, HALF_CONSUMER, framesOf(bytes));
}

/** Bytes behind the book of a run that the peer of a connection holds; 0 if it holds no run there. */
export function runLength(index: u32, frame: u32): u32 {
  const c = connection.at(index);
  const count = offered(frame, HALF_CONSUMER, load<u32>(c, TX_OWNER), load<u32>(c, TX_OWNER_GENERATION));
  return count < 2 ? 0 : (count - 1) << FRAME_SHIFT;
}
