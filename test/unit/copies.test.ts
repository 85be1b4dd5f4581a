/** Copies between the memory of a core and that of an application. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { CopyOut, copyIn, copyOut } from '../../host/link/copies.js';
import { timebox } from '../support/timebox.js';

const memory = new ArrayBuffer(4096);
const bytes = new Uint8Array(memory).map((_, i) => (i * 37 + (i >> 8)) & 0xff);
bytes.forEach((value, i) => {
  new Uint8Array(memory)[i] = value;
});
const carrier = { bytes: new Uint8Array(memory), words: new Uint32Array(memory) };

/** Each length at each alignment of both sides, three times into the same target. */
function* cases(): Generator<{ length: number; offset: number; target: Uint8Array }> {
  for (let shift = 0; shift < 5; shift++) {
    for (const offset of [1024, 1025, 1026, 1028, 1031]) {
      const target = new Uint8Array(new ArrayBuffer(512), shift, 400);
      for (let length = 0; length <= 300; length++) {
        for (let time = 0; time < 3; time++) yield { length, offset, target };
      }
    }
  }
}

test(
  'copying out of the memory writes all bytes and no byte more',
  timebox(20, () => {
    const out = new CopyOut();
    for (const { length, offset, target } of cases()) {
      target.fill(0xee);
      out.copy(carrier, offset, length, target);
      assert.is(Buffer.compare(target.subarray(0, length), carrier.bytes.subarray(offset, offset + length)), 0);
      assert.ok(
        target.subarray(length).every((byte) => byte === 0xee),
        `${length} bytes from ${offset}`,
      );
    }
  }),
);

test(
  'into targets that change, and into one too short for whole words',
  timebox(5, () => {
    const out = new CopyOut();
    const targets = [new Uint8Array(64), new Uint8Array(63), new Uint8Array(500), Buffer.alloc(40)];
    for (let i = 0; i < 2000; i++) {
      const target = targets[(i * i) % targets.length] as Uint8Array;
      const length = i % (target.length + 1);
      target.fill(0xee);
      out.copy(carrier, 8 * (i % 100), length, target);
      const expected = carrier.bytes.subarray(8 * (i % 100), 8 * (i % 100) + length);
      assert.is(Buffer.compare(target.subarray(0, length), expected), 0, `${length}`);
      if (i % 7 === 0) out.forget();
    }
  }),
);

test(
  'plain typed arrays as targets',
  timebox(5, () => {
    for (let length = 0; length <= 64; length++) {
      const source = Uint8Array.from({ length }, (_, i) => i + 1);
      const place = new Uint8Array(80).fill(0xee);
      copyIn(place, source, 3);
      assert.equal([...place.subarray(3, 3 + length)], [...source]);
      assert.is(place[2], 0xee);
      assert.is(place[3 + length], 0xee);
      const back = new Uint8Array(length);
      copyOut(place, 3, length, back);
      assert.equal([...back], [...source]);
    }
  }),
);

test.run();
