/**
 * A connection to an MQTT broker that reconnects by itself: for the control of a process (mqtt.ts), and for the command
 * line (watcher.ts).
 *
 * Each attempt has a client of its own, so that nothing of the previous one is left: no queue, no timer. Without `ref` it
 * does not keep the process alive: socket and timers are not waited for. (libuv waits for a TCP connect under way, up to
 * CONNECT_TIMEOUT_MS.)
 */
import { randomBytes } from 'node:crypto';
import { connect as connectTcp } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { IClientOptions, MqttClient } from 'mqtt';
import { bounded } from '../base/bounded.js';
import { messageOf } from '../base/errors.js';
import type { Log } from '../base/log.js';
import { type BrokerAddress, maskBroker } from '../config/broker-url.js';

/** Options of a broker besides its URL. */
export interface MqttOptions {
  /** Instead of the user name in the URL. */
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  /** For `mqtts`, in the formats of `node:tls` (PEM). */
  readonly ca?: string | Uint8Array | undefined;
  readonly cert?: string | Uint8Array | undefined;
  readonly key?: string | Uint8Array | undefined;
  readonly passphrase?: string | undefined;
  readonly servername?: string | undefined;
  readonly rejectUnauthorized?: boolean | undefined;
}

/**
 * A message as the broker delivered it. Not the type of the `mqtt` package: its declarations need those of browsers, which
 * a program that compiles against the declarations of this package need not have.
 */
export interface Delivery {
  readonly qos: 0 | 1 | 2;
  /** With qos 1 and 2. */
  readonly messageId?: number | undefined;
  /** It may have been delivered before. */
  readonly dup: boolean;
  /** The broker has kept it, for an unknown time. */
  readonly retain: boolean;
  readonly payload: string | Buffer;
}

/** Time for one attempt; the keep-alive, where that is longer. */
const CONNECT_TIMEOUT_MS = 10_000;
/** Pauses between attempts: the first one, and the longest. Each is twice as long as the one before. */
const MIN_PAUSE_MS = 200;
const MAX_PAUSE_MS = 5000;
/** After a connection that lasted so long, the pauses begin at the shortest again. */
const STABLE_MS = 5000;
/** Connections in a row that the broker ends before that: then another client may have the same id, which a broker resolves so. */
const MAX_SHORT = 2;
/** In SUBACK: refused (MQTT 3.1.1, 3.9.3). */
const REFUSED = 0x80;
/** Default keep-alive. After 1.5 times as long without a packet, client and broker each take the other for dead. */
const KEEPALIVE_S = 15;

export interface LinkOptions {
  readonly address: BrokerAddress;
  readonly options: MqttOptions;
  /** Beginning of the client id; the rest is random. */
  readonly clientId: string;
  /** Published and retained by the broker when this process ends without disconnecting. */
  readonly will?: { readonly topic: string; readonly payload: string } | undefined;
  /** Topics, each with its quality of service. */
  readonly subscribe: Readonly<Record<string, 0 | 1>>;
  /** In seconds, default 15. */
  readonly keepalive?: number | undefined;
  /** Keep the process alive. */
  readonly ref?: boolean | undefined;
  readonly log: Log;
  /** Connected and subscribed; called after each reconnect. */
  up(): void;
  /** The broker refuses the subscription to these topics. Otherwise it is logged. */
  refused?(topics: readonly string[]): void;
  /** An attempt failed, or the connection broke. Unless the link is closed, there will be another attempt. */
  down?(why: string): void;
  message(topic: string, payload: Uint8Array, delivery: Delivery): void;
}

export class BrokerLink {
  readonly #options: LinkOptions;
  #client: MqttClient | undefined;
  #up = false;
  #closed = false;
  /** Publications that the broker has not confirmed, with topics: the client does not report them when the connection breaks. */
  readonly #unconfirmed = new Map<(taken: boolean) => void, string>();
  /**
   * The same for all connections of this link, so that the broker gives up the previous one, which may seem to last, before it
   * takes the next.
   */
  #suffix = randomBytes(4).toString('hex');
  #short = 0;
  #pause = MIN_PAUSE_MS;
  #timer: NodeJS.Timeout | undefined;
  /** Reason of the last failure. The same reason is logged as a warning once. */
  #why: string | undefined;

  constructor(options: LinkOptions) {
    this.#options = options;
    void this.#attempt();
  }

  /** @returns whether the broker has confirmed it; false also if that is unknown */
  publish(topic: string, payload: string, { retain = false }: { retain?: boolean } = {}): Promise<boolean> {
    const client = this.#client;
    if (!client || !this.#up) return Promise.resolve(false);
    return new Promise((resolve) => {
      const done = (taken: boolean) => {
        this.#unconfirmed.delete(done);
        resolve(taken);
      };
      this.#unconfirmed.set(done, topic);
      client.publish(topic, payload, { qos: 1, retain }, (error) => done(!error));
    });
  }

  /** Resolves when all messages that the broker has sent so far have arrived: it answers in order. */
  async caughtUp(): Promise<void> {
    // A request that the broker answers and that changes nothing.
    await this.#client?.unsubscribeAsync('isthmus/caught-up').catch(() => {});
  }

  /** Disconnect in order, within `limitMs`. Idempotent. */
  async close(limitMs = 1000): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    const client = this.#client;
    this.#client = undefined;
    if (!client) return;
    if (this.#up) {
      await bounded(new Promise<void>((resolve) => client.end(false, () => resolve())), limitMs);
    }
    client.end(true);
    this.#giveUpUnconfirmed();
  }

