/**
 * A connection to an MQTT broker that comes back by itself, for the control side and for the command line.
 *
 * Each attempt has a client of its own, so that nothing of the one before is left: no queue, no timer. It keeps no process
 * alive unless told to: socket and timers are not waited for. (A TCP connect under way is, by libuv: CONNECT_TIME.)
 */
import { connect as connectTcp } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { IClientOptions, MqttClient } from 'mqtt';
import type { Log } from '../base/log.js';
import { type BrokerAddress, maskBroker } from '../config/broker-url.js';

/** How to reach a broker, besides its URL. */
export interface MqttOptions {
  /** Instead of the one in the URL. */
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  /** For `mqtts`, as `node:tls` takes them (PEM). */
  readonly ca?: string | Uint8Array | undefined;
  readonly cert?: string | Uint8Array | undefined;
  readonly key?: string | Uint8Array | undefined;
  readonly passphrase?: string | undefined;
  readonly servername?: string | undefined;
  readonly rejectUnauthorized?: boolean | undefined;
}

/**
 * A message as the broker delivered it. Not the client's type for it: the declarations of that package need those of
 * browsers, and whoever compiles against ours has none.
 */
export interface Delivery {
  readonly qos: 0 | 1 | 2;
  /** With qos 1 and 2. */
  readonly messageId?: number | undefined;
  /** Perhaps delivered before. */
  readonly dup: boolean;
  /** Kept by the broker, from whenever. */
  readonly retain: boolean;
  readonly payload: string | Buffer;
}

/** For one attempt, in milliseconds; longer where the keep-alive is longer. */
const CONNECT_TIME = 10_000;
/** Between two attempts, in milliseconds: from the first to the second, each time twice as much. */
const BACK_OFF = { first: 200, most: 5000 };
/** A connection that held so long was a good one: the back-off starts anew, in milliseconds. */
const HELD = 5000;
/** Without a word in this time the broker takes us for dead (half as much again), and we it, in seconds. */
const KEEPALIVE = 15;

export interface LinkOptions {
  readonly address: BrokerAddress;
  readonly options: MqttOptions;
  readonly clientId: string;
  /** Retained when we are gone without a word. */
  readonly will?: { readonly topic: string; readonly payload: string } | undefined;
  /** Topics with the quality of service that is wanted. */
  readonly subscribe: Readonly<Record<string, 0 | 1>>;
  /** In seconds; default 15. */
  readonly keepalive?: number | undefined;
  /** Keeps the process alive. */
  readonly ref?: boolean | undefined;
  readonly log: Log;
  /** Connected and subscribed, each time anew. */
  up(): void;
  /** An attempt failed, or the connection broke. It is tried again unless the link is closed. */
  down?(why: string): void;
  message(topic: string, payload: Uint8Array, delivery: Delivery): void;
}

export class BrokerLink {
  readonly #options: LinkOptions;
  #client: MqttClient | undefined;
  #up = false;
  #closed = false;
  /** What the broker has not confirmed: the client does not tell when the connection breaks. */
  readonly #underWay = new Set<(taken: boolean) => void>();
  #wait = BACK_OFF.first;
  #timer: NodeJS.Timeout | undefined;
  /** Why the last attempt failed; the same is not logged again and again. */
  #why: string | undefined;

  constructor(options: LinkOptions) {
    this.#options = options;
    void this.#attempt();
  }

  /** @returns whether the broker has it; false as well if that is not known */
  publish(topic: string, payload: string, { retain = false }: { retain?: boolean } = {}): Promise<boolean> {
    const client = this.#client;
    if (!client || !this.#up) return Promise.resolve(false);
    return new Promise((resolve) => {
      const done = (taken: boolean) => {
        this.#underWay.delete(done);
        resolve(taken);
      };
      this.#underWay.add(done);
      client.publish(topic, payload, { qos: 1, retain }, (error) => done(!error));
    });
  }

  /** Resolves when all is here that the broker has sent so far: it answers in order. */
  async caughtUp(): Promise<void> {
    // Of the questions that it answers this one changes nothing.
    await this.#client?.unsubscribeAsync('isthmus/caught-up').catch(() => {});
  }

  /** In order, and within that time at most. Idempotent. */
  async close(limit = 1000): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    const client = this.#client;
    this.#client = undefined;
    if (!client) return;
    if (this.#up) {
      await bounded(new Promise<void>((resolve) => client.end(false, () => resolve())), limit);
    }
    client.end(true);
    for (const done of this.#underWay) done(false);
  }

  async #attempt(): Promise<void> {
    try {
      const { MqttClient } = await import('mqtt');
      if (this.#closed) return;
      this.#watch(new MqttClient(() => this.#open(), this.#clientOptions()));
    } catch (error) {
      this.#again((error as Error).message);
    }
  }

  #clientOptions(): IClientOptions {
    const { address, options, clientId, will, keepalive = KEEPALIVE } = this.#options;
    const username = options.username ?? address.username;
    const password = options.password ?? address.password;
    return {
      clientId,
      // What a broker has kept for us while we were away would come too late.
      clean: true,
      keepalive,
      connectTimeout: Math.max(CONNECT_TIME, keepalive * 1000),
      reconnectPeriod: 0,
      resubscribe: false,
      timerVariant: {
        // Typed for browsers.
        set: (task, milliseconds) => setInterval(() => task(), milliseconds).unref() as unknown as number,
        clear: (timer) => clearInterval(timer),
      },
      ...(username === undefined ? {} : { username }),
      ...(password === undefined ? {} : { password }),
      ...(will ? { will: { topic: will.topic, payload: Buffer.from(will.payload), qos: 1, retain: true } } : {}),
    };
  }

