/** `loop`: a connection to one's own listener. Both ends lie in the private core, each reading what the other writes. */

import { IsthmusError } from '../base/errors.js';
import type { Core } from '../core/core.js';
import { openEntry, openPair } from '../core/private.js';
import { ARCH, type Attempt, type Link, type LinkEnd, type LinkOwner, type Plugin, type Proposal } from './plugin.js';

class LoopLink implements Link {
  readonly core: Core;
  readonly index: number;
  readonly polled = false;
  #other: LoopLink | undefined;
  #owner: LinkOwner | undefined;
  #readable = false;
  #writable = false;
  #end: LinkEnd | undefined;
  #pending: NodeJS.Immediate | undefined;
  #finished = false;

  private constructor(core: Core, index: number) {
    this.core = core;
    this.index = index;
  }

  static pair(core: Core, ringSize: number): [LoopLink, LoopLink] {
    const [a, b] = openPair(core, ringSize);
    const near = new LoopLink(core, a);
    const far = new LoopLink(core, b);
    near.#other = far;
    far.#other = near;
    return [near, far];
  }

  /** Its own other end: what it sends it receives. */
  static self(core: Core, ringSize: number): LoopLink {
    const index = openEntry(core, ringSize);
    core.call.join(index, index);
    core.call.start(index);
    const link = new LoopLink(core, index);
    link.#other = link;
    return link;
  }

  start(owner: LinkOwner): void {
    this.#owner = owner;
    this.#readable = true;
    this.#schedule();
  }

  committed(): void {
    const other = this.#other;
    if (!other) return;
    other.#readable = true;
    other.#schedule();
  }

  released(): void {
    const other = this.#other;
    if (!other) return;
    other.#writable = true;
    other.#schedule();
  }

  finish(): void {
    this.#finished = true;
    const other = this.#other;
    if (other) other.#tell({ kind: 'peer-closed' });
  }

  destroy(): void {
    clearImmediate(this.#pending);
    this.#owner = undefined;
    const other = this.#other;
    if (other) {
      this.#other = undefined;
      other.#other = undefined;
      if (!this.#finished) {
        other.#tell({
          kind: 'lost',
          error: new IsthmusError('ERR_ISTHMUS_PEER_DIED', 'the other end was destroyed without being closed'),
        });
      }
      // It wrote into the ring that is freed now.
      this.core.call.lose(other.index);
      this.core.call.dropTransmit(other.index);
    }
  }

  free(): void {
    this.core.call.free(this.index);
  }

  ref(): void {}

  unref(): void {}

  #tell(end: LinkEnd): void {
    this.#end = end;
    this.#schedule();
  }

  /** By way of the event loop, once for many: two ends that answer each other must not shut everybody else out. */
  #schedule(): void {
    if (this.#pending || !this.#owner) return;
    this.#pending = setImmediate(() => {
      this.#pending = undefined;
      const owner = this.#owner;
      if (!owner) return;
      const readable = this.#readable;
      const writable = this.#writable;
      const end = this.#end;
      this.#readable = false;
      this.#writable = false;
      this.#end = undefined;
      if (writable) {
        // The last records are given back with a look at the empty ring, and nobody may come by for one.
        const other = this.#other;
        if (other) other.core.call.peek(other.index);
        owner.onWritable();
      }
      if (readable || end) owner.onReadable();
      if (end) owner.onEnded(end);
    });
  }
}

export class LoopPlugin implements Plugin {
  readonly name = 'loop';
  readonly archId = ARCH.loop;
  readonly priority = 100;
  /** Both ends are in this process, and hold nothing of a device. */
  readonly migratable = true;

  unavailable(): string | undefined {
    return undefined;
  }

  /** Never on the wire: the runtime knows its own listeners before it dials. */
  proposals(): Proposal[] {
    return [];
  }

  accept(): Attempt {
    throw new Error('loop is for connections within one process');
  }

  /** Both ends of a new connection. */
  pair(core: Core, ringSize: number): [Link, Link] {
    return LoopLink.pair(core, ringSize);
  }

  /** A connection that receives what it sends. */
  self(core: Core, ringSize: number): Link {
    return LoopLink.self(core, ringSize);
  }

  destroy(): void {}
}
