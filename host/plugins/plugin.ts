/**
 * What a plugin is, and which of them a runtime tries in which order.
 *
 * The names are pscom's. A plugin decides who sits at the other end of a connection's two rings; the handshake that
 * chooses one is in `handshake/` (docs/protocol.md, "Phase 1: the handshake").
 */
import type { Socket } from 'node:net';
import type { Peer, PluginMask } from '../api/peer.js';
import { IsthmusError } from '../base/errors.js';
import type { Core } from '../core/core.js';
import type { Region } from '../region/region.js';

/** Types of the frames that plugins talk with during a handshake (docs/protocol.md, "Phase 1: the handshake"). */
export const STEP = { STEP1: 0x100013, STEP2: 0x100014, STEP3: 0x100015, STEP4: 0x100016 } as const;

/** Architecture ids on the wire. C's own `shm` (104) and `ivshmem` (120) have another memory layout, so ours differ. */
export const ARCH = { loop: 102, tcp: 103, shm: 204, ivshmem: 220 } as const;

/** How a {@link Link} ended, told once. */
export type LinkEnd =
  /** The peer closed in order; what it committed before is still to be read. */
  | { readonly kind: 'peer-closed' }
  /** The peer died or broke the protocol; what it committed before is still to be read. */
  | { readonly kind: 'lost'; readonly error: IsthmusError };

/**
 * An open transport under a connection: an entry of a core's connection table, with its two rings, and the plugin's
 * hands on the other side of them.
 */
export interface Link {
  readonly core: Core;
  /** Index into the core's connection table. */
  readonly index: number;
  /**
   * True when bytes appear in the ring without any event of this process, so that somebody has to look (shared
   * memory); false when the plugin calls {@link LinkOwner.onReadable} itself (loop, tcp).
   */
  readonly polled: boolean;
  /** What both sides map, if that is how they reach each other. */
  readonly region?: Region | undefined;
  /** Called by the connection once it is set up; from here on the owner is told of events. */
  start(owner: LinkOwner): void;
  /** Records were committed to the transmit ring. Not called when `polled`. */
  committed(): void;
  /** Room was made in the receive ring. Not called when `polled`. */
  released(): void;
  /** A record was committed, and the other side sleeps: wake it. Only when `polled`. */
  ring?(): void;
  /** Ask the peer, out of band, to read on: a record that must not wait lies behind records that it leaves unread. */
  requestDrain?(): void;
  /**
   * Send the shutdown message out of band, because the transmit ring has no room for it. The message that had begun there
   * has been given up.
   */
  sendShutdown?(type: number, value: number): void;
  /** All that will ever be sent is in the ring, the last word included: deliver it, and announce the orderly close. */
  finish(): void;
  /** Cut the other side off: socket, transmit ring. What was received stays readable. Idempotent. */
  destroy(): void;
  /** Behind destroy(), and when nobody reads any more: free the entry and the ring that it reads from. */
  free(): void;
  ref(): void;
  unref(): void;
}

/** What a {@link Link} tells the connection above it. */
export interface LinkOwner {
  /** There may be records in the receive ring. */
  onReadable(): void;
  /** There may be room in the transmit ring. */
  onWritable(): void;
  /** The peer asks, out of band, that the receive ring be read to its end: a shutdown message lies in it. */
  onDrainRequested(): void;
  /**
   * The shutdown message of the peer came out of band. A message that is incomplete in the receive ring comes again over
   * the next link.
   */
  onShutdownReceived(type: number, value: number): void;
  /**
   * The peer has shown no sign of life for so long, in milliseconds; told again and again while that goes on, and with 0
   * when it is over. Only of peers whose life can be seen, over shared memory.
   */
  onSilence(ms: number): void;
  onEnded(end: LinkEnd): void;
}

/** What an attempt may do to the handshake that it is part of. */
export interface AttemptChannel {
  readonly role: 'connect' | 'accept';
  /** Where the socket of the handshake really leads; undefined if it is gone already. */
  readonly address: Peer['address'];
  /** Send a STEP frame (`FRAME.STEP1` …). */
  step(type: number, payload: Uint8Array): void;
  /** We are ready: send ARCH_OK. Exactly once. */
  ok(): void;
  /** Give up on this plugin: undo, send ARCH_NEXT; the connecting side then proposes its next one. */
  next(reason: string): void;
}

