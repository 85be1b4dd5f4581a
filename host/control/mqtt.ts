/**
 * The control side over MQTT: one client per process and broker, shared by the runtimes that join it in whatever thread
 * (threads.ts), so that a process of several runtimes answers once. The data path never waits for it.
 *
 * It takes requests from topics of every process of the host and of this one, and publishes answers and a retained status
 * (payload.ts); what a request does is steering.ts's matter. Whatever comes from the broker is checked, and nothing of it
 * can throw into the runtime.
 */

import { createHash, randomBytes } from 'node:crypto';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { hostname } from 'node:os';
import type { Migratable, MigrationState } from '../api/migratable.js';
import type { Log } from '../base/log.js';
import { brokerAddress } from '../config/broker-url.js';
import { ANY_PROC } from '../config/control-id.js';
import { BrokerLink, bounded, type Delivery, type MqttOptions } from './broker.js';
import type { StatusConnection } from './payload.js';
import { feedback, idOfTopic, MAX_PLUGINS, parseRequest, type Status, topics } from './payload.js';
import { type Member, Steering } from './steering.js';
import { type Described, type RemoteRuntime, Threads } from './threads.js';

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
  /** Default: that of this machine. */
  readonly host?: string | undefined;
}

/** A runtime's part in it. */
export interface Membership {
  /** The application has done what it had to after the migration: COMPLETED is held back no longer. */
  complete(): void;
  /** Bounded; the last one says that the process is gone. Idempotent. */
  leave(): Promise<void>;
}

/** A runtime of this thread or of another one. */
interface Participant extends Member {
  about(): Pick<Described, 'id' | 'name' | 'connections'>;
}

interface Local extends Participant {
  readonly options: JoinOptions;
  /** No longer be told of its migration. */
  readonly forget: () => void;
}

/** What is published when connections come and go, in milliseconds after the first of them. */
const SETTLE = 500;
/** Answers that wait for a broker that is away. */
const MAX_UNSENT = 16;
/** Requests that are remembered, to know one that is delivered again. */
const MAX_SEEN = 64;
/** For the last words, in milliseconds. */
const LAST_WORDS = 1000;

/** What changes the plugin of a connection. */
const CHANNELS = ['open', 'close', 'suspend', 'resume'].map((event) => `isthmus:connection:${event}`);

const controls = new Map<string, MqttControl>();

