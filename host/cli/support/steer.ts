/** Asks processes of a host to suspend or to resume, through an MQTT broker, and waits for their answers. */
import { onAbort } from '../../base/abortable.js';
import { ANY_PROC } from '../../config/control-id.js';
import type { MqttOptions } from '../../control/broker.js';
import type { Feedback, Status } from '../../control/payload.js';
import { Watcher } from '../../control/watcher.js';
import { brokerLog } from './broker-options.js';
import { Waiter } from './waiter.js';

export type RequestKind = 'suspend' | 'resume';

/** Default time to wait for answers: more than a suspension may take (10 s), so that its failure is reported. */
export const DEFAULT_WAIT_S = 15;

/** A process that is expected to answer. */
export interface Participant {
  readonly id: string;
  name: string;
  state: string;
  answer: 'ALLOWED' | 'COMPLETED' | 'FAILED' | undefined;
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
  readonly #askedAt = performance.now();
  /** The connection to the broker was lost meanwhile: answers may be missing, and the statuses count instead. */
  #reconnected = false;
  readonly #waiter = new Waiter();

  constructor(watcher: Watcher, kind: RequestKind, options: AskOptions) {
    this.#watcher = watcher;
    this.#kind = kind;
    this.#options = options;
    const { pid, after } = options;
    for (const participant of after ?? []) this.#expectResumed(participant);
    if (after) return;
    for (const [id, { state }] of watcher.statuses) if (!pid && state !== 'offline') this.#expect(id);
    for (const id of pid ?? []) this.#expect(id);
  }

  /** The answer that reports success. */
  get #success(): 'ALLOWED' | 'COMPLETED' {
    return this.#kind === 'suspend' ? 'ALLOWED' : 'COMPLETED';
  }

  get #unsettled(): Participant[] {
    return [...this.participants.values()].filter((participant) => !isSettled(participant));
  }

  /** Why an offline process does not answer. */
  #offlineReason(id: string): string {
    const status = this.#watcher.statuses.get(id);
    return status && isLost(status) ? 'has lost its connection to the broker' : 'has ended';
  }

  #settle(participant: Participant, good: boolean, answer: Participant['answer'], reason?: string): void {
    if (isSettled(participant)) return;
    Object.assign(participant, { good, answer, reason });
    if (answer !== undefined) participant.milliseconds = Math.round(performance.now() - this.#askedAt);
    this.#waiter.wake();
  }

  #add(id: string, interrupted: boolean): Participant {
    const status = this.#watcher.statuses.get(id);
    const participant: Participant = {
      id,
      name: status?.name ?? '',
      state: status?.state ?? 'unknown',
      answer: undefined,
      reason: undefined,
      good: false,
      milliseconds: undefined,
      interrupted,
    };
    this.participants.set(id, participant);
    return participant;
  }

  #expect(id: string): Participant {
    const state = this.#watcher.statuses.get(id)?.state;
    const participant = this.#add(id, this.#kind === 'resume' && (state === 'requested' || state === 'preparing'));
    if (state === 'offline') this.#settle(participant, false, undefined, this.#offlineReason(id));
    else if (this.#kind === 'resume' && state === 'inactive') {
      this.#settle(participant, true, undefined, 'is not suspended');
    }
    return participant;
  }

  /** The last status that the broker has of it may be older than the request to suspend, and does not count. */
  #expectResumed({ id, name, answer }: Participant): void {
    const participant = this.#add(id, answer === undefined);
    if (participant.name === '') participant.name = name;
    if (answer === 'FAILED') this.#settle(participant, true, undefined, 'is not suspended');
  }

  /** @returns all participants, once each has answered or is not expected to answer any more */
  async run(): Promise<readonly Participant[]> {
    const { pid, after, wait, stop, show = () => {} } = this.#options;
    const all = () => [...this.participants.values()];
    const removeListener = onAbort(stop, () => this.#waiter.wake());
    if (pid || after) for (const { id } of this.#unsettled) void this.#watcher.request(id, this.#kind);
    else if (this.#unsettled.length > 0) void this.#watcher.request(ANY_PROC, this.#kind);
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
    else unanswered(`no answer within ${wait} s`);
  }

  /** @param first whether the broker had this status before it was asked */
  onStatus(id: string, status: Status, first: boolean): void {
    const { pid, after } = this.#options;
    const participant = this.participants.get(id);
    const { state } = status;
    if (!participant) {
      // A status that the broker sent late. A process that starts only now was not asked.
      if (first && !pid && !after && state !== 'offline') this.#expect(id);
    } else {
      // A process that connects to the broker only now has missed the request.
      const missed = after ? state === 'allowed' : participant.state === 'unknown' && state !== 'offline';
      if (missed && !isSettled(participant)) void this.#watcher.request(id, this.#kind);
      participant.state = state;
      if (status.name !== '') participant.name = status.name;
      const reached = this.#kind === 'suspend' ? 'allowed' : 'inactive';
      if (state === 'offline' && !after) this.#settle(participant, false, undefined, this.#offlineReason(id));
      else if (state === reached && (this.#reconnected || after)) {
        this.#settle(participant, true, this.#success, 'according to its status');
      }
    }
    this.#waiter.wake();
  }

  onAnswer(id: string, { outcome, reason }: Feedback): void {
    const { pid, after } = this.#options;
    // A process without a status, such as a C pscom, is added when it answers.
    const participant = this.participants.get(id) ?? (pid || after ? undefined : this.#expect(id));
    if (!participant) return;
    if (outcome === this.#success) this.#settle(participant, true, outcome);
    else if (participant.interrupted && outcome === 'FAILED') participant.interrupted = false;
    else if (outcome === 'FAILED') this.#settle(participant, false, outcome, reason ?? 'no reason given');
  }

  onReconnect(): void {
    this.#reconnected = true;
  }
}

/** The processes of a host that accept requests over MQTT. */
export class Processes implements AsyncDisposable {
  readonly #watcher: Watcher;
  /** The request that is under way. */
  readonly #current: { round?: Round };

  private constructor(watcher: Watcher, current: { round?: Round }) {
    this.#watcher = watcher;
    this.#current = current;
  }

  /** @throws ERR_ISTHMUS_BROKER if the broker cannot be reached */
  static async open(options: { broker: string; mqtt: MqttOptions; host: string }): Promise<Processes> {
    const current: { round?: Round } = {};
    const watcher = await Watcher.open({
      ...options,
      log: brokerLog,
      status: (id, status, first) => current.round?.onStatus(id, status, first),
      answer: (id, answer) => current.round?.onAnswer(id, answer),
      back: () => current.round?.onReconnect(),
    });
    return new Processes(watcher, current);
  }

  /** Ids of the processes that are connected to the broker. */
  get online(): string[] {
    return [...this.#watcher.statuses].filter(([, { state }]) => state !== 'offline').map(([id]) => id);
  }

  /** Ids of the processes that disappeared from the broker: killed, paused, or cut off from it. */
  get lost(): string[] {
    return [...this.#watcher.statuses].filter(([, status]) => isLost(status)).map(([id]) => id);
  }

  /** One request at a time. @returns a row for each process that was asked; none if no process takes part */
  ask(kind: RequestKind, options: AskOptions): Promise<readonly Participant[]> {
    this.#current.round = new Round(this.#watcher, kind, options);
    return this.#current.round.run();
  }

  close(): Promise<void> {
    return this.#watcher.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
