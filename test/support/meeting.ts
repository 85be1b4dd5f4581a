/** Two runtimes that connect, for tests of the plugin that they use. */
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';

export interface Met {
  readonly plugin: string;
  readonly why: string | undefined;
}

export async function echo(connection: Connection): Promise<void> {
  for await (const { data } of connection) await connection.send(data);
}

export async function ping(connection: Connection): Promise<void> {
  await connection.send('over and out');
  assert.is((await connection.receive())?.text(), 'over and out');
}

/** Two runtimes connect and close. @returns the plugin, and the reasons of both against better plugins */
export async function meet(options: RuntimeOptions, others: RuntimeOptions = options): Promise<Met> {
  const [client, server] = await Promise.all([Runtime.create(options), Runtime.create(others)]);
  let far: Connection | undefined;
  const { port } = await server.listen({}, async (connection) => {
    far = connection;
    await echo(connection);
  });
  try {
    const connection = await client.connect({ host: '127.0.0.1', port });
    await ping(connection);
    return { plugin: connection.plugin, why: [connection.why, far?.why].filter(Boolean).join('; ') };
  } finally {
    await Promise.all([client.close(), server.close()]);
  }
}
