/**
 * How the application takes messages out: it copies them, or reads them in place.
 *
 * A sender sends in pieces what will be copied out anyway, and in one piece what is read in place. The mode is a word of the
 * ring (RING_RECEIVE_MODE).
 */
import type { BoundLink } from './bound-link.js';

/** Calls of the other kind until the word is changed: re-reading it costs the sender a cache miss. */
const CHANGES = 8;

export class ReceiveMode {
  /** What the sender has been told; undefined: nothing. */
  copies: boolean | undefined;
  #link: BoundLink | undefined;
  /** Calls since then that say otherwise. */
  #others = 0;

  attach(link: BoundLink): void {
    this.#link = link;
    if (this.copies !== undefined) this.#tell(this.copies);
  }

  detach(): void {
    this.#link = undefined;
  }

  /** A call took a message in another way than the sender has been told. */
  noteOther(copies: boolean): void {
    if (++this.#others >= CHANGES) this.#tell(copies);
  }

  #tell(copies: boolean): void {
    this.#others = 0;
    this.copies = copies;
    const link = this.#link;
    if (!link?.polled) return;
    const { RECEIVE_MODE_COPY, RECEIVE_MODE_IN_PLACE } = link.core.layout;
    link.call.setReceiveMode(link.index, copies ? RECEIVE_MODE_COPY : RECEIVE_MODE_IN_PLACE);
  }
}
