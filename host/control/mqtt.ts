/**
 * Control over MQTT. Each process has one client for each broker; the runtimes that join it, in whatever thread
 * (threads.ts), share it, so that a process with several runtimes answers once. The data path never waits for it.
 *
 * It takes requests from the topics of this process and of all processes of the host (request-filter.ts), and publishes
 * answers (answers.ts) and a retained status (status.ts). steering.ts decides what a request does. Payloads from the broker
 * are checked, and no payload can make the runtime throw.
 */

import { createHash, randomBytes } from 'node:crypto';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { hostname } from 'node:os';
import type { Migratable } from '../api/migratable.js';
import { bounded } from '../base/bounded.js';
import type { Log } from '../base/log.js';
import { brokerAddress } from '../config/broker-url.js';
import { AnswerQueue } from './answers.js';
import { BrokerLink, type MqttOptions } from './broker.js';
import { feedback, MAX_PLUGINS, type Status, type StatusConnection, topics } from './payload.js';
import type { Described, RemoteRuntime } from './remote-runtime.js';
import { RequestFilter } from './request-filter.js';
import { type StatusMember, StatusPublisher } from './status.js';
import { type Member, Steering } from './steering.js';
import { Threads } from './threads.js';

export interface JoinOptions {
  readonly broker: string;
  readonly mqtt?: MqttOptions | undefined;
  /** In seconds. */
  readonly keepalive?: number | undefined;
  /** Empty: the pid. */
  readonly controlId?: string | undefined;
  readonly postpone?: boolean | undefined;
  /** Of the runtime. */
  readonly id: string;
  readonly name: string;
  readonly connections: () => readonly StatusConnection[];
  readonly log: Log;
  /** Default: the name of this machine. */
  readonly host?: string | undefined;
}

/** The membership of one runtime. */
export interface Membership {
  /** The application has completed its own part of the migration: COMPLETED is held back no longer. */
  complete(): void;
  /** Bounded. When the last member leaves, the process is announced as offline. Idempotent. */
  leave(): Promise<void>;
}

/** A runtime of this thread or of another one. */
interface Participant extends Member, StatusMember {}

/** A runtime of this thread. */
interface Local extends Participant {
  readonly options: JoinOptions;
  /** Stop listening to its migration. */
  readonly unsubscribe: () => void;
}

/** Time to publish the last status and to leave the broker. */
const MAX_LEAVE_MS = 1000;

/** Events that change the plugin of a connection. */
const CHANNELS = ['open', 'close', 'suspend', 'resume'].map((event) => `isthmus:connection:${event}`);

const controls = new Map<string, MqttControl>();

/**
 * Let requests over MQTT steer a runtime. It does not wait for the broker.
 * @throws ERR_ISTHMUS_INVALID_ARGUMENT: not the URL of a broker
 */
export function joinMqtt(runtime: Migratable, options: JoinOptions): Membership {
  const { broker, mqtt = {}, keepalive, host = hostname() } = options;
  brokerAddress(broker);
  const id = options.controlId || String(process.pid);
  const key = JSON.stringify([broker, mqtt, keepalive, host, id]);
  let control = controls.get(key);
  if (!control) {
    control = new MqttControl(key, broker, { ...mqtt, keepalive }, host, id, () => controls.delete(key));
    controls.set(key, control);
  }
  return control.join(runtime, options);
}

class MqttControl {
  readonly #broker: string;
  readonly #mqtt: MqttOptions & Pick<JoinOptions, 'keepalive'>;
  readonly #host: string;
  readonly #id: string;
  readonly #onEnd: () => void;
  readonly #steering: Steering;
  readonly #threads: Threads;
  readonly #filter: RequestFilter;
  readonly #answers: AnswerQueue;
  readonly #status: StatusPublisher;
  /** Undefined: another thread leads. */
  #link: BrokerLink | undefined;
  /** Runtimes of this thread, by number. */
  readonly #locals = new Map<number, Local>();
  readonly #remotes = new Map<RemoteRuntime, Participant>();
  /** Runtimes that this thread leads. */
  readonly #members = new Set<Participant>();
  #next = 1;

