/** The ring: records from one producer to one consumer, and all that a peer may do to it. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  allowedTo,
  assertBytes,
  BROKEN,
  constant,
  L,
  NOTHING,
  newCore,
  Pair,
  pattern,
  peek,
  Receiver,
  recordHeader,
  Sender,
  watch,
} from '../support/core.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const seed = testSeed();
const core = newCore();
const { call } = core;
const initial = core.freeFrames();

/** Just below the end of the positions, and around the sign bit. */
const LATE = [0xfffff000, 0xffffff00, 0xfffffff8, 0x7ffffff8, 0x7fffff00, 0xfc000000];

/** Other memory that may change while connections are armed and polled. */
const polling: readonly [number, number][] = [
  [constant('POLL_SET'), constant('POLL_SET') + 2 * L.CONNECTIONS],
  [call.slotAddress(0), call.slotAddress(1)],
];

/** Bytes of the ring that a record with this body in its FIRST record occupies. */
const spanOf = (body: number) => (body + L.NET_HEADER + L.RECORD_HEADER + 7) & ~7;

/** Empty the ring of a pair and continue from a position. Old bytes stay, except the word that must be 0. */
function seek(pair: Pair, position: number): void {
  const near = call.entry(pair.a);
  const far = call.entry(pair.b);
  for (const name of ['TX_TAIL', 'TX_HEAD'] as const) core.setU32(near + constant(name), position);
  for (const name of ['RX_READ', 'RX_HEAD'] as const) core.setU32(far + constant(name), position);
  for (const name of ['RX_SPAN', 'RX_ARMED', 'RX_HOLDS'] as const) core.setU32(far + constant(name), 0);
  core.setU64(near + constant('TX_REST'), 0n);
  core.setU64(far + constant('RX_REST'), 0n);
  for (const entry of [near, far]) {
    core.setU32(entry + L.C_STATE, L.STATE_OPEN);
    core.setU32(entry + L.C_FAILURE, 0);
  }
  core.setU32(pair.ring + L.RING_HEAD, position);
  core.setU32(pair.ring + L.RING_TAIL, position);
  core.setU32(pair.ring + L.RING_ARMED, 0);
  core.setU64(pair.at(position), 0n);
}

function withPair(capacity: number, start: number, body: (pair: Pair) => void): void {
  const before = core.freeFrames();
  const pair = new Pair(core, capacity, start);
  try {
    body(pair);
  } finally {
    for (const index of [pair.a, pair.b]) call.wantRoom(index, 0);
    pair.free();
  }
  assert.is(core.freeFrames(), before, 'frames leaked');
}

function isBroken(index: number, failure: number, what = ''): void {
  assert.is(core.state(index), L.STATE_BROKEN, `${what}: state`);
  assert.is(core.failure(index), failure, `${what}: failure`);
}

