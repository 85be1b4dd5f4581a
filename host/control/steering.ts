/**
 * The migration of a process: what a request does to all of its runtimes, and the one answer to it. Independent of brokers.
 *
 * Each request has an effect in each state, or is logged and ignored:
 *
 * |            | inactive | requested, preparing   | allowed  | finished, resuming         |
 * | ---------- | -------- | ---------------------- | -------- | -------------------------- |
 * | suspend    | begin    | nothing new            | ALLOWED  | begin afterwards           |
 * | resume     | ignored  | stop; FAILED, COMPLETED | begin    | nothing new                |
 * | toggle     | begin    | ignored                | resume   | ignored                    |
 *
 * test/model/process.pml checks all of it.
 *
 * A migration without a request (`runtime.suspend()`, the control socket) changes the state and has no answer.
 */

import type { Migratable, MigrationState } from '../api/migratable.js';
import type { Log } from '../base/log.js';
import { type Feedback, MAX_NONCES } from './payload.js';

/** A runtime that takes part. */
export interface Member {
  readonly runtime: Migratable;
  /** Whether COMPLETED waits for {@link Steering.complete}. */
  readonly postpone: boolean;
}

export interface SteeringEvents {
  /** The answer of the process to a request. @param nonces of the requests that it answers */
  answer(feedback: Feedback, nonces: readonly string[]): void;
  /** The state may have changed. */
  changed(): void;
  readonly log: Log;
}

/** States that end by themselves. The one that a request has to wait for longest comes first. */
const TRANSIENT = ['resuming', 'finished', 'preparing', 'requested'] as const;

const message = (error: unknown): string => (error instanceof Error ? error.message : String(error));

export class Steering {
  readonly #events: SteeringEvents;
  /** Each with the function that removes its listener. */
  readonly #members = new Map<Member, () => void>();
  /** Members whose application is not complete yet. */
  readonly #postponed = new Set<Member>();
  #operation: 'suspend' | 'resume' | undefined;
  /** Whether a suspension begins when the connections are back. */
  #suspendNext = false;
  /** Called when no application is waited for any more. */
  #onComplete: (() => void) | undefined;
  /** Whether runtimes that join are to be suspended as well. */
  #suspended = false;
  /** Nonces of requests that are not answered yet. */
  readonly #nonces: Record<'suspend' | 'resume', string[]> = { suspend: [], resume: [] };

  constructor(events: SteeringEvents) {
    this.#events = events;
  }

  /** The state of the whole process. */
  get state(): MigrationState {
    const states = [...this.#members.keys()].map(({ runtime }) => runtime.migration);
    if (this.#operation === 'suspend') {
      return states.every((state) => state === 'inactive' || state === 'requested') ? 'requested' : 'preparing';
    }
    if (this.#operation === 'resume') return 'resuming';
    if (states.length > 0 && states.every((state) => state === 'allowed')) return 'allowed';
    // Some of them may be in a migration without a request.
    return TRANSIENT.find((state) => states.includes(state)) ?? 'inactive';
  }

  join(member: Member): void {
    this.#members.set(
      member,
      member.runtime.onMigration((state) => {
        // A runtime was resumed without a request: a runtime that joins later is not suspended.
        if (state === 'resuming' || state === 'finished') this.#suspended = false;
        this.#events.changed();
      }),
    );
    if (this.#suspended && this.#operation !== 'suspend') {
      member.runtime.suspend().catch((error: unknown) => {
        this.#events.log(
          'warning',
          `a runtime has joined a suspended process and could not be suspended: ${message(error)}`,
        );
      });
    }
    this.#events.changed();
  }

  leave(member: Member): void {
    this.#members.get(member)?.();
    this.#members.delete(member);
    this.complete(member);
    this.#events.changed();
  }

