/**
 * The migration of a process: what a request does to all of its runtimes, and the one answer that they give together.
 * Knows nothing of brokers.
 *
 * Every request means something in every state, or is logged and ignored:
 *
 * |            | inactive | requested, preparing   | allowed  | finished, resuming         |
 * | ---------- | -------- | ---------------------- | -------- | -------------------------- |
 * | suspend    | begin    | nothing new            | ALLOWED  | begin when that is over    |
 * | resume     | ignored  | stop; FAILED, COMPLETED | begin    | nothing new                |
 * | toggle     | begin    | ignored                | resume   | ignored                    |
 *
 * test/model/process.pml goes through all of it.
 *
 * A migration without a request (`runtime.suspend()`, the control socket) changes the state, and answers nobody.
 */

import type { Migratable, MigrationState } from '../api/migratable.js';
import type { Log } from '../base/log.js';
import type { Feedback } from './payload.js';

/** A runtime that takes part. */
export interface Member {
  readonly runtime: Migratable;
  /** Whether COMPLETED waits for the application. */
  readonly postpone: boolean;
}

export interface SteeringEvents {
  /** What the process has to say to whoever asked. */
  answer(feedback: Feedback): void;
  /** The state may have changed. */
  changed(): void;
  readonly log: Log;
}

/** States that pass by themselves; the one that a request has to wait for longest comes first. */
const MOVING = ['resuming', 'finished', 'preparing', 'requested'] as const;

const message = (error: unknown): string => (error instanceof Error ? error.message : String(error));

export class Steering {
  readonly #events: SteeringEvents;
  /** With what takes its listener away. */
  readonly #members = new Map<Member, () => void>();
  /** Those whose application has not said yet that it is complete. */
  readonly #postponed = new Set<Member>();
  #operation: 'suspend' | 'resume' | undefined;
  /** A suspension that begins when the connections are back. */
  #again = false;
  /** Whether runtimes that join are to be suspended, too. */
  #suspended = false;

  constructor(events: SteeringEvents) {
    this.#events = events;
  }

  /** That of the whole process. */
  get state(): MigrationState {
    const states = [...this.#members.keys()].map(({ runtime }) => runtime.migration);
    if (this.#operation === 'suspend') {
      return states.every((state) => state === 'inactive' || state === 'requested') ? 'requested' : 'preparing';
    }
    if (this.#operation === 'resume') return 'resuming';
    if (states.length > 0 && states.every((state) => state === 'allowed')) return 'allowed';
    // Some of them without a request.
    return MOVING.find((state) => states.includes(state)) ?? 'inactive';
  }

  join(member: Member): void {
    this.#members.set(
      member,
      member.runtime.onMigration((state) => {
        // Nobody asked the process to, so that what joins later is not held back for it.
        if (state === 'resuming' || state === 'finished') this.#suspended = false;
        this.#events.changed();
      }),
    );
    if (this.#suspended && this.#operation !== 'suspend') {
      member.runtime.suspend().catch((error: unknown) => {
        this.#events.log('warning', `a runtime of a process that is suspended is not: ${message(error)}`);
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

  /** The application has done what it had to after a migration. */
  complete(member: Member): void {
    if (this.#postponed.delete(member) && this.#postponed.size === 0) this.#wake?.();
  }

  /** Never throws. What comes of it is told as an answer. */
  request(kind: 'suspend' | 'resume' | 'toggle'): void {
    const { state } = this;
    const { log } = this.#events;
    const ignored = (): void => log('info', `request to ${kind} ignored: the process is ${state}`);
    log('info', `requested to ${kind}, ${state}`);
    switch (state) {
      case 'inactive':
        if (kind === 'resume') ignored();
        else void this.#suspend();
        return;
      case 'requested':
      case 'preparing':
        if (kind === 'resume') void this.#resume();
        // Begun without a request: then it is this one that is answered.
        else if (kind === 'suspend' && this.#operation === undefined) void this.#suspend();
        else ignored();
        return;
      case 'allowed':
        if (kind === 'suspend') this.#events.answer({ outcome: 'ALLOWED' });
        else void this.#resume();
        return;
      case 'finished':
      case 'resuming':
        if (kind === 'suspend') this.#suspendAgain();
        else if (kind === 'resume' && this.#operation === undefined) void this.#resume();
        else if (kind === 'resume' && this.#again) this.#again = false;
        else ignored();
    }
  }

  #suspendAgain(): void {
    if (this.#operation === undefined) {
      // A runtime is coming back without a request: it takes a suspension itself when it can.
      void this.#suspend();
      return;
    }
    this.#again = true;
    // Whoever asks for this does not wait for the application any more.
    for (const member of [...this.#postponed]) this.complete(member);
  }

  async #suspend(): Promise<void> {
    this.#operation = 'suspend';
    this.#suspended = true;
    this.#events.changed();
    const failure = await this.#each((runtime) => runtime.suspend());
    // A resume may have come meanwhile, and has the say now.
    if (this.#operation === 'suspend') this.#operation = undefined;
    if (failure === undefined) {
      this.#events.answer({ outcome: 'ALLOWED' });
      this.#events.changed();
      return;
    }
    this.#events.log('warning', `the suspension failed: ${failure}`);
    this.#events.answer({ outcome: 'FAILED', reason: failure });
    if (this.#operation === undefined) await this.#back();
  }

  /** After a suspension that failed: those that are suspended come back, and nobody asked for that. */
  async #back(): Promise<void> {
    this.#operation = 'resume';
    this.#suspended = false;
    const failure = await this.#each((runtime) => runtime.resume());
    if (failure !== undefined) this.#events.log('error', `not back after it: ${failure}`);
    this.#ended();
  }

  async #resume(): Promise<void> {
    this.#operation = 'resume';
    this.#suspended = false;
    for (const member of this.#members.keys()) if (member.postpone) this.#postponed.add(member);
    this.#events.changed();
    const failure = await this.#each((runtime) => runtime.resume());
    if (failure === undefined) await this.#completed();
    else this.#postponed.clear();
    this.#events.answer(failure === undefined ? { outcome: 'COMPLETED' } : { outcome: 'FAILED', reason: failure });
    this.#ended();
  }

  #ended(): void {
    this.#operation = undefined;
    this.#events.changed();
    if (!this.#again) return;
    this.#again = false;
    void this.#suspend();
  }

  #wake: (() => void) | undefined;

  /** Until every application that wanted to be waited for has called, or is gone. */
  async #completed(): Promise<void> {
    if (this.#postponed.size === 0) return;
    this.#events.log('info', 'COMPLETED is held back until the application calls completeMigration()');
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    this.#wake = undefined;
  }

  /**
   * Do that to all, also to those that join meanwhile; what becomes of those that leave does not matter.
   * @returns at the first failure why; undefined when all are there
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