test(
  'a record of every span, at every position of the ring: padding, terminator, header, bytes',
  timebox(20, () => {
    withPair(4096, 0, (pair) => {
      const unchanged = watch(core, ...allowedTo(pair));
      const body = pattern(pair.recordMax, 1);
      core.bytes.fill(0xff, pair.data, pair.data + pair.capacity);
      for (let start = 0; start < pair.capacity; start += 8) {
        for (let span = 16; span <= pair.capacity / 4; span += 8) {
          // The largest body of the span at odd ones, else a smaller one: all remainders of 8 occur.
          const length = span - 16 - (span & 8 ? 0 : Math.min(span - 16, (start / 8 + span / 16) % 8));
          assert.is(spanOf(length), span);
          const position = (start + (span & 16 ? 0xfffff000 : 0x1000 * span)) >>> 0;
          seek(pair, position);
          const toEnd = pair.capacity - start;
          const pad = span > toEnd ? toEnd : 0;
          const first = (position + pad) >>> 0;
          const next = (first + span) >>> 0;

          const offset = call.claim(pair.a, 7, 0, length);
          assert.is(offset, pair.at(first) + 16);
          assert.ok(offset + length <= pair.data + pair.capacity);
          assert.is(core.result(L.RESULT_LENGTH), length);
          assert.is(call.readable(pair.b), 0, 'a claim is not a record');
          core.bytes.set(body.subarray(0, length), offset);
          // Old bytes at the next read position must not be taken for a record.
          core.setU64(pair.at(next), 0xffffffffffffffffn);
          assert.is(call.commit(pair.a), 0);
          assert.is(core.u64(pair.at(next)), 0n, `no terminator after ${start} + ${span}`);
          assert.is(pair.tail, next);
          assert.is(core.u32(pair.ring + L.RING_TAIL), next);
          assert.is(core.u64(pair.at(first)), recordHeader(length + 8, L.RECORD_FIRST, first));
          if (pad) assert.is(core.u64(pair.at(position)), recordHeader(pad - 8, L.RECORD_PAD, position));

          assert.is(call.peek(pair.b), offset);
          assert.is(call.peek(pair.b), offset, 'a second peek gives the same');
          assert.is(core.result(L.RESULT_LENGTH), length);
          assert.is(core.result(L.RESULT_FLAGS), L.FLAG_FIRST | L.FLAG_LAST);
          if (Buffer.compare(core.bytes.subarray(offset, offset + length), body.subarray(0, length)) !== 0) {
            assert.unreachable(`bytes differ at ${start} + ${span}`);
          }
          call.release(pair.b);
          assert.is(pair.read, next);
          assert.is(call.peek(pair.b), NOTHING);
          assert.is(pair.head, next, 'a peek at the empty ring publishes the head');
          core.bytes[pair.data + ((start * 31 + span) % pair.capacity)] = span;
        }
      }
      unchanged();
    });
  }),
);

test(
  'a stream of messages from every start, over many laps, only through the interface',
  timebox(20, () => {
    let salt = 0;
    const go = (capacity: number, start: number, count: number) =>
      withPair(capacity, start, (pair) => {
        core.bytes.fill(0xff, pair.data, pair.data + capacity);
        core.setU64(pair.at(start), 0n);
        for (let i = 0; i < count; i++) {
          const body = pattern((i * 37 + (start >>> 3)) % (capacity / 2), salt++);
          const sender = new Sender(core, pair.a, body, 3);
          const receiver = new Receiver(core, pair.b);
          let message: ReturnType<typeof receiver.next>;
          for (let turns = 0; !message; turns++) {
            assert.ok(turns < 10, 'no progress');
            sender.go();
            message = receiver.next();
          }
          assert.is(sender.broken || receiver.broken, false);
          assertBytes(message.body, body);
          assert.is(message.records, sender.records);
        }
        assert.is(core.count(pair.a, L.COUNT_SENT), count);
        assert.is(core.count(pair.b, L.COUNT_RECEIVED), count);
        assert.is(core.count(pair.a, L.COUNT_SENT_BYTES), core.count(pair.b, L.COUNT_RECEIVED_BYTES));
      });
    for (let start = 0; start < 4096; start += 8) go(4096, start, 24);
    for (const start of LATE) for (let more = 0; more < 64; more += 8) go(4096, (start + more) >>> 0, 40);
    for (const capacity of [8192, 65536]) for (const start of LATE) go(capacity, start, 60);
  }),
);

test(
  'a terminator at the very end, and at the very beginning, of the ring',
  timebox(5, () => {
    withPair(4096, 0, (pair) => {
      for (const lap of [0, 0x1000, 0xfffff000]) {
        // Ends 8 bytes before the end: the word after it is the last one of the ring.
        seek(pair, lap + 4096 - 8 - 64);
        core.setU64(pair.data + 4088, 0xffn);
        assert.ok(pair.send(pattern(48, 1)));
        assert.is(core.u64(pair.data + 4088), 0n);
        assertBytes(pair.receive()!.body, pattern(48, 1));
        // There is room only for a padding of 8 bytes now.
        assert.ok(pair.send(pattern(0, 2)));
        assert.is(core.u64(pair.data + 4088), recordHeader(0, L.RECORD_PAD, lap + 4088));
        assert.is(pair.receive()!.body.length, 0);
        assert.is(pair.read, (lap + 4096 + 16) >>> 0);
        // Ends with the ring: the word after it is the first one.
        seek(pair, lap + 4096 - 64);
        core.setU64(pair.data, 0xffn);
        assert.ok(pair.send(pattern(48, 3)));
        assert.is(core.u64(pair.data), 0n);
        assertBytes(pair.receive()!.body, pattern(48, 3));
        assert.is(pair.read, (lap + 4096) >>> 0);
      }
    });
  }),
);

