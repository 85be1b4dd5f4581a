/** The private instance: the rings of all `loop` and `tcp` connections, in memory of this process alone. */
import { readFileSync } from 'node:fs';
import { IsthmusError } from '../base/errors.js';
import { Core } from './core.js';

/** Address space, not memory: pages come with their first use. Smaller where an `ulimit -v` is in the way. */
const SIZES = [256, 64, 16].map((mib) => mib * 0x100000);

/** Whether a limit may leave too few addresses for all instances (RLIMIT_AS). Without /proc: none is known. */
export function addressSpaceLimited(): boolean {
  try {
    const limit = /^Max address space +(\S+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1];
    return limit !== undefined && limit !== 'unlimited';
  } catch {
    return false;
  }
}

/**
 * A core on a region of its own, formatted, with slot 0 taken.
 * @throws ERR_ISTHMUS_ADDRESS_SPACE if there is no address space even for the smallest
 */
export function createPrivateCore(): Core {
  let refusal: unknown;
  for (const size of SIZES) {
    let core: Core;
    try {
      core = new Core(size);
    } catch (error) {
      refusal = error;
      continue;
    }
    const { call } = core;
    call.geometry(size);
    call.format(0);
    call.finishFormat();
    call.claimSlot(0, 0);
    call.publishSlot();
    return core;
  }
  throw refusal;
}

/**
 * Open two entries of a core, each with a ring of its own, joined: what one sends the other receives.
 * @throws ERR_ISTHMUS_NO_CONNECTIONS, ERR_ISTHMUS_NO_FRAMES
 */
export function openPair(core: Core, ringSize: number): [number, number] {
  const near = openEntry(core, ringSize);
  let far: number;
  try {
    far = openEntry(core, ringSize);
  } catch (error) {
    core.call.free(near);
    throw error;
  }
  core.call.join(near, far);
  core.call.start(near);
  core.call.start(far);
  return [near, far];
}

/**
 * Reserve an entry and the ring that it reads from; a smaller ring where frames are short.
 * @throws ERR_ISTHMUS_NO_CONNECTIONS, ERR_ISTHMUS_NO_FRAMES
 */
export function openEntry(core: Core, ringSize: number): number {
  const { call, layout } = core;
  const index = call.open() - 1;
  if (index < 0) {
    throw new IsthmusError(
      'ERR_ISTHMUS_NO_CONNECTIONS',
      `all ${layout.CONNECTIONS} connections of this core are in use`,
    );
  }
  for (let size = ringSize; size >= Math.min(ringSize, layout.RING_MIN * 4); size /= 2) {
    if (call.createRing(index, size, 0)) return index;
  }
  call.free(index);
  const free = core.freeFrames() * layout.FRAME;
  throw new IsthmusError(
    'ERR_ISTHMUS_NO_FRAMES',
    `no run of free frames for a ring of ${ringSize} bytes, nor for a smaller one (${free} bytes are free)`,
    { needed: ringSize, available: free },
  );
}
