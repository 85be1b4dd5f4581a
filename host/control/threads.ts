/**
 * Threads of one process that take part in the same control: one of them leads, and speaks for all; the others tell it of
 * their runtimes, and do with them what it says.
 *
 * They share nothing but a channel. The main thread leads as soon as it takes part; else the first that gets no answer to
 * its question who does. If two of them lead, as they may when one was busy, the one with the lower number goes on. A
 * thread that says nothing for a while is gone: threads end without a word. No thread is kept alive by any of it.
 */
import { BroadcastChannel, threadId } from 'node:worker_threads';
import type { Migratable, MigrationState } from '../api/migratable.js';
import { IsthmusError } from '../base/errors.js';
import type { StatusConnection } from './payload.js';

/** A runtime, as the thread that leads sees those of others. */
export interface Described {
  readonly number: number;
  readonly id: string;
  readonly name: string;
  readonly postpone: boolean;
  readonly migration: MigrationState;
  readonly connections: readonly StatusConnection[];
}

type Act = 'suspend' | 'resume';

type Message = { readonly from: number } & (
  | { readonly kind: 'who' }
  | { readonly kind: 'lead' }
  /** All runtimes of a thread; none: it is leaving. */
  | { readonly kind: 'runtimes'; readonly runtimes: readonly Described[] }
  | { readonly kind: 'complete'; readonly number: number }
  | { readonly kind: 'act'; readonly to: number; readonly number: number; readonly act: Act; readonly call: number }
  | { readonly kind: 'acted'; readonly to: number; readonly call: number; readonly error: string | undefined }
);
type Said = Message extends infer M ? (M extends unknown ? Omit<M, 'from'> : never) : never;

/** How often a thread says that it is there, in milliseconds. */
const BEAT = 1000;
/** Silent for so long, it is gone. */
const GONE = 6000;
/** To answer who leads. */
const ANSWER = 250;

export interface ThreadEvents {
  /** The runtimes of this thread. */
  describe(): readonly Described[];
  act(number: number, act: Act): Promise<void>;
  /** From here on, or no longer, this thread speaks for all. */
  lead(leading: boolean): void;
  /** For the one that leads. */
  joined(runtime: RemoteRuntime): void;
  /** Connections of one of them have come or gone. */
  changed(): void;
  left(runtime: RemoteRuntime): void;
  completed(runtime: RemoteRuntime): void;
}

/** A runtime of another thread. */
export class RemoteRuntime implements Migratable {
  described: Described;
  readonly #act: (act: Act) => Promise<void>;
  readonly #listeners = new Set<(state: MigrationState) => void>();

  constructor(described: Described, act: (act: Act) => Promise<void>) {
    this.described = described;
    this.#act = act;
  }

  get migration(): MigrationState {
    return this.described.migration;
  }

  suspend(): Promise<void> {
    return this.#act('suspend');
  }

  resume(): Promise<void> {
    return this.#act('resume');
  }