/**
 * Let requests over MQTT steer a runtime. Waits for nothing.
 * @throws ERR_ISTHMUS_INVALID_ARGUMENT for a URL that is none
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
  readonly #ended: () => void;
  readonly #steering: Steering;
  readonly #threads: Threads;
  /** Undefined: another thread leads. */
  #link: BrokerLink | undefined;
  /** Those of this thread. */
  readonly #locals = new Map<number, Local>();
  readonly #remotes = new Map<RemoteRuntime, Participant>();
  /** Those that this thread speaks for. */
  readonly #members = new Set<Participant>();
  #next = 1;
  #state: MigrationState = 'inactive';
  #since = new Date();
  /** Answers that no broker has yet, the oldest first. */
  readonly #unsent: string[] = [];
  #sending = false;
  #settling: NodeJS.Timeout | undefined;
  /** Deliveries that were acted on. */
  readonly #seen: string[] = [];

  constructor(
    key: string,
    broker: string,
    mqtt: MqttOptions & Pick<JoinOptions, 'keepalive'>,
    host: string,
    id: string,
    ended: () => void,
  ) {
    this.#broker = broker;
    this.#mqtt = mqtt;
    this.#host = host;
    this.#id = id;
    this.#ended = ended;
    this.#steering = new Steering({
      answer: (said) => this.#answer(feedback(id, said)),
      changed: () => this.#changed(),
      log: (level, line) => this.#log(level, line),
    });
    // Hashed: it may hold a password.
    this.#threads = new Threads(createHash('sha256').update(key).digest('hex'), {
      describe: () => [...this.#locals].map(([number, local]) => describe(number, local)),
      act: async (number, act) => this.#locals.get(number)?.runtime[act](),
      lead: (leading) => this.#lead(leading),
      joined: (runtime) => this.#joined(runtime),
      changed: () => this.#settle(),
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
    for (const channel of CHANNELS) subscribe(channel, this.#connections);
    this.#threads.start();
  }

  join(runtime: Migratable, options: JoinOptions): Membership {
    const number = this.#next++;
    const local: Local = {
      runtime,
      postpone: options.postpone ?? false,
      options,
      about: () => ({ id: options.id, name: options.name, connections: options.connections() }),
      forget: runtime.onMigration(() => this.#threads.tell()),
    };
    this.#locals.set(number, local);
    if (this.#link) this.#admit(local);
    else this.#threads.tell();
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
    local.forget();
    this.#locals.delete(number);
    if (this.#locals.size > 0) {
      this.#dismiss(local);
      this.#threads.tell();
      return;
    }
    // Whoever joins from here on gets a control of its own.
    this.#ended();
    for (const channel of CHANNELS) unsubscribe(channel, this.#connections);
    clearTimeout(this.#settling);
    const link = this.#link;
    const offline: Status = { ...this.#status(), state: 'offline', since: new Date().toISOString(), plugins: {} };
    // Another thread leads from here on, or has led all the time; the process is still there.
    const others = this.#remotes.size > 0;
    this.#dismiss(local);
    // What was asked of the process is answered before it says that it is gone.
    await Promise.resolve();
    this.#threads.close();
    const start = performance.now();
    if (link && !others)
      await bounded(link.publish(this.#topic, JSON.stringify(offline), { retain: true }), LAST_WORDS);
    await link?.close(Math.max(0, LAST_WORDS - (performance.now() - start)));
  }

  // ─── threads ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #lead(leading: boolean): void {
    if (!leading) {
      const link = this.#link;
      this.#link = undefined;
      for (const member of [...this.#members]) this.#dismiss(member);
      this.#unsent.length = 0;
      void link?.close();
      return;
    }
    const gone: Status = { state: 'offline', since: null, name: '', pid: process.pid, plugins: {} };
    this.#link = new BrokerLink({
      address: brokerAddress(this.#broker),
      options: this.#mqtt,
      keepalive: this.#mqtt.keepalive,
      // Not the pid alone: a broker has room for one client of a name.
      clientId: `isthmus_${this.#host}_${this.#id}_${randomBytes(4).toString('hex')}`,
      will: { topic: this.#topic, payload: JSON.stringify(gone) },
      subscribe: { [topics.requests(this.#host)]: 1 },
      log: (level, line) => this.#log(level, line),
      up: () => {
        // The first thing: whoever looks for us looks for this.
        this.#tell();
        void this.#send();
      },
      message: (topic, payload, packet) => this.#heard(topic, payload, packet),
    });
    for (const local of this.#locals.values()) this.#admit(local);
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
    this.#settle();
  }

  #dismiss(participant: Participant): void {
    if (!this.#members.delete(participant)) return;
    this.#steering.leave(participant);
    if (this.#members.size > 0) this.#settle();
  }

  get #topic(): string {
    return topics.status(this.#host, this.#id);
  }

  #log(level: Parameters<Log>[0], line: string): void {
    const [first] = this.#locals.values();
    first?.options.log(level, line);
  }

  // ─── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #heard(topic: string, payload: Uint8Array, delivery: Delivery): void {
    const to = idOfTopic(topic);
    if (to !== ANY_PROC && to !== this.#id) return;
    if (delivery.retain) {
      this.#log('warning', `a retained request at ${topic} is ignored: nobody knows how old it is`);
      return;
    }
    const request = parseRequest(payload, this.#id);
    if (request.kind === 'others') {
      this.#log('debug', `a request at ${topic} is meant for others`);
    } else if (request.kind === 'unknown') {
      this.#log('warning', `a request at ${topic} is ignored, not understood: ${request.why}`);
    } else if (this.#again(topic, delivery)) {
      this.#log('info', `a request at ${topic} is ignored: it was delivered before`);
    } else {
      this.#steering.request(request.kind);
    }
  }

  /** Whether it has been acted on; remembered from here on. */
  #again(topic: string, { qos, messageId, dup, payload }: Delivery): boolean {
    if (qos === 0) return false;
    const key = `${messageId} ${topic} ${payload.toString('latin1')}`;
    if (dup && this.#seen.includes(key)) return true;
    this.#seen.push(key);
    if (this.#seen.length > MAX_SEEN) this.#seen.shift();
    return false;
  }

  // ─── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #answer(text: string): void {
    // Begun before another thread came to lead.
    if (!this.#link) return;
    this.#log('info', `answers '${text}'`);
    this.#unsent.push(text);
    if (this.#unsent.length > MAX_UNSENT) this.#unsent.shift();
    void this.#send();
  }

  /** In order; what the broker has not confirmed stays, until it is back. */
  async #send(): Promise<void> {
    if (this.#sending) return;
    this.#sending = true;
    for (let text = this.#unsent[0]; text !== undefined; text = this.#unsent[0]) {
      if (!(await this.#link?.publish(topics.response(this.#host, this.#id), text))) break;
      if (this.#unsent[0] === text) this.#unsent.shift();
    }
    this.#sending = false;
  }

  // ─── the status ────────────────────────────────────────────────────────────────────────────────────────────────────

  readonly #connections = (event: unknown): void => {
    const { runtime } = event as { runtime?: unknown };
    for (const local of this.#locals.values()) if (local.runtime === runtime) this.#settle();
  };

  #changed(): void {
    const { state } = this.#steering;
    if (state === this.#state) return;
    this.#state = state;
    this.#since = new Date();
    this.#tell();
  }

  /** Connections come and go by the hundred: they are published together. */
  #settle(): void {
    this.#settling ??= setTimeout(() => this.#tell(), SETTLE).unref();
  }

  #tell(): void {
    clearTimeout(this.#settling);
    this.#settling = undefined;
    // Another thread tells what becomes of ours.
    void this.#link?.publish(this.#topic, JSON.stringify(this.#status()), { retain: true });
  }

  #status(): Status {
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
    };
  }
}

function describe(number: number, { runtime, postpone, about }: Local): Described {
  const { id, name, connections } = about();
  // What goes over the channel is copied: nothing but what is needed.
  return {
    number,
    id,
    name,
    postpone,
    migration: runtime.migration,
    connections: connections.slice(0, MAX_PLUGINS).map(({ number: n, plugin }) => ({ number: n, plugin })),
  };
}