test(
  'a full ring refuses, changes nothing, and keeps one word free',
  timebox(5, () => {
    for (const start of [0, 8, 2048, 4088, ...LATE]) {
      withPair(4096, start, (pair) => {
        let sent = 0;
        while (pair.send(pattern(48, sent))) sent++;
        const model = new Model(4096, start);
        for (let i = 0; i < sent; i++) assert.ok(model.send(48, i) !== undefined);
        assert.is(model.send(48, sent), undefined);
        if (start === 0) assert.is(sent, 63);
        const before = core.bytes.slice(pair.ring, pair.data + 4096);
        const entry = core.bytes.slice(call.entry(pair.a), call.entry(pair.a) + L.COUNT_FULL);
        assert.is(call.claim(pair.a, 0, 0, 48), NOTHING);
        assertBytes(core.bytes.slice(pair.ring, pair.data + 4096), before, 'the ring');
        assertBytes(core.bytes.slice(call.entry(pair.a), call.entry(pair.a) + L.COUNT_FULL), entry, 'the entry');
        assert.is(core.count(pair.a, L.COUNT_FULL), 2);
        assert.is(call.unread(pair.a), (pair.tail - start) >>> 0);
        for (let i = 0; i < sent; i++) assertBytes(pair.receive()!.body, pattern(48, i), `message ${i}`);
        assert.is(pair.receive(), undefined);
        assert.is(call.unread(pair.a), 0);
        assert.ok(pair.send(pattern(48, 0)));
        assertBytes(pair.receive()!.body, pattern(48, 0));
      });
    }
  }),
);

/** Model of a ring, with numbers that do not wrap. */
class Model {
  tail: number;
  read: number;
  published: number;
  holds: number[] = [];
  armed = false;
  readonly records: { position: number; span: number; salt: number; length: number }[] = [];
  readonly capacity: number;

  constructor(capacity: number, start: number) {
    this.capacity = capacity;
    this.tail = this.read = this.published = start;
  }

  /** @returns the start of the record, or undefined if there is no room */
  send(length: number, salt: number): number | undefined {
    const span = spanOf(length);
    const toEnd = this.capacity - (this.tail % this.capacity);
    const pad = span > toEnd ? toEnd : 0;
    if (this.tail + pad + span + 8 - this.published > this.capacity) return undefined;
    const position = this.tail + pad;
    this.records.push({ position, span, salt, length });
    this.tail = position + span;
    return position;
  }

  publish(head: number): void {
    if (this.holds.length === 0) this.published = head;
  }
}

