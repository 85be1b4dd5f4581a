/** The core on private memory, in one process: the cost of its parts without a peer. */

import type { Core } from '../../host/core/core.js';
import { createPrivateCore, openPair } from '../../host/core/private.js';
import { copyIn } from '../../host/link/copies.js';
import { now } from '../clock.js';
import { Times } from '../results.js';
import type { RingExports } from './exports.js';

/** Messages per sample. */
const COUNT = 10_000;
/** Samples; the first half is a warm-up. */
const SAMPLES = 60;

/** @returns the median time of one of `count` operations, in nanoseconds */
export function each(count: number, run: () => void): number {
  const times = new Times();
  for (let i = 0; i < SAMPLES; i++) {
    const before = now();
    run();
    if (i >= SAMPLES / 2) times.add((now() - before) / count);
  }
  return times.percentile(50);
}

function pair(): { core: Core; from: number; to: number } {
  const core = createPrivateCore();
  const [from, to] = openPair(core, 256 * 1024);
  return { core, from, to };
}

export function ringInWasm(): number {
  const { core, from, to } = pair();
  const { pump } = core.call as RingExports;
  return each(COUNT, () => {
    if (pump(from, to, 8, COUNT) !== COUNT) throw new Error('the ring lost a message');
  });
}

/** The same, with each step called from JavaScript. */
export function ringFromJs(size: number): number {
  const { core, from, to } = pair();
  const { call, bytes } = core;
  const message = new Uint8Array(size).fill(0x2a);
  const target = new Uint8Array(size);
  return each(COUNT, () => {
    for (let i = 0; i < COUNT; i++) {
      copyIn(bytes, message, call.claim(from, 0, 0, size));
      call.commit(from);
      const offset = call.peek(to);
      if (size > 24) target.set(bytes.subarray(offset, offset + size));
      else for (let k = 0; k < size; k++) target[k] = bytes[offset + k] as number;
      call.release(to);
    }
  });
}

/** The cheapest call into the core. */
export function callIntoWasm(): number {
  const { core } = pair();
  const { call } = core;
  let sum = 0;
  const took = each(COUNT, () => {
    for (let i = 0; i < COUNT; i++) sum += call.pollSetSize();
  });
  if (sum < 0) throw new Error('there are no hot connections');
  return took;
}

/**
 * Copy one block with `Uint8Array.set` to successive places of an area: the copy of a message, without another processor.
 * @returns bytes per second
 */
export function copying(size: number, area: number): number {
  const source = new Uint8Array(size).fill(0x2a);
  const target = new Uint8Array(area);
  const count = Math.max(1, Math.floor(area / size));
  const rounds = Math.max(1, Math.floor((1 << 24) / (count * size)));
  const took = each(rounds * count, () => {
    for (let round = 0; round < rounds; round++) for (let i = 0; i < count; i++) target.set(source, i * size);
  });
  return (size / took) * 1e9;
}
