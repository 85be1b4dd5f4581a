/** A runtime of another thread, as the thread that leads sees it. */
import type { Migratable, MigrationState } from '../api/migratable.js';
import type { StatusConnection } from './payload.js';

/** What a thread reports of one of its runtimes. */
export interface Described {
  readonly number: number;
  readonly id: string;
  readonly name: string;
  readonly postpone: boolean;
  readonly migration: MigrationState;
  readonly connections: readonly StatusConnection[];
}

export type Act = 'suspend' | 'resume';

export class RemoteRuntime implements Migratable {
  described: Described;
  readonly #act: (act: Act) => Promise<void>;
  readonly #listeners = new Set<(state: MigrationState) => void>();

  constructor(described: Described, act: (act: Act) => Promise<void>) {
    this.described = described;
    this.#act = act;
  }

  get migration(): MigrationState {
    return this.described.migration;
  }

  suspend(): Promise<void> {
    return this.#act('suspend');
  }

  resume(): Promise<void> {
    return this.#act('resume');
  }

  onMigration(listener: (state: MigrationState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** @returns whether its connections have changed */
  update(described: Described): boolean {
    const { migration, connections } = this.described;
    this.described = described;
    if (migration !== described.migration) for (const listener of this.#listeners) listener(described.migration);
    return JSON.stringify(connections) !== JSON.stringify(described.connections);
  }
}
