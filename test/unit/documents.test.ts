/** docs/architecture.md: its drawings and its table of region sizes say the same as the core. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type ConstantName, constant, constantNames, L, newCore } from '../support/core.js';
import { timebox } from '../support/timebox.js';

const text = readFileSync(join(process.env['ISTHMUS_ROOT'] ?? '.', 'docs/architecture.md'), 'utf8');

/** What stands below a heading, up to the next one. */
function section(title: string): string {
  const found = new RegExp(`^#+ ${title}\\n([\\s\\S]*?)(?=^#)`, 'm').exec(text)?.[1];
  assert.ok(found, `docs/architecture.md has no section '${title}'`);
  return found as string;
}

/** Offsets in the first drawing of a section that has the words: `256 u32 head`. */
function drawn(title: string, words: string): number[] {
  const blocks = [...section(title).matchAll(/^```\n([\s\S]*?)^```/gm)].map(([, block]) => block as string);
  const block = blocks.find((one) => one.includes(words));
  assert.ok(block, `section '${title}' draws no '${words}'`);
  const offsets = [...(block as string).matchAll(/(?<!\S)(\d+) u(?:8|32|64)/g)].map(([, offset]) => Number(offset));
  return offsets.sort((a, b) => a - b);
}

const offsets = (prefix: string, base: number, not: RegExp): number[] =>
  constantNames
    .filter((name) => name.startsWith(prefix) && !not.test(name))
    .map((name) => constant(name) - base)
    .sort((a, b) => a - b);

test(
  'header, slot, ring and grant are drawn as they are',
  timebox(5, () => {
    assert.equal(drawn('Header', 'magic'), offsets('HEADER_', L.WINDOW, /_LENGTH$/));
    const states = /^SLOT_(SIZE|TEXT_LENGTH|FREE|CLAIMED|ATTACHED|DEAD|FENCED)$/;
    assert.equal(drawn('Peer table', 'heartbeat'), offsets('SLOT_', 0, states));
    assert.equal(drawn('A ring', 'armed'), offsets('RING_', 0, /^RING_(MIN|MAX|DATA)$/));
    assert.equal(drawn("An application's memory", 'token'), offsets('GRANT_', 0, /^GRANT_(SIZE|READ|WRITE)$/));
    assert.match(section('A ring'), new RegExp(`^ ${L.RING_DATA} records$`, 'm'));
  }),
);

test(
  'the areas of an instance are where they are drawn',
  timebox(5, () => {
    const areas = [...section('The memory of an instance').matchAll(/^ 0x([0-9a-f]{6}) {2}([A-Z_]+) /gm)];
    assert.ok(areas.length >= 8);
    for (const [, address, name] of areas)
      assert.is(Number.parseInt(address as string, 16), constant(name as ConstantName), name);
  }),
);

test(
  'the table of region sizes follows from the geometry',
  timebox(5, () => {
    const unit = { KiB: 1024, MiB: 0x100000, GiB: 0x40000000 } as const;
    const bytes = (cell: string) => {
      const [, number, name] = /^(\d+) (KiB|MiB|GiB)/.exec(cell) as unknown as [string, string, keyof typeof unit];
      return Number(number) * unit[name];
    };
    const rows = [...section('The region').matchAll(/^\| (\d+ [MG]iB.*) \|$/gm)].map(([, row]) =>
      (row as string).split('|').map((cell) => cell.trim().replaceAll(',', '')),
    );
    assert.ok(rows.length >= 5);
    const { call } = newCore();
    for (const [region, frames, slots, extentFrames, extents, tables] of rows as [string, ...string[]][]) {
      assert.ok(call.geometry(bytes(region)), region);
      const found = [call.regionFrames.value, call.regionSlots.value, call.extentFrames()];
      assert.equal([Number(frames), Number(slots), Number(extentFrames)], found, region);
      assert.is(Number(extents), call.regionFrames.value / call.extentFrames(), region);
      assert.is(bytes(tables as string), call.tableBytes(), region);
    }
  }),
);

test.run();
