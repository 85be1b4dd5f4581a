/** What is to be steered through a migration, as the control side sees it. */

/**
 * Where a process stands, as in pscom: a request has come, connections are being closed, the migration may go on; it is
 * over, connections are coming back.
 */
export type MigrationState = 'inactive' | 'requested' | 'preparing' | 'allowed' | 'finished' | 'resuming';

/** A runtime that can be suspended and resumed. */
export interface Migratable {
  readonly migration: MigrationState;
  /**
   * Suspend all connections and let go of every device. Resolves when the migration may go on. While it goes on, another
   * call gets the same promise; when it is over already, it resolves at once.
   * @param options.timeout in milliseconds
   * @throws ERR_ISTHMUS_SUSPEND: the deadline; a resume came first. The runtime goes on then as if never asked
   */
  suspend(options?: { readonly timeout?: number | undefined }): Promise<void>;
  /** Take devices again and bring the connections back. Resolves at once if it is not suspended. */
  resume(): Promise<void>;
  /** Be told of each change of `migration`. @returns how not to be */
  onMigration(listener: (state: MigrationState) => void): () => void;
}
