/** Memory that an application shares with its peers. */

/**
 * Memory that can be exposed to peers. In a region the peers that map it read and write it without this process. Its bytes
 * may change at any moment, so that the application accesses them by copies only.
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
  /** Whether the memory lies in a region. False: no region had room for it, and peers have to ask for each byte. */
  abstract get inRegion(): boolean;
  /**
   * Copy `target.length` bytes out, from `offset` on.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT: beyond the end; ERR_ISTHMUS_RELEASED; ERR_ISTHMUS_REGION_LOST: the bytes are
   * gone, and `target` does not have them
   */
  abstract read(offset: number, target: Uint8Array): void;
  /** Copy `source` in, to `offset`. @throws as {@link read} */
  abstract write(offset: number, source: Uint8Array): void;
  /** Withdraw all tokens and give the memory back. Idempotent. */
  abstract release(): void;

  [Symbol.dispose](): void {
    this.release();
  }
}
