/** Messages on rings: fragments, the rules of net headers, and a byte stream cut into records. */
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  assertBytes,
  BROKEN,
  constant,
  L,
  type Message,
  NOTHING,
  newCore,
  Pair,
  pattern,
  peek,
  Receiver,
  receive,
  recordHeader,
  Sender,
  type TestCore,
} from '../support/core.js';
import { cut } from '../support/precon.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const seed = testSeed();
const core = newCore(4);
const { call } = core;
const initial = core.freeFrames();

function withPair<T>(capacity: number, start: number, body: (pair: Pair) => T): T {
  const pair = new Pair(core, capacity, start);
  try {
    return body(pair);
  } finally {
    pair.free();
    assert.is(core.freeFrames(), initial, 'frames leaked');
  }
}

/** Send and receive at the same time. */
function transfer(pair: Pair, body: Uint8Array, type = 0, xlength = 0): Message & { sent: number } {
  const sender = new Sender(core, pair.a, body, type, xlength);
  const receiver = new Receiver(core, pair.b);
  for (let turns = 0; ; turns++) {
    assert.ok(turns < 10_000, 'no progress');
    const all = sender.go();
    const message = receiver.next();
    assert.is(sender.broken || receiver.broken, false);
    if (!message) continue;
    assert.ok(all);
    return { ...message, sent: sender.records };
  }
}

/** Records for a body: the first holds 8 bytes less. */
const recordsFor = (length: number, recordMax: number) =>
  length <= recordMax - 8 ? 1 : 1 + Math.ceil((length - (recordMax - 8)) / recordMax);

test(
  'bodies around every fragment boundary: number of records, bytes, counters',
  timebox(10, () => {
    for (const capacity of [4096, 8192]) {
      for (const start of [0, 2056, 4088, 0xffffff00, 0xfffffff8]) {
        withPair(capacity, start, (pair) => {
          const { recordMax } = pair;
          const lengths = [0, 1, 7, 8, 9];
          for (let n = 1; n <= 6; n++) {
            for (let more = -9; more <= 9; more++) lengths.push(n * recordMax - 8 + more);
          }
          let bytes = 0;
          for (const [i, length] of lengths.entries()) {
            const body = pattern(length, i);
            const xlength = Math.min(length, [0, 1, length, 13, recordMax - 8, recordMax][i % 6]!);
            const message = transfer(pair, body, i, xlength);
            assertBytes(message.body, body, `${length} bytes`);
            assert.is(message.type, i);
            assert.is(message.xlength, xlength);
            assert.is(message.sent, recordsFor(length, recordMax), `${length} bytes`);
            assert.is(message.records, message.sent);
            bytes += length;
          }
          assert.is(core.count(pair.a, L.COUNT_SENT), lengths.length);
          assert.is(core.count(pair.b, L.COUNT_RECEIVED), lengths.length);
          assert.is(core.count(pair.a, L.COUNT_SENT_BYTES), bytes);
          assert.is(core.count(pair.b, L.COUNT_RECEIVED_BYTES), bytes);
        });
      }
    }
  }),
);

test(
  'the largest record and one byte more',
  timebox(5, () => {
    for (const capacity of [4096, 65536, 1 << 20]) {
      withPair(capacity, 0, (pair) => {
        const largest = pair.recordMax - L.NET_HEADER;
        assert.ok(call.claim(pair.a, 0, 0, largest) > 0);
        assert.is(core.result(L.RESULT_LENGTH), largest);
        call.commit(pair.a);
        const record = peek(core, pair.b);
        if (typeof record === 'string') throw new Error(record);
        assert.is(record.length, largest);
        assert.is(record.flags, L.FLAG_FIRST | L.FLAG_LAST);
        call.release(pair.b);

        assert.ok(call.claim(pair.a, 0, 0, largest + 1) > 0);
        assert.is(core.result(L.RESULT_LENGTH), largest);
        call.commit(pair.a);
        const first = peek(core, pair.b);
        if (typeof first === 'string') throw new Error(first);
        assert.equal([first.flags, first.length, first.dlength], [L.FLAG_FIRST, largest, largest + 1]);
        call.release(pair.b);
        assert.is(peek(core, pair.b), 'nothing');
        assert.ok(call.claimMore(pair.a) > 0);
        assert.is(core.result(L.RESULT_LENGTH), 1);
        call.commit(pair.a);
        const last = peek(core, pair.b);
        if (typeof last === 'string') throw new Error(last);
        assert.equal([last.flags, last.length, last.dlength], [L.FLAG_LAST, 1, largest + 1]);
        call.release(pair.b);
        assert.is(call.claimMore(pair.a), BROKEN, 'no message is incomplete');
      });
    }
  }),
);

