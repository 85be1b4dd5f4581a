/** What becomes of an agreed handshake: the link and the route of a connection. */
import type { Route } from '../connection/context.js';
import type { Connected } from '../handshake/attach.js';
import type { Link } from '../plugins/plugin.js';

/** Let the plugin open its link. @throws what the plugin throws; the handshake is discarded then */
export function openLink(connected: Connected): Link {
  try {
    return connected.attempt.open(connected.socket, connected.rest);
  } catch (error) {
    discard(connected);
    throw error;
  }
}

/** The connection is not wanted: undo the attempt, close the socket. */
export function discard({ attempt, socket }: Connected): void {
  attempt.undo();
  socket.destroy();
}

export function routeOf({ plugin, why, peer, local, listens, socket }: Connected): Route {
  return { plugin: plugin.name, why, peer, ends: { local, host: socket.localAddress ?? '127.0.0.1', listens } };
}