test(
  'random sends, peeks, releases, holds and arms: room, head and bytes match a model',
  timebox(20, () => {
    const random = seeded(seed);
    for (let round = 0; round < 30; round++) {
      const capacity = [4096, 8192, 16384][round % 3]!;
      const start = round % 2 ? LATE[random(LATE.length)]! : random(capacity / 8) * 8;
      withPair(capacity, start, (pair) => {
        const unchanged = watch(core, ...allowedTo(pair), ...polling);
        const model = new Model(capacity, start);
        /** Peeked, and not released yet. */
        let peeked = false;
        const small = random(2) === 0;
        for (let step = 0; step < 3000; step++) {
          const what = random(16);
          if (what < 6) {
            const length = small ? random(100) : random(pair.recordMax - 8 + 1);
            const wasArmed = model.armed;
            const position = model.send(length, step);
            const offset = call.claim(pair.a, 0, 0, length);
            if (position === undefined) {
              assert.is(offset, NOTHING, `round ${round}, step ${step}: there is no room`);
              continue;
            }
            assert.is(offset, pair.at(position) + 16, `round ${round}, step ${step}`);
            core.bytes.set(pattern(length, step), offset);
            assert.is(call.commit(pair.a), wasArmed ? 1 : 0, 'reported if armed');
          } else if (what < 13) {
            if (!peeked) {
              const record = model.records[0];
              const found = peek(core, pair.b);
              if (!record) {
                assert.is(found, 'nothing');
                model.publish(model.read);
              } else {
                if (typeof found === 'string') throw new Error(`round ${round}, step ${step}: ${found}`);
                model.read = record.position;
                model.armed = false;
                assert.is(found.offset, pair.at(record.position) + 16);
                assertBytes(
                  core.bytes.slice(found.offset, found.offset + found.length),
                  pattern(record.length, record.salt),
                );
                peeked = true;
              }
            } else {
              if (random(8) === 0) {
                assert.is(call.position(pair.b) >>> 0, model.read % 2 ** 32);
                call.hold(pair.b);
                if (model.holds.length === 0) model.published = model.read;
                model.holds.push(model.read);
              }
              call.release(pair.b);
              const { position, span } = model.records.shift()!;
              model.read = position + span;
              if (model.read - model.published > capacity / 8) model.publish(model.read);
              peeked = false;
            }
          } else if (what < 14) {
            const { holds } = model;
            if (holds.length > 0) {
              // Returned in any order: the head moves to the oldest that is still borrowed.
              holds.splice(random(holds.length), 1);
              const head = holds[0] ?? model.read;
              call.publish(pair.b, head | 0);
              model.published = head;
            }
          } else if (what < 15) {
            const quiet = model.records.length === 0;
            model.publish(model.read);
            assert.is(call.arm(pair.b), quiet ? 1 : 0);
            model.armed = quiet;
          } else {
            call.disarm(pair.b);
            model.armed = false;
          }
          assert.is(core.u32(pair.ring + L.RING_ARMED), model.armed ? 1 : 0, 'armed');
          assert.is(pair.head, model.published % 2 ** 32, `round ${round}, step ${step}: head`);
          assert.is(pair.read, model.read % 2 ** 32);
          assert.is(pair.tail, model.tail % 2 ** 32);
          assert.is(call.unread(pair.a), model.tail - model.published);
        }
        assert.is(core.failure(pair.a) | core.failure(pair.b), 0);
        unchanged();
        call.poll(0); // Clears the ready bits.
        call.removeFromPollSet(pair.b);
      });
    }
  }),
);

test(
  'the head is published after more than an eighth, at an empty peek, and when armed; not before',
  timebox(5, () => {
    withPair(4096, 0, (pair) => {
      for (let i = 0; i < 9; i++) assert.ok(pair.send(pattern(48, i)));
      for (let i = 0; i < 8; i++) {
        peek(core, pair.b);
        call.release(pair.b);
        assert.is(pair.head, 0, `too early: after ${i + 1} of 64 bytes`);
      }
      peek(core, pair.b);
      call.release(pair.b);
      assert.is(pair.head, 9 * 64);
      assert.ok(pair.send(pattern(48, 0)));
      peek(core, pair.b);
      assert.is(pair.head, 9 * 64, 'a peek at a record publishes nothing');
      call.release(pair.b);
      assert.is(pair.head, 9 * 64);
      assert.is(call.readable(pair.b), 0);
      assert.is(pair.head, 9 * 64);
      assert.is(peek(core, pair.b), 'nothing');
      assert.is(pair.head, 10 * 64);
      assert.ok(pair.send(pattern(48, 0)));
      peek(core, pair.b);
      call.release(pair.b);
      assert.is(call.arm(pair.b), 1);
      assert.is(pair.head, 11 * 64);
    });
  }),
);

test(
  'released bytes that are not published never block the largest record for ever',
  timebox(5, () => {
    withPair(4096, 0, (pair) => {
      for (let start = 0; start < 4096; start += 8) {
        for (const before of [0, 16, 256, 512, 520, 1016]) {
          seek(pair, start);
          if (before) {
            assert.ok(pair.send(new Uint8Array(before - 16)));
            peek(core, pair.b);
            call.release(pair.b);
          }
          // The consumer does not peek at the empty ring; there is room all the same.
          assert.ok(call.claim(pair.a, 0, 0, pair.recordMax - 8) > 0, `${start} + ${before}`);
        }
      }
    });
  }),
);

