/** One end of a transport: a process that `ends.ts` starts as `near` and that starts the other end as `far`; or a probe. */
import { fork } from 'node:child_process';
import { Callee, serve } from './calls.js';
import { forkEnd, readOptions } from './ends.js';
import { probe } from './micro/probe.js';
import { pin } from './pinning.js';
import { askingEnd, servingEnd } from './scarce/pair.js';
import { findTransport } from './transports/index.js';
import type { Far, Near } from './transports/transport.js';
import { isWorker } from './transports/worker.js';

async function near(name: string): Promise<void> {
  const { baseline, ...options } = readOptions();
  const transport = findTransport(name, baseline);
  if (!transport) throw new Error(`there is no transport '${name}'`);
  const { cpus } = options;
  const start = async (): Promise<Far> => {
    const child = forkEnd(fork, 'far', name, { ...options, baseline });
    const callee = new Callee(child);
    await callee.call('ready');
    if (cpus && child.pid !== undefined) pin(child.pid, cpus[1]);
    return { child, call: (what, argument) => callee.call(what, argument) };
  };
  let end: Near | undefined;
  const opened = async () => {
    end ??= await transport.near(options, start);
    return end;
  };
  serve({
    async open() {
      await opened();
      if (cpus && !transport.pinsItself) pin(process.pid, cpus[0]);
    },
    latency: async ({ size, milliseconds, batch }: { size: number; milliseconds: number; batch: number }) =>
      (await opened()).latency(size, milliseconds, batch),
    throughput: async ({ size, milliseconds }: { size: number; milliseconds: number }) =>
      (await opened()).throughput(size, milliseconds),
    close: () => end?.close(),
  });
}

function far(name: string): void {
  const { baseline, ...options } = readOptions();
  const transport = findTransport(name, baseline);
  serve({ ready: () => true, ...transport?.far?.(options) });
}

const [role, name = ''] = process.argv.slice(2);
if (!isWorker()) {
  if (role === 'near') await near(name);
  else if (role === 'far') far(name);
  else if (role === 'probe') serve(probe(name, readOptions()));
  else if (role === 'client') serve(askingEnd(name));
  else if (role === 'server') serve(servingEnd(name));
}
