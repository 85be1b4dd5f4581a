/** Sockets and time limits of handshakes. */
import type { Socket } from 'node:net';
import type { Peer } from '../api/peer.js';

/** Limit of a whole handshake, in milliseconds. */
export const HANDSHAKE_TIMEOUT_MS = 10_000;

/**
 * Like setTimeout, but bytes that have already arrived are handled first: after a process, or its whole machine, was
 * stopped for a while, its timers have expired before it reads. Returns the cancellation.
 */
export function afterTimeout(ms: number, expired: () => void): () => void {
  let immediate: NodeJS.Immediate | undefined;
  const timer = setTimeout(() => {
    immediate = setImmediate(expired);
  }, ms);
  return () => {
    clearTimeout(timer);
    clearImmediate(immediate);
  };
}

/** Close without a reset, so that the peer can read the last bytes; at the latest after `limitMs`. */
export function endInOrder(socket: Socket, limitMs: number): void {
  const timer = setTimeout(() => socket.destroy(), limitMs);
  socket.on('close', () => clearTimeout(timer));
  socket.end();
  socket.resume();
}

/** Remote address of a socket; undefined: the connection is gone already. */
export function remoteAddress(socket: Socket): Peer['address'] {
  const { remoteAddress: host, remotePort: port } = socket;
  return host === undefined || port === undefined ? undefined : { host, port };
}

/**
 * A connect to a free port of the ephemeral range may get that very port as its own, and then TCP connects the socket to
 * itself. Nothing listens there.
 */
export function isSelfConnected(socket: Socket): boolean {
  return socket.localPort === socket.remotePort && socket.localAddress === socket.remoteAddress;
}
