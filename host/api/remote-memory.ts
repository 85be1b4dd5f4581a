/** Memory of one side that the other side reads and writes. */
import type { Bytes } from '../base/bytes.js';

export interface ExposeOptions {
  /** What the peer may do; default: read. */
  readonly read?: boolean | undefined;
  readonly write?: boolean | undefined;
}

/** Memory that a peer may use, until it is withdrawn, released, or the connection ends. */
export interface Exposure extends Disposable {
  /** 56 bytes for the peer, which passes them to `connection.token()`. Valid on this connection only. */
  readonly token: Uint8Array;
  /** Withdraw the memory: from here on the peer gets an error. Idempotent. */
  withdraw(): void;
}

export interface RmaOptions {
  /** Where to begin in the exposed memory, in bytes; default 0. */
  readonly offset?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The peer's memory, as far as it is exposed. */
export interface RmaToken {
  /** In bytes. */
  readonly length: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** Whether this side accesses it without the peer: it lies in a region that both map. */
  readonly oneSided: boolean;
  /**
   * Fill `target` from there. A one-sided read is done when the call returns.
   * @throws ERR_ISTHMUS_RMA_DENIED: unknown, withdrawn, beyond the end, no right; ERR_ISTHMUS_INVALID_ARGUMENT: no bytes, or
   * no offset; ERR_ISTHMUS_CLOSED, what ended the connection; `signal.reason` (what the peer still sends is dropped; `target` may be filled in part)
   */
  read(target: Bytes, options?: RmaOptions): Promise<void>;
  /**
   * Write there. Resolves when it is done; the bytes must not change until then. After an abort the content is undefined.
   * @throws as {@link read}
   */
  write(source: Bytes, options?: RmaOptions): Promise<void>;
}
