import { readFileSync } from 'node:fs';
import { connect as dial } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { Child, chosen, endChildren, program } from '../support/process.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
/** Ticks of /proc/PID/stat per second: USER_HZ, the same on every Linux that Node runs on. */
const HZ = 100;

const runtimes: Runtime[] = [];
async function newRuntime(options: RuntimeOptions): Promise<Runtime> {
  const runtime = await Runtime.create(options);
  runtimes.push(runtime);
  return runtime;
}

/** Processor time of a process so far, user and system, in seconds. */
function processorTime(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / HZ;
}

async function ping(connection: Connection, text: string): Promise<number> {
  const start = performance.now();
  await connection.send(text);
  assert.is((await connection.receive())?.text(), text);
  return performance.now() - start;
}

function main(): void {
  const seconds = Number(process.env['ISTHMUS_TEST_IDLE'] ?? 3);
  test(
    `an idle runtime with open connections uses under 1 % of a core, over ${seconds} s`,
    timebox(60 + 2 * seconds, async () => {
      const options = only(newRegion());
      const child = Child.start(program('waiting'), 'idle', options);
      const port = await child.event<number>('ready');
      const runtime = await newRuntime(options);
      const connections: Connection[] = [];
      for (let i = 0; i < 5; i++) connections.push(await runtime.connect({ host: '127.0.0.1', port }));
      for (const connection of connections) {
        assert.is(connection.plugin, 'ivshmem');
        for (let i = 0; i < 20; i++) await ping(connection, `${i}`);
      }
      // The traffic, and the compiler's work for it, are over.
      await pause(2000);
      const bare = Child.start(program('waiting'), 'bare');
      await bare.event('ready');
      await pause(1000);
      const processes = [child.pid, bare.pid];
      const before = processes.map(processorTime);
      const start = performance.now();
      await pause(seconds * 1000);
      const elapsed = (performance.now() - start) / 1000;
      const [share = 1, timer = 1] = processes.map((pid, i) => (processorTime(pid) - (before[i] ?? 0)) / elapsed);
      const percent = (part: number) => `${(part * 100).toFixed(2)} %`;
      console.log(`idle: ${percent(share)} of a core over ${seconds} s; a bare timer of 10 ms: ${percent(timer)}`);
      // The clock ticks in hundredths: over a short time two of them are an accident. And where the machine is so slow
      // that an idle timer takes that much, the test can only show that the runtime is not far from it.
      const limit = timer < 0.005 ? 0.01 : timer * 3;
      assert.ok(share < limit + 2 / HZ / seconds, percent(share));
      await bare.kill();

      for (const connection of connections) {
        const took = await ping(connection, 'are you awake?');
        assert.ok(took < 5000, `${took} ms`);
      }
      await Promise.all(connections.map((connection) => connection.close()));
      await child.kill();
    }),
  );

  for (const plugin of ['ivshmem', 'tcp']) {
    test(
      `${plugin}: messages to a receiver that has backed off arrive, one by one and many at once`,
      timebox(40, async () => {
        const options = only(plugin === 'tcp' ? '' : newRegion());
        const child = Child.start(program('waiting'), 'idle', options);
        const port = await child.event<number>('ready');
        const runtime = await newRuntime(options);
        const connection = await runtime.connect({ host: '127.0.0.1', port });
        assert.is(connection.plugin, plugin);
        const times: number[] = [];
        // To the first pause, and further and further after it.
        for (const wait of [0, 1, 2, 3, 5, 10, 30, 60, 100, 300, 700]) {
          await pause(wait);
          times.push(await ping(connection, `after ${wait}`));
        }
        console.log(`${plugin}: longest time to a receiver that had backed off: ${Math.max(...times).toFixed(1)} ms`);
        for (let round = 0; round < 10; round++) {
          await pause(20 * round);
          for (let i = 0; i < 100; i++) await connection.send(`${round} ${i}`);
          for (let i = 0; i < 100; i++) assert.is((await connection.receive())?.text(), `${round} ${i}`);
        }
        await connection.close();
        await child.kill();
      }),
    );

    test(
      `${plugin}: a process that spins still serves its timers and sockets`,
      timebox(40, async () => {
        const options = only(plugin === 'tcp' ? '' : newRegion());
        const server = await newRuntime(options);
        const { port } = await server.listen({}, async (connection) => {
          for await (const { data } of connection) await connection.send(data);
        });
        const child = Child.start(program('waiting'), 'spin', { port, options, seconds: 1.5 });
        const spinning = await child.event<{ echo: number; plugin: string }>('spinning');
        assert.is(spinning.plugin, plugin);
        const socket = dial(spinning.echo, '127.0.0.1');
        let echoes = 0;
        socket.on('data', (data) => {
          echoes += data.length;
          socket.write(data);
        });
        socket.on('error', () => {});
        socket.write('x');
        const { ticks, rounds, received } = await child.event<Record<string, number>>('done');
        socket.destroy();
        console.log(
          `${plugin}: ${ticks} timers, ${echoes} echoes, ${received} messages in ${rounds} rounds of spinning`,
        );
        // On a busy machine there are few rounds; none at all would be starvation.
        assert.ok((ticks ?? 0) > 0, `${ticks} ticks`);
        assert.ok(echoes > 0, `${echoes} echoes`);
        assert.ok((received ?? 0) > 0, `${received} messages`);
        await child.kill();
      }),
    );
  }

  test(
    'a receive after polling, and a poll after receiving',
    timebox(20, async () => {
      const options = only(newRegion());
      const child = Child.start(program('waiting'), 'idle', options);
      const port = await child.event<number>('ready');
      const connection = await (await newRuntime(options)).connect({ host: '127.0.0.1', port });
      const target = new Uint8Array(100);
      for (let round = 0; round < 5; round++) {
        await connection.send('polled');
        while (connection.tryReceiveInto(target) < 0) await pause(0);
        // From here on the runtime has to poll again.
        assert.ok((await ping(connection, 'received')) < 5000);
      }
      await child.kill();
    }),
  );

  test.after(async () => {
    await Promise.all(runtimes.map((runtime) => runtime.close({ timeout: 500 })));
    await endChildren();
    removeRegions();
  });
  test.run();
}

main();
