/**
 * Suspending and resuming a whole runtime, so that its machine can be migrated: every connection lets go of its link, every
 * device is left; afterwards the devices are attached again and the connections come back, perhaps over other plugins.
 *
 *   INACTIVE → REQUESTED → PREPARING → ALLOWED → FINISHED → RESUMING → INACTIVE
 *
 * The states are those of pscom, the state machine is the core's (assembly/migration.ts).
 */

import type { Migratable, MigrationState } from '../api/migratable.js';
import { unlessAborted } from '../base/abortable.js';
import { MAX_TIMER_MS, optionsOf } from '../base/arguments.js';
import { bounded } from '../base/bounded.js';
import { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import type { RuntimeConnection } from '../connection/connection.js';
import { coreLayout, stateMachine } from '../core/core.js';
import type { Endpoint } from '../endpoint/endpoint.js';

export interface MigrationOptions {
  readonly endpoints: Iterable<Endpoint>;
  /** Connections that a migration would cut. Those with both ends in this process are not among them. */
  connections(): RuntimeConnection[];
  /** Leave every region: mapping, descriptor, slot. */
  leaveDevices(): Promise<void>;
  /** Find and attach the regions that exist now. A region that cannot be attached is not an error. */
  takeDevices(): Promise<void>;
  changed(state: MigrationState): void;
  /** Of a suspension, in milliseconds. */
  readonly timeout: number;
  readonly log: Log;
}

/** Time for connections to come back before `resume()` resolves: a peer may be suspended itself. */
const MAX_RESUME_MS = 1000;

const NAMES: readonly MigrationState[] = ['inactive', 'requested', 'preparing', 'allowed', 'finished', 'resuming'];

type Event = 'REQUEST' | 'PREPARE' | 'ALLOW' | 'FAIL' | 'RESUME' | 'ATTACHED' | 'BACK';

export class Migration implements Migratable {
  readonly #options: MigrationOptions;
  readonly #listeners = new Set<(state: MigrationState) => void>();
  #state: number;
  #since = Date.now();
  #suspending: Promise<void> | undefined;
  #resuming: Promise<void> | undefined;
  /** Ends the suspension under way. */
  #giveUp: ((error: IsthmusError) => void) | undefined;
  /** Whether devices have been left, or are being left. */
  #away = false;
  /** Events without an effect in their state. */
  ignored = 0;

  constructor(options: MigrationOptions) {
    this.#options = options;
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

  suspend(options?: { readonly timeout?: number | undefined }): Promise<void> {
    const { timeout = this.#options.timeout } = optionsOf(options, '{ timeout }') ?? {};
    if (!Number.isFinite(timeout) || timeout < 0 || timeout > MAX_TIMER_MS) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `a timeout of ${timeout} ms`);
    }
    const resuming = this.#resuming;
    if (resuming) return resuming.then(() => this.suspend({ timeout }));
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
      // The suspension resumes by itself when it fails.
      this.#giveUp(new IsthmusError('ERR_ISTHMUS_SUSPEND', 'resumed before the suspension was complete'));
      return suspending.catch(() => {});
    }
    this.#suspending = undefined;
    this.#handle('RESUME');
    return this.#comeBack();
  }

  /** The runtime is closed: a suspension under way ends. */
  end(): void {
    this.#giveUp?.(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the runtime was closed'));
  }

  async #suspend(timeout: number): Promise<void> {
    this.#handle('REQUEST');
    const cut = new AbortController();
    this.#giveUp = (error) => cut.abort(error);
    const timer = setTimeout(() => cut.abort(this.#timeoutError(timeout)), timeout);
    const prepared = this.#prepare(cut.signal);
    try {
      await unlessAborted(cut.signal, prepared);
      this.#giveUp = undefined;
      this.#handle('ALLOW'); // process.pml: allow.
    } catch (error) {
      this.#giveUp = undefined;
      this.#suspending = undefined;
      cut.abort(error);
      // process.pml: give_up. From here on it is resuming, although devices may still be being left: a request that comes
      // now waits for that.
      await this.#comeBack(prepared);
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  #timeoutError(timeout: number): IsthmusError {
    const open = this.#linked();
    const peers = open.map(({ peer, plugin }) => `${peer.name} over ${plugin}`).slice(0, 3);
    const what = open.length > 0 ? `${open.length} connections did not let go (${peers.join(', ')})` : 'handshakes';
    return new IsthmusError('ERR_ISTHMUS_SUSPEND', `not suspended within ${timeout} ms: ${what}`);
  }

  /** process.pml: hold, let_go, leave_devices. */
  async #prepare(cut: AbortSignal): Promise<void> {
    await Promise.all([...this.#options.endpoints].map((endpoint) => endpoint.hold()));
    cut.throwIfAborted();
    this.#handle('PREPARE');
    // A handshake that was under way may have become a connection meanwhile.
    for (let open = this.#linked(); open.length > 0; open = this.#linked()) {
      await Promise.all(open.map((connection) => connection.suspend()));
      cut.throwIfAborted();
    }
    this.#away = true;
    await this.#options.leaveDevices();
  }

  #linked(): RuntimeConnection[] {
    return this.#options.connections().filter((connection) => connection.linked);
  }

  /** @param failed the preparation of a suspension that failed: it may still be under way */
  #comeBack(failed?: Promise<void>): Promise<void> {
    const resuming = this.#resume(failed).finally(() => {
      this.#resuming = undefined;
    });
    this.#resuming = resuming;
    return resuming;
  }

  /** process.pml: take_devices. */
  async #resume(failed: Promise<void> | undefined): Promise<void> {
    if (failed) {
      await (this.#away ? failed.catch(() => {}) : undefined);
      this.#handle('FAIL');
    }
    if (this.#away) await this.#options.takeDevices();
    this.#away = false;
    this.#handle('ATTACHED');
    const endpoints = [...this.#options.endpoints];
    for (const endpoint of endpoints) endpoint.release();
    await bounded(Promise.all(endpoints.flatMap((endpoint) => endpoint.coming())), MAX_RESUME_MS);
    this.#handle('BACK');
  }

  #handle(event: Event): void {
    const { log, changed } = this.#options;
    const next = stateMachine().migration(this.#state, coreLayout()[`MIGRATION_EVENT_${event}`]);
    if (next === this.#state) {
      this.ignored++;
      log('info', `migration: ${event} has no effect in state ${this.migration}`);
      return;
    }
    this.#state = next;
    this.#since = Date.now();
    const state = this.migration;
    log('info', `migration: ${state}`);
    changed(state);
    for (const listener of [...this.#listeners]) {
      try {
        listener(state);
      } catch (error) {
        log('error', `a listener for migrations failed: ${error instanceof Error ? error.message : error}`);
      }
    }
  }
}
