/**
 * Control over MQTT. Each process has one client for each broker; the runtimes that join it, in whatever thread
 * (threads.ts), share it, so that a process with several runtimes answers once. The data path never waits for it.
 *
 * It takes requests from the topics of this process and of all processes of the host (request-filter.ts), and publishes
 * answers (answers.ts) and a retained status (status.ts, status-topic.ts). steering.ts decides what a request does. Payloads from the broker
 * are checked, and no payload can make the runtime throw.
 */

import { createHash } from 'node:crypto';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { hostname } from 'node:os';
import type { Migratable } from '../api/migratable.js';
import { bounded } from '../base/bounded.js';
import { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import { brokerAddress, maskBroker } from '../config/broker-url.js';
import { AnswerQueue } from './answers.js';
import { BrokerLink, type MqttOptions } from './broker.js';
import { newInstance, ownOrigin } from './instance.js';
import { feedback, MAX_PLUGINS, partsOfTopic, proof, type StatusConnection, topics, whyNoLevel } from './payload.js';
import type { Described, RemoteRuntime } from './remote-runtime.js';
import { RequestFilter } from './request-filter.js';
import { type StatusMember, StatusPublisher } from './status.js';
import { StatusTopic } from './status-topic.js';
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
 * @throws ERR_ISTHMUS_INVALID_ARGUMENT: not the URL of a broker; ERR_ISTHMUS_CONFIG: requests to a host of this name would not
 *   arrive
 */
export function joinMqtt(runtime: Migratable, options: JoinOptions): Membership {
  const { broker, mqtt = {}, keepalive, host = hostname() } = options;
  brokerAddress(broker);
  const why = whyNoLevel(host);
  if (why !== undefined) {
    throw new IsthmusError(
      'ERR_ISTHMUS_CONFIG',
      `PSP_SUSPEND_RESUME: the host name '${host}' cannot stand in a topic of MQTT: ${why}. Requests would not arrive. ` +
        'Give the machine another name (hostname, hostnamectl), or switch PSP_SUSPEND_RESUME off',
    );
  }
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
  readonly #instance: string;
  readonly #onEnd: () => void;
  readonly #steering: Steering;
  readonly #threads: Threads;
  readonly #filter: RequestFilter;
  readonly #answers: AnswerQueue;
  readonly #status: StatusPublisher;
  readonly #topic: StatusTopic;
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
    this.#instance = newInstance([maskBroker(broker), mqtt.username, mqtt.keepalive, host, id]);
    this.#onEnd = onEnd;
    const log: Log = (level, line) => this.#log(level, line);
    this.#filter = new RequestFilter(id, log);
    this.#answers = new AnswerQueue(
      async (text) => (await this.#link?.publish(topics.response(host, id), text)) ?? false,
    );
    this.#topic = new StatusTopic({
      host,
      id,
      instance: this.#instance,
      publish: async (topic, text) => (await this.#link?.publish(topic, text, { retain: true })) ?? false,
      log,
    });
    this.#status = new StatusPublisher(this.#members, (status) => {
      // When another thread leads, it publishes the status of these runtimes.
      if (this.#link) void this.#topic.publish(status);
    });
    this.#steering = new Steering({
      answer: (outcome, nonces) => this.#answer(feedback(id, outcome), nonces),
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
    // With an instance of its own, which only happens without /proc, this thread leaves a topic that no other one cares for.
    if (link && (!others || !ownOrigin())) await bounded(this.#topic.end(others ? undefined : offline), MAX_LEAVE_MS);
    this.#topic.stop();
    await link?.close(Math.max(0, MAX_LEAVE_MS - (performance.now() - start)));
  }

  // ─── threads ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #lead(): void {
    this.#link = new BrokerLink({
      address: brokerAddress(this.#broker),
      options: this.#mqtt,
      keepalive: this.#mqtt.keepalive,
      clientId: `isthmus_${this.#host}_${this.#id}`,
      will: { topic: this.#topic.topic, payload: JSON.stringify(this.#topic.will) },
      subscribe: { [topics.requests(this.#host)]: 1, [this.#topic.subscription]: 1 },
      log: (level, line) => this.#log(level, line),
      refused: (refused) => this.#refused(refused),
      up: () => {
        this.#topic.connected();
        // The status first: a tool that looks for this process looks for its status.
        this.#status.publish();
        void this.#answers.send();
      },
      message: (topic, payload, packet) => {
        const { part, instance } = partsOfTopic(topic) ?? {};
        if (part === 'status' && instance !== undefined) this.#topic.received(instance, payload, packet);
        const request = this.#filter.request(topic, payload, packet);
        if (request) this.#steering.request(request.kind, request.kind === 'toggle' ? undefined : request.nonce);
      },
    });
    for (const local of this.#locals.values()) this.#admit(local);
  }

  /** By the access list of the broker. */
  #refused(refused: readonly string[]): void {
    if (refused.includes(this.#topic.subscription)) this.#topic.refused();
    if (!refused.includes(topics.requests(this.#host))) return;
    this.#log(
      'warning',
      `the broker refuses the subscription to ${topics.requests(this.#host)}: this process receives no requests, and cannot be ` +
        'suspended. Allow its user to read that topic in the access list of the broker',
    );
  }

  #follow(): void {
    const link = this.#link;
    this.#link = undefined;
    this.#topic.stop();
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

  #answer(text: string, nonces: readonly string[]): void {
    // An operation that began before another thread came to lead.
    if (!this.#link) return;
    this.#log('info', `answers '${text}'`);
    this.#answers.add(text + proof(this.#instance, nonces));
  }

  readonly #onConnectionEvent = (event: unknown): void => {
    const { runtime } = event as { runtime?: unknown };
    for (const local of this.#locals.values()) if (local.runtime === runtime) this.#status.publishSoon();
  };

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