test(
  'arm and disarm: the word, the result, a record committed before',
  timebox(5, () => {
    withPair(4096, 0, (pair) => {
      const armed = () => core.u32(pair.ring + L.RING_ARMED);
      assert.is(armed(), 0);
      assert.is(call.arm(pair.b), 1);
      assert.is(armed(), 1);
      assert.is(call.arm(pair.b), 1, 'again');
      call.disarm(pair.b);
      assert.is(armed(), 0);
      call.disarm(pair.b);
      assert.is(armed(), 0);

      assert.ok(pair.send(pattern(8, 1)));
      assert.is(call.arm(pair.b), 0, 'there is a record');
      assert.is(armed(), 0);
      assertBytes(pair.receive()!.body, pattern(8, 1));

      assert.is(call.arm(pair.b), 1);
      assert.is(call.claim(pair.a, 0, 0, 0) > 0, true);
      assert.is(call.commit(pair.a), 1, 'the consumer needs its ready bit');
      assert.is(call.claim(pair.a, 0, 0, 0) > 0, true);
      assert.is(call.commit(pair.a), 1, 'again, until it has peeked');
      peek(core, pair.b);
      assert.is(armed(), 0, 'a peek at a record disarms');
      assert.is(call.claim(pair.a, 0, 0, 0) > 0, true);
      assert.is(call.commit(pair.a), 0);
      call.poll(0);
    });
  }),
);

test(
  'borrowed records: their bytes stay until they are given back, in any order',
  timebox(5, () => {
    for (const start of [0, 3000 & ~7, 0xfffffe00]) {
      withPair(4096, start, (pair) => {
        const held: { from: number; offset: number; body: Uint8Array }[] = [];
        const body = (i: number) => pattern(200, i);
        for (let i = 0; i < 6; i++) assert.ok(pair.send(body(i)));
        for (let i = 0; i < 6; i++) {
          const record = peek(core, pair.b);
          if (typeof record === 'string') throw new Error(record);
          if (i % 2) {
            held.push({ from: call.position(pair.b), offset: record.offset, body: body(i) });
            call.hold(pair.b);
          }
          call.release(pair.b);
        }
        const firstHeld = held[0]!.from >>> 0;
        assert.is(pair.head, firstHeld);
        assert.is(peek(core, pair.b), 'nothing');
        assert.is(call.arm(pair.b), 1);
        assert.is(pair.head, firstHeld, 'neither an empty peek nor arm moves the head');
        // Fill the free part: the borrowed bytes must survive.
        let more = 0;
        while (pair.send(pattern(300, 100 + more))) more++;
        assert.ok(more > 5);
        for (const { offset, body } of held) assertBytes(core.bytes.slice(offset, offset + 200), body);
        // The second first: the head does not move.
        const [one, two, three] = held;
        call.publish(pair.b, one!.from);
        assert.is(pair.head, firstHeld);
        call.publish(pair.b, three!.from);
        assert.is(pair.head, three!.from >>> 0);
        assert.ok(pair.send(pattern(300, 100 + more)), 'room came');
        assertBytes(core.bytes.slice(three!.offset, three!.offset + 200), three!.body);
        assert.ok(two);
        call.publish(pair.b, call.position(pair.b));
        assert.is(pair.head, pair.read);
        for (let i = 0; i <= more; i++) assertBytes(pair.receive()!.body, pattern(300, 100 + i));
        call.poll(0);
        call.removeFromPollSet(pair.b);
      });
    }
  }),
);

// ── Writes of a hostile peer ─────────────────────────────────────────────────────────────────────────────────────────

const { RECORD_FIRST, RECORD_MORE, RECORD_PAD } = L;
const net = (xlength: number, dlength: number) => (BigInt(xlength) << 16n) | (BigInt(dlength) << 32n);

