/** The layouts: nothing overlaps, every field is aligned, and every number fits into its field. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type ConstantName, constant, constantNames, L, newCore } from '../support/core.js';
import { timebox } from '../support/timebox.js';

const core = newCore();

/** Fields as [name, bytes] in order: no overlap, each aligned to its size (or to 8), all end before `end`. */
function check(base: number, end: number, fields: readonly (readonly [ConstantName, number])[]): void {
  let free = 0;
  for (const [name, size] of fields) {
    const at = constant(name) - base;
    assert.ok(at >= free, `${name} at ${at} overlaps the one before it, which ends at ${free}`);
    assert.is(at % Math.min(size, 8), 0, `${name} at ${at} is not aligned`);
    free = at + size;
  }
  assert.ok(free <= end, `${fields.at(-1)![0]} ends at ${free}, after ${end}`);
}

test(
  'the private part: areas do not overlap and are large enough',
  timebox(5, () => {
    const bitmap = constant('BITMAP');
    check(0, L.WINDOW, [
      ['PRIVATE', 36],
      ['POLL_SET', 2 * L.CONNECTIONS],
      ['TABLE', L.CONNECTIONS * L.CONNECTION_SIZE],
      ['OWNED', bitmap],
      ['USED', bitmap],
      ['HEADS', bitmap],
      ['PENDING', bitmap],
    ]);
    assert.is(constant('PENDING') + bitmap, L.WINDOW);
    for (const name of ['OWNED', 'USED', 'HEADS'] as const) assert.is(constant(name) % bitmap, 0);
    assert.ok(bitmap * 8 >= L.REGION_MAX / L.FRAME, 'a bit for each frame');
    assert.is(L.WINDOW % 65536, 0, 'a page of Wasm, whatever the page size of the machine');
    assert.ok(L.WINDOW + L.REGION_MAX <= 2 ** 31, 'addresses are positive as i32');
    assert.ok(core.call.fits());
  }),
);

test(
  'results, header, slot, ring and connection: fields in order, aligned, inside',
  timebox(5, () => {
    const words = (...names: ConstantName[]) => names.map((name) => [name, 4] as const);
    check(constant('PRIVATE'), constant('POLL_SET') - constant('PRIVATE'), [
      ...words('RESULT_TYPE', 'RESULT_XLENGTH', 'RESULT_DLENGTH', 'RESULT_OFFSET', 'RESULT_LENGTH', 'RESULT_FLAGS'),
      ...words('RESULT_FRAME', 'RESULT_BYTES', 'LOST'),
    ]);
    check(L.WINDOW, L.FRAME, [
      ['HEADER_MAGIC', 8],
      ...words('HEADER_VERSION', 'HEADER_STATE'),
      ['HEADER_SIZE', 8],
      ...words('HEADER_FRAME', 'HEADER_FRAMES', 'HEADER_SLOTS', 'HEADER_SLOT', 'HEADER_SLOTS_AT'),
      ...words('HEADER_EXTENTS_AT', 'HEADER_EXTENTS', 'HEADER_EXTENT', 'HEADER_MAP_AT', 'HEADER_FIRST'),
      ['HEADER_UUID', 16],
      ['HEADER_HOST', constant('HEADER_HOST_LENGTH')],
    ]);
    check(0, L.SLOT_SIZE, [
      ['SLOT_WORD', 8],
      ['SLOT_HEARTBEAT', 8],
      ['SLOT_INSTANCE', 8],
      ['SLOT_DEV', 8],
      ['SLOT_INO', 8],
      ['SLOT_BOOT', 16],
      ['SLOT_PIDNS', 8],
      ...words('SLOT_PID', 'SLOT_CONNECTIONS'),
      ['SLOT_HOST', constant('SLOT_TEXT_LENGTH')],
      ['SLOT_NAME', constant('SLOT_TEXT_LENGTH')],
      ['SLOT_SLEEPING', 4],
      ['SLOT_SUMMARY', 8],
      ['SLOT_READY', L.CONNECTIONS / 8],
    ]);
    check(0, L.RING_DATA, [
      ['RING_NONCE', 8],
      ...words(
        'RING_CAPACITY',
        'RING_READY',
        'RING_START',
        'RING_TAIL',
        'RING_HEAD',
        'RING_ARMED',
        'RING_RECEIVE_MODE',
      ),
    ]);
    check(0, L.CONNECTION_SIZE, [
      ...words('C_STATE', 'C_FAILURE', 'C_IGNORED', 'C_POLL_PLACE'),
      ...words('TX_RING', 'TX_MASK', 'TX_TAIL', 'TX_HEAD', 'TX_CLAIMED', 'TX_PAD'),
      ['TX_REST', 8],
      ...words('TX_SLOT', 'TX_READY', 'TX_KIND', 'TX_WANTS_ROOM'),
      ...words('RX_RING', 'RX_MASK', 'RX_READ', 'RX_HEAD', 'RX_SPAN', 'RX_ARMED'),
      ['RX_REST', 8],
      ['RX_NET', 8],
      ...words('RX_BODY', 'RX_HOLDS'),
      ['DECODE_HEADER', 8],
      ...words('DECODE_HAVE', 'DECODE_BODY'),
      ['COUNT_SENT', 8],
      ['COUNT_SENT_BYTES', 8],
      ['COUNT_RECEIVED', 8],
      ['COUNT_RECEIVED_BYTES', 8],
      ['COUNT_FULL', 8],
      ...words('RX_FRAME', 'TX_FRAME', 'TX_OWNER', 'TX_OWNER_GENERATION', 'TX_NEED', 'TX_PIECE'),
    ]);
  }),
);

