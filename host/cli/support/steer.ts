/** The processes of a host, by way of a broker: asked to suspend or to resume, and waited for. */

import { readFileSync } from 'node:fs';
import { type Command, InvalidArgumentError } from 'commander';
import type { Log } from '../../base/log.js';
import { BROKER_URL, readBroker } from '../../config/broker-url.js';
import { explain } from '../../config/config.js';
import { ANY_PROC, isControlId } from '../../config/control-id.js';
import type { MqttOptions } from '../../control/broker.js';
import type { Feedback, Status } from '../../control/payload.js';
import { Watcher } from '../../control/watcher.js';
import { complain } from './output.js';

export type Kind = 'suspend' | 'resume';

/** Longer than the deadline of a suspension, so that its failure is heard, in seconds. */
export const WAIT = 15;

// ─── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────────

export interface BrokerOptions {
  readonly pid?: readonly string[];
  readonly broker?: string;
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
}

function pids(text: string, before: readonly string[] = []): string[] {
  if (!isControlId(text)) throw new InvalidArgumentError('A pid or a control id is wanted.');
  if (before.length >= 1000) throw new InvalidArgumentError('These are too many.');
  return [...before, text];
}

export function hostName(text: string): string {
  if (!/^[^\s/+#\0]{1,255}$/.test(text)) throw new InvalidArgumentError('The name of a host is wanted.');
  return text;
}

function broker(text: string): string {
  if (!readBroker(text)) throw new InvalidArgumentError(`A broker is wanted: ${BROKER_URL}.`);
  return text;
}

export function withBroker(command: Command): Command {
  return command
    .option('--pid <PID...>', 'these processes, by pid or control id; default: all that take part', pids)
    .option('--broker <URL>', 'default: PSP_MQTT_BROKER', broker)
    .option('--ca <FILE>', 'certificates that a broker with TLS is checked against (PEM)')
    .option('--cert <FILE>', 'our certificate, for a broker that asks for it (PEM)')
    .option('--key <FILE>', 'and its key (PEM)');
}

export function brokerOf(options: BrokerOptions): { broker: string; mqtt: MqttOptions } {
  const configured = explain().find(({ name }) => name === 'broker')?.value;
  const read = (path: string | undefined) => (path === undefined ? undefined : readFileSync(path));
  const mqtt = { ca: read(options.ca), cert: read(options.cert), key: read(options.key) };
  return { broker: options.broker ?? String(configured), mqtt };
}

/** What happens to the connection later on; that it cannot be made at all is an error. */
export const brokerLog: Log = (level, line) => {
  if (level === 'error' || level === 'warning') complain(`isthmus: ${line}\n`);
};

// ─── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A process that is expected to answer. */
export interface Row {
  readonly id: string;
  name: string;
  state: string;
  answer: 'ALLOWED' | 'COMPLETED' | 'FAILED' | undefined;
  /** Why it failed; or why nothing had to be done. */
  reason: string | undefined;
  good: boolean;
  milliseconds: number | undefined;
  /** A resume stops its suspension, which is told as FAILED first: that is not the answer to us. */
  stopping: boolean;
}

export const isSettled = ({ answer, reason }: Row): boolean => answer !== undefined || reason !== undefined;

const isLost = ({ state, since }: Status): boolean => state === 'offline' && since === null;

export interface AskOptions {
  /** Only these. */
  readonly pid?: readonly string[] | undefined;
  /**
   * Resume those of a suspension, whatever became of it and of them: the machine may be moving, and who is gone from the
   * broker may come back to it, and is asked again then.
   */
  readonly after?: readonly Row[];
  /** In seconds. */
  readonly wait: number;
  readonly stop?: AbortSignal | undefined;
  /** Shows the rows as they are now. */
  show?(rows: readonly Row[]): void;
}

/** One question, to all at once, and the answers to it. */
class Round {
  readonly rows = new Map<string, Row>();
  readonly #watcher: Watcher;
  readonly #kind: Kind;
  readonly #options: AskOptions;
  readonly #asked = performance.now();
  /** Answers may be missing. */
  #missed = false;
  #wake = () => {};

  constructor(watcher: Watcher, kind: Kind, options: AskOptions) {
    this.#watcher = watcher;
    this.#kind = kind;
    this.#options = options;
    const { pid, after } = options;
    for (const [id, status] of watcher.statuses) if (!pid && !after && status.state !== 'offline') this.#expect(id);
    for (const id of pid ?? []) if (!after) this.#expect(id);
    for (const row of after ?? []) this.#undo(row);
  }

  get #wanted(): 'ALLOWED' | 'COMPLETED' {
    return this.#kind === 'suspend' ? 'ALLOWED' : 'COMPLETED';
  }

  get #open(): Row[] {
    return [...this.rows.values()].filter((row) => !isSettled(row));
  }

  /** Why an offline one does not answer. */
  #why(id: string): string {
    const status = this.#watcher.statuses.get(id);
    return status && isLost(status) ? 'has left the broker without a word' : 'has ended';
  }

  #settle(row: Row, good: boolean, answer: Row['answer'], reason?: string): void {
    if (isSettled(row)) return;
    Object.assign(row, { good, answer, reason });
    if (answer !== undefined) row.milliseconds = Math.round(performance.now() - this.#asked);
    this.#wake();
  }

  #add(id: string, stopping: boolean): Row {
    const status = this.#watcher.statuses.get(id);
    const row: Row = {
      id,
      name: status?.name ?? '',
      state: status?.state ?? 'unknown',
      answer: undefined,
      reason: undefined,
      good: false,
      milliseconds: undefined,
      stopping,
    };
    this.rows.set(id, row);
    return row;
  }

  #expect(id: string): Row {
    const state = this.#watcher.statuses.get(id)?.state;
    const row = this.#add(id, this.#kind === 'resume' && (state === 'requested' || state === 'preparing'));
    if (state === 'offline') this.#settle(row, false, undefined, this.#why(id));
    else if (this.#kind === 'resume' && state === 'inactive') this.#settle(row, true, undefined, 'is not suspended');
    return row;
  }

  /** What the broker has told of it last may be from before it was asked to suspend. */
  #undo({ id, name, answer }: Row): void {
    const row = this.#add(id, answer === undefined);
    if (row.name === '') row.name = name;
    if (answer === 'FAILED') this.#settle(row, true, undefined, 'is not suspended');
  }

  /** @returns when all have answered, or will not */
  async run(): Promise<readonly Row[]> {
    const { pid, after, wait, stop, show = () => {} } = this.#options;
    const rows = () => [...this.rows.values()];
    const aborted = () => this.#wake();
    stop?.addEventListener('abort', aborted, { once: true });
    if (pid || after) for (const { id } of this.#open) void this.#watcher.request(id, this.#kind);
    else if (this.#open.length > 0) void this.#watcher.request(ANY_PROC, this.#kind);
    const end = this.#asked + wait * 1000;
    for (show(rows()); this.#open.length > 0 && !stop?.aborted && performance.now() < end; show(rows())) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.max(1, end - performance.now()));
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    stop?.removeEventListener('abort', aborted);
    for (const row of this.#open) {
      if (stop?.aborted) this.#settle(row, false, undefined, 'not waited for');
      else if (after && row.state === 'inactive') this.#settle(row, true, undefined, 'is not suspended');
      else if (after && row.state === 'offline') this.#settle(row, false, undefined, `not at the broker for ${wait} s`);
      else this.#settle(row, false, undefined, `no answer in ${wait} s`);
    }
    show(rows());
    return rows();
  }

  status(id: string, status: Status, first: boolean): void {
    const { pid, after } = this.#options;
    const row = this.rows.get(id);
    const { state } = status;
    if (!row) {
      // One that the broker was slow to tell us of; who starts only now was not asked.
      if (first && !pid && !after && state !== 'offline') this.#expect(id);
    } else {
      // Named, and nobody had heard of it: it may have come to the broker after the request. So may one that was away.
      const unheard = after ? state === 'allowed' : row.state === 'unknown' && state !== 'offline';
      if (unheard && !isSettled(row)) void this.#watcher.request(id, this.#kind);
      row.state = state;
      if (status.name !== '') row.name = status.name;
      const reached = this.#kind === 'suspend' ? 'allowed' : 'inactive';
      if (state === 'offline' && !after) this.#settle(row, false, undefined, this.#why(id));
      else if (state === reached && (this.#missed || after)) {
        this.#settle(row, true, this.#wanted, 'as its status says');
      }
    }
    this.#wake();
  }

  answer(id: string, { outcome, reason }: Feedback): void {
    const { pid, after } = this.#options;
    // One without a status, as a C pscom: it is shown, and counts.
    const row = this.rows.get(id) ?? (pid || after ? undefined : this.#expect(id));
    if (row && outcome === this.#wanted) this.#settle(row, true, outcome);
    else if (row?.stopping && outcome === 'FAILED') row.stopping = false;
    else if (row && outcome === 'FAILED') this.#settle(row, false, outcome, reason ?? 'no reason given');
  }

  back(): void {
    this.#missed = true;
  }
}

export class Processes implements AsyncDisposable {
  readonly #watcher: Watcher;
  /** The question that is under way. */
  readonly #now: { round?: Round };

  private constructor(watcher: Watcher, now: { round?: Round }) {
    this.#watcher = watcher;
    this.#now = now;
  }

  /** @throws ERR_ISTHMUS_BROKER if the broker cannot be reached */
  static async open(options: { broker: string; mqtt: MqttOptions; host: string }): Promise<Processes> {
    const now: { round?: Round } = {};
    const watcher = await Watcher.open({
      ...options,
      log: brokerLog,
      status: (id, status, first) => now.round?.status(id, status, first),
      answer: (id, answer) => now.round?.answer(id, answer),
      back: () => now.round?.back(),
    });
    return new Processes(watcher, now);
  }

  /** Ids of those that take part. */
  get there(): string[] {
    return [...this.#watcher.statuses].filter(([, { state }]) => state !== 'offline').map(([id]) => id);
  }

  /** Ids of those that have left the broker without a word: ended in an instant, paused, or cut off from it. */
  get lost(): string[] {
    return [...this.#watcher.statuses].filter(([, status]) => isLost(status)).map(([id]) => id);
  }

  /** One question at a time. @returns a row for each that was asked; none if nobody is there */
  ask(kind: Kind, options: AskOptions): Promise<readonly Row[]> {
    this.#now.round = new Round(this.#watcher, kind, options);
    return this.#now.round.run();
  }

  close(): Promise<void> {
    return this.#watcher.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
