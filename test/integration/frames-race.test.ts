/**
 * Allocators that race in real processes on one region: bytes that a process wrote into its frames stay; some processes
 * are killed meanwhile; and at the end every frame is free again.
 *
 * The processes are this file, started again with a role.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeSync } from 'node:fs';
import { setPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Mapping } from '../../host/native/native.js';
import { L, MIB, mapInto, Shared, TestCore } from '../support/core.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const self = fileURLToPath(import.meta.url);
const MIBS = 4;
const { HALF_CONSUMER: READER, HALF_PRODUCER: WRITER } = L;
/** Letters in the box: (frame, slot) and the number of the run, each u32. */
const LETTERS = 32;

const [role, path = '', workerSeed = '', boxFrame = ''] = process.argv.slice(2);
if (role === 'role:allocate') allocate();

// ── The roles of the processes ───────────────────────────────────────────────────────────────────────────────────────

interface Run {
  readonly frame: number;
  readonly count: number;
  readonly number: number;
}

interface Adopted extends Run {
  readonly mark: number;
}

/**
 * Take and give back runs, with a pattern in each frame. Word 0 of the first frame holds the number of the run from the
 * moment when all is written until it is given back; word 1 of every frame holds its mark. Letters in the box announce
 * runs to other processes, which adopt the other half, check the number as the handshake checks a nonce, and watch the
 * marks until they release it.
 */
function allocate(): never {
  // The watching process comes first, on however few processors.
  setPriority(10);
  const core = new TestCore(MIBS * MIB);
  const mapping = mapInto(core, path);
  const { call } = core;
  const random = seeded(Number(workerSeed));
  for (let slot = 1; call.holdsSlot() === 0; slot = 1 + (slot % (core.slots - 1))) {
    if (call.slotState(slot) !== L.SLOT_FREE || !mapping.lock(slot)) continue;
    if (call.claimSlot(slot, 1)) assert.is(call.publishSlot(), 1);
    else mapping.unlock(slot);
  }
  const box = call.addressOf(Number(boxFrame));
  const word = (frame: number, index: number) => call.addressOf(frame) + index * 4;
  const runs: Run[] = [];
  const adopted: Adopted[] = [];
  const counts = { taken: 0, refused: 0, adopted: 0, stale: 0 };
  let number = 0;
  const check = (run: Run, mark: number) => {
    for (let i = run.frame; i < run.frame + run.count; i++) {
      const found = core.u32(word(i, 1));
      if (found !== mark) throw new Error(`frame ${i} of run ${run.frame}+${run.count}: ${found} instead of ${mark}`);
    }
  };
  const markOf = (run: Run) => (core.slot << 24) | (core.generation << 16) | (run.number & 0xffff);
  const giveBack = () => {
    const run = runs.splice(random(runs.length), 1)[0];
    if (!run) return;
    check(run, markOf(run));
    core.setU32(word(run.frame, 0), 0);
    call.giveBack(run.frame, run.count, READER);
  };
  const letGo = () => {
    const run = adopted.splice(random(adopted.length), 1)[0];
    if (!run) return;
    check(run, run.mark);
    call.letGo(run.frame, WRITER, run.count);
  };
  writeSync(1, 'going\n');
  while (core.u32(box) === 0) {
    switch (random(4)) {
      case 0: {
        const count = 1 + random(random(3) ? 8 : 60);
        const frame = call.take(count, READER);
        if (frame === 0) {
          counts.refused++;
          giveBack();
          break;
        }
        const run = { frame, count, number: ++number };
        const mark = markOf(run);
        for (let i = frame; i < frame + count; i++) core.setU32(word(i, 1), mark);
        core.setU32(word(frame, 0), number);
        runs.push(run);
        counts.taken++;
        const letter = box + 8 + random(LETTERS) * 8;
        core.setU32(letter + 4, number);
        core.setU32(letter, frame * 256 + core.slot);
        break;
      }
      case 1:
        giveBack();
        break;
      case 2: {
        const letter = box + 8 + random(LETTERS) * 8;
        const from = core.u32(letter);
        const told = core.u32(letter + 4);
        const frame = Math.floor(from / 256);
        const slot = from % 256;
        if (from === 0 || slot === core.slot) break;
        const count = call.adopt(frame, WRITER, slot, call.slotGeneration(slot));
        if (count === 0) break;
        if (core.u32(word(frame, 0)) === told) {
          adopted.push({ frame, count, number: told, mark: core.u32(word(frame, 1)) });
          counts.adopted++;
        } else {
          counts.stale++;
          call.letGo(frame, WRITER, count);
        }
        break;
      }
      default:
        if (adopted.length > 10 || random(3) === 0) letGo();
        else if (random(10) === 0) call.collect();
    }
    if (runs.length > 25) giveBack();
  }
  while (runs.length > 0) giveBack();
  while (adopted.length > 0) letGo();
  call.leave();
  mapping.detach();
  writeSync(1, `${JSON.stringify(counts)}\n`);
  process.exit(0);
}

