/** Memory that an application shares with its peers. */

/**
 * Bytes that can be exposed to peers, made by `runtime.allocate()`. Peers that map the same region read and write them
 * without this process. The bytes may change at any moment, so the application reads and writes copies.
 *
 * ```ts
 * const memory = runtime.allocate(1 << 20);
 * memory.write(0, data);
 * const exposure = connection.expose(memory);      // hand exposure.token to the peer
 * ```
 */
export abstract class SharedMemory implements Disposable {
  /** In bytes. */
  abstract readonly length: number;
  /** Whether it lies in a region. False: no region had room for it, and peers have to send requests for its bytes. */
  abstract get inRegion(): boolean;
  /**
   * Copy out.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT: beyond the end; ERR_ISTHMUS_RELEASED
   */
  abstract read(offset: number, target: Uint8Array): void;
  /** Copy in. @throws as {@link read} */
  abstract write(offset: number, source: Uint8Array): void;
  /** Withdraw all tokens and give the memory back. Idempotent. */
  abstract release(): void;

  [Symbol.dispose](): void {
    this.release();
  }
}
