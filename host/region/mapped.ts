/**
 * A region's pages in a core, without a slot in it: who formats it, who takes back what the dead held, and under region.ts
 * those who take part.
 */
import { randomBytes } from 'node:crypto';
import { closeSync } from 'node:fs';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { IsthmusError } from '../base/errors.js';
import { Core, coreLayout } from '../core/core.js';
import { type Backing, type Identity, identityOf } from '../device/backing.js';
import { type Mapping, mapper } from '../native/native.js';
import { isLocal, refusal } from './inspection.js';

/** How long a region may be in the making by somebody else, in milliseconds. */
const FORMAT_LIMIT = 2000;

/** One attachment, for ever: generations are never used twice. */
export interface Attachment {
  readonly slot: number;
  readonly generation: number;
}

/**
 * A byte that somebody has locked by another opening of the file: that of his slot, or because he formats or serves it.
 * @param except one that does not count
 */
export function lockHeld(fd: number, except = -1): number | undefined {
  const { locked } = mapper();
  const end = coreLayout().LOCK_LIFECYCLE;
  for (let byte = 0; byte < end; byte++) if (byte !== except && locked(fd, byte)) return byte;
  return undefined;
}

export class MappedRegion {
  readonly backing: Backing;
  readonly core: Core;
  readonly mapping: Mapping;
  /** Which file or device this is. */
  readonly identity: Identity;

  private constructor(backing: Backing, core: Core, mapping: Mapping, identity: Identity) {
    this.backing = backing;
    this.core = core;
    this.mapping = mapping;
    this.identity = identity;
  }

  /**
   * Map the backing, and format it if it is blank and that is allowed.
   * @throws ERR_ISTHMUS_REGION_… , ERR_ISTHMUS_NATIVE_MISSING, ERR_ISTHMUS_SYSCALL; nothing stays behind
   */
  static async open(backing: Backing, signal?: AbortSignal): Promise<MappedRegion> {
    const region = MappedRegion.#map(backing);
    try {
      await region.#settle(signal);
      return region;
    } catch (error) {
      region.detach();
      throw error;
    }
  }