  onMigration(listener: (state: MigrationState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** @returns whether its connections are others now */
  update(described: Described): boolean {
    const { migration, connections } = this.described;
    this.described = described;
    if (migration !== described.migration) for (const listener of this.#listeners) listener(described.migration);
    return JSON.stringify(connections) !== JSON.stringify(described.connections);
  }
}

interface Other {
  readonly runtimes: Map<number, RemoteRuntime>;
  heard: number;
}

export class Threads {
  readonly #events: ThreadEvents;
  readonly #channel: BroadcastChannel;
  readonly #beat: NodeJS.Timeout;
  #election: NodeJS.Timeout | undefined;
  #leading = false;
  /** Another thread that leads, and when it last said so. */
  #leader: { readonly thread: number; heard: number } | undefined;
  readonly #others = new Map<number, Other>();
  readonly #calls = new Map<number, { readonly thread: number; done(error: string | undefined): void }>();
  #next = 1;

  /** @param key what they have in common */
  constructor(key: string, events: ThreadEvents) {
    this.#events = events;
    this.#channel = new BroadcastChannel(`isthmus ${key}`);
    this.#channel.onmessage = (event) => this.#heard((event as { readonly data: Message }).data);
    this.#channel.unref();
    this.#beat = setInterval(() => this.#tick(), BEAT).unref();
  }

  /** Find out who leads. */
  start(): void {
    if (threadId === 0) this.#lead();
    else this.#elect();
  }

  /** The runtimes of this thread, or what they do, have changed. */
  tell(): void {
    if (!this.#leading) this.#say({ kind: 'runtimes', runtimes: this.#events.describe() });
  }

  /** For a runtime of this thread, while another one leads. */
  complete(number: number): void {
    if (!this.#leading) this.#say({ kind: 'complete', number });
  }

  close(): void {
    clearInterval(this.#beat);
    clearTimeout(this.#election);
    this.#say({ kind: 'runtimes', runtimes: [] });
    this.#channel.close();
    for (const thread of [...this.#others.keys()]) this.#forget(thread);
  }

  #say(message: Said): void {
    this.#channel.postMessage({ from: threadId, ...message });
  }

  #elect(): void {
    if (this.#election) return;
    this.#leader = undefined;
    this.#say({ kind: 'who' });
    this.#election = setTimeout(() => {
      this.#election = undefined;
      if (!this.#leader) this.#lead();
    }, ANSWER).unref();
  }

  #lead(): void {
    this.#leader = undefined;
    this.#leading = true;
    this.#say({ kind: 'lead' });
    this.#events.lead(true);
  }

  #follow(thread: number): void {
    clearTimeout(this.#election);
    this.#election = undefined;
    const known = this.#leader?.thread === thread;
    this.#leader = { thread, heard: performance.now() };
    if (this.#leading) {
      this.#leading = false;
      for (const each of [...this.#others.keys()]) this.#forget(each);
      this.#events.lead(false);
    }
    if (!known) this.tell();
  }

  #tick(): void {
    const now = performance.now();
    if (this.#leading) {
      this.#say({ kind: 'lead' });
      for (const [thread, { heard }] of this.#others) if (now - heard > GONE) this.#forget(thread);
    } else if (this.#leader && now - this.#leader.heard > GONE) {
      this.#elect();
    } else {
      this.tell();
    }
  }

  #heard(message: Message): void {
    const { from } = message;
    switch (message.kind) {
      case 'who':
        if (this.#leading) this.#say({ kind: 'lead' });
        break;
      case 'lead':
        if (this.#leading && from > threadId) this.#say({ kind: 'lead' });
        else this.#follow(from);
        break;
      case 'runtimes':
        if (this.#leading) this.#described(from, message.runtimes);
        // The one that led is leaving.
        else if (from === this.#leader?.thread && message.runtimes.length === 0) this.#elect();
        break;
      case 'complete': {
        const runtime = this.#others.get(from)?.runtimes.get(message.number);
        if (this.#leading && runtime) this.#events.completed(runtime);
        break;
      }
      case 'act':
        if (message.to === threadId) void this.#act(from, message.number, message.act, message.call);
        break;
      case 'acted':
        if (message.to === threadId) this.#calls.get(message.call)?.done(message.error);
    }
  }

  async #act(to: number, number: number, act: Act, call: number): Promise<void> {
    let error: string | undefined;
    try {
      await this.#events.act(number, act);
    } catch (cause) {
      error = cause instanceof Error ? cause.message : String(cause);
    }
    this.tell();
    this.#say({ kind: 'acted', to, call, error });
  }

  #described(thread: number, runtimes: readonly Described[]): void {
    const other = this.#others.get(thread) ?? { runtimes: new Map<number, RemoteRuntime>(), heard: 0 };
    this.#others.set(thread, other);
    other.heard = performance.now();
    const there = new Set(runtimes.map(({ number }) => number));
    for (const number of [...other.runtimes.keys()]) if (!there.has(number)) this.#left(other, number);
    for (const described of runtimes) {
      const known = other.runtimes.get(described.number);
      if (known) {
        if (known.update(described)) this.#events.changed();
        continue;
      }
      const runtime = new RemoteRuntime(described, (act) => this.#ask(thread, described.number, act));
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

  /** Its calls fail after it has left, so that they do not count. */
  #forget(thread: number): void {
    const other = this.#others.get(thread);
    this.#others.delete(thread);
    if (other) for (const number of [...other.runtimes.keys()]) this.#left(other, number);
    for (const call of [...this.#calls.values()]) if (call.thread === thread) call.done('the thread has ended');
  }

  /** Ends with an answer, or with the thread. */
  #ask(thread: number, number: number, act: Act): Promise<void> {
    const call = this.#next++;
    return new Promise((resolve, reject) => {
      this.#calls.set(call, {
        thread,
        done: (error) => {
          this.#calls.delete(call);
          if (error === undefined) resolve();
          else reject(new IsthmusError('ERR_ISTHMUS_SUSPEND', error));
        },
      });
      this.#say({ kind: 'act', to: thread, number, act, call });
    });
  }
}
