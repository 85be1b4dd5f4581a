/** The token of exposed memory: every bit of it is checked, and what a forged one may say. */
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { decodeToken, encodeToken, sealToken } from '../../host/memory/token.js';
import { thrownBy } from '../support/outcomes.js';
import { testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const CODE = 'ERR_ISTHMUS_INVALID_ARGUMENT';
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const uuid = fc.uint8Array({ minLength: 16, maxLength: 16 }).filter((bytes) => bytes.some((byte) => byte !== 0));

/** Tokens of memory in a region, and outside. */
const tokens = fc
  .record({
    base: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    length: fc.integer({ min: 0, max: 2 ** 31 }),
    rights: fc.integer({ min: 0, max: 3 }),
    place: fc.option(fc.record({ uuid, grant: fc.record({ frame: u32, place: u32 }) }), { nil: undefined }),
  })
  .map(({ place, ...fields }) => {
    const given = { ...fields, grant: place?.grant, uuid: place && Buffer.from(place.uuid) };
    return { given, token: encodeToken(given) };
  });

const settings = { seed: testSeed(), numRuns: 50 };

test(
  'what was encoded is decoded',
  timebox(20, () => {
    fc.assert(
      fc.property(tokens, ({ given: { base, length, rights, grant, uuid }, token }) => {
        const { frame, place } = grant ?? { frame: 0, place: 0 };
        assert.is(token.length, 56);
        assert.equal(decodeToken(token), { base, length, rights, frame, place, uuid: uuid ?? Buffer.alloc(16) });
      }),
      settings,
    );
  }),
);

test(
  'a token with any one bit changed, or cut, or continued, is refused',
  timebox(60, () => {
    fc.assert(
      fc.property(tokens, ({ token }) => {
        for (let bit = 0; bit < token.length * 8; bit++) {
          const changed = token.slice();
          changed[bit >> 3] = (changed[bit >> 3] as number) ^ (1 << (bit & 7));
          assert.is(thrownBy(() => decodeToken(changed)).code, CODE, `bit ${bit}`);
        }
        for (let length = 0; length < token.length; length++) {
          assert.is(thrownBy(() => decodeToken(token.subarray(0, length))).code, CODE);
        }
        assert.is(thrownBy(() => decodeToken(Buffer.concat([token, Buffer.alloc(1)]))).code, CODE);
      }),
      settings,
    );
  }),
);

test(
  'a forged token with a right check value claims nothing that could do harm here',
  timebox(20, () => {
    const forged = (change: (view: DataView) => void, inRegion = true) => {
      const grant = inRegion ? { frame: 3, place: 1 } : undefined;
      const uuid = inRegion ? Buffer.alloc(16, 5) : undefined;
      const token = encodeToken({ base: 1n, length: 64, rights: 1, grant, uuid });
      change(new DataView(token.buffer));
      return sealToken(token);
    };
    for (const change of [
      (view: DataView) => view.setUint32(0, 0x31414d52, true), // RMA1
      (view: DataView) => view.setUint32(4, 4, true),
      (view: DataView) => view.setUint32(4, 0xffffffff, true),
      (view: DataView) => view.setUint32(48, 1, true),
      // The core takes 32 bits: this would be 64 there, and more here.
      (view: DataView) => view.setBigUint64(16, (1n << 32n) + 64n, true),
      (view: DataView) => view.setBigUint64(16, (1n << 31n) + 1n, true),
      (view: DataView) => view.setBigUint64(16, (1n << 64n) - 1n, true),
    ]) {
      assert.is(thrownBy(() => decodeToken(forged(change))).code, CODE, String(change));
    }
    for (const offset of [40, 44]) {
      assert.is(thrownBy(() => decodeToken(forged((view) => view.setUint32(offset, 1, true), false))).code, CODE);
    }
    // Outside of a region a peer may expose more than a core can map, but no more than a number can count.
    const long = (length: bigint) => decodeToken(forged((view) => view.setBigUint64(16, length, true), false));
    assert.is(long(1n << 40n).length, 2 ** 40);
    assert.is(thrownBy(() => long(1n << 54n)).code, CODE);
  }),
);

test.run();
