/** Asks processes of a host to suspend or to resume, through an MQTT broker, and waits for their answers. */
import { onAbort } from '../../base/abortable.js';
import { ANY_PROC } from '../../config/control-id.js';
import type { MqttOptions } from '../../control/broker.js';
import type { Answer, Status } from '../../control/payload.js';
import { type KnownProcess, keyOf, newNonce, Watcher } from '../../control/watcher.js';
import { brokerLog } from './broker-options.js';
import { CliError } from './errors.js';
import { Waiter } from './waiter.js';

export type RequestKind = 'suspend' | 'resume';

/** Default time to wait for answers: more than a suspension may take (10 s), so that its failure is reported. */
export const DEFAULT_WAIT_S = 15;

/** A process that is expected to answer. */
export interface Participant {
  /** Pid or control id. */
  readonly id: string;
  /** Tells it from other processes with the same id. Undefined: a C pscom, an older version, or not known yet. */
  instance: string | undefined;
  /** What people see: the id, with the instance where several have the same id. */
  label: string;
  name: string;
  /** According to its status, which any client of the broker may publish; undefined: not known. */
  pid: number | undefined;
  state: string;
  answer: 'ALLOWED' | 'COMPLETED' | 'FAILED' | undefined;
  /** Whether the answer named the nonce of this request. */
  verified: boolean;
  /** Why it failed, or why nothing had to be done. */
  reason: string | undefined;
  good: boolean;
  milliseconds: number | undefined;
  /** A resume that interrupts a suspension: the suspension reports FAILED first, which does not answer the resume. */
  interrupted: boolean;
}

export const isSettled = ({ answer, reason }: Participant): boolean => answer !== undefined || reason !== undefined;

/** Offline by its will message: the connection to the broker was lost, not closed. */
const isLost = ({ state, since }: Status): boolean => state === 'offline' && since === null;

/** Name a process for people. @param all the processes beside which it is named */
export function labelOf(
  { id, instance }: Pick<KnownProcess, 'id' | 'instance'>,
  all: Iterable<Pick<KnownProcess, 'id'>>,
): string {
  let same = 0;
  for (const each of all) if (each.id === id) same++;
  return same > 1 ? keyOf({ id, instance }) : id;
}

export interface AskOptions {
  /** Only these processes. */
  readonly pid?: readonly string[] | undefined;
  /**
   * Resume the processes of this suspension, whatever the suspension and the processes have come to. The machine may be
   * moving: a process that is away from the broker may come back, and is asked again then.
   */
  readonly after?: readonly Participant[];
  /** In seconds. */
  readonly wait: number;
  readonly stop?: AbortSignal | undefined;
  /** Called with all participants each time one of them changes. */
  show?(participants: readonly Participant[]): void;
}

/** One request to several processes, and their answers. */
class Round {
  readonly participants = new Map<string, Participant>();
  readonly #watcher: Watcher;
  readonly #kind: RequestKind;
  readonly #options: AskOptions;
  /** Whether an answer without the nonce counts. */
  readonly #unverified: boolean;
  readonly #nonce = newNonce();
  readonly #askedAt = performance.now();
  /** The connection to the broker was lost meanwhile: answers may be missing, and the statuses count instead. */
  #reconnected = false;
  /** Ids in whose names came an answer that does not belong to this request. */
  readonly #ignored = new Set<string>();
  readonly #waiter = new Waiter();

  constructor(watcher: Watcher, kind: RequestKind, options: AskOptions, unverified: boolean) {
    this.#watcher = watcher;
    this.#kind = kind;
    this.#options = options;
    this.#unverified = unverified;
    const { pid, after } = options;
    for (const participant of after ?? []) this.#expectResumed(participant);
    if (after) return;
    for (const process of watcher.statuses.values()) if (!pid && process.state !== 'offline') this.#expect(process);
    for (const id of pid ?? []) {
      const known = watcher.withId(id);
      const online = known.filter(({ state }) => state !== 'offline');
      for (const process of online) this.#expect(process);
      // Of several that have ended, the last one stands for all.
      if (online.length === 0) this.#expect(known.at(-1) ?? { id, instance: undefined });
    }
  }

