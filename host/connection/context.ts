/** What an endpoint gives to a connection. */
import type { ConnectionEvents } from '../api/events.js';
import type { ConInfo, Peer } from '../api/peer.js';
import type { Log } from '../base/log.js';
import type { ReceiveLimits } from '../channel/ring-reader.js';
import type { Matching } from '../matching/matching.js';
import type { Poller } from '../polling/poller.js';

/** The peer, and the plugin that reaches it: known as soon as there is a link. */
export interface Route {
  readonly plugin: string;
  readonly why: string | undefined;
  readonly peer: Peer;
  /** What a further handshake with the peer needs; undefined where both ends are in this runtime. */
  readonly ends?: Ends | undefined;
}

/** The two ends of a handshake. */
export interface Ends {
  /** As this side introduced itself: its id for life. */
  readonly local: ConInfo;
  /** Address of this side on the way to the peer. */
  readonly host: string;
  /** A port where the peer listens, if it has told one. */
  readonly listens: number | undefined;
}

export interface ConnectionContext {
  readonly poller: Poller;
  readonly matching: Matching;
  readonly limits: ReceiveLimits;
  /** In milliseconds. */
  readonly closeTimeout: number;
  /** The limits of `liveness.ts`. */
  readonly stallTimeout: number;
  readonly peerTimeout: number;
  readonly log: Log;
  /** Bytes from which on data is announced over a plugin, instead of sent. */
  readonly rendezvous: (plugin: string) => number;
  /** The connection has something to send and no link. */
  readonly bringUp: () => void;
  /** Both sides have let go of the link, or the initiator has given it up. */
  readonly onSuspended: () => void;
  /** Ask the peer at its listener to read on whatever it has unread: the link has no way to say so. */
  readonly requestDrain: () => void;
  /** Where the peer could reach this side; a listener is opened if there is none. 0: nowhere. */
  readonly listenPort: () => Promise<number>;
  /** The peer has been silent for so many milliseconds, or is back after so many. */
  readonly onSilence: (event: keyof ConnectionEvents, silence: number) => void;
  /** The connection is closed and holds nothing any more. */
  readonly onReleased: () => void;
}