  #giveUpUnconfirmed(): void {
    for (const done of [...this.#unconfirmed.keys()]) done(false);
  }

  async #attempt(): Promise<void> {
    try {
      const { MqttClient } = await import('mqtt');
      if (this.#closed) return;
      this.#use(new MqttClient(() => this.#open(), this.#clientOptions()));
    } catch (error) {
      this.#failed((error as Error).message);
    }
  }

  #clientOptions(): IClientOptions {
    const { address, options, clientId, will, keepalive = KEEPALIVE_S } = this.#options;
    const username = options.username ?? address.username;
    const password = options.password ?? address.password;
    return {
      clientId: `${clientId}_${this.#suffix}`,
      // Messages that a broker has kept while the client was away would come too late.
      clean: true,
      keepalive,
      connectTimeout: Math.max(CONNECT_TIMEOUT_MS, keepalive * 1000),
      reconnectPeriod: 0,
      resubscribe: false,
      timerVariant: {
        // The type is that of browsers.
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

  #use(client: MqttClient): void {
    this.#client = client;
    // The timer for the broker's CONNACK is the only one that `timerVariant` does not replace.
    if (!this.#options.ref) (client as unknown as { connackTimer?: NodeJS.Timeout }).connackTimer?.unref?.();
    let why = 'the broker closed the connection';
    let since = Number.POSITIVE_INFINITY;
    client
      .on('error', (error) => {
        why = describe(error);
        // A refusal of the broker does not close the client.
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
        // A broker of MQTT 3.1.1 may end the connection of a client that publishes where it may not.
        const [pending] = this.#unconfirmed.values();
        this.#giveUpUnconfirmed();
        if (performance.now() - since > STABLE_MS) {
          this.#pause = MIN_PAUSE_MS;
          this.#short = 0;
        } else if (since < Number.POSITIVE_INFINITY && ++this.#short >= MAX_SHORT) {
          // Copies of a virtual machine have the same id, and would end each other's connections for ever.
          this.#suffix = randomBytes(4).toString('hex');
          this.#short = 0;
        }
        this.#failed(pending === undefined ? why : `${why}, before it had confirmed a message to ${pending}`);
      });
  }

  async #subscribe(client: MqttClient): Promise<void> {
    const { subscribe, log, up } = this.#options;
    const topics = Object.keys(subscribe);
    try {
      await client.subscribeAsync(Object.fromEntries(topics.map((topic) => [topic, { qos: subscribe[topic] ?? 0 }])));
    } catch (error) {
      // One refusal is reported for all; the other topics are subscribed to. The status is published all the same.
      const granted = (error as { packet?: { granted?: readonly number[] } }).packet?.granted;
      const refused = granted ? topics.filter((_, i) => ((granted[i] ?? 0) & REFUSED) !== 0) : [];
      if (refused.length === 0) log('warning', `not subscribed: ${messageOf(error)}`);
      else if (this.#client === client) this.#refused(refused);
    }
    if (this.#client !== client || !client.connected) return;
    this.#up = true;
    this.#why = undefined;
    log('info', `connected to the broker at ${this.#place()}`);
    up.call(this.#options);
  }

  #refused(topics: readonly string[]): void {
    const { log, refused } = this.#options;
    if (refused) refused.call(this.#options, topics);
    else log('warning', `the broker refuses the subscription to ${topics.join(', ')}: its access list`);
  }

  #failed(why: string): void {
    if (this.#closed) return;
    const { log, down, ref } = this.#options;
    const pause = this.#pause * (0.75 + Math.random() / 2);
    // One warning is enough for a broker that stays away.
    log(
      why === this.#why ? 'debug' : 'warning',
      `not connected to the broker at ${this.#place()}: ${why}; another attempt follows`,
    );
    this.#why = why;
    this.#pause = Math.min(this.#pause * 2, MAX_PAUSE_MS);
    this.#timer = setTimeout(() => void this.#attempt(), pause);
    if (!ref) this.#timer.unref();
    down?.call(this.#options, why);
  }

  #place(): string {
    const { host, port, secure } = this.#options.address;
    return maskBroker(`${secure ? 'mqtts' : 'mqtt'}://${host.includes(':') ? `[${host}]` : host}:${port}`);
  }
}

/** The error of several addresses has no message of its own: that of the first address. */
function describe(error: Error): string {
  const first = error instanceof AggregateError ? (error.errors[0] as Error | undefined) : undefined;
  return (first ?? error).message || (error as NodeJS.ErrnoException).code || error.name;
}
