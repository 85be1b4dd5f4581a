/**
 * Allocators that race in real processes on one region: bytes that a process wrote into its frames stay; some processes
 * are killed meanwhile; and at the end every frame is free again.
 *
 * The processes are test/children/frames-race.ts.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Mapping } from '../../host/native/native.js';
import { L, MIB, mapInto, Shared, TestCore } from '../support/core.js';
import { program } from '../support/process.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const MIBS = 4;
const READER = L.HALF_CONSUMER;

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
          [fileURLToPath(program('frames-race')), region.path, `${MIBS}`, `${random(2 ** 32)}`, `${boxFrame}`],
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