test(
  'invalid record headers break the connection, and nothing else',
  timebox(10, () => {
    const bystander = new Pair(core);
    const free = core.freeFrames();
    const pair = new Pair(core);
    const cases: [string, number, (position: number) => bigint][] = [];
    const over = pair.recordMax + 1;
    for (const length of [
      over,
      over + 1,
      over + 7,
      4088,
      4096,
      0x7fffffff,
      0x80000000,
      0xfffffff0,
      0xfffffff1,
      0xffffffff,
    ]) {
      for (const kind of [RECORD_FIRST, RECORD_MORE]) {
        cases.push([`length ${length}, kind ${kind}`, 0, (at) => recordHeader(length, kind, at)]);
      }
    }
    for (const [place, length] of [
      [4088, 8],
      [4080, 9],
      [4096 - 512, 512],
      [4096 - 1016, 1009],
    ] as const) {
      cases.push([`${length} bytes at ${place}`, place, (at) => recordHeader(length, RECORD_FIRST, at)]);
    }
    for (const away of [8, -8, 4096, -4096, 2 ** 26, 8 * 0xabcdef]) {
      for (const kind of [RECORD_FIRST, RECORD_MORE]) {
        cases.push([`position ${away} away`, 16, (at) => recordHeader(32, kind, at + away)]);
      }
      cases.push([`padding for ${away} away`, 16, (at) => recordHeader(4096 - 24, RECORD_PAD, at + away)]);
    }
    for (const length of [0, 8, 4096 - 16, 4096 - 24 - 8, 4096 - 24 + 8, 4096 - 24 + 1, 0xffffffff]) {
      cases.push([`padding of ${length}`, 16, (at) => recordHeader(length, RECORD_PAD, at)]);
    }
    cases.push(['all ones', 0, () => 0xffffffffffffffffn]);
    cases.push(['one', 8, () => 1n]);
    for (const lap of [0, 0x7000, 0xfffff000]) {
      for (const [what, place, header] of cases) {
        const position = (lap + place) >>> 0;
        seek(pair, position);
        core.setU64(pair.at(position) + 8, net(0, 24));
        pair.forge(header(position));
        const unchanged = watch(core, ...allowedTo(pair));
        assert.is(call.readable(pair.b), 1, 'a peek is needed to find the fault');
        assert.is(peek(core, pair.b), 'broken', what);
        isBroken(pair.b, L.FAILURE_RECORD, what);
        assert.is(peek(core, pair.b), 'broken', what);
        assert.is(call.drain(pair.b), BROKEN, what);
        assert.is(call.claim(pair.b, 0, 0, 1), BROKEN, 'sending is over as well');
        assert.is(call.sendEof(pair.b), BROKEN);
        unchanged();
      }
      for (const kind of [0, 4, 5, 127, 128, 255]) {
        seek(pair, lap + 64);
        core.setU64(pair.at(lap + 64) + 8, net(0, 24));
        pair.forge(recordHeader(32, kind, lap + 64));
        assert.is(peek(core, pair.b), 'broken', `kind ${kind}`);
        isBroken(pair.b, L.FAILURE_MESSAGE, `kind ${kind}`);
      }
    }
    pair.free();
    assert.ok(bystander.send(pattern(100, 1)));
    assertBytes(bystander.receive()!.body, pattern(100, 1));
    assert.is(core.freeFrames(), free);
    bystander.free();
  }),
);

test(
  'padding with nothing after it, or with padding after it',
  timebox(5, () => {
    withPair(4096, 0, (pair) => {
      for (const lap of [0, 0xfffff000]) {
        for (const place of [8, 4000, 4088]) {
          for (const behind of [
            0n,
            recordHeader(4096 - 8, RECORD_PAD, (lap + 4096) >>> 0),
            recordHeader(8, RECORD_PAD, (lap + 4096) >>> 0),
          ]) {
            seek(pair, lap + place);
            pair.forge(recordHeader(4096 - place - 8, RECORD_PAD, lap + place));
            core.setU64(pair.data, behind);
            const unchanged = watch(core, ...allowedTo(pair));
            assert.is(peek(core, pair.b), 'broken');
            isBroken(pair.b, L.FAILURE_RECORD);
            for (let i = 0; i < 3; i++) peek(core, pair.b);
            unchanged();
          }
        }
      }
    });
  }),
);

