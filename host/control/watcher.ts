/** The requesting side of control over MQTT: the processes of a host, and their answers. For the command line. */

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { bounded } from '../base/bounded.js';
import { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import { brokerAddress, maskBroker } from '../config/broker-url.js';
import { isControlId } from '../config/control-id.js';
import { BrokerLink, type MqttOptions } from './broker.js';
import {
  type Feedback,
  idOfTopic,
  MAX_STATUS_BYTES,
  parseFeedback,
  parseStatus,
  type Status,
  topics,
} from './payload.js';

/** Time without a message after which all retained ones have come: some brokers send them behind their next answer. */
const QUIET_MS = 250;
/** Time for all retained messages. */
const MAX_GATHERING_MS = 3000;
/** Processes to keep a status of. */
const MAX_PROCESSES = 10_000;

export interface WatchOptions {
  readonly broker: string;
  readonly mqtt?: MqttOptions | undefined;
  readonly host: string;
  readonly log: Log;
  /** A status came. `first`: the broker had it before the subscription. */
  status?(id: string, status: Status, first: boolean): void;
  answer?(id: string, answer: Feedback): void;
  /** The connection broke and is up again: answers may be missing. */
  back?(): void;
}

export class Watcher {
  readonly #host: string;
  readonly #statuses = new Map<string, Status>();
  readonly #link: BrokerLink;
  /** Requests that the broker has not confirmed. */
  readonly #unconfirmed = new Map<string, 'suspend' | 'resume'>();
  #heard = performance.now();

  private constructor(options: WatchOptions, up: () => void, down: (why: string) => void) {
    const { broker, mqtt = {}, host, log, status, answer, back } = options;
    this.#host = host;
    let ups = 0;
    this.#link = new BrokerLink({
      address: brokerAddress(broker),
      options: mqtt,
      clientId: `isthmus_cli_${process.pid}_${randomBytes(4).toString('hex')}`,
      // A broker sends only a few messages at a time that have to be confirmed, and statuses may be many.
      subscribe: { [topics.status(host, '+')]: 0, [topics.response(host, '+')]: 1 },
      ref: true,
      // A broker that cannot be reached at all is reported as an error.
      log: (level, line) => ups > 0 && log(level, line),
      up: () => {
        this.#heard = performance.now();
        if (++ups > 1) back?.();
        up();
        for (const [id, kind] of this.#unconfirmed) void this.request(id, kind);
      },
      down,
      message: (topic, payload, packet) => {
        this.#heard = performance.now();
        const id = idOfTopic(topic);
        if (id === undefined || !isControlId(id) || payload.byteLength > MAX_STATUS_BYTES) return;
        if (topic.endsWith('/status')) {
          const parsed = parseStatus(payload);
          if (!parsed || (this.#statuses.size >= MAX_PROCESSES && !this.#statuses.has(id))) return;
          this.#statuses.set(id, parsed);
          status?.(id, parsed, packet.retain && ups === 1);
        } else if (!packet.retain) {
          const parsed = parseFeedback(payload);
          if (parsed && parsed.id === id) answer?.(id, parsed);
        }
      },
    });
  }

  /**
   * Connect, and gather the retained statuses.
   * @throws ERR_ISTHMUS_BROKER: it cannot be reached; ERR_ISTHMUS_INVALID_ARGUMENT: not the URL of a broker
   */
  static async open(options: WatchOptions): Promise<Watcher> {
    let watcher: Watcher | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        watcher = new Watcher(options, resolve, (why) => {
          reject(new IsthmusError('ERR_ISTHMUS_BROKER', `${maskBroker(options.broker)}: ${why}`));
        });
      });
    } catch (error) {
      await watcher?.close();
      throw error;
    }
    await (watcher as unknown as Watcher).#gathered();
    return watcher as unknown as Watcher;
  }

  async #gathered(): Promise<void> {
    const end = performance.now() + MAX_GATHERING_MS;
    await bounded(this.#link.caughtUp(), MAX_GATHERING_MS);
    for (
      let left = QUIET_MS;
      left > 0 && performance.now() < end;
      left = QUIET_MS - (performance.now() - this.#heard)
    ) {
      await sleep(left);
      // After a busy turn messages may wait in the socket.
      await turn();
    }
  }

  /** By pid or control id, those of ended processes included. */
  get statuses(): ReadonlyMap<string, Status> {
    return this.#statuses;
  }

  /** Send a request to a process, or to `any_proc`. It is repeated until the broker has confirmed it. */
  async request(id: string, kind: 'suspend' | 'resume'): Promise<void> {
    this.#unconfirmed.set(id, kind);
    if (await this.#link.publish(topics.request(this.#host, id), kind)) this.#unconfirmed.delete(id);
  }

  close(): Promise<void> {
    return this.#link.close();
  }
}
