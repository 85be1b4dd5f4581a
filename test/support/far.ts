/** The far end of the conformance suite in a process of its own, and connections to it. */
import { setTimeout as pause } from 'node:timers/promises';
import type { ListenOptions } from '../../host/endpoint/listeners.js';
import type { Runtime } from '../../host/runtime/runtime.js';
import { type Callee, serve } from './calls.js';
import { callFar, type Far, FarEnd, type Pair } from './conformance.js';

/** In the child: listen; every connection is a far end with a number of its own. */
export async function serveFar(runtime: Runtime, options: ListenOptions = {}): Promise<void> {
  const ends: FarEnd[] = [];
  const { port } = await runtime.listen(options, async (connection) => {
    ends.push(new FarEnd(connection));
    await connection.closed;
  });
  serve({
    port: () => port,
    async newest(count: number) {
      while (ends.length < count) await pause(1);
      return ends.length - 1;
    },
    call: (end: number, method: string, args: unknown[]) => callFar(ends[end] as FarEnd, method, args),
    regions: () => runtime.regions(),
  });
}

export interface Ends {
  readonly runtime: Runtime;
  /** The child that runs `serveFar`. */
  readonly child: Callee;
  /** Its address. */
  readonly host?: string;
}

/**
 * Connections from here to such a child.
 * @param start both, called with the first connection
 */
export function pairsWith(start: () => Promise<Ends>): () => Promise<Pair> {
  let started: Promise<Ends & { port: number }> | undefined;
  let connections = 0;
  return async () => {
    started ??= start().then(async (both) => ({ ...both, port: await both.child.call<number>('port') }));
    const { runtime, child, host = '127.0.0.1', port } = await started;
    const near = await runtime.connect({ host, port });
    const end = await child.call<number>('newest', ++connections);
    const far = ((method, ...args) => child.call('call', end, method, args)) as Far;
    return { near, far };
  };
}
