/**
 * Runs that hold memory of an application, and the grants by which peers read and write them without the owner's
 * processor.
 *
 * The first frame of such a run holds its grants: each grants a range to a token. A peer checks the grant in its own
 * mapping, before and after its copy; the owner revokes the grant with one store.
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

/** Frames of a run for this many bytes, the frame of the grants included. */
// @ts-ignore: decorator
@inline
function framesOf(bytes: u32): u32 {
  return 1 + (bytes >> FRAME_SHIFT) + (bytes & (FRAME - 1) ? 1 : 0);
}

/**
 * Allocate a run for `bytes` bytes after the frame of the grants.
 * @returns its first frame, or 0 if there is no room
 */
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

/** Grant a range of an own run to a token. @returns index of the grant + 1, or 0 if all are in use */
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

/** Revoke a grant: its token is invalid from here on. */
export function revoke(frame: u32, index: u32): void {
  atomic.store<u64>(grantAt(frame, index), 0, GRANT_TOKEN);
}

/**
 * Check in this mapping that the peer of a connection grants exactly these values.
 * @returns address of the first byte of the granted range, or 0
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
  // Without a run there, the frame number may be out of range.
  if (room == 0 || offset > room || length > room - offset) return 0;
  const at = grantAt(frame, place);
  if (atomic.load<u64>(at, GRANT_TOKEN) != word(low, high) || word(low, high) == 0) return 0;
  if (atomic.load<u32>(at, GRANT_OFFSET) != offset || atomic.load<u32>(at, GRANT_LENGTH) != length) return 0;
  if (atomic.load<u32>(at, GRANT_RIGHTS) != rights) return 0;
  return addressOf(frame) + FRAME + offset;
}

/**
 * Adopt the reader's half of a run in which the peer grants a token: the run stays until letGoRun(), even if the peer
 * dies.
 * @returns address of the first byte of the granted range, or 0
 */
export function adoptGranted(index: u32, frame: u32, place: u32, low: u32, high: u32, length: u32): u32 {
  const address = granted(index, frame, place, low, high, 0, length, GRANT_READ);
  if (address == 0) return 0;
  const c = connection.at(index);
  const count = adopt(frame, HALF_CONSUMER, load<u32>(c, TX_OWNER), load<u32>(c, TX_OWNER_GENERATION));
  if (count == 0) return 0;
  // The run may have been given back and allocated again since the check. And letGoRun() needs a length that matches.
  if (count == framesOf(length) && atomic.load<u64>(grantAt(frame, place), GRANT_TOKEN) == word(low, high)) {
    return address;
  }
  letGo(frame, HALF_CONSUMER, count);
  return 0;
}

/**
 * Adopt the run that the RENDEZVOUS_REQ at `at`, of REQUEST_SIZE bytes, refers to, unless the peer expects a FIN for
 * it. RESULT_FRAME and RESULT_BYTES are the arguments for letGoRun().
 * @returns address of the message, or 0: no such grant, or other values, or a FIN is expected
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
 * Claim a record and write into it a RENDEZVOUS_REQ for a message in an own run, whose token is granted at `place`. The
 * caller calls commit().
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

/** Give back an own run for `bytes` bytes, after the last access to it. @returns whether no peer had adopted it */
export function giveBackRun(frame: u32, bytes: u32): bool {
  return giveBackSpare(frame, framesOf(bytes), HALF_PRODUCER);
}

/** Release an adopted run for `bytes` bytes, after the last access to it. */
export function letGoRun(frame: u32, bytes: u32): void {
  letGo(frame, HALF_CONSUMER, framesOf(bytes));
}

/** Bytes after the frame of the grants of a run that the peer of a connection holds; 0 if it holds no run there. */
export function runLength(index: u32, frame: u32): u32 {
  const c = connection.at(index);
  const count = offered(frame, HALF_CONSUMER, load<u32>(c, TX_OWNER), load<u32>(c, TX_OWNER_GENERATION));
  return count < 2 ? 0 : (count - 1) << FRAME_SHIFT;
}
