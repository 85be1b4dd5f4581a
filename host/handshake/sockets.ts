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

/** Time for a peer to read the last frame, and to close its side. */
const MAX_LINGER_MS = 1000;
/** Sockets for which that time is given at once: strangers can be the cause of any number. */
const MAX_LINGERING = 256;

/** Sockets that are being closed in order, the oldest first. */
const lingering = new Set<Socket>();

/** Close without a reset, so that the peer can read the last bytes: within a limited time, for a limited number of peers. */
export function endInOrder(socket: Socket): void {
  if (socket.destroyed) return;
  const [oldest] = lingering;
  if (oldest && lingering.size >= MAX_LINGERING) {
    lingering.delete(oldest);
    oldest.destroy();
  }
  const timer = setTimeout(() => socket.destroy(), MAX_LINGER_MS).unref();
  // The bytes are the kernel's: a process that ends need not wait for a stranger.
  socket.unref();
  lingering.add(socket);
  socket.on('close', () => {
    clearTimeout(timer);
    lingering.delete(socket);
  });
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