test(
  'an invalid head: found by a claim at a full ring, by unread(), and by a connection that waits for room',
  timebox(5, () => {
    withPair(4096, 0, (pair) => {
      for (const start of [4096, 0x1238, 0xfffffc00]) {
        const tail = () => pair.tail;
        const bad: [string, () => number][] = [
          ['moving backwards', () => start - 8],
          ['one lap back', () => start - 4096],
          ['beyond the tail', () => tail() + 8],
          ['one lap ahead', () => start + 4096 * 2],
          ['half of all positions away', () => start + 0x80000000],
          ['unaligned by 1', () => start + 1],
          ['unaligned by 4', () => start + 4],
          ['one less', () => start - 1],
        ];
        const finders: [string, () => void][] = [
          ['claim', () => assert.is(call.claim(pair.a, 0, 0, 0), BROKEN)],
          [
            'repeated claims',
            () => {
              core.setU64(call.entry(pair.a) + constant('TX_REST'), 100n);
              assert.is(call.claimMoreSpin(pair.a, 10), BROKEN);
            },
          ],
          ['unread', () => assert.is(call.unread(pair.a), BROKEN)],
          [
            'poll',
            () => {
              call.wantRoom(pair.a, 1);
              call.addToPollSet(pair.a);
              assert.is(call.poll(0), pair.a + 1);
              assert.is(call.claim(pair.a, 0, 0, 0), BROKEN);
              call.wantRoom(pair.a, 0);
              call.removeFromPollSet(pair.a);
            },
          ],
        ];
        for (const [what, head] of bad) {
          for (const [finder, find] of finders) {
            seek(pair, start);
            while (pair.send(new Uint8Array(48)));
            while (pair.send(new Uint8Array(0)));
            assert.ok(pair.capacity - ((tail() - start) >>> 0) < 24);
            core.setU32(pair.ring + L.RING_HEAD, head());
            const unchanged = watch(core, ...allowedTo(pair), ...polling);
            find();
            isBroken(pair.a, L.FAILURE_HEAD, `${what}, found by ${finder}`);
            assert.is(call.claim(pair.a, 0, 0, 0), BROKEN);
            // Records committed before are still delivered.
            assert.ok(pair.receive());
            unchanged();
          }
        }
        // Every aligned position between the last known head and the tail is valid.
        for (let head = 0; head <= 4032; head += 8) {
          seek(pair, start);
          while (pair.send(new Uint8Array(48)));
          if (head > (tail() - start) >>> 0) break;
          core.setU32(pair.ring + L.RING_HEAD, start + head);
          const room = call.claim(pair.a, 0, 0, 0);
          assert.ok(room === NOTHING || room > 0);
          assert.is(core.state(pair.a), L.STATE_OPEN);
        }
      }
    });
  }),
);

test(
  'the first failure stays',
  timebox(5, () => {
    withPair(4096, 0, (pair) => {
      call.lose(pair.b);
      isBroken(pair.b, L.FAILURE_LOST);
      pair.forge(0xffffffffffffffffn);
      assert.is(peek(core, pair.b), 'broken');
      isBroken(pair.b, L.FAILURE_LOST);
    });
  }),
);

test(
  'a lost connection still delivers committed records',
  timebox(5, () => {
    withPair(4096, 0, (pair) => {
      assert.ok(pair.send(pattern(600, 1)));
      assert.ok(pair.send(pattern(1500, 2)));
      call.lose(pair.b);
      assertBytes(pair.receive()!.body, pattern(600, 1));
      assertBytes(pair.receive()!.body, pattern(1500, 2));
      assert.is(pair.receive(), undefined);
      isBroken(pair.b, L.FAILURE_LOST);
    });
  }),
);

