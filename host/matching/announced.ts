/** A message of which only the announcement has come. */

/** Its data stays at the sender until it is fetched (rendezvous). */
export interface Announced {
  readonly xheader: Uint8Array;
  /** Length of the data in bytes. */
  readonly length: number;
  /** Whether its data can be read without the sender. */
  readonly here: boolean;
  /**
   * Read the data and tell the sender that it is done. At most once.
   * @param target receives as much as it has room for; undefined: memory of its own
   * @returns `target` as far as it was filled, or that memory; at once where the data lies in a region that both map
   * @throws ERR_ISTHMUS_REGION_LOST: the region has lost its pages
   */
  fetch(target: Uint8Array | undefined): Uint8Array | Promise<Uint8Array>;
  /** The data where it lies, instead of {@link fetch}. @returns undefined: it lies in no region that both map */
  lend(): Lent | undefined;
  /** The message is discarded. */
  drop(): void;
}

/** Bytes of a region that this process leaves as they are until they are released. */
export interface Lent {
  readonly memory: Uint8Array;
  readonly offset: number;
  /** At most once. */
  release(): void;
}
