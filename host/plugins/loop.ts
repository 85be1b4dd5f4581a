/** Plugin `loop`: a connection to a listener of the same runtime. Both ends lie in the private core. */
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

  /** A link that is its own other end: it receives what it sends. */
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
    if (other) other.#report({ kind: 'peer-closed' });
  }

  destroy(): void {
    clearImmediate(this.#pending);
    this.#owner = undefined;
    const other = this.#other;
    if (other) {
      this.#other = undefined;
      other.#other = undefined;
      if (!this.#finished) {
        other.#report({
          kind: 'lost',
          error: new IsthmusError('ERR_ISTHMUS_PEER_DIED', 'the other end was destroyed without being closed'),
        });
      }
      // The other end wrote into the ring that is freed now.
      this.core.call.lose(other.index);
      this.core.call.dropTransmit(other.index);
    }
  }

  free(): void {
    this.core.call.free(this.index);
  }

  ref(): void {}

  unref(): void {}

  #report(end: LinkEnd): void {
    this.#end = end;
    this.#schedule();
  }

  /** By way of the event loop, once for many events: two ends that answer each other must not keep it from other work. */
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
        // A poll of the empty ring gives back the last records, and the other end may not poll again.
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
  /** Both ends are in this process, and use no device. */
  readonly migratable = true;

  unavailable(): string | undefined {
    return undefined;
  }

  /** Never on the wire: the runtime recognizes its own listeners before it dials. */
  proposals(): Proposal[] {
    return [];
  }

  accept(): Attempt {
    throw new Error('loop connects only within one process');
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
