/** What a handshake asks its owner, and how it can end. */
import type { ConInfo, MessageCounts, Peer } from '../api/peer.js';
import type { IsthmusError } from '../base/errors.js';
import type { Attempt, Plugin } from '../plugins/plugin.js';

/**
 * Where the admission may let a handshake wait: the peer has introduced itself; the peer proposes a plugin. Until the first
 * of them the peer costs no more than its socket, and the second one begins to take memory of a region.
 */
export type Stage = 'introduced' | 'proposed';

/** A peer asks for an existing on-demand connection of this process. */
export interface OnDemandRequest {
  /**
   * `connect`: this TCP connection is to carry it. `back-connect`: this process is to connect to the peer. `drain`: this
   * process is to read on, because a shutdown message lies behind messages that it leaves unread.
   */
  readonly kind: 'connect' | 'back-connect' | 'drain';
  readonly peer: Peer;
}

export interface OnDemandAnswer {
  /** The CON_INFO to answer with; default: the `local` of the handshake. */
  readonly local?: ConInfo;
  /** For a connection that has been up before. */
  readonly counts?: MessageCounts | undefined;
}

/** Both sides have agreed on a plugin. The owner calls `attempt.open(socket, rest)` or `attempt.undo()`. */
export interface Agreed {
  readonly kind: 'agreed';
  readonly attempt: Attempt;
  readonly plugin: Plugin;
  /** For messages: `ivshmem (ivshmem0)`; on the accepting side the name of the plugin. */
  readonly label: string;
  readonly peer: Peer;
  /** The CON_INFO that this side has sent. */
  readonly local: ConInfo;
  /** The counts that the peer has sent; undefined: none. */
  readonly counts: MessageCounts | undefined;
  /** A port where the peer listens; undefined: unknown. */
  readonly listens: number | undefined;
  /** Bytes behind the last frame: with tcp the first bytes of phase 2. */
  readonly rest: Buffer;
  /** The reason against each better plugin; undefined if this was the first choice. */
  readonly why: string | undefined;
}

export type PreconOutcome =
  | Agreed
  /** This side has answered BACK_ACK: the TCP connection has served its purpose. */
  | { readonly kind: 'acknowledged'; readonly peer: Peer }
  | {
      readonly kind: 'failed';
      readonly error: IsthmusError;
      /** The peer has been told by a last frame. */
      readonly told: boolean;
    };
