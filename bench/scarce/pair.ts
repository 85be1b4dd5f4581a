/** The two processes of a pair: the client measures; it starts the server, which inherits its processors and its group. */
import { fork } from 'node:child_process';
import { Callee, type Handlers } from '../calls.js';
import { forkEnd, readOptions } from '../ends.js';
import type { Asked } from '../results.js';
import { type Client, KINDS, type Kind } from './asking.js';

function kindOf(name: string): Kind {
  const kind = KINDS.find((one) => one.name === name);
  if (!kind) throw new Error(`there is no kind '${name}' of requests`);
  return kind;
}

async function measure(client: Client, milliseconds: number): Promise<Asked> {
  const times: number[] = [];
  const start = performance.now();
  const end = start + milliseconds;
  let last = start;
  while (last < end) {
    await client.ask();
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  times.sort((a, b) => a - b);
  const at = (share: number) => (times[Math.min(times.length - 1, Math.floor(times.length * share))] as number) * 1000;
  return { perSecond: (times.length / (last - start)) * 1000, p50: at(0.5), p99: at(0.99), over: client.over };
}

/** The calls that the client's process answers. */
export function askingEnd(name: string): Handlers {
  const kind = kindOf(name);
  const options = readOptions();
  let client: Client | undefined;
  return {
    async open() {
      const child = forkEnd(fork, 'server', name, options);
      process.on('exit', () => child.kill('SIGKILL'));
      const address = await new Callee(child).call<string>('serve');
      client = await kind.client(options, address, child);
    },
    measure: (milliseconds: number) => measure(client as Client, milliseconds),
  };
}

/** The calls that the server's process answers. */
export function servingEnd(name: string): Handlers {
  return { serve: () => kindOf(name).serve(readOptions()) };
}
