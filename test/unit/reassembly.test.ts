/** A message of which not all fragments have come: where its bytes go. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { PartialMessage } from '../../host/channel/reassembly.js';
import type { BoundLink } from '../../host/link/bound-link.js';
import { assertBytes, MIB, pattern } from '../support/core.js';
import { timebox } from '../support/timebox.js';

/** Append the bytes of a body, cut into records of `size`. */
function append(
  partial: PartialMessage,
  body: Uint8Array,
  size: number,
  route: (partial: PartialMessage) => void,
  from = 0,
): void {
  const link = { bytes: body } as unknown as BoundLink;
  for (let at = from; at < body.length; at += size) {
    partial.append(link, at, Math.min(size, body.length - at), route);
  }
}

test(
  'xheader and data, wherever they are cut; the way is decided once, when the xheader is complete',
  timebox(5, () => {
    const body = pattern(300, 1);
    for (const xlength of [0, 1, 100, 299, 300]) {
      for (const size of [1, 7, 99, 100, 101, 300]) {
        const partial = new PartialMessage(0, xlength, 300 - xlength);
        const routed: number[] = [];
        append(partial, body, size, (one) => {
          routed.push(one.have);
          assertBytes(one.xheader, body.subarray(0, xlength));
          one.into(undefined);
        });
        assert.equal(routed, [xlength], `${xlength} by ${size}`);
        assertBytes(partial.xheader, body.subarray(0, xlength));
        assertBytes(partial.kept, body.subarray(xlength));
        assert.is(partial.have, 300);
      }
    }
  }),
);

test(
  'an empty message is routed too',
  timebox(5, () => {
    const partial = new PartialMessage(6, 0, 0);
    let routed = 0;
    partial.append({ bytes: new Uint8Array(0) } as unknown as BoundLink, 0, 0, () => routed++);
    assert.is(routed, 1);
    assert.is(partial.kept.length, 0);
  }),
);

test(
  'memory grows with what comes, not with what is announced',
  timebox(10, () => {
    const length = 10 * MIB;
    const partial = new PartialMessage(0, 0, length);
    const body = pattern(5 * MIB, 2);
    const sizes: number[] = [];
    const link = { bytes: body } as unknown as BoundLink;
    for (let at = 0; at < body.length; at += 65_536) {
      partial.append(link, at, 65_536, (one) => one.into(undefined));
      if (sizes.at(-1) !== partial.data.length) sizes.push(partial.data.length);
    }
    assert.equal(
      sizes.map((size) => size / MIB),
      [1, 2, 4, 8],
    );
    assertBytes(partial.data.subarray(0, body.length), body);
    partial.append(link, 0, 4 * MIB, () => {});
    assert.is(partial.data.length, length, 'and never beyond its length');
    const small = new PartialMessage(0, 0, 100);
    small.into(undefined);
    assert.is(small.data.length, 100);
  }),
);

test(
  'a target gets what it has room for, and no byte more',
  timebox(5, () => {
    const body = pattern(300, 3);
    for (const room of [0, 1, 150, 279, 280, 400]) {
      const memory = new Uint8Array(500);
      const partial = new PartialMessage(0, 20, 280);
      append(partial, body, 33, (one) => one.into(memory.subarray(50, 50 + room)));
      const kept = Math.min(room, 280);
      assert.is(partial.kept.length, kept);
      assert.is(partial.kept.buffer, memory.buffer);
      assertBytes(partial.kept, body.subarray(20, 20 + kept));
      assert.ok(memory.subarray(0, 50).every((byte) => byte === 0));
      assert.ok(memory.subarray(50 + kept).every((byte) => byte === 0));
      assert.is(partial.have, 300, 'the rest is counted');
    }
  }),
);

test(
  'a receive that keeps less than the message, in memory of its own',
  timebox(5, () => {
    const body = pattern(3 * MIB, 4);
    const partial = new PartialMessage(0, 0, body.length);
    append(partial, body, 100_000, (one) => {
      one.room = MIB + 10;
      one.into(undefined);
    });
    assert.is(partial.kept.length, MIB + 10);
    assertBytes(partial.kept, body.subarray(0, MIB + 10));
  }),
);

test(
  'a sink that closes ends the keeping, for good',
  timebox(5, () => {
    const body = pattern(300, 5);
    const memory = new Uint8Array(300);
    const partial = new PartialMessage(6, 0, 300);
    let open = true;
    let asked = 0;
    const link = { bytes: body } as unknown as BoundLink;
    const route = (one: PartialMessage) => {
      one.sink = {
        target: memory,
        open: () => {
          asked++;
          return open;
        },
      };
      one.into(memory);
    };
    partial.append(link, 0, 100, route);
    open = false;
    partial.append(link, 100, 100, route);
    open = true;
    partial.append(link, 200, 100, route);
    assert.is(asked, 3, 'asked for each fragment');
    assertBytes(memory.subarray(0, 100), body.subarray(0, 100));
    assert.ok(memory.subarray(100).every((byte) => byte === 0));
    assert.is(partial.kept.length, 0);
  }),
);

test(
  'what began in a buffer of the caller goes on in memory of its own',
  timebox(5, () => {
    const body = pattern(3 * MIB, 6);
    const target = new Uint8Array(body.length);
    target.set(body.subarray(0, 1000));
    const partial = PartialMessage.begun(0, target, 1000, body.length);
    target.fill(0xee);
    assert.is(partial.data.length, MIB, 'it grows from here on as others do');
    const link = { bytes: body } as unknown as BoundLink;
    partial.append(link, 1000, body.length - 1000, () => assert.unreachable('its way is decided'));
    assertBytes(partial.kept, body);
    assert.ok(target.every((byte) => byte === 0xee));

    const late = PartialMessage.begun(0, new Uint8Array(body), 2 * MIB, body.length);
    assert.is(late.data.length, 2 * MIB);
    append(late, body, 100_000, () => {}, 2 * MIB);
    assertBytes(late.kept, body);
  }),
);

test(
  'keep() with an xheader: only data is kept',
  timebox(5, () => {
    const body = pattern(300, 7);
    const target = new Uint8Array(280);
    const partial = new PartialMessage(0, 20, 280);
    const link = { bytes: body } as unknown as BoundLink;
    partial.append(link, 0, 10, (one) => one.into(target));
    partial.keep();
    assert.is(partial.have, 10, 'the xheader is not complete');
    partial.append(link, 10, 100, (one) => one.into(target));
    partial.keep();
    target.fill(0xee);
    partial.append(link, 110, 190, () => assert.unreachable('decided'));
    assertBytes(partial.kept, body.subarray(20));
  }),
);

test.run();
