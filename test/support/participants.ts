/** Processes that take part in migrations over a broker, with stand-ins for their runtimes. */
import { threadId } from 'node:worker_threads';
import type { Migratable } from '../../host/api/migratable.js';
import { type JoinOptions, joinMqtt, type Membership } from '../../host/control/mqtt.js';
import { roleOptions, serve, tell } from './process.js';
import { StandIn } from './standin.js';

export interface Scene {
  readonly url: string;
  readonly count?: number;
  readonly options?: Partial<JoinOptions>;
}

/** Runtimes that take part over a broker. A test may create them in another way than the stand-ins. */
export function participants(
  runtimes: readonly Migratable[],
  { url, options = {} }: Scene,
  lines: string[],
): Membership[] {
  return runtimes.map((runtime, i) =>
    joinMqtt(runtime, {
      broker: url,
      id: `${process.pid}.${threadId}-${i}`,
      name: 'worker',
      connections: () => [{ number: 1, plugin: 'ivshmem' }],
      log: (level, line) => lines.push(`${level} ${line}`),
      ...options,
    }),
  );
}

/** The role of a process with stand-ins, controlled by the test. */
export async function standIns(): Promise<void> {
  const scene = roleOptions<Scene>();
  const runtimes = Array.from({ length: scene.count ?? 1 }, () => new StandIn());
  const lines: string[] = [];
  const members = participants(runtimes, scene, lines);
  serve({
    lines: () => lines,
    calls: () => runtimes.map(({ calls }) => calls),
    states: () => runtimes.map(({ migration }) => migration),
    delay: (i: number, suspend: number) => {
      (runtimes[i] as StandIn).delay = { suspend, resume: 20 };
    },
    fail: (i: number, reason: string) => {
      (runtimes[i] as StandIn).fail.suspend = reason;
    },
    complete: () => {
      for (const member of members) member.complete();
    },
    leave: () => Promise.all(members.map((member) => member.leave())),
  });
  tell('ready');
}