test(
  '200,000 mutations of a ring keep the core within its bounds',
  timebox(60, () => {
    const random = seeded(seed ^ 0x52494e47);
    const pair = new Pair(core, 4096, 0xfffff800);
    const { a, b, ring, data, capacity } = pair;
    call.addToPollSet(a);
    call.addToPollSet(b);
    const end = data + capacity;
    const entry = (index: number): [number, number] => [call.entry(index), call.entry(index) + L.CONNECTION_SIZE];
    // The test may corrupt this ring; the other direction is not used.
    const unchanged = watch(core, [0, constant('PRIVATE') + 64], entry(a), entry(b), [ring, end], ...polling);
    const inside = (offset: number) => {
      const length = core.result(L.RESULT_LENGTH);
      if (offset < data || offset + length > end) assert.unreachable(`${length} bytes at 0x${offset.toString(16)}`);
    };
    const lengths = [0, 1, 7, 8, 9, 15, 16, 64, 1000, 1008, 1009, 1016, 1017, 1080, 1081, 4088, 0x7fffffff, 0xffffffff];
    const word = (): number => {
      switch (random(4)) {
        case 0:
          return random(2 ** 32);
        case 1:
          return lengths[random(lengths.length)]!;
        case 2:
          return (pair.read + (random(1200) - 200) * 8) >>> 0;
        default:
          return (pair.tail + random(64) - 32) >>> 0;
      }
    };
    const mutate = () => {
      switch (random(6)) {
        case 0:
          core.bytes[data + random(capacity)] = random(256);
          break;
        case 1:
          core.bytes[pair.at(pair.read) + random(8)] = random(256);
          break;
        case 2:
          core.setU32(
            ring + [L.RING_HEAD, L.RING_TAIL, L.RING_ARMED, L.RING_CAPACITY, L.RING_START][random(5)]!,
            word(),
          );
          break;
        case 3:
          core.setU32(data + random(capacity / 4) * 4, word());
          break;
        case 4: {
          // A nearly correct header, followed by a net header.
          const at = pair.at(pair.read);
          core.setU64(at, recordHeader(word() % (random(4) ? 1100 : 2 ** 32), random(5), pair.read));
          if (at + 16 <= end) core.setU32(at + 8 + random(2) * 4, word());
          break;
        }
        default:
          core.bytes[ring + random(L.RING_DATA)] = random(256);
      }
    };
    const outcomes = { records: 0, broken: 0, claims: 0, failures: new Set<number>() };
    for (let i = 0; i < 200_000; i++) {
      mutate();
      for (let n = random(4); n >= 0; n--) {
        switch (random(9)) {
          case 0:
          case 1: {
            const more = core.u64(call.entry(a) + constant('TX_REST')) !== 0n;
            const offset = more ? call.claimMore(a) : call.claim(a, random(10), random(30), random(3000));
            if (offset > 0) {
              inside(offset);
              core.bytes.fill(i, offset, offset + core.result(L.RESULT_LENGTH));
              call.commit(a);
              outcomes.claims++;
            }
            break;
          }
          case 2:
          case 3:
          case 4: {
            const offset = call.peek(b);
            if (offset > 0) {
              inside(offset);
              outcomes.records++;
              call.release(b);
            }
            break;
          }
          case 5: {
            const offset = call.drain(b);
            // The records are not parsed; they only have to lie within bounds.
            if (offset > 0) inside(offset);
            break;
          }
          case 6:
            if (call.unread(a) > capacity) assert.unreachable('more unread bytes than the capacity');
            break;
          case 7:
            call.arm(b);
            call.poll(random(3));
            call.addToPollSet(b);
            break;
          default:
            call.wantRoom(a, random(2) ? 1 : 0);
            call.peekSpin(b, random(4));
            call.claimMoreSpin(b, 0);
        }
      }
      if (core.state(a) === L.STATE_BROKEN || core.state(b) === L.STATE_BROKEN || random(40) === 0) {
        outcomes.broken++;
        outcomes.failures.add(core.failure(a)).add(core.failure(b));
        for (const index of [a, b]) if (core.state(index) === L.STATE_BROKEN) assert.ok(core.failure(index) > 0);
        seek(pair, (random(2 ** 29) * 8) >>> 0);
        for (let n = random(6); n > 0; n--) pair.send(pattern(random(2000), n));
      }
      if (i % 20_000 === 0) unchanged();
    }
    unchanged();
    assert.equal([...outcomes.failures].sort(), [0, L.FAILURE_HEAD, L.FAILURE_RECORD, L.FAILURE_MESSAGE]);
    assert.ok(
      outcomes.records > 10_000 && outcomes.claims > 10_000 && outcomes.broken > 1000,
      JSON.stringify(outcomes),
    );
    call.removeFromPollSet(a);
    call.removeFromPollSet(b);
    pair.free();
    assert.is(core.freeFrames(), initial);
  }),
);

test.run();
