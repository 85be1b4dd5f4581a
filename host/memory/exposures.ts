/**
 * Memory of this side that the peer may use.
 *
 * An address on the wire is a token: 64 random bits that stand for the first byte of the memory; a peer adds an offset to
 * it, as C does to a pointer. It is looked up here, with its bounds and rights, and never dereferenced. In a region the
 * grant of the token lies beside the memory, so that a peer finds it without asking.
 */
import { randomBytes } from 'node:crypto';
import type { ExposeOptions, Exposure } from '../api/remote-memory.js';
import type { SharedMemory } from '../api/shared-memory.js';
import { IsthmusError } from '../base/errors.js';
import type { Core } from '../core/core.js';
import type { LinkBinding } from '../link/link-binding.js';
import { RegionMemory } from './shared-memory.js';
import { encodeToken, high, low } from './token.js';

// Rights, as in the core's GRANT_….
export const READ = 1;
export const WRITE = 2;

export const randomId = () => randomBytes(8).readBigUInt64LE();

/** A part of a memory, for a plain copy. */
export type View = (offset: number, length: number) => Uint8Array;

export interface Exposed {
  readonly base: bigint;
  readonly length: number;
  readonly rights: number;
  readonly view: View;
  /** Behind a copy of the bytes: whether it is one. False: the region in which they lay has lost its pages. */
  readonly intact: () => boolean;
  /** Whether the bytes may be withdrawn before an answer has left; otherwise they stay as they are until then. */
  readonly copy: boolean;
}

/** The grant of a token in a region. */
interface Grant {
  readonly core: Core;
  readonly frame: number;
  readonly place: number;
}

export class Exposures {
  readonly #binding: LinkBinding;
  readonly #findAnnounced: (address: bigint, length: number) => Uint8Array | undefined;
  readonly #exposed = new Map<bigint, Exposed>();
  readonly #withdrawals = new Set<() => void>();

  /** @param findAnnounced the bytes behind an address, if they are those of a message in a run that the peer could not adopt */
  constructor(binding: LinkBinding, findAnnounced: (address: bigint, length: number) => Uint8Array | undefined) {
    this.#binding = binding;
    this.#findAnnounced = findAnnounced;
  }

  /** `connection.expose()` */
  expose(memory: SharedMemory | Uint8Array, { read = true, write = false }: ExposeOptions): Exposure {
    if (this.#binding.lifecycle.over) throw this.#binding.lifecycle.closedError();
    if (!(memory instanceof RegionMemory || memory instanceof Uint8Array)) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'expose wants a Uint8Array or what allocate() gave');
    }
    const rights = (read ? READ : 0) | (write ? WRITE : 0);
    const base = randomId();
    const { length } = memory;
    const view: View =
      memory instanceof RegionMemory
        ? (offset, count) => memory.view(offset, count)
        : (offset, count) => memory.subarray(offset, offset + count);
    const intact = () => !(memory instanceof RegionMemory && memory.lost);
    this.#exposed.set(base, { base, length, rights, view, intact, copy: true });
    let grant = memory instanceof RegionMemory ? this.#grant(memory, base, rights) : undefined;
    const token = encodeToken({ base, length, rights, grant, uuid: this.#binding.region?.uuid });
    const revoke = () => {
      grant?.core.call.revoke(grant.frame, grant.place);
      grant = undefined;
    };
    let forget: (() => void) | undefined;
    const withdraw = () => {
      if (!this.#exposed.delete(base)) return;
      this.#withdrawals.delete(withdraw);
      forget?.();
      revoke();
    };
    this.#withdrawals.add(withdraw);
    if (memory instanceof RegionMemory) forget = memory.hold({ onMoved: revoke, onReleased: withdraw });
    return {
      token,
      withdraw,
      [Symbol.dispose]: withdraw,
    };
  }

  /** Write the grant beside memory that lies in the region of this connection. */
  #grant(memory: RegionMemory, base: bigint, rights: number): Grant | undefined {
    const { place } = memory;
    if (!('region' in place) || place.region !== this.#binding.region) return undefined;
    const { core } = place.region;
    const number = core.call.grant(place.frame, low(base), high(base), 0, memory.length, rights);
    return number === 0 ? undefined : { core, frame: place.frame, place: number - 1 };
  }

  /** Bytes that a peer has to fetch: they stay as they are until {@link remove}. */
  add(base: bigint, length: number, view: View): Exposed {
    const exposed: Exposed = { base, length, rights: READ, view, intact: () => true, copy: false };
    this.#exposed.set(base, exposed);
    return exposed;
  }

  remove({ base }: Exposed): void {
    this.#exposed.delete(base);
  }

  has(exposed: Exposed): boolean {
    return this.#exposed.get(exposed.base) === exposed;
  }

  /**
   * The memory behind an address of the peer.
   * @returns undefined: unknown, withdrawn, beyond the end, or without that right
   */
  find(address: bigint, length: number, rights: number): { exposed: Exposed; offset: number } | undefined {
    for (const exposed of this.#exposed.values()) {
      const offset = BigInt.asUintN(64, address - exposed.base);
      if (offset > BigInt(exposed.length) || BigInt(length) > BigInt(exposed.length) - offset) continue;
      if ((exposed.rights & rights) !== rights) continue;
      return { exposed, offset: Number(offset) };
    }
    const announced = rights === WRITE ? undefined : this.#findAnnounced(address, length);
    if (!announced) return undefined;
    const intact = () => this.#binding.link?.core.lost === false;
    return { exposed: { base: address, length, rights: READ, view: () => announced, intact, copy: true }, offset: 0 };
  }

  /** The connection is over. */
  end(): void {
    for (const withdraw of [...this.#withdrawals]) withdraw();
    this.#exposed.clear();
  }
}
