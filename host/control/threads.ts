/**
 * Threads of one process that share one control: one of them leads and speaks for all (leadership.ts). The others report
 * their runtimes to it, and suspend and resume them at its request.
 *
 * The threads share a channel and nothing else. No thread is kept alive by it.
 */
import { BroadcastChannel, threadId } from 'node:worker_threads';
import { IsthmusError } from '../base/errors.js';
import { Leadership, MAX_SILENCE_MS } from './leadership.js';
import { type Act, type Described, RemoteRuntime } from './remote-runtime.js';

type Message = { readonly from: number } & (
  | { readonly kind: 'query' }
  | { readonly kind: 'lead' }
  /** All runtimes of a thread; none: the thread is leaving. */
  | { readonly kind: 'runtimes'; readonly runtimes: readonly Described[] }
  | { readonly kind: 'complete'; readonly number: number }
  | { readonly kind: 'act'; readonly to: number; readonly number: number; readonly act: Act; readonly call: number }
  | { readonly kind: 'acted'; readonly to: number; readonly call: number; readonly error: string | undefined }
);
type Outgoing = Message extends infer M ? (M extends unknown ? Omit<M, 'from'> : never) : never;

/** Interval between two messages of a thread, which show that it is alive. */
const HEARTBEAT_MS = 1000;

export interface ThreadEvents {
  /** The runtimes of this thread. */
  describe(): readonly Described[];
  act(number: number, act: Act): Promise<void>;
  /** This thread speaks for all from here on, or no longer. */
  lead(leading: boolean): void;
  // The following ones come only while this thread leads.
  joined(runtime: RemoteRuntime): void;
  /** Connections of a remote runtime have come or gone. */
  changed(): void;
  left(runtime: RemoteRuntime): void;
  completed(runtime: RemoteRuntime): void;
}

interface Other {
  readonly runtimes: Map<number, RemoteRuntime>;
  /** When its last report came. */
  heard: number;
}

export class Threads {
  readonly #events: ThreadEvents;
  readonly #channel: BroadcastChannel;
  readonly #heartbeat: NodeJS.Timeout;
  readonly #leadership: Leadership;
  readonly #others = new Map<number, Other>();
  /** Calls of remote runtimes that have not ended. */
  readonly #calls = new Map<number, { readonly thread: number; end(error: string | undefined): void }>();
  #next = 1;

  /** @param key the same in all threads that belong together */
  constructor(key: string, events: ThreadEvents) {
    this.#events = events;
    this.#leadership = new Leadership(threadId, {
      send: (kind) => this.#send({ kind }),
      changed: (leading) => {
        if (!leading) this.#forgetAll();
        events.lead(leading);
      },
      newLeader: () => this.report(),
    });
    this.#channel = new BroadcastChannel(`isthmus ${key}`);
    this.#channel.onmessage = (event) => this.#received((event as { readonly data: Message }).data);
    this.#channel.unref();
    this.#heartbeat = setInterval(() => this.#beat(), HEARTBEAT_MS).unref();
  }

  /** Find out which thread leads. */
  start(): void {
    this.#leadership.start();
  }

  /** The runtimes of this thread, or their states, have changed. */
  report(): void {
    if (!this.#leadership.leading) this.#send({ kind: 'runtimes', runtimes: this.#events.describe() });
  }

  /** The application of a runtime of this thread is complete, while another thread leads. */
  complete(number: number): void {
    if (!this.#leadership.leading) this.#send({ kind: 'complete', number });
  }

  close(): void {
    clearInterval(this.#heartbeat);
    this.#leadership.stop();
    this.#send({ kind: 'runtimes', runtimes: [] });
    this.#channel.close();
    this.#forgetAll();
  }

  #send(message: Outgoing): void {
    this.#channel.postMessage({ from: threadId, ...message });
  }

  #beat(): void {
    if (this.#leadership.leading) {
      this.#send({ kind: 'lead' });
      const now = performance.now();
      for (const [thread, { heard }] of this.#others) if (now - heard > MAX_SILENCE_MS) this.#forget(thread);
    } else if (!this.#leadership.checkLeader()) {
      this.report();
    }
  }

  #received(message: Message): void {
    const { from } = message;
    switch (message.kind) {
      case 'query':
        this.#leadership.onWho();
        break;
      case 'lead':
        this.#leadership.onLead(from);
        break;
      case 'runtimes':
        if (this.#leadership.leading) this.#reported(from, message.runtimes);
        else if (message.runtimes.length === 0) this.#leadership.onLeft(from);
        break;
      case 'complete': {
        const runtime = this.#others.get(from)?.runtimes.get(message.number);
        if (this.#leadership.leading && runtime) this.#events.completed(runtime);
        break;
      }
      case 'act':
        if (message.to === threadId) void this.#act(from, message.number, message.act, message.call);
        break;
      case 'acted':
        if (message.to === threadId) this.#calls.get(message.call)?.end(message.error);
    }
  }

  /** Suspend or resume a runtime of this thread. */
  async #act(to: number, number: number, act: Act, call: number): Promise<void> {
    let error: string | undefined;
    try {
      await this.#events.act(number, act);
    } catch (cause) {
      error = cause instanceof Error ? cause.message : String(cause);
    }
    this.report();
    this.#send({ kind: 'acted', to, call, error });
  }

  // ─── runtimes of other threads ─────────────────────────────────────────────────────────────────────────────────────

  #reported(thread: number, runtimes: readonly Described[]): void {
    const other = this.#others.get(thread) ?? { runtimes: new Map<number, RemoteRuntime>(), heard: 0 };
    this.#others.set(thread, other);
    other.heard = performance.now();
    const reported = new Set(runtimes.map(({ number }) => number));
    for (const number of [...other.runtimes.keys()]) if (!reported.has(number)) this.#left(other, number);
    for (const described of runtimes) {
      const known = other.runtimes.get(described.number);
      if (known) {
        if (known.update(described)) this.#events.changed();
        continue;
      }
      const runtime = new RemoteRuntime(described, (act) => this.#call(thread, described.number, act));
      other.runtimes.set(described.number, runtime);
      this.#events.joined(runtime);
    }
    if (other.runtimes.size === 0) this.#forget(thread);
  }

  #left(other: Other, number: number): void {
    const runtime = other.runtimes.get(number);
    other.runtimes.delete(number);
    if (runtime) this.#events.left(runtime);
  }

  #forgetAll(): void {
    for (const thread of [...this.#others.keys()]) this.#forget(thread);
  }

  /** The thread has ended. Its calls fail after its runtimes have left, so that their failures do not count. */
  #forget(thread: number): void {
    const other = this.#others.get(thread);
    this.#others.delete(thread);
    if (other) for (const number of [...other.runtimes.keys()]) this.#left(other, number);
    for (const call of [...this.#calls.values()]) if (call.thread === thread) call.end('the thread has ended');
  }

  /** Suspend or resume a runtime of another thread. It ends with the answer, or with the thread. */
  #call(thread: number, number: number, act: Act): Promise<void> {
    const call = this.#next++;
    return new Promise((resolve, reject) => {
      this.#calls.set(call, {
        thread,
        end: (error) => {
          this.#calls.delete(call);
          if (error === undefined) resolve();
          else reject(new IsthmusError('ERR_ISTHMUS_SUSPEND', error));
        },
      });
      this.#send({ kind: 'act', to: thread, number, act, call });
    });
  }
}
