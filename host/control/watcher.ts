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
  type Answer,
  MAX_STATUS_BYTES,
  parseFeedback,
  parseStatus,
  partsOfTopic,
  requestOf,
  type Status,
  topics,
  whyNoLevel,
} from './payload.js';
import { isOver } from './status-topic.js';

/** Time without a message after which all retained ones have come: some brokers send them behind their next answer. */
const QUIET_MS = 250;
/** Time for all retained messages. */
const MAX_GATHERING_MS = 3000;
/** Processes to keep a status of. */
const MAX_PROCESSES = 10_000;
/** Time for a message of this client to come back to it. */
const MAX_ECHO_MS = 2000;

/** A process with its status. */
export interface KnownProcess extends Status {
  /** Pid or control id. Several processes may have the same one. */
  readonly id: string;
  /** Unique. Undefined: of a version that had none. */
  readonly instance: string | undefined;
}

/** Unique for a process. */
export function keyOf({ id, instance }: Pick<KnownProcess, 'id' | 'instance'>): string {
  return instance === undefined ? id : `${id}/${instance}`;
}

export interface WatchOptions {
  readonly broker: string;
  readonly mqtt?: MqttOptions | undefined;
  readonly host: string;
  readonly log: Log;
  /** A status came. `first`: the broker had it before the subscription. */
  status?(process: KnownProcess, first: boolean): void;
  answer?(answer: Answer): void;
  /** The connection broke and is up again: answers may be missing. */
  back?(): void;
}

interface Request {
  readonly kind: 'suspend' | 'resume';
  readonly nonce: string;
}

export class Watcher {
  readonly #host: string;
  readonly #statuses = new Map<string, KnownProcess>();
  /** Processes of which the broker kept a last status that has served its purpose. */
  readonly #ended = new Map<string, KnownProcess>();
  readonly #link: BrokerLink;
  /** Requests that the broker has not confirmed, by id. */
  readonly #unconfirmed = new Map<string, Request>();
  /** Payloads of this client that have not come back. */
  readonly #echoes = new Map<string, () => void>();
  /** Nonces of requests that the broker has delivered to this client as well. */
  readonly #delivered = new Set<string>();
  /** Whether this client sees requests. */
  #seesRequests = true;
  #heard = performance.now();