test(
  'xheader and data: all 16 bits of one, all 32 of the other',
  timebox(10, () => {
    withPair(65536, 0, (pair) => {
      const body = pattern(65535 + 10, 5);
      const message = transfer(pair, body, 0xffff, 65535);
      assert.equal([message.type, message.xlength], [0xffff, 65535]);
      assertBytes(message.body, body);
      // A length of 4 GiB less one, of which only the beginning arrives.
      assert.ok(call.claim(pair.a, 1, 65535, -1) > 0);
      call.commit(pair.a);
      const record = peek(core, pair.b);
      if (typeof record === 'string') throw new Error(record);
      assert.equal([record.xlength, record.dlength >>> 0, record.flags], [65535, 0xffffffff, L.FLAG_FIRST]);
      call.release(pair.b);
      const rest = core.u64(call.entry(pair.b) + constant('RX_REST'));
      assert.is(rest, 65535n + 0xffffffffn - BigInt(record.length));
    });
  }),
);

test(
  'property: messages of any sizes, sender and receiver in any order, arrive once, whole and in order',
  timebox(20, () => {
    const message = fc.record({
      length: fc.oneof(
        fc.integer({ min: 0, max: 40 }),
        fc.integer({ min: 980, max: 1050 }),
        fc.integer({ min: 0, max: 20_000 }),
      ),
      type: fc.integer({ min: 0, max: 0xffff }).filter((type) => type !== L.MESSAGE_EOF),
      x: fc.nat(),
    });
    const property = fc.property(
      fc.array(message, { minLength: 1, maxLength: 20 }),
      fc.array(fc.boolean(), { minLength: 1, maxLength: 50 }),
      fc.integer({ min: 0, max: 2 ** 29 - 1 }),
      (messages, turns, start) =>
        withPair(4096, (start * 8) >>> 0, (pair) => {
          const receiver = new Receiver(core, pair.b);
          let sending = 0;
          let received = 0;
          const bodyOf = (i: number) => pattern(messages[i]!.length, i);
          const xOf = (i: number) => messages[i]!.x % (Math.min(messages[i]!.length, 65535) + 1);
          let sender: Sender | undefined;
          for (let turn = 0; received < messages.length; turn++) {
            assert.ok(turn < 20_000, 'no progress');
            if (turns[turn % turns.length] || turn % 97 === 0) {
              if (!sender && sending < messages.length) {
                sender = new Sender(core, pair.a, bodyOf(sending), messages[sending]!.type, xOf(sending));
              }
              if (sender?.go()) {
                sending++;
                sender = undefined;
              }
            }
            if (!turns[turn % turns.length] || turn % 89 === 0) {
              const found = receiver.next();
              if (!found) continue;
              assertBytes(found.body, bodyOf(received));
              assert.is(found.type, messages[received]!.type);
              assert.is(found.xlength, xOf(received));
              received++;
            }
          }
          assert.is(receiver.broken, false);
          assert.is(receiver.next(), undefined);
        }),
    );
    fc.assert(property, { seed: seed | 0, numRuns: 100 });
  }),
);

const { PIECE_MIN, PIECE_SHIFT } = L;

/** Lengths of the records of a message that is not received. */
function recordsOf(pair: Pair, body: number): number[] {
  const lengths: number[] = [];
  const sender = new Sender(core, pair.a, pattern(body, 3), 0, 0);
  assert.ok(sender.go());
  for (;;) {
    const record = peek(core, pair.b);
    if (typeof record === 'string') return lengths;
    lengths.push(record.length);
    call.release(pair.b);
  }
}

