/** The other side of MQTT: whom there is to suspend on a host, and what they answer. For the command line. */

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import { brokerAddress, maskBroker } from '../config/broker-url.js';
import { isControlId } from '../config/control-id.js';
import { BrokerLink, bounded, type MqttOptions } from './broker.js';
import { type Feedback, idOfTopic, MAX_STATUS, parseFeedback, parseStatus, type Status, topics } from './payload.js';

/** Not every broker sends what it has retained before it answers the next question: this long nothing more, in ms. */
const QUIET = 250;
/** For all of it, in milliseconds. */
const GATHERING = 3000;
/** Processes that are taken note of. */
const MAX_PROCESSES = 10_000;

export interface WatchOptions {
  readonly broker: string;
  readonly mqtt?: MqttOptions | undefined;
  readonly host: string;
  readonly log: Log;
  /** A status came; `first`: one that the broker had before we asked. */
  status?(id: string, status: Status, first: boolean): void;
  answer?(id: string, answer: Feedback): void;
  /** The connection was lost, and is there again: answers may be missing. */
  back?(): void;
}

export class Watcher {
  readonly #host: string;
  readonly #statuses = new Map<string, Status>();
  readonly #link: BrokerLink;
  /** Requests that the broker has not confirmed. */
  readonly #asked = new Map<string, 'suspend' | 'resume'>();
  #heard = performance.now();

  private constructor(options: WatchOptions, up: () => void, down: (why: string) => void) {
    const { broker, mqtt = {}, host, log, status, answer, back } = options;
    this.#host = host;
    let ups = 0;
    this.#link = new BrokerLink({
      address: brokerAddress(broker),
      options: mqtt,
      clientId: `isthmus_cli_${process.pid}_${randomBytes(4).toString('hex')}`,
      // Of messages to be confirmed a broker sends only a few at a time: statuses are many.
      subscribe: { [topics.status(host, '+')]: 0, [topics.response(host, '+')]: 1 },
      ref: true,
      // That it cannot be reached at all is told as an error.
      log: (level, line) => ups > 0 && log(level, line),
      up: () => {
        this.#heard = performance.now();
        if (++ups > 1) back?.();
        up();
        for (const [id, kind] of this.#asked) void this.request(id, kind);
      },
      down,
      message: (topic, payload, packet) => {
        this.#heard = performance.now();
        const id = idOfTopic(topic);
        if (id === undefined || !isControlId(id) || payload.byteLength > MAX_STATUS) return;
        if (topic.endsWith('/status')) {
          const said = parseStatus(payload);
          if (!said || (this.#statuses.size >= MAX_PROCESSES && !this.#statuses.has(id))) return;
          this.#statuses.set(id, said);
          status?.(id, said, packet.retain && ups === 1);
        } else if (!packet.retain) {
          const said = parseFeedback(payload);
          if (said && said.id === id) answer?.(id, said);
        }
      },
    });
  }

  /**
   * Connect, and gather the statuses that are there.
   * @throws ERR_ISTHMUS_BROKER if that is not possible; ERR_ISTHMUS_INVALID_ARGUMENT for a URL that is none
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
    const end = performance.now() + GATHERING;
    await bounded(this.#link.caughtUp(), GATHERING);
    for (let left = QUIET; left > 0 && performance.now() < end; left = QUIET - (performance.now() - this.#heard)) {
      await sleep(left);
      // Where we were kept from listening it may lie there.
      await turn();
    }
  }

  /** By pid or control id, those included that are gone. */
  get statuses(): ReadonlyMap<string, Status> {
    return this.#statuses;
  }

  /** Ask a process, or `any_proc`. It is tried again until the broker has it. */
  async request(id: string, kind: 'suspend' | 'resume'): Promise<void> {
    this.#asked.set(id, kind);
    if (await this.#link.publish(topics.request(this.#host, id), kind)) this.#asked.delete(id);
  }

  close(): Promise<void> {
    return this.#link.close();
  }
}
