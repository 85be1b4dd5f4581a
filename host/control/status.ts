/** The retained status of a process: what it says, and when it is published. */
import type { MigrationState } from '../api/migratable.js';
import { ownOrigin } from './instance.js';
import { MAX_PLUGINS, type Status, type StatusConnection } from './payload.js';

/** A runtime, as the status describes it. */
export interface StatusMember {
  about(): { readonly id: string; readonly name: string; readonly connections: readonly StatusConnection[] };
}

/** Time from a change of the connections to the status: connections come and go by the hundred, and share one. */
const SETTLE_MS = 500;

export class StatusPublisher {
  readonly #members: Iterable<StatusMember>;
  readonly #publish: (status: Status) => void;
  #state: MigrationState = 'inactive';
  #since = new Date();
  #settling: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(members: Iterable<StatusMember>, publish: (status: Status) => void) {
    this.#members = members;
    this.#publish = publish;
  }

  /** Publish if the state is another one. */
  setState(state: MigrationState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#since = new Date();
    this.publish();
  }

  /** Connections or runtimes have come or gone. */
  publishSoon(): void {
    if (this.#stopped) return;
    this.#settling ??= setTimeout(() => this.publish(), SETTLE_MS).unref();
  }

  publish(): void {
    clearTimeout(this.#settling);
    this.#settling = undefined;
    this.#publish(this.#status());
  }

  /** Publish no more changes of connections and runtimes. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#settling);
  }

  /** The last status of the process. */
  get offline(): Status {
    return { ...this.#status(), state: 'offline', since: new Date().toISOString(), plugins: {} };
  }

  #status(): Status {
    const origin = ownOrigin();
    const names = new Set<string>();
    const plugins: Record<string, string> = {};
    let count = 0;
    for (const member of this.#members) {
      const { id, name, connections } = member.about();
      names.add(name);
      for (const { number, plugin } of connections) {
        if (count++ < MAX_PLUGINS) plugins[`${id}#${number}`] = plugin;
      }
    }
    return {
      state: this.#state,
      since: this.#since.toISOString(),
      name: [...names].join(' '),
      pid: process.pid,
      plugins,
      ...(count > MAX_PLUGINS ? { more: count - MAX_PLUGINS } : {}),
      ...(origin ? { origin } : {}),
    };
  }
}
