/**
 * A region that is mapped into a core, without a slot in it: for formatting, and for reclaiming what dead peers held. It
 * lies under `Region` (region.ts), which has a slot, and under the region server (server.ts), which has none.
 */
import { randomBytes } from 'node:crypto';
import { closeSync } from 'node:fs';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { IsthmusError } from '../base/errors.js';
import { Core } from '../core/core.js';
import { type Backing, systemError } from '../device/backing.js';
import { type Identity, identityOf } from '../device/identity.js';
import { addon, type Mapping } from '../native/native.js';
import { refusal } from './header.js';
import { type Attachment, isLocal } from './peer-table.js';

/** How long another process may take to format a region. */
const MAX_FORMAT_MS = 2000;
/** Pause between two checks of a region that another process formats. */
const FORMAT_POLL_MS = 2;

export interface MapOptions {
  readonly signal?: AbortSignal | undefined;
  /** Whether an access to a page that is gone makes the region lost; otherwise it is a SIGBUS. Default true. */
  readonly survivesLoss?: boolean | undefined;
}

export class MappedRegion {
  readonly backing: Backing;
  readonly core: Core;
  readonly mapping: Mapping;
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
  static async open(backing: Backing, { signal, survivesLoss = true }: MapOptions = {}): Promise<MappedRegion> {
    const region = MappedRegion.#map(backing, survivesLoss);
    try {
      await region.#ensureFormatted(signal);
      // What was found, or formatted, may have been zeros in place of a file that was truncated meanwhile.
      region.check();
      return region;
    } catch (error) {
      region.detach();
      // The lock of the format may be refused.
      if (error instanceof IsthmusError || signal?.aborted) throw error;
      throw systemError(error, 'cannot format', backing.path);
    }
  }

  static #map(backing: Backing, survivesLoss: boolean): MappedRegion {
    const fd = backing.open();
    try {
      const core = new Core(backing.size);
      const { WINDOW, LOST } = core.layout;
      const options = { lost: survivesLoss ? LOST : undefined };
      const mapping = addon().map(core.memory.buffer, WINDOW, backing.size, fd, backing.offset, options);
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

  /** Wait, bounded, until the region is formatted; format it if no other process does. */
  async #ensureFormatted(signal: AbortSignal | undefined): Promise<void> {
    const { call, layout } = this.core;
    const { path } = this.backing;
    const until = performance.now() + MAX_FORMAT_MS;
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
          // The lock tells other processes of this kernel whether the one that began is still formatting.
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
            // The process that began was on this kernel and is gone: this one has the lock, and none formats without it.
            try {
              if (call.formattingKernel() === this.identity.hash) this.#format();
            } finally {
              this.mapping.unlock(layout.LOCK_FORMAT);
            }
            continue;
          }
          break;
        case layout.INSPECT_FOREIGN:
          // Another process may have begun, or finished, to format between the two reads of the header.
          if (call.inspect() !== layout.INSPECT_FOREIGN) continue;
          throw refusal(this.core, path, this.backing.size, state);
        default:
          throw refusal(this.core, path, this.backing.size, state);
      }
      if (performance.now() > until) {
        throw new IsthmusError(
          'ERR_ISTHMUS_REGION_FORMATTING',
          `${path}: another process began to format it and has not finished within ${MAX_FORMAT_MS} ms`,
          { path },
        );
      }
      await sleep(FORMAT_POLL_MS);
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

  /**
   * Why the region is lost: its file was truncated, or its device is gone. Looks at the size of the file.
   * @returns undefined: it is not
   */
  whyLost(): IsthmusError | undefined {
    return this.mapping.whole() ? undefined : this.lostError();
  }

  lostError(): IsthmusError {
    const { path } = this.backing;
    return new IsthmusError(
      'ERR_ISTHMUS_REGION_LOST',
      `${path}: pages of the region are gone: the file was truncated, or the device was removed`,
      { path },
    );
  }

  /** @throws ERR_ISTHMUS_REGION_LOST */
  check(): void {
    const error = this.whyLost();
    if (error) throw error;
  }

  get slots(): number {
    return this.core.call.regionSlots.value;
  }

  /** All attachments in the peer table, dead ones included as long as they hold something. */
  attachments(): Attachment[] {
    const { call, layout } = this.core;
    const found: Attachment[] = [];
    for (let slot = 0; slot < this.slots; slot++) {
      if (call.slotState(slot) !== layout.SLOT_FREE) found.push({ slot, generation: call.slotGeneration(slot) >>> 0 });
    }
    return found;
  }

  /**
   * Declare dead the peers whose locks prove it. Reclaim what dead peers held, and what peers that have left did not free.
   * @returns the attachments that this call has declared dead
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
        // The generation was read before the lock: a new owner since then has another generation.
        if (!call.declareDead(slot, generation)) continue;
        found.push(attachment);
      }
      dead.push(attachment);
    }
    // All dead peers are known first: what one of them wrote to another is not needed any more.
    for (const { slot, generation } of dead) call.reclaim(slot, generation | 0);
    // A process that died right after it freed its slot has left extents that no slot refers to.
    call.sweep();
    return found;
  }

  /**
   * Declare a peer dead without proof, and reclaim what it held. The caller knows that the peer will never write again.
   * @returns false: that attachment is over, there is nothing to declare
   */
  confirmDead({ slot, generation }: Attachment): boolean {
    const { call } = this.core;
    if (!call.declareDead(slot, generation | 0)) return false;
    call.reclaim(slot, generation | 0);
    return true;
  }

  /**
   * Shut a peer out that may only be paused. It keeps what it holds: a write that it was about to do goes there.
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
