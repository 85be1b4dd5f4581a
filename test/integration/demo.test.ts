/** `isthmus demo`, which `npm start` runs: whole, interrupted, killed; what it leaves behind. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { chosen } from '../support/process.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const CLI = process.env['ISTHMUS_CLI'] ?? resolve('dist/cli.js');
const inShm = () => readdirSync('/dev/shm').filter((name) => name.includes('isthmus-demo'));
const demoFiles = () => [...inShm(), ...readdirSync(tmpdir()).filter((name) => name.startsWith('isthmus-demo'))];

function start() {
  const child = spawn(process.execPath, [CLI, 'demo'], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const ended = once(child, 'close').then(([code]) => ({ code: code as number | null, stdout, stderr }));
  return {
    child,
    ended,
    async printed(pattern: RegExp) {
      while (!pattern.test(stdout)) {
        if (child.exitCode !== null || child.signalCode !== null) throw new Error(`it ended: ${stdout}${stderr}`);
        await pause(10);
      }
    },
  };
}

test(
  'the demo succeeds and leaves nothing',
  timebox(240, async () => {
    const before = demoFiles();
    const { code, stdout, stderr } = await start().ended;
    assert.is(code, 0, stdout + stderr);
    assert.match(stdout, /plugin ivshmem/);
    assert.match(stdout, /100 %/);
    const hashes = [...stdout.matchAll(/SHA-256 \w+ +([0-9a-f]{64})$/gm)].map(([, hash]) => hash);
    assert.is(hashes[0], createHash('sha256').update(readFileSync(process.execPath)).digest('hex'));
    assert.is(hashes[1], hashes[0]);
    // There and back: the output of each of the two moves.
    const moves = [...stdout.matchAll(/^Process (\d+) moves to host (\w): (\w+) → (\w+)$/gm)].map(
      ([, ...move]) => move,
    );
    const [[mover] = []] = moves;
    assert.equal(moves, [
      [mover, 'B', 'ivshmem', 'tcp'],
      [mover, 'A', 'tcp', 'ivshmem'],
    ]);
    assert.match(stdout, /^ +Why: ivshmem: no region in common/m);
    for (const event of ['suspend requested', 'ALLOWED', 'resume requested', 'COMPLETED', 'first message to']) {
      const times = [...stdout.matchAll(new RegExp(`^ +([\\d.]+) +${event}`, 'gm'))];
      assert.is(times.length, 2, `${event}: ${stdout}`);
    }
    assert.is(
      [...stdout.matchAll(/^ +.* of the region in \/proc\/\d+: [1-9]\d* and [1-9]\d* before, none /gm)].length,
      2,
    );
    const counts = [...stdout.matchAll(/^ +\d+ to \d+ +(\d+) +(\d+) +0 +0 +0 +0$/gm)];
    assert.is(counts.length, 2, stdout);
    for (const [, sent, received] of counts) {
      assert.ok(Number(sent) > 0);
      assert.is(sent, received);
    }
    for (const size of ['8 B', '1 KiB', '64 KiB']) assert.match(stdout, new RegExp(`^ +${size} .* 1/[\\d.]+$`, 'm'));
    assert.equal(demoFiles(), before);
  }),
);

/** The child processes of a process. */
function childrenOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        // The name may contain anything; after it come the state and the parent.
        return Number(/\) \S (\d+) [^)]*$/.exec(readFileSync(`/proc/${name}/stat`, 'latin1'))?.[1]) === pid;
      } catch {
        return false;
      }
    })
    .map(Number);
}

for (const { when, scene } of [
  { when: 'in the transfer', scene: /Transfer of/ },
  { when: 'while a process is moved', scene: /^Migration: /m },
]) {
  test(
    `the demo cleans up when it is interrupted or killed ${when}`,
    timebox(150, async () => {
      const before = demoFiles();
      const interrupted = start();
      await interrupted.printed(scene);
      interrupted.child.kill('SIGINT');
      const { code, stderr } = await interrupted.ended;
      assert.is(code, 130, stderr);
      assert.equal(demoFiles(), before);

      const killed = start();
      await killed.printed(scene);
      const children = childrenOf(killed.child.pid as number);
      assert.ok(children.length > 0);
      killed.child.kill('SIGKILL');
      await killed.ended;
      // Its processes notice, each at a different time; then the init of this machine reaps them.
      while (children.some((pid) => existsSync(`/proc/${pid}`))) await pause(20);
      assert.equal(
        inShm(),
        before.filter((name) => existsSync(join('/dev/shm', name))),
      );
      // The folder in the temporary directory is left: no process remains to remove it.
      for (const name of demoFiles()) if (!before.includes(name)) rmSync(join(tmpdir(), name), { recursive: true });
    }),
  );
}

test.run();