  #open() {
    const { address, options, ref } = this.#options;
    const { host, port, secure } = address;
    const { ca, cert, key, passphrase, servername, rejectUnauthorized } = options;
    const bytes = (value: string | Uint8Array | undefined) =>
      value === undefined || typeof value === 'string' ? value : Buffer.from(value);
    const socket = secure
      ? connectTls({
          host,
          port,
          ca: bytes(ca),
          cert: bytes(cert),
          key: bytes(key),
          passphrase,
          ...(/^[\d.]+$|:/.test(host) ? {} : { servername: host }),
          ...(servername === undefined ? {} : { servername }),
          rejectUnauthorized: rejectUnauthorized ?? true,
        })
      : connectTcp({ host, port });
    socket.setNoDelay(true);
    if (!ref) socket.unref();
    return socket;
  }

  #watch(client: MqttClient): void {
    this.#client = client;
    // Its timer for the answer of the broker is the only one that cannot be given to it.
    if (!this.#options.ref) (client as unknown as { connackTimer?: NodeJS.Timeout }).connackTimer?.unref?.();
    let why = 'the broker closed the connection';
    let since = Number.POSITIVE_INFINITY;
    client
      .on('error', (error) => {
        why = describe(error);
        // Refused by the broker: nobody else closes it then.
        if (!this.#up) client.end(true);
      })
      .on('connect', () => {
        since = performance.now();
        void this.#subscribe(client);
      })
      .on('message', (topic, payload, packet) => {
        if (this.#client === client) this.#options.message(topic, payload, packet);
      })
      .on('close', () => {
        if (this.#client !== client) return;
        this.#client = undefined;
        this.#up = false;
        client.end(true);
        for (const done of this.#underWay) done(false);
        if (performance.now() - since > HELD) this.#wait = BACK_OFF.first;
        this.#again(why);
      });
  }

  async #subscribe(client: MqttClient): Promise<void> {
    const { subscribe, log, up } = this.#options;
    try {
      const wanted = Object.entries(subscribe).map(([topic, qos]) => [topic, { qos }] as const);
      const granted = await client.subscribeAsync(Object.fromEntries(wanted));
      for (const { topic, qos } of granted) if (qos > 2) log('warning', `the broker refuses to tell us of ${topic}`);
    } catch (error) {
      // Gone again, or refused; then we say what we are all the same.
      log('warning', `not subscribed: ${(error as Error).message}`);
    }
    if (this.#client !== client || !client.connected) return;
    this.#up = true;
    this.#why = undefined;
    log('info', `connected to the broker at ${this.#place()}`);
    up.call(this.#options);
  }

  #again(why: string): void {
    if (this.#closed) return;
    const { log, down, ref } = this.#options;
    const wait = this.#wait * (0.75 + Math.random() / 2);
    // Once is enough for a broker that stays away.
    log(why === this.#why ? 'debug' : 'warning', `no broker at ${this.#place()}: ${why}; it is tried again`);
    this.#why = why;
    this.#wait = Math.min(this.#wait * 2, BACK_OFF.most);
    this.#timer = setTimeout(() => void this.#attempt(), wait);
    if (!ref) this.#timer.unref();
    down?.call(this.#options, why);
  }

  #place(): string {
    const { host, port, secure } = this.#options.address;
    return maskBroker(`${secure ? 'mqtts' : 'mqtt'}://${host.includes(':') ? `[${host}]` : host}:${port}`);
  }
}

/** Several addresses that were tried are one error without a message. */
function describe(error: Error): string {
  const first = error instanceof AggregateError ? (error.errors[0] as Error | undefined) : undefined;
  return (first ?? error).message || (error as NodeJS.ErrnoException).code || error.name;
}

/** Wait, but no longer than that. */
export async function bounded(task: Promise<unknown>, limit: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limit);
  });
  await Promise.race([task, late]);
  clearTimeout(timer);
}
