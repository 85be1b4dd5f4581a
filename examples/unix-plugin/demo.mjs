/** Sends messages between two processes on this host over the plugin: `node demo.mjs`. */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Runtime } from 'isthmus';
import { unixPlugin } from './index.mjs';

const ROUNDS = 1000;
const runtime = await Runtime.create({ name: 'demo', regions: '', shm: 0, plugins: [unixPlugin()] });

if (process.send) {
  // The other process: a service that sends every message back.
  const { port } = await runtime.listen({}, async (connection) => {
    for await (const message of connection) await connection.send(message.data);
  });
  process.send(port);
  process.on('disconnect', () => runtime.close());
} else {
  const service = fork(fileURLToPath(import.meta.url));
  const port = await new Promise((resolve, reject) => service.once('message', resolve).once('error', reject));
  const connection = await runtime.connect({ host: '127.0.0.1', port });
  console.log(`connected over ${connection.plugin}`, connection.why ? `(${connection.why})` : '');

  const begin = performance.now();
  for (let round = 0; round < ROUNDS; round++) {
    await connection.send(`message ${round}`);
    const answer = await connection.receive();
    if (answer?.text() !== `message ${round}`) throw new Error(`another answer: ${answer?.text()}`);
  }
  const half = ((performance.now() - begin) * 1000) / ROUNDS / 2;
  console.log(`${ROUNDS} messages went there and back, half a round trip took ${half.toFixed(0)} µs`);
  await runtime.close();
  service.disconnect();
}