  static #map(backing: Backing): MappedRegion {
    const fd = backing.open();
    try {
      const core = new Core(backing.size);
      const mapping = mapper().map(core.memory.buffer, core.layout.WINDOW, backing.size, fd, backing.offset);
      if (!core.call.geometry(backing.size)) {
        mapping.detach();
        throw new IsthmusError('ERR_ISTHMUS_REGION_SIZE', `${backing.path}: ${backing.size} bytes`, {
          path: backing.path,
        });
      }
      return new MappedRegion(backing, core, mapping, identityOf(fd));
    } catch (error) {
      if (error instanceof IsthmusError) throw error;
      const cause = error as NodeJS.ErrnoException;
      throw new IsthmusError('ERR_ISTHMUS_SYSCALL', `cannot map ${backing.path}: ${cause.message}`, {
        cause,
        errno: cause.code,
        syscall: cause.syscall,
        path: backing.path,
      });
    } finally {
      closeSync(fd);
    }
  }

  /** Wait, bounded, until the region is formatted; format it if that falls to us. */
  async #settle(signal: AbortSignal | undefined): Promise<void> {
    const { call, layout } = this.core;
    const { path } = this.backing;
    const until = performance.now() + FORMAT_LIMIT;
    for (;;) {
      signal?.throwIfAborted();
      const state = call.inspect();
      switch (state) {
        case layout.INSPECT_READY:
          return;
        case layout.INSPECT_BLANK:
          if (!this.backing.mayFormat) {
            throw new IsthmusError('ERR_ISTHMUS_REGION_CORRUPT', `${path}: is not formatted`, { path });
          }
          // The lock tells others on this kernel whether the one who began is still at it.
          if (this.mapping.lock(layout.LOCK_FORMAT)) {
            try {
              if (call.beginFormat(this.identity.hash)) this.#format();
            } finally {
              this.mapping.unlock(layout.LOCK_FORMAT);
            }
            continue;
          }
          break;
        case layout.INSPECT_FORMATTING:
          if (call.formattingKernel() === this.identity.hash && this.mapping.lock(layout.LOCK_FORMAT)) {
            // Whoever began on this kernel is gone: the lock is ours, and nobody formats without it.
            try {
              if (call.formattingKernel() === this.identity.hash) this.#format();
            } finally {
              this.mapping.unlock(layout.LOCK_FORMAT);
            }
            continue;
          }
          break;
        case layout.INSPECT_FOREIGN:
          // Somebody may have begun, or finished, to format it between two looks at the header.
          if (call.inspect() !== layout.INSPECT_FOREIGN) continue;
          throw refusal(this.core, path, this.backing.size, state);
        default:
          throw refusal(this.core, path, this.backing.size, state);
      }
      if (performance.now() > until) {
        throw new IsthmusError(
          'ERR_ISTHMUS_REGION_FORMATTING',
          `${path}: somebody began to format it and has not finished for ${FORMAT_LIMIT} ms`,
          { path },
        );
      }
      await sleep(2);
    }
  }

  #format(): void {
    const { call, layout, bytes } = this.core;
    call.format(this.identity.hash);
    const uuid = randomBytes(16);
    uuid[6] = ((uuid[6] as number) & 0x0f) | 0x40; // RFC 9562: version 4,
    uuid[8] = ((uuid[8] as number) & 0x3f) | 0x80; // variant 10.
    bytes.set(uuid, layout.HEADER_UUID);
    this.core.setText(layout.HEADER_HOST, layout.HEADER_HOST_LENGTH, hostname());
    call.finishFormat();
  }

  get slots(): number {
    return this.core.call.regionSlots.value;
  }

  /** Everybody in the peer table, the dead included of whom something is left. */
  attachments(): Attachment[] {
    const { call, layout } = this.core;
    const found: Attachment[] = [];
    for (let slot = 0; slot < this.slots; slot++) {
      if (call.slotState(slot) !== layout.SLOT_FREE) found.push({ slot, generation: call.slotGeneration(slot) >>> 0 });
    }
    return found;
  }

  /**
   * Find those whom their locks prove dead and take back what they held, and what those have left who are gone.
   * @returns whom this call has declared dead
   */
  reap(): Attachment[] {
    const { call, layout } = this.core;
    const found: Attachment[] = [];
    const dead: Attachment[] = [];
    for (let slot = 0; slot < this.slots; slot++) {
      const generation = call.slotGeneration(slot);
      const state = call.slotState(slot);
      if (state === layout.SLOT_FREE) continue;
      if (call.myGeneration() !== 0 && slot === call.mySlot()) continue;
      const attachment = { slot, generation: generation >>> 0 };
      if (state !== layout.SLOT_DEAD) {
        if (!isLocal(this.core, slot, this.identity) || this.mapping.locked(slot)) continue;
        // The generation was read before the lock: another owner since then has another one.
        if (!call.declareDead(slot, generation)) continue;
        found.push(attachment);
      }
      dead.push(attachment);
    }
    // All of them are known first: what one dead wrote to another nobody reads.
    for (const { slot, generation } of dead) call.reclaim(slot, generation | 0);
    // Whoever died right behind giving up his slot has left extents of which no slot tells.
    call.sweep();
    return found;
  }

  /**
   * Declare somebody dead who cannot be proven to be, and take back what he held: whoever says so knows that he will
   * never write again.
   * @returns false: that attachment is over, there is nothing to declare
   */
  bury({ slot, generation }: Attachment): boolean {
    const { call } = this.core;
    if (!call.declareDead(slot, generation | 0)) return false;
    call.reclaim(slot, generation | 0);
    return true;
  }

  /**
   * Shut somebody out who may be paused only. What he has stays his own: what he was about to write lands there.
   * @returns false: that attachment is over
   */
  fence({ slot, generation }: Attachment): boolean {
    return this.core.call.fence(slot, generation | 0) !== 0;
  }

  detach(): void {
    this.mapping.detach();
  }

  [Symbol.dispose](): void {
    this.detach();
  }
}