test(
  'a receiver that copies out, has released everything and polls gets pieces; all others get the longest records',
  timebox(10, () => {
    withPair(1 << 20, 0, (pair) => {
      const whole = (body: number, why: string) => {
        assert.equal(recordsOf(pair, body), [body], why);
        peek(core, pair.b); // The head is published when the ring is found empty.
      };
      assert.is(call.receiverWaits(pair.a), 0);
      whole(200_000, 'no receive mode');
      call.setReceiveMode(pair.b, L.RECEIVE_MODE_COPY);
      assert.is(call.receiverWaits(pair.a), 1);
      whole(2 * PIECE_MIN, 'too short');
      for (const body of [2 * PIECE_MIN + 1, 65_536, 200_000]) {
        const piece = Math.max(body >> PIECE_SHIFT, PIECE_MIN) & ~63;
        const expected = Array.from({ length: Math.ceil(body / piece) }, (_, i) => Math.min(piece, body - i * piece));
        assert.equal(recordsOf(pair, body), expected, `${body} bytes`);
        peek(core, pair.b);
      }
      // Far more than the ring: no record is longer than the limit.
      const first = call.claim(pair.a, 0, 0, 64 << 20);
      assert.ok(first > 0);
      assert.is(core.result(L.RESULT_LENGTH), pair.recordMax - L.NET_HEADER);
    });
    withPair(1 << 20, 0, (pair) => {
      call.setReceiveMode(pair.b, L.RECEIVE_MODE_COPY);
      assert.ok(pair.send(pattern(100, 1)));
      assert.is(call.receiverWaits(pair.a), 0, 'one is unread');
      call.claim(pair.a, 0, 0, 200_000);
      assert.is(core.result(L.RESULT_LENGTH), 200_000);
    });
    withPair(1 << 20, 0, (pair) => {
      call.setReceiveMode(pair.b, L.RECEIVE_MODE_COPY);
      assert.is(call.arm(pair.b), 1);
      assert.is(call.receiverWaits(pair.a), 0, 'it sleeps');
      call.disarm(pair.b);
      assert.is(call.receiverWaits(pair.a), 1);
      const { capacity, recordMax } = pair;
      const wantsRun = (body: number) => call.wantsRun(pair.a, body);
      assert.equal([capacity, 200].map(wantsRun), [0, 0], 'it copies');
      call.setReceiveMode(pair.b, L.RECEIVE_MODE_IN_PLACE);
      assert.is(call.receiverWaits(pair.a), 0, 'it reads in place');
      assert.equal([recordMax - 8, recordMax - 7, capacity, 0x8000_0000, -1].map(wantsRun), [0, 1, 1, 1, 1]);
      // Receive modes that do not exist.
      for (const value of [0, 3, 0x8000_0000, 0xffff_ffff]) {
        core.setU32(pair.ring + L.RING_RECEIVE_MODE, value);
        assert.equal([call.receiverWaits(pair.a), wantsRun(capacity)], [0, 0]);
      }
      call.setReceiveMode(pair.b, L.RECEIVE_MODE_COPY);
      core.setU32(pair.ring + L.RING_HEAD, 4);
      assert.is(call.receiverWaits(pair.a), 0, 'an invalid head');
    });
    const lonely = call.open() - 1;
    assert.is(call.receiverWaits(lonely), 0, 'without a ring no receiver waits');
    assert.is(call.wantsRun(lonely, 1 << 20), 0);
    call.setReceiveMode(lonely, 1);
    call.free(lonely);
  }),
);

test(
  'property: a consumer that changes its receive mode at any time gets every byte',
  timebox(20, () => {
    const property = fc.property(
      fc.array(fc.integer({ min: 0, max: 200_000 }), { minLength: 1, maxLength: 8 }),
      fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 50 }),
      (lengths, turns) =>
        withPair(65_536, 0, (pair) => {
          const receiver = new Receiver(core, pair.b);
          let sending = 0;
          let received = 0;
          let sender: Sender | undefined;
          for (let turn = 0; received < lengths.length; turn++) {
            assert.ok(turn < 20_000, 'no progress');
            const what = turns[turn % turns.length]!;
            if (what < 2) call.setReceiveMode(pair.b, what + 1);
            if (what === 2) core.setU32(pair.ring + L.RING_RECEIVE_MODE, Math.imul(turn, 0x9e3779b1) >>> 0);
            if (what === 3 || turn % 13 === 0) {
              if (!sender && sending < lengths.length) {
                sender = new Sender(core, pair.a, pattern(lengths[sending]!, sending), 0, 0);
              }
              if (sender?.go()) {
                sending++;
                sender = undefined;
              }
            }
            if (what === 4 || turn % 7 === 0) {
              const found = receiver.next();
              if (!found) continue;
              assertBytes(found.body, pattern(lengths[received]!, received));
              received++;
            }
          }
          assert.is(receiver.broken, false);
        }),
    );
    fc.assert(property, { seed: seed | 0, numRuns: 40 });
  }),
);

