/**
 * The control socket of a runtime: inspects and steers a running process from outside.
 *
 * There is one for each runtime, not one for each process: runtimes come and go one by one and may live in worker threads,
 * which cannot share a server.
 *
 * It is a Unix socket in {@link controlFolder}, mode 0600. A client sends one line of JSON and gets one line:
 *
 * ```
 * → {"request":"debug","level":3}
 * ← {"result":{"level":3}}
 * ← {"error":{"code":"ERR_ISTHMUS_INVALID_ARGUMENT","message":"…"}}
 * ```
 *
 * The client belongs to the same user, but its input is not trusted: the size and the time of a request are limited, and so
 * is the number of clients. The socket does not keep the process alive.
 */
import { chmodSync, lstatSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { threadId } from 'node:worker_threads';
import { IsthmusError, messageOf } from '../base/errors.js';
import type { Log } from '../base/log.js';
import { controlFolder, MAX_PATH_BYTES, makeFolder, pathOf } from './folder.js';

/** Answers a request. Its fields have not been checked. The result goes back as JSON. */
export type RequestHandler = (fields: Readonly<Record<string, unknown>>) => unknown;
/** By the name in `request`. */
export type RequestHandlers = ReadonlyMap<string, RequestHandler>;

export const MAX_REQUEST_BYTES = 65536;
/** Clients that are served at the same time. */
export const MAX_CLIENTS = 16;
/** Clients that wait for that. Further ones are closed. */
const MAX_WAITING = 256;
/** Time for a client to wait, then to send its request, and again to read the answer. */
const CLIENT_TIMEOUT_MS = 5000;
/** Names to try if processes left their sockets behind. */
const MAX_TRIES = 1000;

let count = 0;

/** An id for a runtime that is easy to type: pid, thread (unless it is the main one), and a number. */
export function newId(): string {
  return `${process.pid}${threadId === 0 ? '' : `.${threadId}`}-${count++}`;
}

/** Whether there is a file of that name, or a link that leads nowhere. */
const isTaken = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false }) !== undefined;

/** Sockets to remove when the process ends without closing its runtimes. */
const left = new Set<string>();
let watching = false;

function removeAtExit(path: string): void {
  left.add(path);
  if (watching) return;
  watching = true;
  process.on('exit', () => {
    for (const each of left) rmSync(each, { force: true });
  });
}

export class ControlSocket {
  readonly id: string;
  readonly #path: string;
  readonly #handlers: RequestHandlers;
  readonly #server: Server;
  readonly #clients = new Set<Socket>();
  /** Whether another process has this name: it is tried with the next one, and nothing is logged. */
  #taken = false;
  /** With the limit of each, in the order in which they came. */
  readonly #waiting = new Map<Socket, NodeJS.Timeout>();