  /** The application has completed its own part of a migration. */
  complete(member: Member): void {
    if (this.#postponed.delete(member) && this.#postponed.size === 0) this.#onComplete?.();
  }

  /** Never throws. The outcome is an answer. @param nonce comes back with the answer to this request */
  request(kind: 'suspend' | 'resume' | 'toggle', nonce?: string): void {
    const { state } = this;
    const { log } = this.#events;
    const ignored = (): void => log('info', `request to ${kind} ignored: the process is ${state}`);
    log('info', `requested to ${kind}, ${state}`);
    // A request that has no effect of its own is answered with the operation that is under way.
    if (nonce !== undefined && kind !== 'toggle' && !(kind === 'resume' && state === 'inactive')) {
      this.#nonces[kind].push(nonce);
      if (this.#nonces[kind].length > MAX_NONCES) this.#nonces[kind].shift();
    }
    switch (state) {
      case 'inactive':
        if (kind === 'resume') ignored();
        else void this.#suspend();
        return;
      case 'requested':
      case 'preparing':
        if (kind === 'resume') void this.#resume();
        // The suspension began without a request: this one is answered.
        else if (kind === 'suspend' && this.#operation === undefined) void this.#suspend();
        else ignored();
        return;
      case 'allowed':
        if (kind === 'suspend') this.#answer('suspend', { outcome: 'ALLOWED' });
        else void this.#resume();
        return;
      case 'finished':
      case 'resuming':
        if (kind === 'suspend') this.#suspendAgain();
        else if (kind === 'resume' && this.#operation === undefined) void this.#resume();
        else if (kind === 'resume' && this.#suspendNext) this.#withdrawNext();
        else ignored();
    }
  }

  #answer(to: 'suspend' | 'resume', feedback: Feedback): void {
    this.#events.answer(feedback, this.#nonces[to].splice(0));
  }

  /** The suspension that was to begin when the connections are back is not wanted any more. */
  #withdrawNext(): void {
    this.#suspendNext = false;
    this.#nonces.suspend.length = 0;
  }

  #suspendAgain(): void {
    if (this.#operation === undefined) {
      // A runtime resumes without a request: it begins the suspension itself when it has resumed.
      void this.#suspend();
      return;
    }
    this.#suspendNext = true;
    // The new request does not wait for the application.
    for (const member of [...this.#postponed]) this.complete(member);
  }

  async #suspend(): Promise<void> {
    this.#operation = 'suspend';
    this.#suspended = true;
    this.#events.changed();
    const failure = await this.#each((runtime) => runtime.suspend());
    // A resume that came meanwhile goes on instead.
    if (this.#operation === 'suspend') this.#operation = undefined;
    if (failure === undefined) {
      this.#answer('suspend', { outcome: 'ALLOWED' });
      this.#events.changed();
      return;
    }
    this.#events.log('warning', `the suspension failed: ${failure}`);
    this.#answer('suspend', { outcome: 'FAILED', reason: failure });
    if (this.#operation === undefined) await this.#comeBack();
  }

  /** After a failed suspension: resume the runtimes that are suspended. This has no answer. */
  async #comeBack(): Promise<void> {
    this.#operation = 'resume';
    this.#suspended = false;
    const failure = await this.#each((runtime) => runtime.resume());
    if (failure !== undefined)
      this.#events.log('error', `a runtime could not be resumed after a failed suspension: ${failure}`);
    this.#ended();
  }

  async #resume(): Promise<void> {
    this.#operation = 'resume';
    this.#suspended = false;
    for (const member of this.#members.keys()) if (member.postpone) this.#postponed.add(member);
    this.#events.changed();
    const failure = await this.#each((runtime) => runtime.resume());
    if (failure === undefined) await this.#untilComplete();
    else this.#postponed.clear();
    this.#answer('resume', failure === undefined ? { outcome: 'COMPLETED' } : { outcome: 'FAILED', reason: failure });
    this.#ended();
  }

  #ended(): void {
    this.#operation = undefined;
    this.#nonces.resume.length = 0;
    this.#events.changed();
    if (!this.#suspendNext) return;
    this.#suspendNext = false;
    void this.#suspend();
  }

  /** Wait until each postponed application is complete, or its runtime has left. */
  async #untilComplete(): Promise<void> {
    if (this.#postponed.size === 0) return;
    this.#events.log('info', 'COMPLETED is held back until the application calls completeMigration()');
    await new Promise<void>((resolve) => {
      this.#onComplete = resolve;
    });
    this.#onComplete = undefined;
  }

  /**
   * Call `act` for all runtimes, also for those that join meanwhile. Failures of runtimes that leave do not count.
   * @returns the first failure; undefined: all are done
   */
  async #each(act: (runtime: Migratable) => Promise<void>): Promise<string | undefined> {
    const done = new Set<Member>();
    for (;;) {
      const rest = [...this.#members.keys()].filter((member) => !done.has(member));
      if (rest.length === 0) break;
      try {
        await Promise.all(
          rest.map(async (member) => {
            try {
              await act(member.runtime);
            } catch (error) {
              if (this.#members.has(member)) throw error;
            }
            done.add(member);
          }),
        );
      } catch (error) {
        return message(error) || 'unknown';
      }
    }
    return this.#members.size === 0 ? 'the runtime was closed' : undefined;
  }
}