/** One attempt of one plugin at one connection: from ARCH_REQ to ARCH_OK or ARCH_NEXT. */
export interface Attempt {
  /** A STEP frame of the other side. May throw: the attempt is then given up with the error's message. */
  step(type: number, payload: Uint8Array): void;
  /** The other side sent ARCH_OK: it is agreed. Call `channel.ok()` here if that has not been done. */
  agreed(): void;
  /** Undo whatever was set up. Idempotent; not called after `open`. */
  undo(): void;
  /** The handshake is over: the socket and what arrived behind the last frame are the plugin's now. */
  open(socket: Socket, rest: Buffer): Link;
}

/** A proposal of the connecting side, one ARCH_REQ: a plugin may make several (one for each region). */
export interface Proposal {
  readonly plugin: Plugin;
  /** For people: `ivshmem (ivshmem0)`. */
  readonly label: string;
  /** Throws if it cannot even begin. */
  attempt(channel: AttemptChannel): Attempt;
}

export interface Plugin {
  readonly name: string;
  /** u32 that names the plugin on the wire. */
  readonly archId: number;
  /** Default priority; the user's comes from `PSP_<NAME>`. */
  readonly priority: number;
  /** Whether its connections survive a migration of the process. None of the built-in ones do. */
  readonly migratable: boolean;
  /** Why it cannot be used in this process, or undefined. Asked before each handshake. */
  unavailable(): string | undefined;
  /** What the connecting side proposes, best first. */
  proposals(): Proposal[];
  /** The accepting side received ARCH_REQ. Throws to refuse (ARCH_NEXT). */
  accept(channel: AttemptChannel): Attempt;
  /** Let go of everything; no attempt is under way and no link is open. */
  destroy(): void | Promise<void>;
}

/** A plugin with the priority that applies in a runtime. */
export interface RankedPlugin {
  readonly plugin: Plugin;
  /** 0: disabled. Higher first. */
  readonly priority: number;
  /** Why it is disabled, if that is not the priority's doing. */
  readonly masked?: string;
}

/** Why a plugin may not be used at all, or undefined: then {@link Plugin.unavailable} has the word. */
export function disabled({ priority, masked }: RankedPlugin): string | undefined {
  return masked ?? (priority <= 0 ? 'disabled' : undefined);
}

/** The plugins of one runtime, best first: by the user's priority, equal ones by the default priority. */
export class PluginRegistry {
  readonly #ranked: RankedPlugin[];

  constructor(plugins: readonly RankedPlugin[]) {
    this.#ranked = [...plugins].sort((a, b) => b.priority - a.priority || b.plugin.priority - a.plugin.priority);
  }

  /** All, disabled ones included, best first. */
  get all(): readonly RankedPlugin[] {
    return this.#ranked;
  }

  /** The plugin behind an ARCH_REQ, or why there is none. */
  byArch(archId: number): Plugin | string {
    const found = this.#ranked.find(({ plugin }) => plugin.archId === archId);
    if (!found) return `no plugin with architecture id ${archId}`;
    const reason = disabled(found) ?? found.plugin.unavailable();
    return reason === undefined ? found.plugin : `${found.plugin.name}: ${reason}`;
  }

  /**
   * The same plugins in the same order, of which those that the mask leaves out count as disabled. A priority of 0 stays
   * what it is. The plugins belong to the registry that this was called on: it is the one to destroy.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT for a name that no plugin has
   */
  masked({ only, add, delete: without }: PluginMask): PluginRegistry {
    const names = this.#ranked.map(({ plugin }) => plugin.name);
    for (const name of [...(only ?? []), ...(add ?? []), ...(without ?? [])]) {
      if (names.includes(name)) continue;
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `there is no plugin '${name}', only ${names.join(', ')}`);
    }
    const allowed = new Set([...(only ?? names), ...(add ?? [])]);
    for (const name of without ?? []) allowed.delete(name);
    return new PluginRegistry(
      this.#ranked.map((ranked) =>
        allowed.has(ranked.plugin.name) ? ranked : { ...ranked, masked: 'masked for this endpoint' },
      ),
    );
  }

  /** Let every plugin go of what it holds. @returns what went wrong, for people: it keeps nobody from ending */
  async destroy(): Promise<string[]> {
    const ended = this.#ranked.map(async ({ plugin }) => {
      try {
        await plugin.destroy();
        return [];
      } catch (error) {
        return [`plugin ${plugin.name} failed to let go: ${error instanceof Error ? error.message : String(error)}`];
      }
    });
    return (await Promise.all(ended)).flat();
  }
}
