/**
 * `unix`: connections over Unix-domain sockets, between two processes that see the same folders.
 *
 *   connecting side                      accepting side
 *   ARCH_REQ(1001) ─────────────────────▶ listens, if it does not yet
 *                   ◀──────────────────── STEP1: token (32 bytes), path of the socket
 *   connects to the path, writes the token
 *   ARCH_OK ────────────────────────────▶
 *                   ◀──────────────────── ARCH_OK, when a connection with the token has come
 *
 * The socket has a random name in a folder that nobody else may enter; the token says which handshake a connection
 * belongs to. On another host, or in another container, there is nothing at that path: the connecting side gives up, and
 * the handshake goes on with the next plugin.
 */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { STEP, streamPlugin } from 'isthmus';

const TOKEN = 32;
/** Most bytes of a path in `struct sockaddr_un`, without the NUL. */
const LONGEST_PATH = 107;
/** How long a connection may take to show its token, in milliseconds. */
const PATIENCE = 5000;

export function unixPlugin({ priority = 50, folder = tmpdir() } = {}) {
  /** The listening socket of this process, as a promise of its path; made for the first who asks. */
  let listening;
  let server;
  /** Who waits for a connection with a token (in hexadecimal digits). */
  const awaited = new Map();

  async function listen() {
    const home = await mkdtemp(join(folder, 'isthmus-unix-')); // rwx for us alone
    const path = join(home, randomBytes(12).toString('hex'));
    const opened = createServer({ allowHalfOpen: true }, welcome);
    server = { home, opened };
    await new Promise((resolve, reject) => opened.on('error', reject).listen({ path, exclusive: true }, resolve));
    // It serves handshakes, which keep the process alive themselves.
    opened.unref();
    return path;
  }

  /** Somebody came to the socket. He is nobody until he has shown a token that is waited for. */
  function welcome(socket) {
    socket.on('error', () => {}); // 'close' follows.
    const timer = setTimeout(() => socket.destroy(), PATIENCE).unref();
    const look = () => {
      const token = socket.read(TOKEN); // null until there are as many; what comes behind them stays where it is
      if (!token) return;
      socket.off('readable', look);
      clearTimeout(timer);
      const name = token.toString('hex');
      const channel = awaited.get(name);
      awaited.delete(name);
      if (channel) channel.ok(socket);
      else socket.destroy();
    };
    socket.on('readable', look).on('close', () => clearTimeout(timer));
  }

  function accept(channel) {
    const token = randomBytes(TOKEN);
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
        if (type !== STEP.STEP1 || socket || payload.length <= TOKEN || payload.length > TOKEN + LONGEST_PATH) {
          throw new Error('an unexpected STEP frame');
        }
        const path = Buffer.from(payload.subarray(TOKEN)).toString();
        // What a peer says is a path to connect to, and nothing else: not an abstract name, not one from here on.
        if (!path.startsWith('/') || path.includes('\0')) throw new Error('not a path');
        socket = connect({ path, allowHalfOpen: true });
        socket.on('error', (error) => channel.next(error.message));
        socket.on('connect', () => {
          socket.write(payload.subarray(0, TOKEN));
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
      return length > LONGEST_PATH ? `the path of a socket in ${folder} would be too long` : undefined;
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
