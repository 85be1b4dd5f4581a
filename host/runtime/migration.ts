/**
 * Suspending and resuming a whole runtime, so that what is under it can be migrated: every connection lets go of its
 * link, every device is left, and afterwards all of it comes back, perhaps over other plugins.
 *
 *   INACTIVE → REQUESTED → PREPARING → ALLOWED → FINISHED → RESUMING → INACTIVE
 *
 * The states are pscom's, the machine is the core's (assembly/migration.ts).
 */

import type { Migratable, MigrationState } from '../api/migratable.js';
import { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import type { RuntimeConnection } from '../connection/connection.js';
import { coreLayout, stateMachine } from '../core/core.js';
import type { Endpoint } from '../endpoint/endpoint.js';

/** What a runtime does for its migration. */
export interface MigrationHost {
  readonly endpoints: Iterable<Endpoint>;
  /** Those that a migration would cut: not the ones whose both ends are here. */
  connections(): RuntimeConnection[];
  /** Let go of every region: mapping, descriptor, slot. */
  leaveDevices(): Promise<void>;
  /** Find and attach what is there now. What cannot be attached is no reason to fail. */
  takeDevices(): Promise<void>;
  changed(state: MigrationState): void;
  /** Of a suspension, in milliseconds. */
  readonly timeout: number;
  readonly log: Log;
}

/** How long `resume()` waits for connections to come back, in milliseconds: a peer may be suspended itself. */
const COMING = 1000;

const NAMES: readonly MigrationState[] = ['inactive', 'requested', 'preparing', 'allowed', 'finished', 'resuming'];

type Event = 'REQUEST' | 'PREPARE' | 'ALLOW' | 'FAIL' | 'RESUME' | 'ATTACHED' | 'BACK';

export class Migration implements Migratable {
  readonly #host: MigrationHost;
  readonly #listeners = new Set<(state: MigrationState) => void>();
  #state: number;
  #since = Date.now();
  #suspending: Promise<void> | undefined;
  #resuming: Promise<void> | undefined;
  /** Ends the suspension that is under way. */
  #giveUp: ((error: IsthmusError) => void) | undefined;
  #away = false;
  /** Events that meant nothing in their state. */
  ignored = 0;

  constructor(host: MigrationHost) {
    this.#host = host;
    this.#state = coreLayout().MIGRATION_INACTIVE;
  }

  get migration(): MigrationState {
    return NAMES[this.#state] as MigrationState;
  }

  /** When the state began, in milliseconds of the epoch. */
  get since(): number {
    return this.#since;
  }

  onMigration(listener: (state: MigrationState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  suspend({ timeout = this.#host.timeout }: { readonly timeout?: number | undefined } = {}): Promise<void> {
    if (!Number.isFinite(timeout) || timeout < 0) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `a timeout of ${timeout} ms`);
    }
    const back = this.#resuming;
    if (back) return back.then(() => this.suspend({ timeout }));
    this.#suspending ??= this.#suspend(timeout);
    return this.#suspending;
  }

  resume(): Promise<void> {
    if (this.#resuming) return this.#resuming;
    const suspending = this.#suspending;
    if (!suspending) {
      this.#handle('RESUME');
      return Promise.resolve();
    }
    if (this.#giveUp) {
      // It comes back by itself.
      this.#giveUp(new IsthmusError('ERR_ISTHMUS_SUSPEND', 'resumed before the suspension was complete'));
      return suspending.catch(() => {});
    }
    this.#suspending = undefined;
    this.#handle('RESUME');
    return this.#comeBack();
  }

  /** The runtime is closed: what is under way ends. */
  end(): void {
    this.#giveUp?.(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the runtime was closed'));
  }

  async #suspend(timeout: number): Promise<void> {
    this.#handle('REQUEST');
    const cut = new AbortController();
    this.#giveUp = (error) => cut.abort(error);
    const timer = setTimeout(() => cut.abort(this.#late(timeout)), timeout);
    const aborted = new Promise<never>((_, reject) => {
      cut.signal.addEventListener('abort', () => reject(cut.signal.reason), { once: true });
    });
    const prepared = this.#prepare(cut.signal);
    try {
      await Promise.race([prepared, aborted]);
      this.#giveUp = undefined;
      this.#handle('ALLOW'); // process.pml: allow.
    } catch (error) {
      this.#giveUp = undefined;
      this.#suspending = undefined;
      cut.abort(error);
      // process.pml: give_up. It is coming back from here on, although devices may still be on their way out: what is asked now waits for that.
      await this.#comeBack(prepared);
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  #late(timeout: number): IsthmusError {
    const open = this.#host.connections().filter((connection) => connection.linked);
    const who = open.map(({ peer, plugin }) => `${peer.name} over ${plugin}`).slice(0, 3);
    const what = open.length > 0 ? `${open.length} connections did not let go (${who.join(', ')})` : 'handshakes';
    return new IsthmusError('ERR_ISTHMUS_SUSPEND', `not suspended within ${timeout} ms: ${what}`);
  }

  /** process.pml: hold, let_go, leave_devices. */
  async #prepare(cut: AbortSignal): Promise<void> {
    await Promise.all([...this.#host.endpoints].map((endpoint) => endpoint.hold()));
    cut.throwIfAborted();
    this.#handle('PREPARE');
    // One that was being made may have come to be meanwhile.
    for (let open = this.#linked(); open.length > 0; open = this.#linked()) {
      await Promise.all(open.map((connection) => connection.suspend()));
      cut.throwIfAborted();
    }
    this.#away = true;
    await this.#host.leaveDevices();
  }

  #linked(): RuntimeConnection[] {
    return this.#host.connections().filter((connection) => connection.linked);
  }

  /** @param failed what was under way, after a suspension that failed */
  #comeBack(failed?: Promise<void>): Promise<void> {
    const back = this.#back(failed).finally(() => {
      this.#resuming = undefined;
    });
    this.#resuming = back;
    return back;
  }

  /** process.pml: take_devices. */
  async #back(failed: Promise<void> | undefined): Promise<void> {
    if (failed) {
      await (this.#away ? failed.catch(() => {}) : undefined);
      this.#handle('FAIL');
    }
    if (this.#away) await this.#host.takeDevices();
    this.#away = false;
    this.#handle('ATTACHED');
    const endpoints = [...this.#host.endpoints];
    for (const endpoint of endpoints) endpoint.release();
    const coming = Promise.all(endpoints.flatMap((endpoint) => endpoint.coming()));
    let timer: NodeJS.Timeout | undefined;
    const enough = new Promise((resolve) => {
      timer = setTimeout(resolve, COMING);
    });
    await Promise.race([coming, enough]);
    clearTimeout(timer);
    this.#handle('BACK');
  }

  #handle(event: Event): void {
    const next = stateMachine().migration(this.#state, coreLayout()[`MIGRATION_EVENT_${event}`]);
    if (next === this.#state) {
      this.ignored++;
      this.#host.log('info', `migration: ${event} means nothing in state ${this.migration}; ignored`);
      return;
    }
    this.#state = next;
    this.#since = Date.now();
    const state = this.migration;
    this.#host.log('info', `migration: ${state}`);
    this.#host.changed(state);
    for (const listener of [...this.#listeners]) {
      try {
        listener(state);
      } catch (error) {
        this.#host.log('error', `a listener for migrations failed: ${error instanceof Error ? error.message : error}`);
      }
    }
  }
}