// ── Rules ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const { RECORD_FIRST, RECORD_MORE } = L;
const net = (xlength: number, dlength: number, type = 0) =>
  BigInt(type) | (BigInt(xlength) << 16n) | (BigInt(dlength) << 32n);

/** Write records as a peer might; each [payload bytes, kind, net header]. */
function forge(pair: Pair, ...records: readonly (readonly [number, number, bigint?])[]): void {
  let position = pair.read;
  for (const [length, kind, header] of records) {
    core.setU64(pair.at(position), recordHeader(length, kind, position));
    if (header !== undefined) core.setU64(pair.at(position) + 8, header);
    position = (position + ((length + 15) & ~7)) >>> 0;
  }
  core.setU64(pair.at(position), 0n);
}

test(
  'net headers and fragments that violate the protocol break the connection',
  timebox(5, () => {
    const cases: [string, (readonly [number, number, bigint?])[]][] = [
      ['MORE without FIRST', [[8, RECORD_MORE, 0n]]],
      ['empty MORE without FIRST', [[0, RECORD_MORE]]],
      [
        'MORE after a whole message',
        [
          [16, RECORD_FIRST, net(0, 8)],
          [8, RECORD_MORE, 0n],
        ],
      ],
      [
        'MORE after an empty message',
        [
          [8, RECORD_FIRST, 0n],
          [8, RECORD_MORE, 0n],
        ],
      ],
      [
        'FIRST inside a message',
        [
          [16, RECORD_FIRST, net(0, 9)],
          [16, RECORD_FIRST, net(0, 8)],
        ],
      ],
      [
        'an empty fragment',
        [
          [16, RECORD_FIRST, net(0, 9)],
          [0, RECORD_MORE],
        ],
      ],
      [
        'a fragment too long',
        [
          [16, RECORD_FIRST, net(0, 9)],
          [2, RECORD_MORE, 0n],
        ],
      ],
      ['more body than announced', [[17, RECORD_FIRST, net(0, 8)]]],
      ['a body although none is announced', [[9, RECORD_FIRST, 0n]]],
      ['xheader shorter than the body', [[108, RECORD_FIRST, net(99, 0)]]],
    ];
    for (let length = 0; length < 8; length++) cases.push([`FIRST of ${length} bytes`, [[length, RECORD_FIRST, 0n]]]);
    for (const [what, records] of cases) {
      withPair(4096, 0xffffffe0, (pair) => {
        // The forged records do not wrap around the end of the ring.
        for (let i = 0; i < 2; i++) assert.is(transfer(pair, pattern(24, i)).sent, 1);
        forge(pair, ...records);
        for (let i = 1; i < records.length; i++) {
          assert.is(typeof peek(core, pair.b), 'object', what);
          call.release(pair.b);
        }
        assert.is(peek(core, pair.b), 'broken', what);
        assert.is(core.state(pair.b), L.STATE_BROKEN, what);
        assert.is(core.failure(pair.b), L.FAILURE_MESSAGE, what);
        assert.is(peek(core, pair.b), 'broken', what);
        // The other direction is not affected: records committed there are still delivered.
        assert.is(core.state(pair.a), L.STATE_OPEN);
      });
    }
  }),
);

test(
  'the smallest possible fragments, and a FIRST with only its header',
  timebox(5, () => {
    withPair(4096, 0, (pair) => {
      forge(pair, [8, RECORD_FIRST, net(1, 2)], [1, RECORD_MORE, 1n], [1, RECORD_MORE, 2n], [1, RECORD_MORE, 3n]);
      const message = receive(core, pair.b)!;
      assert.equal([message.records, message.xlength, ...message.body], [4, 1, 1, 2, 3]);
      assert.is(core.count(pair.b, L.COUNT_RECEIVED), 1);
      assert.is(core.count(pair.b, L.COUNT_RECEIVED_BYTES), 3);
    });
  }),
);

