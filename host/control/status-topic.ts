/**
 * The status of this process, as the broker keeps it, and those of other processes with the same control id.
 *
 * Any client may replace what the broker keeps: the last will of a connection that the broker took for lost too late, or a
 * stranger. So the process reads it back, and publishes it again. What it learns on the way:
 *
 * - Another process has the same id: requests to that id reach both. It is logged.
 * - A process that had the same id has ended: its last status is removed, so that they do not pile up.
 * - The broker confirms what it does not keep, as one with an access list does: without the status no tool knows of this
 *   process. It is logged.
 */
import type { Log } from '../base/log.js';
import type { Delivery } from './broker.js';
import { hasEnded, ownOrigin } from './instance.js';
import { parseStatus, type Status, topics } from './payload.js';

/** Time until a status that another client has replaced is published again. */
const REPAIR_MS = 1000;
/** Time for the broker to send back a status that it has confirmed. */
const ECHO_MS = 5000;
/** Time for subscribers to see the last status of a process before it is removed. */
const MAX_OFFLINE_MS = 60_000;
/** Processes with the same id to remember, each of which is logged once. */
const MAX_OTHERS = 64;

export interface StatusTopicOptions {
  readonly host: string;
  readonly id: string;
  readonly instance: string;
  /** Publish, retained. @returns whether the broker has confirmed it */
  readonly publish: (topic: string, text: string) => Promise<boolean>;
  readonly log: Log;
  /** For tests. */
  readonly echoMs?: number;
}

export class StatusTopic {
  readonly #options: StatusTopicOptions;
  readonly #topic: string;
  #latest: string | undefined;
  /** Publications that have not come back. */
  readonly #underWay: string[] = [];
  #repair: NodeJS.Timeout | undefined;
  #echo: NodeJS.Timeout | undefined;
  /** Whether this process may not read the topic, so that nothing comes back. */
  #deaf = false;
  #warned = false;
  readonly #others = new Set<string>();

  constructor(options: StatusTopicOptions) {
    this.#options = options;
    this.#topic = topics.status(options.host, options.id, options.instance);
  }

  get topic(): string {
    return this.#topic;
  }

  /** What the broker publishes when it loses the connection. */
  get will(): Status {
    const origin = ownOrigin();
    return { state: 'offline', since: null, name: '', pid: process.pid, plugins: {}, ...(origin ? { origin } : {}) };
  }

  /** Of this process and of others with the same id. */
  get subscription(): string {
    return topics.status(this.#options.host, this.#options.id, '+');
  }

  /** There is a new connection to the broker. */
  connected(): void {
    this.#underWay.length = 0;
  }

  /** The broker refuses the subscription. */
  refused(): void {
    this.#deaf = true;
    this.#underWay.length = 0;
  }

  async publish(status: Status): Promise<void> {
    const text = JSON.stringify(status);
    this.#latest = text;
    clearTimeout(this.#repair);
    this.#repair = undefined;
    // Where nothing comes back, nothing is kept until it does.
    if (!this.#deaf && !this.#warned) this.#underWay.push(text);
    const taken = await this.#options.publish(this.#topic, text);
    const at = this.#underWay.indexOf(text);
    if (!taken) {
      if (at >= 0) this.#underWay.splice(at, 1);
      return;
    }
    if (at < 0 || this.#deaf || this.#warned || this.#echo) return;
    this.#echo = setTimeout(() => this.#expectEcho(text), this.#options.echoMs ?? ECHO_MS).unref();
  }

  #expectEcho(text: string): void {
    this.#echo = undefined;
    const at = this.#underWay.indexOf(text);
    if (at < 0) return;
    this.#underWay.length = 0;
    this.#warned = true;
    const { host, id, log } = this.#options;
    log(
      'warning',
      `the broker has confirmed the status of this process, but does not deliver it: its access list may refuse ${this.#topic}. ` +
        `A process reads and writes fast/pscom/${host}/${id}/#, and reads ${topics.requests(host)}; otherwise 'isthmus suspend' ` +
        'does not know of it, or it does not receive requests',
    );
  }

  /** A status of this process, or of one with the same id. */
  received(instance: string, payload: Uint8Array, { retain }: Pick<Delivery, 'retain'>): void {
    if (instance !== this.#options.instance) this.#other(instance, payload);
    else this.#own(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString(), retain);
  }

  #own(text: string, retain: boolean): void {
    const at = this.#underWay.indexOf(text);
    if (at >= 0) {
      this.#underWay.splice(0, at + 1);
      return;
    }
    // A retained one is older than this connection. A newer one of this process is under way, and replaces this one.
    if (retain || this.#underWay.length > 0 || text === this.#latest || this.#repair || this.#latest === undefined)
      return;
    // The will of an earlier connection comes when the broker notices the end of that one.
    const own = parseStatus(Buffer.from(text));
    if (own?.state !== 'offline' || own.since !== null) {
      this.#options.log(
        'warning',
        'another client of the broker has replaced the status of this process; it is published again',
      );
    }
    this.#repair = setTimeout(() => {
      this.#repair = undefined;
      if (this.#latest !== undefined) void this.publish(JSON.parse(this.#latest) as Status);
    }, REPAIR_MS).unref();
  }

  #other(instance: string, payload: Uint8Array): void {
    const status = parseStatus(payload);
    if (!status) return;
    const { host, id, publish, log } = this.#options;
    if (status.state === 'offline') {
      if (isOver(status)) void publish(topics.status(host, id, instance), '');
      return;
    }
    const own = ownOrigin();
    if (own && status.pid === process.pid && JSON.stringify(status.origin) === JSON.stringify(own)) return;
    if (this.#others.has(instance) || this.#others.size >= MAX_OTHERS) return;
    this.#others.add(instance);
    log(
      'warning',
      `another process of ${host}, '${status.name}', has the control id ${id} as well (pid ${status.pid}, instance ${instance}): ` +
        'requests to that id reach both. Give each its own PSP_CONTROL_ID',
    );
  }

  /** The process leaves in order: subscribers see its last status, and the broker keeps nothing. */
  async end(offline: Status | undefined): Promise<void> {
    this.stop();
    const { publish } = this.#options;
    if (offline) await publish(this.#topic, JSON.stringify(offline));
    await publish(this.#topic, '');
  }

  /** Publish nothing more by itself. */
  stop(): void {
    clearTimeout(this.#repair);
    clearTimeout(this.#echo);
    this.#latest = undefined;
  }
}

/** Whether a last status has served its purpose: the process has ended for certain, or it is an old one of an orderly end. */
export function isOver({ state, since, pid, origin }: Status): boolean {
  if (state !== 'offline') return false;
  return since === null ? hasEnded(pid, origin) : Date.now() - Date.parse(since) > MAX_OFFLINE_MS;
}
