/** Which members of a group talk to which: broadcasts reach each member once, barriers make all hear from all. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { barrierRounds, childrenOf, parentOf } from '../../host/messaging/tree.js';
import { timebox } from '../support/timebox.js';

const SIZES = Array.from({ length: 40 }, (_, i) => i + 1);
const ranksOf = (size: number) => Array.from({ length: size }, (_, rank) => rank);
const log2 = (size: number) => Math.ceil(Math.log2(size));

/** Ranks below one in the tree, itself included. */
function subtree(rank: number, root: number, size: number): number[] {
  return [rank, ...childrenOf(rank, root, size).flatMap((child) => subtree(child, root, size))];
}

test(
  'the tree of eight',
  timebox(5, () => {
    assert.equal(
      ranksOf(8).map((rank) => childrenOf(rank, 0, 8)),
      [[4, 2, 1], [], [3], [], [6, 5], [], [7], []],
    );
    assert.equal(
      ranksOf(8).map((rank) => parentOf(rank, 0, 8)),
      [0, 0, 0, 2, 0, 4, 4, 6],
    );
    // The same tree, turned.
    assert.equal(childrenOf(6, 6, 8), [2, 0, 7]);
    assert.equal(childrenOf(2, 6, 8), [4, 3]);
    assert.is(parentOf(1, 6, 8), 0);
  }),
);

test(
  'a broadcast reaches every member once, from each root and in groups of any size',
  timebox(10, () => {
    for (const size of SIZES) {
      for (const root of ranksOf(size)) {
        assert.equal(
          subtree(root, root, size).sort((a, b) => a - b),
          ranksOf(size),
          `size ${size}, root ${root}`,
        );
      }
    }
  }),
);

test(
  'parent and children agree, and the root has no parent but itself',
  timebox(10, () => {
    for (const size of SIZES) {
      for (const root of ranksOf(size)) {
        assert.is(parentOf(root, root, size), root);
        for (const rank of ranksOf(size)) {
          for (const child of childrenOf(rank, root, size)) {
            assert.is(parentOf(child, root, size), rank, `size ${size}, root ${root}, child ${child}`);
          }
        }
      }
    }
  }),
);

test(
  'no way is longer than the logarithm of the size',
  timebox(10, () => {
    for (const size of SIZES) {
      for (const root of ranksOf(size)) {
        for (const rank of ranksOf(size)) {
          let steps = 0;
          for (let at = rank; at !== root; at = parentOf(at, root, size)) steps++;
          assert.ok(steps <= log2(size), `size ${size}, root ${root}, rank ${rank}: ${steps} steps`);
        }
      }
    }
  }),
);

test(
  'the child with the largest subtree comes first',
  timebox(10, () => {
    // A subtree that the end of the group cuts off may be smaller than the one behind it: powers of two have none.
    for (const size of [1, 2, 4, 8, 16, 32]) {
      for (const root of ranksOf(size)) {
        for (const rank of ranksOf(size)) {
          const sizes = childrenOf(rank, root, size).map((child) => subtree(child, root, size).length);
          assert.equal(
            sizes,
            sizes.toSorted((a, b) => b - a),
            `size ${size}, root ${root}, rank ${rank}`,
          );
        }
      }
    }
  }),
);

test(
  'barrier: each round pairs the members, and after the last one all have heard from all',
  timebox(10, () => {
    for (const size of SIZES) {
      const rounds = ranksOf(size).map((rank) => barrierRounds(rank, size));
      for (const own of rounds) assert.is(own.length, log2(size), `size ${size}`);
      let heard = ranksOf(size).map((rank) => new Set([rank]));
      for (let round = 0; round < log2(size); round++) {
        assert.ok(
          heard.every((ranks) => ranks.size < size),
          `size ${size}: round ${round} is needed`,
        );
        const before = heard;
        heard = before.map((ranks, rank) => {
          const { from } = rounds[rank]?.[round] ?? { from: -1 };
          assert.is(rounds[from]?.[round]?.to, rank, `size ${size}, round ${round}: ${from} signals ${rank}`);
          return new Set([...ranks, ...(before[from] ?? [])]);
        });
      }
      assert.ok(
        heard.every((ranks) => ranks.size === size),
        `size ${size}`,
      );
    }
  }),
);

test.run();