test(
  'EOF: once in each direction; a second one is counted and ignored; with a body as well',
  timebox(5, () => {
    withPair(4096, 0, (pair) => {
      assert.ok(pair.send(pattern(3, 3)));
      assert.is(call.sendEof(pair.a), 1);
      assert.is(core.state(pair.a), L.STATE_CLOSING);
      assert.is(call.sendEof(pair.a), BROKEN, 'twice');
      assert.is(call.claim(pair.a, 0, 0, 1), BROKEN, 'a message after it');
      assert.is(core.state(pair.a), L.STATE_CLOSING);
      assertBytes(pair.receive()!.body, pattern(3, 3));
      assert.is(core.state(pair.b), L.STATE_OPEN);
      assert.is(pair.receive()!.type, L.MESSAGE_EOF);
      assert.is(core.state(pair.b), L.STATE_PEER_CLOSED);
      // A peer that violates the protocol sends another.
      for (const [length, dlength] of [
        [8, 0],
        [16, 8],
      ] as const) {
        forge(pair, [length, RECORD_FIRST, net(0, dlength, L.MESSAGE_EOF)]);
        assert.ok(pair.receive());
        assert.is(core.state(pair.b), L.STATE_PEER_CLOSED);
      }
      assert.is(core.field(pair.b, L.C_IGNORED), 2);
      // The other direction is still open.
      assert.ok(new Sender(core, pair.b, pattern(5, 5)).go());
      assertBytes(receive(core, pair.a)!.body, pattern(5, 5));
      assert.is(call.sendEof(pair.b), 1);
      assert.is(core.state(pair.b), L.STATE_CLOSED);
      assert.is(receive(core, pair.a)!.type, L.MESSAGE_EOF);
      assert.is(core.state(pair.a), L.STATE_CLOSED);
    });
    withPair(4096, 0, (pair) => {
      while (pair.send(new Uint8Array(48)));
      while (pair.send(new Uint8Array(0)));
      assert.is(call.sendEof(pair.a), NOTHING, 'the ring is full');
      assert.is(core.state(pair.a), L.STATE_OPEN);
      while (pair.receive());
      assert.is(call.sendEof(pair.a), 1);
    });
  }),
);

// ── A byte stream ────────────────────────────────────────────────────────────────────────────────────────────────────

interface Planned {
  readonly type: number;
  readonly xlength: number;
  readonly body: Uint8Array;
}

function streamOf(messages: readonly Planned[]): Buffer {
  return Buffer.concat(
    messages.flatMap(({ type, xlength, body }) => {
      const header = Buffer.alloc(8);
      header.writeUInt16LE(type, 0);
      header.writeUInt16LE(xlength, 2);
      header.writeUInt32LE(body.length - xlength, 4);
      return [header, body];
    }),
  );
}

/** A pump: writes bytes into the ring that `pair.b` reads from, as tcp does. */
class Feeder {
  refused = false;
  #rest: Uint8Array = new Uint8Array(0);
  #due = false;
  readonly #core: TestCore;
  readonly #index: number;

  constructor(core: TestCore, index: number) {
    this.#core = core;
    this.#index = index;
  }