  private constructor(options: WatchOptions, up: () => void, failed: (why: string) => void) {
    const { broker, mqtt = {}, host, log, status, answer, back } = options;
    this.#host = host;
    let ups = 0;
    const needed = [topics.status(host, '+', '+'), topics.response(host, '+')];
    this.#link = new BrokerLink({
      address: brokerAddress(broker),
      options: mqtt,
      clientId: `isthmus_cli_${process.pid}`,
      // A broker sends only a few messages at a time that have to be confirmed, and statuses may be many.
      subscribe: {
        [topics.status(host, '+', '+')]: 0,
        [topics.oldStatus(host, '+')]: 0,
        [topics.response(host, '+')]: 1,
        // To see that the requests of this client are delivered.
        [topics.requests(host)]: 0,
      },
      ref: true,
      // A broker that cannot be reached at all is reported as an error.
      log: (level, line) => ups > 0 && log(level, line),
      up: () => {
        this.#heard = performance.now();
        if (++ups > 1) back?.();
        up();
        for (const [id, request] of this.#unconfirmed) void this.#send(id, request);
      },
      refused: (refused) => {
        if (refused.includes(topics.requests(host))) this.#seesRequests = false;
        const missing = needed.filter((topic) => refused.includes(topic));
        if (missing.length > 0)
          failed(`its access list refuses the subscription to ${missing.join(', ')} for this client`);
      },
      down: failed,
      message: (topic, payload, packet) => {
        this.#heard = performance.now();
        const { id, part, instance } = partsOfTopic(topic) ?? {};
        if (payload.byteLength > MAX_STATUS_BYTES) return;
        if (part !== 'status' && !packet.retain) {
          this.#echoes.get(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString('latin1'))?.();
        }
        if (id === undefined || !isControlId(id)) return;
        if (part === 'status') {
          const process = this.#update(id, instance, payload);
          if (process) status?.(process, packet.retain && ups === 1);
        } else if (part === 'response' && !packet.retain) {
          const parsed = parseFeedback(payload);
          if (parsed?.id === id) answer?.(parsed);
        }
      },
    });
  }

  /** @returns undefined: no status, or not more than that the broker keeps one no longer */
  #update(id: string, instance: string | undefined, payload: Uint8Array): KnownProcess | undefined {
    const key = keyOf({ id, instance });
    if (payload.byteLength === 0) {
      // Removed after an orderly end, which the last status has told. A process that was lost and removed has ended.
      this.#statuses.delete(key);
      return undefined;
    }
    const parsed = parseStatus(payload);
    if (!parsed || (this.#statuses.size >= MAX_PROCESSES && !this.#statuses.has(key))) return undefined;
    const process = { ...parsed, id, instance };
    this.#statuses.set(key, process);
    return process;
  }

  /**
   * Connect, and gather the retained statuses. Those of processes that have ended for certain are removed from the broker.
   * @throws ERR_ISTHMUS_BROKER: it cannot be reached, or refuses the subscriptions; ERR_ISTHMUS_INVALID_ARGUMENT: not the URL of
   *   a broker, or not a host name that a topic may have
   */
  static async open(options: WatchOptions): Promise<Watcher> {
    const why = whyNoLevel(options.host);
    if (why !== undefined) {
      throw new IsthmusError(
        'ERR_ISTHMUS_INVALID_ARGUMENT',
        `the host name '${options.host}' cannot stand in a topic of MQTT: ${why}; name another one with --host`,
      );
    }
    let watcher: Watcher | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        watcher = new Watcher(options, resolve, (reason) => {
          reject(new IsthmusError('ERR_ISTHMUS_BROKER', `${maskBroker(options.broker)}: ${reason}`));
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
    for (const process of [...this.#statuses.values()]) {
      if (!isOver(process)) continue;
      void this.forget(process);
      // Known here: it has ended, and is not only lost.
      const key = keyOf(process);
      this.#ended.set(key, { ...process, since: process.since ?? new Date().toISOString() });
    }
  }

  /** By {@link keyOf}, those of processes that were lost or have ended included. */
  get statuses(): ReadonlyMap<string, KnownProcess> {
    return this.#ended.size === 0 ? this.#statuses : new Map([...this.#ended, ...this.#statuses]);
  }

  /** All processes with that id. */
  withId(id: string): KnownProcess[] {
    return [...this.statuses.values()].filter((process) => process.id === id);
  }

  /** Remove what the broker keeps of a process that has ended. @returns whether the broker has confirmed it */
  forget({ id, instance }: Pick<KnownProcess, 'id' | 'instance'>): Promise<boolean> {
    this.#statuses.delete(keyOf({ id, instance }));
    const topic = instance === undefined ? topics.oldStatus(this.#host, id) : topics.status(this.#host, id, instance);
    return this.#link.publish(topic, '', { retain: true });
  }

  /**
   * Send a request to all processes with an id, or to `any_proc`. It is repeated until the broker has confirmed it.
   * @param nonce comes back with the answers to this request
   */
  async request(id: string, kind: 'suspend' | 'resume', nonce = newNonce()): Promise<void> {
    this.#unconfirmed.set(id, { kind, nonce });
    await this.#send(id, { kind, nonce });
  }

  async #send(id: string, { kind, nonce }: Request): Promise<void> {
    const payload = requestOf(kind, nonce);
    this.#echoes.set(payload, () => {
      this.#echoes.delete(payload);
      this.#delivered.add(nonce);
    });
    if (!(await this.#link.publish(topics.request(this.#host, id), payload))) return;
    if (this.#unconfirmed.get(id)?.nonce === nonce) this.#unconfirmed.delete(id);
  }

  /** Whether the broker has delivered a request, as far as can be seen: one that it refuses it confirms as well. */
  delivers(nonce: string): boolean {
    return !this.#seesRequests || this.#delivered.has(nonce);
  }

  /**
   * Whether this client hears what is published where processes answer: a message of its own. A broker with an access list
   * drops messages, and does not say so (MQTT 3.1.1).
   */
  async hearsItself(): Promise<boolean> {
    // It is no answer: other clients ignore it.
    const probe = `probe ${newNonce()}`;
    let heard = false;
    await bounded(
      new Promise<void>((resolve) => {
        this.#echoes.set(probe, () => {
          heard = true;
          resolve();
        });
        void this.#link.publish(topics.response(this.#host, 'isthmus-probe'), probe);
      }),
      MAX_ECHO_MS,
    );
    this.#echoes.delete(probe);
    return heard;
  }

  close(): Promise<void> {
    return this.#link.close();
  }
}

/** 128 random bits. */
export function newNonce(): string {
  return randomBytes(16).toString('base64url');
}