  private constructor(id: string, path: string, handlers: RequestHandlers, log: Log) {
    this.id = id;
    this.#path = path;
    this.#handlers = handlers;
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));
    this.#server.maxConnections = MAX_CLIENTS + MAX_WAITING;
    this.#server.on('error', (error) => {
      if (!this.#taken) log('info', `no control socket: ${error.message}`);
    });
    // Without `exclusive` the primary of a cluster would listen.
    this.#server.listen({ path, exclusive: true });
    this.#server.unref();
    if (!this.#server.listening) {
      // 'error' follows.
      this.#taken = isTaken(path);
      return;
    }
    removeAtExit(path);
    chmodSync(path, 0o600);
  }

  /** Serve. It waits for nothing. @returns undefined: not possible; the reason is logged */
  static open(handlers: RequestHandlers, log: Log): ControlSocket | undefined {
    try {
      const folder = controlFolder();
      let id = newId();
      const bytes = Buffer.byteLength(pathOf(folder, id));
      if (bytes > MAX_PATH_BYTES) {
        log(
          'info',
          `no control socket: the path ${pathOf(folder, id)} has ${bytes} bytes, at most ${MAX_PATH_BYTES} fit; set a shorter XDG_RUNTIME_DIR, or PSP_CONTROL=0`,
        );
        return undefined;
      }
      makeFolder(folder);
      for (let i = 0; i < MAX_TRIES; i++, id = newId()) {
        // A socket of that name was left by a process with the same pid, or belongs to one in another pid namespace.
        if (isTaken(pathOf(folder, id))) continue;
        const socket = new ControlSocket(id, pathOf(folder, id), handlers, log);
        // Two processes with one pid may have looked at the same moment: only one of them has bound the name.
        if (!socket.#taken) return socket;
      }
      log(
        'warning',
        `no control socket: ${folder} has a file for each of ${MAX_TRIES} names; remove those of dead processes`,
      );
    } catch (error) {
      // What is wrong with the folder may be the work of another user.
      log(error instanceof IsthmusError ? 'warning' : 'info', `no control socket: ${messageOf(error)}`);
    }
    return undefined;
  }

  /** Idempotent. */
  close(): void {
    // This also removes the file.
    this.#server.close();
    left.delete(this.#path);
    for (const client of [...this.#waiting.keys(), ...this.#clients]) client.destroy();
  }

  #accept(socket: Socket): void {
    socket.unref();
    socket.on('error', () => {}); // 'close' follows.
    socket.on('close', () => {
      this.#leaveQueue(socket);
      if (this.#clients.delete(socket)) this.#serveNext();
    });
    // The client has given up by then: its request must not be done later.
    this.#waiting.set(socket, setTimeout(() => socket.destroy(), CLIENT_TIMEOUT_MS).unref());
    this.#serveNext();
  }

  #serveNext(): void {
    const [next] = this.#waiting.keys();
    if (!next || this.#clients.size >= MAX_CLIENTS) return;
    this.#leaveQueue(next);
    this.#serve(next);
  }

  #leaveQueue(socket: Socket): void {
    clearTimeout(this.#waiting.get(socket));
    this.#waiting.delete(socket);
  }

  #serve(socket: Socket): void {
    this.#clients.add(socket);
    let timer: NodeJS.Timeout | undefined;
    const limit = () => {
      timer = setTimeout(() => socket.destroy(), CLIENT_TIMEOUT_MS).unref();
    };
    const answer = (text: string) => {
      limit();
      socket.end(`${text}\n`);
      // Further input is dropped. To close the socket with unread input would look like a failure to the client.
      socket.resume();
    };
    const asked = async (line: string) => {
      clearTimeout(timer);
      answer(await this.#answer(line));
    };
    const chunks: Buffer[] = [];
    let length = 0;
    const collect = (chunk: Buffer) => {
      const end = chunk.indexOf(0x0a);
      chunks.push(end < 0 ? chunk : chunk.subarray(0, end));
      length += (chunks.at(-1) as Buffer).length;
      if (length <= MAX_REQUEST_BYTES && end < 0) return;
      socket.off('data', collect).off('end', ended).pause();
      if (length <= MAX_REQUEST_BYTES) {
        void asked(Buffer.concat(chunks).toString());
        return;
      }
      clearTimeout(timer);
      answer(
        failure(new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `a request of more than ${MAX_REQUEST_BYTES} bytes`)),
      );
    };
    const ended = () => socket.end();
    limit();
    socket
      .on('close', () => clearTimeout(timer))
      .on('end', ended)
      .on('data', collect);
  }

  /** Never throws. */
  async #answer(line: string): Promise<string> {
    try {
      const fields = parse(line);
      const name = fields['request'];
      const handler = typeof name === 'string' ? this.#handlers.get(name) : undefined;
      if (!handler) {
        const known = [...this.#handlers.keys()].join(', ');
        throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `"request" is not one of: ${known}`);
      }
      return JSON.stringify({ result: (await handler(fields)) ?? null });
    } catch (error) {
      return failure(error);
    }
  }
}

function parse(line: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    // Refused below.
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'a request is a line with one JSON object');
}

function failure(error: unknown): string {
  const code = error instanceof IsthmusError ? error.code : null;
  return JSON.stringify({ error: { code, message: error instanceof Error ? error.message : String(error) } });
}