// ── The test ─────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'processes take, adopt and give back, some are killed: no frame is used twice, none leaks',
  timebox(60, async () => {
    const seed = testSeed();
    const random = seeded(seed);
    const region = new Shared(1, MIBS);
    const [core] = region.cores as [TestCore];
    const watcher = new TestCore(MIBS * MIB);
    const mapping: Mapping = mapInto(watcher, region.path);
    const children = new Set<ChildProcess>();
    let killed = 0;
    const outputs: string[] = [];
    const failures: string[] = [];
    try {
      const free = core.unclaimed();
      const boxFrame = core.call.take(1, READER);
      core.bytes.fill(0, core.call.addressOf(boxFrame), core.call.addressOf(boxFrame + 1));
      const start = async () => {
        const child = spawn(
          process.execPath,
          [self, 'role:allocate', region.path, `${random(2 ** 32)}`, `${boxFrame}`],
          {
            stdio: ['ignore', 'pipe', 'pipe'],
          },
        );
        children.add(child);
        let output = '';
        let errors = '';
        child.stdout.on('data', (text) => (output += text));
        child.stderr.on('data', (text) => (errors += text));
        child.on('close', (code, signal) => {
          children.delete(child);
          if (code === 0) outputs.push(output.split('\n')[1] ?? '');
          else if (signal !== 'SIGKILL') failures.push(`code ${code}, ${signal}: ${errors}`);
        });
        await Promise.race([once(child.stdout, 'data'), once(child, 'close')]);
        return child;
      };
      /** The upkeep of a region. */
      const reap = () => {
        for (let slot = 1; slot < core.slots; slot++) {
          const generation = core.call.slotGeneration(slot);
          const state = core.call.slotState(slot);
          if (state === L.SLOT_FREE || mapping.locked(slot)) continue;
          if (core.call.declareDead(slot, generation)) core.call.reclaim(slot, generation);
        }
      };
      await Promise.all(Array.from({ length: 6 }, start));
      const newcomer = sleep(100).then(start);
      for (; killed < 3; killed++) {
        await sleep(100 + random(300));
        const victim = [...children][random(children.size)];
        if (!victim || failures.length > 0) break;
        victim.kill('SIGKILL');
        await once(victim, 'close');
        reap();
      }
      await newcomer;
      await sleep(300);
      core.setU32(core.call.addressOf(boxFrame), 1);
      while (children.size > 0) await Promise.race([...children].map((child) => once(child, 'close')));
      assert.equal(failures, []);
      reap();
      core.call.giveBack(boxFrame, 1, READER);
      core.call.collect();
      core.call.sweep();
      for (let slot = 1; slot < core.slots; slot++) assert.is(core.call.slotState(slot), L.SLOT_FREE, `slot ${slot}`);
      assert.equal(core.tags(), []);
      assert.is(core.unclaimed(), free);
      assert.is(outputs.length, 7 - killed);
      const totals = outputs.map((line) => JSON.parse(line) as Record<string, number>);
      const sum = (name: string) => totals.reduce((all, counts) => all + counts[name]!, 0);
      console.log(
        `killed ${killed}; survivors: ${sum('taken')} taken, ${sum('adopted')} adopted, ${sum('refused')} refused`,
      );
      assert.ok(sum('taken') > 1000 && sum('adopted') > 10);
    } finally {
      for (const child of children) child.kill('SIGKILL');
      mapping.detach();
      region.close();
    }
  }),
);

test.run();
