/**
 * Which members of a group talk to which: numbers only.
 *
 * A broadcast goes down a binomial tree. A member's place is its rank, counted from the root. Its parent's place is its own
 * without the lowest set bit; its children's places are its own plus one bit below the lowest set one. So no path has more
 * than log2(size) steps.
 *
 * A barrier is a dissemination: in round r each member signals the one 2^r ranks further, and waits for the one 2^r ranks
 * before. After log2(size) rounds each member has heard, directly or not, from all.
 */

/** The rank that passes a broadcast of `root` on to `rank`; for the root itself: the root. */
export function parentOf(rank: number, root: number, size: number): number {
  const place = placeOf(rank, root, size);
  return ((place & (place - 1)) + root) % size;
}

/** The ranks that `rank` passes a broadcast of `root` on to: the largest subtree first, because its way is longest. */
export function childrenOf(rank: number, root: number, size: number): number[] {
  const place = placeOf(rank, root, size);
  const children: number[] = [];
  for (let bit = 1; bit < size && (place & bit) === 0; bit *= 2) {
    if (place + bit < size) children.unshift((place + bit + root) % size);
  }
  return children;
}

/** One round of a barrier. */
export interface BarrierRound {
  /** The rank to signal. */
  readonly to: number;
  /** The rank to wait for. */
  readonly from: number;
}

export function barrierRounds(rank: number, size: number): BarrierRound[] {
  const rounds: BarrierRound[] = [];
  for (let distance = 1; distance < size; distance *= 2) {
    rounds.push({ to: (rank + distance) % size, from: (rank - distance + size) % size });
  }
  return rounds;
}

function placeOf(rank: number, root: number, size: number): number {
  return (rank - root + size) % size;
}