  /** The answer that reports success. */
  get #success(): 'ALLOWED' | 'COMPLETED' {
    return this.#kind === 'suspend' ? 'ALLOWED' : 'COMPLETED';
  }

  get #unsettled(): Participant[] {
    return [...this.participants.values()].filter((participant) => !isSettled(participant));
  }

  /** Why an offline process does not answer. */
  #offlineReason(status: Status | undefined): string {
    return status && isLost(status) ? 'has lost its connection to the broker' : 'has ended';
  }

  #settle(participant: Participant, good: boolean, answer: Participant['answer'], reason?: string): void {
    if (isSettled(participant)) return;
    Object.assign(participant, { good, answer, reason });
    if (answer !== undefined) participant.milliseconds = Math.round(performance.now() - this.#askedAt);
    this.#waiter.wake();
  }

  #add({ id, instance }: Pick<KnownProcess, 'id' | 'instance'>, interrupted: boolean): Participant {
    const status = this.#watcher.statuses.get(keyOf({ id, instance }));
    const participant: Participant = {
      id,
      instance,
      label: id,
      name: status?.name ?? '',
      pid: status?.pid || undefined,
      state: status?.state ?? 'unknown',
      answer: undefined,
      verified: false,
      reason: undefined,
      good: false,
      milliseconds: undefined,
      interrupted,
    };
    this.participants.set(keyOf(participant), participant);
    this.#name();
    return participant;
  }

  #name(): void {
    const all = [...this.participants.values()];
    for (const each of all) each.label = labelOf(each, all);
  }

  #expect(process: Pick<KnownProcess, 'id' | 'instance'>): Participant {
    const status = this.#watcher.statuses.get(keyOf(process));
    const state = status?.state;
    const participant = this.#add(process, this.#kind === 'resume' && (state === 'requested' || state === 'preparing'));
    if (state === 'offline') this.#settle(participant, false, undefined, this.#offlineReason(status));
    else if (this.#kind === 'resume' && state === 'inactive') {
      this.#settle(participant, true, undefined, 'is not suspended');
    }
    return participant;
  }

  /** The last status that the broker has of it may be older than the request to suspend, and does not count. */
  #expectResumed({ id, instance, name, answer }: Participant): void {
    const participant = this.#add({ id, instance }, answer === undefined);
    if (participant.name === '') participant.name = name;
    if (answer === 'FAILED') this.#settle(participant, true, undefined, 'is not suspended');
  }

  /** The participant of a process; one of which only the id was known, and that was not heard of, is this process. */
  #find({ id, instance }: Pick<KnownProcess, 'id' | 'instance'>): Participant | undefined {
    const found = this.participants.get(keyOf({ id, instance }));
    const unknown = this.participants.get(id);
    if (found || instance === undefined || !unknown || isSettled(unknown) || unknown.state !== 'unknown') return found;
    this.participants.delete(id);
    unknown.instance = instance;
    this.participants.set(keyOf(unknown), unknown);
    return unknown;
  }

  #request(id: string): void {
    void this.#watcher.request(id, this.#kind, this.#nonce);
  }

  /** @returns all participants, once each has answered or is not expected to answer any more */
  async run(): Promise<readonly Participant[]> {
    const { pid, after, wait, stop, show = () => {} } = this.#options;
    const all = () => [...this.participants.values()];
    const removeListener = onAbort(stop, () => this.#waiter.wake());
    if (pid || after) for (const id of new Set(this.#unsettled.map((each) => each.id))) this.#request(id);
    else if (this.#unsettled.length > 0) this.#request(ANY_PROC);
    const end = this.#askedAt + wait * 1000;
    for (show(all()); this.#unsettled.length > 0 && !stop?.aborted && performance.now() < end; show(all())) {
      await this.#waiter.wait(end - performance.now());
    }
    removeListener();
    for (const participant of this.#unsettled) this.#giveUp(participant);
    show(all());
    return all();
  }

  #giveUp(participant: Participant): void {
    const { after, wait, stop } = this.#options;
    const unanswered = (reason: string) => this.#settle(participant, false, undefined, reason);
    if (stop?.aborted) unanswered('no answer before the interruption');
    else if (after && participant.state === 'inactive') this.#settle(participant, true, undefined, 'is not suspended');
    else if (after && participant.state === 'offline') unanswered(`not connected to the broker within ${wait} s`);
    else if (!this.#watcher.delivers(this.#nonce)) {
      unanswered(
        `no answer within ${wait} s; the broker has not delivered the request, which its access list may refuse`,
      );
    } else if (this.#ignored.has(participant.id)) {
      unanswered(
        `no answer to this request within ${wait} s, only one without its nonce: of another client of the broker`,
      );
    } else unanswered(`no answer within ${wait} s`);
  }

  /** @param first whether the broker had this status before it was asked */
  onStatus(process: KnownProcess, first: boolean): void {
    const { pid, after } = this.#options;
    const participant = this.#find(process);
    const { id, state } = process;
    if (!participant) {
      // A status that the broker sent late. A process that starts only now was not asked, unless its id was named.
      const asked = pid ? pid.includes(id) : first && !after;
      if (asked && state !== 'offline') {
        const added = this.#expect(process);
        if (pid && !isSettled(added)) this.#request(id);
      }
    } else {
      // A process that connects to the broker only now has missed the request.
      const missed = after ? state === 'allowed' : participant.state === 'unknown' && state !== 'offline';
      if (missed && !isSettled(participant)) this.#request(id);
      participant.state = state;
      if (process.name !== '') participant.name = process.name;
      participant.pid = process.pid || participant.pid;
      const reached = this.#kind === 'suspend' ? 'allowed' : 'inactive';
      if (state === 'offline' && !after) this.#settle(participant, false, undefined, this.#offlineReason(process));
      else if (state === reached && (this.#reconnected || after)) this.#onReached(participant);
    }
    this.#waiter.wake();
  }

  /** According to its status. Any client may publish one: before a device is pulled, only an answer counts. */
  #onReached(participant: Participant): void {
    if (this.#kind === 'resume') this.#settle(participant, true, this.#success, 'according to its status');
    else if (participant.instance === undefined) this.#settleUnverified(participant, 'according to its status');
    // It answers once more.
    else if (!isSettled(participant)) this.#request(participant.id);
  }

  #settleUnverified(participant: Participant, how?: string): void {
    const reason = `not verified${how === undefined ? '' : `, ${how}`}: an answer without the nonce of the request`;
    this.#settle(participant, this.#unverified, this.#success, reason);
  }

  onAnswer({ id, instance, outcome, reason, nonces }: Answer): void {
    const { pid, after } = this.#options;
    const verified = instance !== undefined && nonces.includes(this.#nonce);
    if (!verified && [...this.participants.values()].some((each) => each.id === id && each.instance !== undefined)) {
      // Of another request, or of a client that only publishes: a process of that id is known to answer with the nonce.
      this.#ignored.add(id);
      return;
    }
    const process = { id, instance: verified ? instance : undefined };
    // A process without a status, such as a C pscom, is added when it answers.
    const participant = this.#find(process) ?? ((pid ? pid.includes(id) : !after) ? this.#expect(process) : undefined);
    if (!participant) return;
    if (!isSettled(participant)) participant.verified = verified;
    if (outcome === this.#success) {
      if (verified) this.#settle(participant, true, outcome);
      else this.#settleUnverified(participant);
    } else if (participant.interrupted && outcome === 'FAILED' && !verified) participant.interrupted = false;
    else if (outcome === 'FAILED') this.#settle(participant, false, outcome, reason ?? 'no reason given');
  }

  onReconnect(): void {
    this.#reconnected = true;
    // The answers that were missed are given again.
    for (const id of new Set(this.#unsettled.map((each) => each.id))) this.#request(id);
  }
}

/** How processes are reached, and which answers count. */
export interface ReachOptions {
  readonly broker: string;
  readonly mqtt: MqttOptions;
  readonly host: string;
  /** Also answers without the nonce of the request: of a C pscom, an older version, or of any client that may publish. */
  readonly unverified?: boolean;
}

/** The processes of a host that accept requests over MQTT. */
export class Processes implements AsyncDisposable {
  readonly #watcher: Watcher;
  readonly #unverified: boolean;
  /** The request that is under way. */
  readonly #current: { round?: Round };

  private constructor(watcher: Watcher, unverified: boolean, current: { round?: Round }) {
    this.#watcher = watcher;
    this.#unverified = unverified;
    this.#current = current;
  }

  /** @throws ERR_ISTHMUS_BROKER if the broker cannot be reached, or refuses to let this client see the processes */
  static async open({ unverified = false, ...options }: ReachOptions): Promise<Processes> {
    const current: { round?: Round } = {};
    const watcher = await Watcher.open({
      ...options,
      log: brokerLog,
      status: (process, first) => current.round?.onStatus(process, first),
      answer: (answer) => current.round?.onAnswer(answer),
      back: () => current.round?.onReconnect(),
    });
    return new Processes(watcher, unverified, current);
  }

  /** Ids of the processes that are connected to the broker. */
  get online(): string[] {
    return [...this.#watcher.statuses.values()].filter(({ state }) => state !== 'offline').map(({ id }) => id);
  }

  /** Ids of the processes that disappeared from the broker: killed, paused, or cut off from it. */
  get lost(): string[] {
    return [...this.#watcher.statuses.values()].filter(isLost).map(({ id }) => id);
  }

  /** One request at a time. @returns a row for each process that was asked; none if no process takes part */
  ask(kind: RequestKind, options: AskOptions): Promise<readonly Participant[]> {
    this.#current.round = new Round(this.#watcher, kind, options, this.#unverified);
    return this.#current.round.run();
  }

  /** Why no process takes part. */
  whyNone(host: string): Promise<CliError> {
    return noProcess(this.#watcher, host);
  }

  close(): Promise<void> {
    return this.#watcher.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** The broker keeps no status of a process of that host: none takes part, or an access list hides them. */
export async function noProcess(watcher: Watcher, host: string): Promise<CliError> {
  if (await watcher.hearsItself()) {
    return new CliError(
      `no process on ${host} takes part`,
      "Start the process with PSP_SUSPEND_RESUME=1 and this broker; 'isthmus status' lists the processes that take part.",
    );
  }
  return new CliError(
    `no process on ${host} is seen, and the broker does not deliver a message of this client to itself: its access list may ` +
      'hide the processes',
    `Allow this user of the broker to read fast/pscom/${host}/#, and to write fast/pscom/${host}/+/request (docs/migration.md).`,
  );
}