  constructor(
    key: string,
    broker: string,
    mqtt: MqttOptions & Pick<JoinOptions, 'keepalive'>,
    host: string,
    id: string,
    onEnd: () => void,
  ) {
    this.#broker = broker;
    this.#mqtt = mqtt;
    this.#host = host;
    this.#id = id;
    this.#onEnd = onEnd;
    const log: Log = (level, line) => this.#log(level, line);
    this.#filter = new RequestFilter(id, log);
    this.#answers = new AnswerQueue(
      async (text) => (await this.#link?.publish(topics.response(host, id), text)) ?? false,
    );
    this.#status = new StatusPublisher(this.#members, (status) => {
      // When another thread leads, it publishes the status of these runtimes.
      void this.#link?.publish(this.#topic, JSON.stringify(status), { retain: true });
    });
    this.#steering = new Steering({
      answer: (outcome) => this.#answer(feedback(id, outcome)),
      changed: () => this.#status.setState(this.#steering.state),
      log,
    });
    // Hashed: the key may contain a password.
    this.#threads = new Threads(createHash('sha256').update(key).digest('hex'), {
      describe: () => [...this.#locals].map(([number, local]) => describe(number, local)),
      act: async (number, act) => this.#locals.get(number)?.runtime[act](),
      lead: (leading) => (leading ? this.#lead() : this.#follow()),
      joined: (runtime) => this.#joined(runtime),
      changed: () => this.#status.publishSoon(),
      left: (runtime) => {
        const participant = this.#remotes.get(runtime);
        this.#remotes.delete(runtime);
        if (participant) this.#dismiss(participant);
      },
      completed: (runtime) => {
        const participant = this.#remotes.get(runtime);
        if (participant) this.#steering.complete(participant);
      },
    });
    for (const channel of CHANNELS) subscribe(channel, this.#onConnectionEvent);
    this.#threads.start();
  }

  join(runtime: Migratable, options: JoinOptions): Membership {
    const number = this.#next++;
    const local: Local = {
      runtime,
      postpone: options.postpone ?? false,
      options,
      about: () => ({ id: options.id, name: options.name, connections: options.connections() }),
      unsubscribe: runtime.onMigration(() => this.#threads.report()),
    };
    this.#locals.set(number, local);
    if (this.#link) this.#admit(local);
    else this.#threads.report();
    let left: Promise<void> | undefined;
    return {
      complete: () => {
        if (this.#link) this.#steering.complete(local);
        else this.#threads.complete(number);
      },
      leave: () => {
        left ??= this.#leave(number, local);
        return left;
      },
    };
  }

  async #leave(number: number, local: Local): Promise<void> {
    local.unsubscribe();
    this.#locals.delete(number);
    if (this.#locals.size > 0) {
      this.#dismiss(local);
      this.#threads.report();
      return;
    }
    // A runtime that joins from here on gets a control of its own.
    this.#onEnd();
    for (const channel of CHANNELS) unsubscribe(channel, this.#onConnectionEvent);
    this.#status.stop();
    const link = this.#link;
    const { offline } = this.#status;
    // Another thread leads from here on, or has led all the time: the process is not offline.
    const others = this.#remotes.size > 0;
    this.#dismiss(local);
    // A request to the process is answered before its last status.
    await Promise.resolve();
    this.#threads.close();
    const start = performance.now();
    if (link && !others)
      await bounded(link.publish(this.#topic, JSON.stringify(offline), { retain: true }), MAX_LEAVE_MS);
    await link?.close(Math.max(0, MAX_LEAVE_MS - (performance.now() - start)));
  }

  // ─── threads ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #lead(): void {
    const gone: Status = { state: 'offline', since: null, name: '', pid: process.pid, plugins: {} };
    this.#link = new BrokerLink({
      address: brokerAddress(this.#broker),
      options: this.#mqtt,
      keepalive: this.#mqtt.keepalive,
      // Not the pid alone: a broker accepts one client of a name.
      clientId: `isthmus_${this.#host}_${this.#id}_${randomBytes(4).toString('hex')}`,
      will: { topic: this.#topic, payload: JSON.stringify(gone) },
      subscribe: { [topics.requests(this.#host)]: 1 },
      log: (level, line) => this.#log(level, line),
      up: () => {
        // The status first: a tool that looks for this process looks for its status.
        this.#status.publish();
        void this.#answers.send();
      },
      message: (topic, payload, packet) => {
        const request = this.#filter.request(topic, payload, packet);
        if (request) this.#steering.request(request);
      },
    });
    for (const local of this.#locals.values()) this.#admit(local);
  }

  #follow(): void {
    const link = this.#link;
    this.#link = undefined;
    for (const member of [...this.#members]) this.#dismiss(member);
    this.#answers.clear();
    void link?.close();
  }

  #joined(runtime: RemoteRuntime): void {
    const participant: Participant = {
      runtime,
      postpone: runtime.described.postpone,
      about: () => runtime.described,
    };
    this.#remotes.set(runtime, participant);
    this.#admit(participant);
  }

  #admit(participant: Participant): void {
    this.#members.add(participant);
    this.#steering.join(participant);
    this.#status.publishSoon();
  }

  #dismiss(participant: Participant): void {
    if (!this.#members.delete(participant)) return;
    this.#steering.leave(participant);
    if (this.#members.size > 0) this.#status.publishSoon();
  }

  // ─── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  #answer(text: string): void {
    // An operation that began before another thread came to lead.
    if (!this.#link) return;
    this.#log('info', `answers '${text}'`);
    this.#answers.add(text);
  }

  readonly #onConnectionEvent = (event: unknown): void => {
    const { runtime } = event as { runtime?: unknown };
    for (const local of this.#locals.values()) if (local.runtime === runtime) this.#status.publishSoon();
  };

  get #topic(): string {
    return topics.status(this.#host, this.#id);
  }

  #log(level: Parameters<Log>[0], line: string): void {
    const [first] = this.#locals.values();
    first?.options.log(level, line);
  }
}

function describe(number: number, { runtime, postpone, about }: Local): Described {
  const { id, name, connections } = about();
  // The channel between threads copies its messages: only what is needed.
  return {
    number,
    id,
    name,
    postpone,
    migration: runtime.migration,
    connections: connections.slice(0, MAX_PLUGINS).map(({ number: n, plugin }) => ({ number: n, plugin })),
  };
}
