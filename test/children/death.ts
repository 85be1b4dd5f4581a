/**
 * A peer that dies in integration/death.test.ts: a process with the role `peer`, or a worker thread with the options of
 * its runtime in `workerData`. The first message of a connection chooses its behaviour there.
 */
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import type { Connection } from '../../host/api/connection.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { checkNumbered, numbered } from '../support/numbered.js';
import { play, roleOptions, serve, tell } from '../support/process.js';

/** Bytes of the longest message; that of the test. */
const LONGEST = 60_000;

/** Send numbered messages for ever, and receive all messages. */
async function babble(connection: Connection): Promise<void> {
  const receive = async () => {
    let number = 0;
    for await (const { data } of connection) checkNumbered(number++, data, LONGEST);
  };
  const send = async () => {
    for (let number = 0; ; number++) await connection.send(numbered(number, LONGEST));
  };
  await Promise.race([receive(), send()]);
}

/** Behaviour of the other process or thread for each connection, chosen by the first message. */
async function behave(connection: Connection): Promise<void> {
  const what = (await connection.receive())?.text();
  if (what === 'echo') for await (const { data } of connection) await connection.send(data);
  else if (what === 'babble') await babble(connection);
  else if (what?.startsWith('send ')) {
    const count = Number(what.slice(5));
    for (let number = 0; number < count; number++) await connection.send(numbered(number, LONGEST));
    tell('sent');
    parentPort?.postMessage('sent');
  }
  await connection.closed;
}

async function start(options: RuntimeOptions): Promise<{ runtime: Runtime; port: number; slot: number | undefined }> {
  const runtime = await Runtime.create(options);
  const { port } = await runtime.listen({}, behave);
  return { runtime, port, slot: runtime.regions()[0]?.slot };
}

if (isMainThread) {
  await play({
    async peer() {
      const { runtime, port, slot } = await start(roleOptions<RuntimeOptions>());
      serve({ close: () => runtime.close(), regions: () => runtime.regions() });
      tell('ready', { port, slot });
    },
  });
} else {
  const { port, slot } = await start(workerData as RuntimeOptions);
  parentPort?.postMessage({ port, slot });
}