test(
  'words that different sides write are LINE bytes apart',
  timebox(5, () => {
    const line = constant('LINE');
    assert.is(line, 128);
    const apart = (...names: ConstantName[]) => {
      for (const [i, name] of names.entries()) {
        if (i > 0) assert.ok(constant(name) - constant(names[i - 1]!) >= line, `${names[i - 1]} and ${name}`);
      }
    };
    apart('RING_START', 'RING_HEAD', 'RING_DATA');
    apart('RING_TAIL', 'RING_HEAD', 'RING_ARMED', 'RING_DATA');
    apart('SLOT_SLEEPING', 'SLOT_SUMMARY', 'SLOT_READY');
    for (const name of ['RING_TAIL', 'RING_HEAD', 'RING_ARMED', 'SLOT_SLEEPING', 'SLOT_SUMMARY'] as const) {
      assert.is(constant(name) % line, 0, name);
    }
    assert.is(L.SLOT_SIZE % line, 0);
    assert.is(L.WINDOW % line, 0);
  }),
);

test(
  'numbers fit into the fields of tags, words and record headers',
  timebox(5, () => {
    assert.ok(L.REGION_MAX / L.FRAME < 2 ** 20, 'frames in a tag');
    assert.ok(constant('SLOTS_MAX') <= 2 ** 10, 'slot in a tag');
    assert.ok(L.KIND_HELD !== L.KIND_OFFERED && L.KIND_HELD > 0 && L.KIND_OFFERED < 3, 'kind in a tag');
    assert.is(L.CONNECTIONS, 64 * 64, 'a summary word of 64 words of ready bits');
    assert.ok(L.CONNECTIONS <= 2 ** 16, 'an index in POLL_SET');
    const locks = [L.SLOTS_MAX, L.LOCK_FORMAT, L.LOCK_SERVER, L.LOCK_LIFECYCLE];
    assert.equal(
      locks,
      [...new Set(locks)].sort((a, b) => a - b),
      'slots first, a byte for each, the lifecycle last',
    );
    // 24 bits of position / 8 distinguish at least two laps of the largest ring.
    assert.ok(2 ** 27 >= 2 * L.RING_MAX);
    assert.ok(L.RING_MAX + L.RING_DATA < L.REGION_MAX);
    assert.ok(L.RING_MIN / L.FRAME >= 1, 'a ring is made of frames');
    // A fragment, the padding before it and the word after it fit into an empty ring.
    const record = (L.RING_MIN >> constant('RECORD_SHIFT')) + L.RECORD_EXTRA;
    assert.ok(2 * record + L.RECORD_HEADER <= L.RING_MIN);
    // Released records that the consumer has not published do not take the room that a refused claim waits for.
    assert.ok(2 * record + L.RECORD_HEADER + (L.RING_MIN >> constant('PUBLISH_SHIFT')) <= L.RING_MIN);
    assert.is(1 << constant('FRAME_SHIFT'), L.FRAME);
    assert.is(L.HALF_PRODUCER ^ L.HALF_PRODUCER, L.HALF_CONSUMER);
    assert.is(L.HALVES, 16);
  }),
);

test(
  'magic is the name',
  timebox(5, () => {
    assert.is(Buffer.from(core.bytes.slice(L.WINDOW, L.WINDOW + 8)).toString('latin1'), 'ISTHMUS\0');
  }),
);

test(
  'the drawings say the same as the constants',
  timebox(5, () => {
    const source = readFileSync(join(process.env['ISTHMUS_ROOT'] ?? '.', 'assembly/layout.ts'), 'utf8');
    /** Offsets in the drawing whose title has the words. */
    const drawn = (title: string): Set<number> => {
      const lines = source.split('\n');
      const from = lines.findIndex((line) => line.includes('╒') && line.includes(title));
      const to = lines.findIndex((line, i) => i > from && line.includes('╛'));
      assert.ok(from >= 0 && to > from, `no drawing of ${title}`);
      const text = lines.slice(from + 1, to).join('\n');
      return new Set([...text.matchAll(/(?:│|\s) *(\d+) (?:u(?:8|32|64))/g)].map((found) => Number(found[1])));
    };
    const same = (title: string, base: number, prefixes: readonly string[], not: readonly ConstantName[] = []) => {
      const offsets = drawn(title);
      for (const name of constantNames) {
        if (!prefixes.some((prefix) => name.startsWith(prefix)) || not.includes(name)) continue;
        assert.ok(offsets.has(constant(name) - base), `${name} is not in the drawing of ${title}`);
      }
    };
    same('header', L.WINDOW, ['HEADER_'], ['HEADER_HOST_LENGTH']);
    const states: ConstantName[] = [
      'SLOT_SIZE',
      'SLOT_TEXT_LENGTH',
      'SLOT_FREE',
      'SLOT_CLAIMED',
      'SLOT_ATTACHED',
      'SLOT_DEAD',
      'SLOT_FENCED',
    ];
    same('slot', 0, ['SLOT_'], states);
    same('ring: a run', 0, ['RING_'], ['RING_MIN', 'RING_MAX', 'RING_DATA']);
    same('connection (private)', 0, ['C_', 'TX_', 'RX_', 'DECODE_', 'COUNT_'], ['C_POLL_PLACE']);
  }),
);

test.run();
