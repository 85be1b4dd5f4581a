/**
 * `isthmus region check` on regions in use, on regions with dead processes, and on files that are no regions. For its
 * findings in corrupted regions see test/unit/verification.test.ts. Other processes are this file again, with the role
 * `peer`.
 */
import { closeSync, copyFileSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import type { Verdict } from '../../host/cli/commands/region-check.js';
import { coreLayout } from '../../host/core/core.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { printed } from '../support/cli.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve, tell } from '../support/process.js';
import { MIB, newPath, newRegion, only, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
/** How often a region under full load is checked. */
const CHECKS = 20;

/** Sends messages of all lengths, fragments and rendezvous among them, for ever; received messages are dropped. */
async function babble(connection: Connection): Promise<void> {
  const receive = async () => {
    for await (const _ of connection);
  };
  const send = async () => {
    for (let number = 0; ; number++) await connection.send(new Uint8Array((number * 7919) % 90_000));
  };
  const large = async () => {
    for (;;) await connection.send(new Uint8Array(1_200_000));
  };
  await Promise.race([receive(), send(), large()]).catch(() => {});
}

const roles: Record<string, () => Promise<void>> = {
  async peer() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    const { port } = await runtime.listen({}, babble);
    serve({
      babble: async (to: number) => {
        void babble(await runtime.connect({ host: '127.0.0.1', port: to }));
      },
      /** Connections that are opened and closed all the time. */
      churn: async (to: number) => {
        for (;;) {
          const connection = await runtime.connect({ host: '127.0.0.1', port: to });
          await connection.send('hello');
          connection.destroy();
        }
      },
      allocate: () => {
        const churn = () => {
          const memory = runtime.allocate(50_000);
          setTimeout(() => {
            memory.release();
            churn();
          }, 1);
        };
        churn();
      },
    });
    tell('ready', port);
  },
};

async function verdictOn(...args: string[]): Promise<{ code: number; verdict: Verdict; stderr: string }> {
  const { code, stdout, stderr } = await printed(['region', 'check', ...args, '--json']);
  return { code, stderr, verdict: (stdout ? JSON.parse(stdout) : undefined) as Verdict };
}

const inWords = ({ findings }: Verdict) => findings.map(({ where, message }) => `${where}: ${message}`).join('\n');

async function start(options: RuntimeOptions): Promise<{ child: Child; port: number }> {
  const child = Child.start(import.meta.url, 'peer', options);
  return { child, port: await child.event<number>('ready') };
}

function spoil(path: string, at: number, bytes: Uint8Array): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

function main(): void {
  test(
    'a region under full load, by processes that attach and leave: no finding, and nothing written',
    timebox(120, async () => {
      const region = newRegion(32 * MIB);
      const options = only(region, { retry: 0 });
      const [a, b, c] = await Promise.all([start(options), start(options), start(options)]);
      await a.child.call('babble', b.port);
      await c.child.call('babble', a.port);
      void c.child.call('churn', b.port).catch(() => {});
      await c.child.call('allocate');
      let records = 0;
      let deepest = 0;
      for (let i = 0; i < CHECKS; i++) {
        const { code, verdict, stderr } = await verdictOn(region);
        assert.is(code, 0, `${stderr}${verdict && inWords(verdict)}`);
        assert.equal(verdict.findings, []);
        assert.is(verdict.counts?.slots.alive, 3);
        records += verdict.counts?.records.total ?? 0;
        deepest = Math.max(deepest, verdict.looks);
      }
      assert.ok(records > 0, 'there was traffic');
      console.log(`${records} records seen in ${CHECKS} checks; at most ${deepest} passes`);

      // Corrupted while in use: the fault stays, and is found.
      const { FRAME } = coreLayout();
      spoil(region, FRAME - 1, Buffer.of(1));
      const { code, verdict } = await verdictOn(region);
      assert.is(code, 1);
      assert.equal(verdict.findings, [
        { severity: 'error', where: 'header', message: `its reserved byte ${FRAME - 1} is 1, not 0` },
      ]);
      const text = await printed(['region', 'check', region]);
      assert.is(text.code, 1);
      assert.match(
        text.stdout,
        /error: header: its reserved byte 4095 is 1, not 0\n\nNOT CONSISTENT: 1 error \(\d+ passes\)/,
      );
      await endChildren();
    }),
  );

  test(
    'dead processes that are not reclaimed: notes; a newcomer reclaims them',
    timebox(60, async () => {
      const region = newRegion();
      const options = only(region);
      const [a, b] = await Promise.all([start(options), start(options)]);
      await a.child.call('babble', b.port);
      await Promise.all([a.child.kill(), b.child.kill()]);
      const before = readFileSync(region);
      const { code, verdict } = await verdictOn(region);
      assert.is(code, 0, inWords(verdict));
      assert.is(verdict.counts?.slots.dead, 2);
      assert.match(
        inWords(verdict),
        /^slot \d: generation \d+ is dead: its lock is free; \d+ frames and [1-9]\d* halves/,
      );
      assert.is(Buffer.compare(before, readFileSync(region)), 0, 'nothing was written');
      const text = (await printed(['region', 'check', region])).stdout;
      assert.match(text, /slots +256 +2 dead/);
      assert.match(text, /consistent, 2 notes/);

      // A copy gives no proof about any process, and is just as consistent.
      const copy = newPath('copy');
      copyFileSync(region, copy);
      const other = await verdictOn(copy);
      assert.is(other.code, 0, inWords(other.verdict));
      assert.is(other.verdict.counts?.slots.unknown, 2);
      assert.match(
        inWords(other.verdict),
        /is silent, and nothing proves it dead.*confirm-dead .* 0\n.*confirm-dead .* 1/,
      );

      const newcomer = await Runtime.create(options);
      const [mapped] = newcomer.regions();
      const { total, tables } = verdict.counts!.frames;
      assert.is(mapped?.freeFrames, total - tables, 'free at once, not only with its first upkeep');
      const after = (await verdictOn(region)).verdict;
      assert.equal(after.findings, []);
      assert.is(after.counts?.slots.dead, 0);
      assert.is(after.counts!.frames.free, after.counts!.frames.total - after.counts!.frames.tables);
      await newcomer.close();
    }),
  );

  test(
    'zeros, another format, too short, missing',
    timebox(60, async () => {
      const zeros = newRegion(MIB);
      const blank = await verdictOn(zeros);
      assert.is(blank.code, 0);
      assert.is(blank.verdict.state, 'blank');
      assert.match(inWords(blank.verdict), /it is not formatted yet/);
      assert.is(statSync(zeros).blocks, 0, 'still sparse');
      const foreign = await verdictOn(newRegion(MIB, Buffer.alloc(MIB, 0xcb)));
      assert.is(foreign.code, 1);
      assert.match(inWords(foreign.verdict), /^header: in use by the C pscom plugin/);
      const text = await printed(['region', 'check', newRegion(MIB, Buffer.from('another format'))]);
      assert.is(text.code, 1);
      assert.match(text.stdout, /error: header: it begins with [\s\S]*otherwise leave it alone/);
      const short = await verdictOn(newRegion(1000));
      assert.is(short.code, 1);
      assert.match(short.stderr, /1000 bytes; a region has at least 1 MiB .*TOO_SMALL/);
      assert.match((await verdictOn(newPath())).stderr, /REGION_NOT_FOUND/);
      assert.is((await verdictOn('--what')).code, 2);
    }),
  );

  test.after(async () => {
    await endChildren();
    removeRegions();
  });
  test.run();
}

if (role) await play(roles);
else main();
