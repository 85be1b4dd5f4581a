/** Memory of one side that the other side reads and writes: the public interface. */

export interface ExposeOptions {
  /** What the peer may do; default: read. */
  readonly read?: boolean | undefined;
  readonly write?: boolean | undefined;
}

/** Memory that a peer may use, until it is withdrawn, released, or the connection ends. */
export interface Exposure extends Disposable {
  /** 56 bytes for the peer, which passes them to `connection.token()`. They are valid on this connection only. */
  readonly token: Uint8Array;
  /** From here on the peer gets an error. Idempotent. */
  withdraw(): void;
}

export interface RmaOptions {
  /** First byte of the exposed memory to read or write; default 0. */
  readonly offset?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Memory that the peer has exposed. */
export interface RmaToken {
  /** In bytes. */
  readonly length: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** Whether this side reads and writes it without the peer: it lies in a region that both map. */
  readonly oneSided: boolean;
  /**
   * Fill `target` from the memory. One-sided, that is done when the call returns.
   * @throws ERR_ISTHMUS_RMA_DENIED: unknown, withdrawn, beyond the end, without the right; ERR_ISTHMUS_CLOSED, the error
   * that ended the connection; `signal.reason` (bytes that the peer still sends are dropped; `target` may be filled in part)
   */
  read(target: Uint8Array, options?: RmaOptions): Promise<void>;
  /**
   * Write to the memory. Resolves when that is done; the bytes of `source` must not change until then. After an abort the
   * content of the memory is undefined.
   * @throws as {@link read}
   */
  write(source: Uint8Array, options?: RmaOptions): Promise<void>;
}
