/**
 * Which conditions of the core the hostile peer of core.test.ts makes true and false. A check that no fuzz reaches is a
 * check that was never seen to work: a directed test of the core has to reach it, or a reason is given below.
 *
 * ISTHMUS_BRANCHES_SHOW=1 prints every condition that the fuzz did not take both ways.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { addonMissing } from '../../host/native/native.js';
import { play, role } from '../support/process.js';
import { timebox } from '../support/timebox.js';

/** The rooms of the core that read words of peers. */
const ROOMS = ['ring', 'framing', 'frames', 'peers', 'region', 'runs', 'connection'];
const tools = join(process.env['ISTHMUS_ROOT'] ?? '.', 'test/support/branches');

/** Conditions that neither the fuzz nor a directed test makes go that way, with the reason why that is acceptable. */
const RACE = 'a peer has to do the same between two instructions of this process';
const TAKEN_BACK = 'the peer has to take it back between two checks of this process: the reason for the second check';
const UNREACHED: Readonly<Record<string, string>> = {
  'framing.ts: offset == BROKEN is true':
    'the decoder writes into a ring in private memory, and the head is private as well',
  'frames.ts: atomic.cmpxchg<u64>(half(frame, which), offer, tagOf(KIND_HELD, slot, generation, count)) != offer is true':
    RACE,
  'frames.ts: atomic.cmpxchg<u64>(extentWord(extent), 0, mine) != 0 is true': RACE,
  'frames.ts: extent > last is false': RACE,
  'frames.ts: count == 0 is true': RACE,
  'frames.ts: claimExtents(from - row, count) is false': RACE,
  'frames.ts: claimExtents(from + each - row, count) is false': RACE,
  'peers.ts: atomic.cmpxchg<u64>(slotAddress(index) + SLOT_WORD, w, wordOf(next, kernel, SLOT_CLAIMED)) != w is true':
    RACE,
  'peers.ts: atomic.xchg<u32>(sleeping, 0) != 0 is false': RACE,
  'region.ts: atomic.load<u32>(HEADER_STATE) == state is false': RACE,
  'runs.ts: count == 0 is true': TAKEN_BACK,
  'runs.ts: atomic.load<u64>(grantAt(frame, place), GRANT_TOKEN) == word(low, high) is false': TAKEN_BACK,
  'connection.ts: count == 0 is true': TAKEN_BACK,
  'connection.ts: nonce != (((<u64>high) << 32) | <u64>low) is true': TAKEN_BACK,
};

const suites: Record<string, () => Promise<unknown>> = {
  fuzz: () => import('./core.test.js'),
  ring: () => import('../unit/ring.test.js'),
  framing: () => import('../unit/framing.test.js'),
  frames: () => import('../unit/frames.test.js'),
  peers: () => import('../unit/peers.test.js'),
  region: () => import('../unit/region.test.js'),
  connection: () => import('../unit/connection-state.test.js'),
  verification: () => import('../unit/verification.test.js'),
  requests: () => import('./requests.test.js'),
};

interface Branch {
  readonly file: string;
  readonly line: number;
  readonly text: string;
}
/** How often each condition was false, and how often true. */
type Taken = readonly (readonly [number, number])[];

/** Run a suite on the instrumented core. */
function runOn(folder: string, suite: string): Taken {
  const args = ['--import', join(tools, 'preload.mjs'), fileURLToPath(import.meta.url), `role:${suite}`];
  const env = { ...process.env, ISTHMUS_BRANCHES: folder, ISTHMUS_HOSTILE_MUTATIONS: '400000' };
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { env, encoding: 'utf8', timeout: 200_000 });
  assert.is(status, 0, `${suite}: ${stdout}\n${stderr}`);
  const [written] = readdirSync(folder).filter((name) => name.startsWith('taken-'));
  const path = join(folder, written as string);
  const taken = JSON.parse(readFileSync(path, 'utf8')) as Taken;
  rmSync(path);
  return taken;
}

function main(): void {
  const missing = addonMissing();
  if (missing) {
    console.log(`skipped: ${missing.message}`);
    test.skip('the branches of the core', () => {});
    test.run();
    return;
  }
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-branches-'));

  test(
    'every condition of the core goes both ways: by the fuzz, by a directed test, or with a reason why not',
    timebox(360, () => {
      const files = ROOMS.map((room) => `assembly/${room}.ts`);
      const built = spawnSync(process.execPath, [join(tools, 'instrument.mjs'), folder, ...files], {
        encoding: 'utf8',
      });
      assert.is(built.status, 0, built.stderr);
      const branches = JSON.parse(readFileSync(join(folder, 'branches.json'), 'utf8')) as Branch[];
      const [fuzzed, ...directed] = Object.keys(suites).map((suite) => runOn(folder, suite)) as [Taken, ...Taken[]];
      const directedSuites = Object.keys(suites).slice(1);
      const sums = new Map(ROOMS.map((room) => [room, { ways: 0, fuzz: 0, directed: 0, argued: 0 }]));
      const open: string[] = [];
      const used = new Set<string>();
      for (const [number, { file, line, text }] of branches.entries()) {
        const sum = sums.get(file.replace('.ts', ''))!;
        for (const way of [0, 1] as const) {
          sum.ways++;
          if (fuzzed[number]![way] > 0) {
            sum.fuzz++;
            continue;
          }
          const by = directedSuites.filter((_, i) => directed[i]![number]![way] > 0);
          const name = `${file}: ${text.replace(/\s+/g, ' ')} is ${way === 1}`;
          // One reason for each place.
          const reason = used.has(name) ? undefined : UNREACHED[name];
          if (by.length > 0) sum.directed++;
          else if (reason) {
            sum.argued++;
            used.add(name);
          } else open.push(`${name} (line ${line})`);
          const shown = by.length > 0 ? `by ${by.join(', ')}` : (reason ?? 'NOT REACHED');
          if (process.env['ISTHMUS_BRANCHES_SHOW']) console.log(`${file}:${line} ${text} is ${way === 1}: ${shown}`);
        }
      }
      for (const [room, { ways, fuzz, directed: more, argued }] of sums) {
        console.log(`${room}: ${ways} ways, ${fuzz} by the fuzz, ${more} by directed tests, ${argued} with a reason`);
      }
      assert.equal(open, []);
    }),
  );

  test.after(() => rmSync(folder, { recursive: true, force: true }));
  test.run();
}

if (role) await play(suites);
else main();
