/** A runtime as the control side sees it: it can be suspended and resumed. */

/**
 * State of a process in a migration, as in pscom: a request has come, connections are being closed, the migration may go
 * on; it is over, connections are coming back.
 */
export type MigrationState = 'inactive' | 'requested' | 'preparing' | 'allowed' | 'finished' | 'resuming';

/** A runtime that can be suspended and resumed. */
export interface Migratable {
  readonly migration: MigrationState;
  /**
   * Suspend all connections and release every device. Resolves when the migration may go on. While the suspension is under
   * way, another call gets the same promise; when the runtime is suspended already, it resolves at once.
   * @param options.timeout in milliseconds
   * @throws ERR_ISTHMUS_SUSPEND: the time is over, or a resume came first. The runtime then goes on as before
   */
  suspend(options?: { readonly timeout?: number | undefined }): Promise<void>;
  /** Attach to devices again and bring the connections back. Resolves at once if the runtime is not suspended. */
  resume(): Promise<void>;
  /** Add a listener for each change of `migration`. @returns removes it */
  onMigration(listener: (state: MigrationState) => void): () => void;
}
