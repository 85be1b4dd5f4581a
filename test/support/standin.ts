/** A stand-in for a runtime, for tests of its control: it takes time, fails on request, and has no connections. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Migratable, MigrationState } from '../../host/api/migratable.js';
import { IsthmusError } from '../../host/base/errors.js';

export class StandIn implements Migratable {
  migration: MigrationState = 'inactive';
  readonly calls: string[] = [];
  /** How long each takes, in milliseconds. */
  delay = { suspend: 20, resume: 20 };
  /** Reasons with which the next suspension or resumption fails. */
  fail: { suspend?: string; resume?: string } = {};
  readonly #listeners = new Set<(state: MigrationState) => void>();
  #suspending: Promise<void> | undefined;
  #superseded = false;

  #become(state: MigrationState): void {
    this.migration = state;
    for (const listener of this.#listeners) listener(state);
  }

  suspend(): Promise<void> {
    this.calls.push('suspend');
    if (this.migration === 'allowed') return Promise.resolve();
    this.#suspending ??= this.#suspend().finally(() => {
      this.#suspending = undefined;
    });
    return this.#suspending;
  }

  async #suspend(): Promise<void> {
    this.#superseded = false;
    this.#become('requested');
    this.#become('preparing');
    await this.#wait(this.delay.suspend);
    const why = this.#superseded ? 'a resume came first' : this.fail.suspend;
    delete this.fail.suspend;
    if (why !== undefined) {
      this.#become('inactive');
      throw new IsthmusError('ERR_ISTHMUS_SUSPEND', why);
    }
    this.#become('allowed');
  }

  async #wait(milliseconds: number): Promise<void> {
    const end = performance.now() + milliseconds;
    while (performance.now() < end && !this.#superseded) await pause(2);
  }

  async resume(): Promise<void> {
    this.calls.push('resume');
    if (this.#suspending) {
      this.#superseded = true;
      await this.#suspending.catch(() => {});
    }
    if (this.migration === 'inactive') return;
    this.#become('finished');
    this.#become('resuming');
    await pause(this.delay.resume);
    this.#become('inactive');
    const { resume: why } = this.fail;
    delete this.fail.resume;
    if (why !== undefined) throw new Error(why);
  }

  onMigration(listener: (state: MigrationState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