  /** Take bytes while there is room. @returns whether all were taken */
  feed(bytes: Uint8Array = new Uint8Array(0)): boolean {
    const { call } = this.#core;
    this.#rest = Buffer.concat([this.#rest, bytes]);
    while (this.#rest.length > 0 || this.#due) {
      const offset = call.decode(this.#index, this.#rest.length);
      if (offset === NOTHING) return false;
      if (offset === BROKEN) {
        this.refused = true;
        return false;
      }
      const length = this.#core.result(L.RESULT_LENGTH);
      assert.ok(this.#due ? length === 0 : length > 0 && length <= this.#rest.length, `room for ${length}`);
      this.#core.bytes.set(this.#rest.subarray(0, length), offset);
      this.#rest = this.#rest.subarray(length);
      const what = call.decoded(this.#index, length);
      this.#due = (what & L.DECODED_EMPTY) !== 0;
    }
    return true;
  }
}

/** Feed chunks, receive the messages, compare with the plan. */
function decodes(pair: Pair, chunks: readonly Uint8Array[], plan: readonly Planned[], lazily = false): void {
  const feeder = new Feeder(core, pair.a);
  const receiver = new Receiver(core, pair.b);
  const found: Message[] = [];
  const take = () => {
    for (let message = receiver.next(); message; message = receiver.next()) found.push(message);
  };
  for (const chunk of chunks) {
    for (let all = feeder.feed(chunk); !all; all = feeder.feed()) {
      if (feeder.refused) assert.unreachable('the stream was refused');
      const before = core.count(pair.b, L.COUNT_RECEIVED_BYTES);
      take();
      if (receiver.broken) assert.unreachable(`broken by ${core.failure(pair.b)}`);
      assert.ok(core.count(pair.b, L.COUNT_RECEIVED_BYTES) > before || call.unread(pair.a) === 0, 'no progress');
    }
    if (!lazily) take();
  }
  take();
  assert.is(receiver.broken, false);
  assert.is(found.length, plan.length);
  for (const [i, { type, xlength, body }] of plan.entries()) {
    assert.equal([found[i]!.type, found[i]!.xlength], [type, xlength]);
    assertBytes(found[i]!.body, body, `message ${i}`);
  }
}

/** Reset the decoder to its state before an EOF, so that one pair serves many streams. */
function reopen(pair: Pair): void {
  for (const index of [pair.a, pair.b]) core.setU32(call.entry(index) + L.C_STATE, L.STATE_OPEN);
}

const plan: readonly Planned[] = [
  { type: 0, xlength: 0, body: pattern(5, 1) },
  { type: 1, xlength: 0, body: pattern(0, 2) },
  { type: 0, xlength: 7, body: pattern(7, 3) },
  { type: 2, xlength: 0, body: pattern(0, 4) },
  { type: 3, xlength: 0, body: pattern(0, 5) },
  { type: 0xffff, xlength: 3, body: pattern(40, 6) },
  { type: L.MESSAGE_EOF, xlength: 0, body: pattern(0, 7) },
];

test(
  'a stream cut at every position, at every two, and into single bytes gives the same messages',
  timebox(10, () => {
    const stream = streamOf(plan);
    withPair(4096, 0xfffff000, (pair) => {
      for (let first = 0; first <= stream.length; first++) {
        for (let second = first; second <= stream.length; second += first % 3 ? 5 : 1) {
          decodes(pair, [stream.subarray(0, first), stream.subarray(first, second), stream.subarray(second)], plan);
          assert.is(call.atMessageBoundary(pair.a), 1);
          reopen(pair);
        }
      }
      decodes(
        pair,
        [...stream].map((byte) => Uint8Array.of(byte)),
        plan,
      );
      assert.is(core.state(pair.a), L.STATE_CLOSING);
      assert.is(core.state(pair.b), L.STATE_PEER_CLOSED);
    });
  }),
);

test(
  'atMessageBoundary: between two messages and nowhere else',
  timebox(5, () => {
    const stream = streamOf(plan);
    const boundaries = new Set([0]);
    let at = 0;
    for (const { body } of plan) {
      at += 8 + body.length;
      boundaries.add(at);
    }
    withPair(4096, 0, (pair) => {
      const feeder = new Feeder(core, pair.a);
      for (let i = 0; i < stream.length; i++) {
        assert.is(call.atMessageBoundary(pair.a), boundaries.has(i) ? 1 : 0, `at ${i}`);
        assert.ok(feeder.feed(stream.subarray(i, i + 1)));
      }
      assert.is(call.atMessageBoundary(pair.a), 1);
    });
  }),
);

test(
  'bytes after an EOF are refused, and none of them arrives',
  timebox(5, () => {
    withPair(4096, 0, (pair) => {
      const feeder = new Feeder(core, pair.a);
      feeder.feed(Buffer.concat([streamOf(plan), Buffer.of(0)]));
      assert.is(feeder.refused, true);
      let count = 0;
      while (pair.receive()) count++;
      assert.is(count, plan.length);
      assert.is(core.state(pair.b), L.STATE_PEER_CLOSED);
    });
    // An EOF with a body ends the stream after its body.
    withPair(4096, 0, (pair) => {
      const feeder = new Feeder(core, pair.a);
      const eof = streamOf([{ type: L.MESSAGE_EOF, xlength: 2, body: pattern(3000, 1) }]);
      assert.ok(feeder.feed(eof));
      assert.is(core.state(pair.a), L.STATE_CLOSING);
      assert.is(feeder.feed(Buffer.of(1)), false);
      assert.is(feeder.refused, true);
      assertBytes(pair.receive()!.body, pattern(3000, 1));
    });
  }),
);

test(
  'a full ring holds the stream back; drain gives the stream again, byte for byte',
  timebox(20, () => {
    const random = seeded(seed);
    for (let round = 0; round < 60; round++) {
      const messages: Planned[] = Array.from({ length: 1 + random(30) }, (_, i) => {
        const length = [random(30), 980 + random(60), random(6000), 0][random(4)]!;
        return { type: random(8), xlength: random(Math.min(length, 65535) + 1), body: pattern(length, i) };
      });
      const stream = streamOf(messages);
      withPair(4096, (random(2 ** 29) * 8) >>> 0, (pair) => {
        decodes(pair, cut(stream, random), messages, random(2) === 0);
      });
      // Messages sent, drained as bytes, in batches.
      withPair(4096, (random(2 ** 29) * 8) >>> 0, (pair) => {
        const drained: Buffer[] = [];
        const drain = () => {
          for (let offset = call.drain(pair.b); offset !== NOTHING; offset = call.drain(pair.b)) {
            assert.ok(offset > 0);
            const length = core.result(L.RESULT_LENGTH);
            drained.push(Buffer.from(core.bytes.slice(offset, offset + length)));
            call.drained(pair.b);
            assert.is(pair.head, pair.read, 'a drained record is free at once');
          }
        };
        for (const { type, xlength, body } of messages) {
          const sender = new Sender(core, pair.a, body, type, xlength);
          while (!sender.go()) {
            assert.is(sender.broken, false);
            drain();
          }
          if (random(3) === 0) drain();
        }
        drain();
        assertBytes(Buffer.concat(drained), stream, `round ${round}`);
      });
    }
  }),
);

test(
  'property: a stream in any chunks gives the same messages',
  timebox(20, () => {
    const length = fc.oneof(
      fc.integer({ min: 0, max: 20 }),
      fc.integer({ min: 990, max: 1030 }),
      fc.integer({ min: 0, max: 5000 }),
    );
    const property = fc.property(
      fc.array(length, { minLength: 1, maxLength: 12 }),
      fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 12 }),
      fc.boolean(),
      (lengths, sizes, lazily) =>
        withPair(4096, 0xfffffff8, (pair) => {
          const messages = lengths.map((n, i) => ({
            type: i,
            xlength: i % 8 === L.MESSAGE_EOF ? 0 : (n % 9) % (n + 1),
            body: pattern(n, i),
          }));
          const plan = messages.map((message) => ({ ...message, type: message.type % 8 }));
          const stream = streamOf(plan);
          const chunks: Buffer[] = [];
          for (let at = 0, i = 0; at < stream.length; i++) {
            const size = sizes[i % sizes.length]!;
            chunks.push(stream.subarray(at, at + size));
            at += size;
          }
          decodes(pair, chunks, plan, lazily);
        }),
    );
    fc.assert(property, { seed: seed | 0, numRuns: 100 });
  }),
);

test(
  'a decoder refuses bytes on a connection that is not open',
  timebox(5, () => {
    withPair(4096, 0, (pair) => {
      for (const state of [L.STATE_FREE, L.STATE_OPENING, L.STATE_CLOSING, L.STATE_CLOSED, L.STATE_BROKEN]) {
        core.setU32(call.entry(pair.a) + L.C_STATE, state);
        assert.is(call.decode(pair.a, 8), BROKEN);
      }
      core.setU32(call.entry(pair.a) + L.C_STATE, L.STATE_PEER_CLOSED);
      assert.ok(call.decode(pair.a, 8) > 0);
    });
  }),
);

test.run();
