/**
 * `unix`: connections over Unix-domain sockets, between two processes that see the same folders.
 *
 *   connecting side                      accepting side
 *   ARCH_REQ(1001) ─────────────────────▶ listens, if it does not yet
 *                   ◀──────────────────── STEP1: token (32 bytes), path of the socket
 *   connects to the path, writes the token
 *   ARCH_OK ────────────────────────────▶
 *                   ◀──────────────────── ARCH_OK, when a connection with the token has arrived
 *
 * The socket has a random name in a folder that no other user may enter, and the connecting side connects to no other:
 * over a Unix-domain socket a process of another user can send descriptors, and closing those can block for as long as it
 * likes. The token says to which handshake a connection belongs. On another host, or in another container, there is no socket at that path: the connecting side gives up, and
 * the handshake continues with the next plugin.
 */
import { randomBytes } from 'node:crypto';
import { lstatSync, realpathSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { STEP, streamPlugin } from 'isthmus';

const TOKEN_BYTES = 32;
/** Bytes of a path in `struct sockaddr_un`, without the NUL. */
const MAX_PATH_BYTES = 107;
/** A connection must present its token within this time. */
const TOKEN_TIMEOUT_MS = 5000;

/**
 * The path, without links, if it lies in a folder of this user that no other user may enter. Not an abstract name, and not
 * a path relative to this process.
 */
function ownPath(path) {
  if (!path.startsWith('/') || path.includes('\0')) throw new Error('not a path');
  const home = realpathSync(dirname(path));
  const { uid, mode } = lstatSync(home);
  if (uid !== process.geteuid() || (mode & 0o077) !== 0) throw new Error('not a socket of this user');
  return join(home, basename(path));
}

export function unixPlugin({ priority = 50, folder = tmpdir() } = {}) {
  /** The listening socket of this process, as a promise of its path; created for the first handshake. */
  let listening;
  let server;
  /** The handshake that waits for a connection, by its token in hexadecimal digits. */
  const awaited = new Map();

  async function listen() {
    const home = await mkdtemp(join(folder, 'isthmus-unix-')); // mode 0700
    const path = join(home, randomBytes(12).toString('hex'));
    const opened = createServer({ allowHalfOpen: true }, authenticate);
    server = { home, opened };
    await new Promise((resolve, reject) => opened.on('error', reject).listen({ path, exclusive: true }, resolve));
    // The handshakes keep the process alive; the server must not.
    opened.unref();
    return path;
  }

  /** A client has connected to the socket. It is trusted only once it has presented a token of a waiting handshake. */
  function authenticate(socket) {
    socket.on('error', () => {}); // 'close' follows.
    const timer = setTimeout(() => socket.destroy(), TOKEN_TIMEOUT_MS).unref();
    const readToken = () => {
      const token = socket.read(TOKEN_BYTES); // null until all its bytes have arrived; later bytes stay in the stream
      if (!token) return;
      socket.off('readable', readToken);
      clearTimeout(timer);
      const name = token.toString('hex');
      const channel = awaited.get(name);
      awaited.delete(name);
      if (channel) channel.ok(socket);
      else socket.destroy();
    };
    socket.on('readable', readToken).on('close', () => clearTimeout(timer));
  }

  function accept(channel) {
    const token = randomBytes(TOKEN_BYTES);
    const name = token.toString('hex');
    awaited.set(name, channel);
    listening ??= listen();
    listening.then(
      (path) => channel.step(STEP.STEP1, Buffer.concat([token, Buffer.from(path)])),
      (error) => {
        listening = undefined;
        channel.next(error.message);
      },
    );
    return { undo: () => awaited.delete(name) };
  }

  function dial(channel) {
    let socket;
    return {
      step(type, payload) {
        if (
          type !== STEP.STEP1 ||
          socket ||
          payload.length <= TOKEN_BYTES ||
          payload.length > TOKEN_BYTES + MAX_PATH_BYTES
        ) {
          throw new Error('an unexpected STEP frame');
        }
        const path = Buffer.from(payload.subarray(TOKEN_BYTES)).toString();
        socket = connect({ path: ownPath(path), allowHalfOpen: true });
        socket.on('error', (error) => channel.next(error.message));
        socket.on('connect', () => {
          socket.write(payload.subarray(0, TOKEN_BYTES));
          channel.ok(socket);
        });
      },
      undo: () => socket?.destroy(),
    };
  }

  return streamPlugin({
    name: 'unix',
    archId: 1001,
    priority,
    unavailable() {
      if (process.platform === 'win32') return 'there are no Unix-domain sockets here';
      // mkdtemp adds 6 characters, the socket has 24.
      const length = Buffer.byteLength(join(folder, 'isthmus-unix-xxxxxx', 'x'.repeat(24)));
      return length > MAX_PATH_BYTES ? `the path of a socket in ${folder} would be too long` : undefined;
    },
    attempt: (channel) => (channel.role === 'accept' ? accept(channel) : dial(channel)),
    async destroy() {
      await listening?.catch(() => {});
      const { home, opened } = server ?? {};
      server = undefined;
      listening = undefined;
      awaited.clear();
      opened?.close();
      if (home) await rm(home, { recursive: true, force: true });
    },
  });
}
