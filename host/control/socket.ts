/**
 * The control socket of a runtime: how one looks into a running process, and steers it, from outside.
 *
 * One per runtime and not one per process: runtimes come and go one by one and may live in worker threads, which share
 * nothing that a common server could be made of.
 *
 * A Unix socket in {@link controlFolder}, mode 0600. Whoever connects sends one line of JSON, gets one line, and that is
 * the end of it:
 *
 * ```
 * → {"request":"debug","level":3}
 * ← {"result":{"level":3}}
 * ← {"error":{"code":"ERR_ISTHMUS_INVALID_ARGUMENT","message":"…"}}
 * ```
 *
 * It belongs to the same user, but nothing that comes over it is trusted: a request is limited in size and time, and so
 * is the number of those who ask. The socket keeps no process alive.
 */
import { chmodSync, existsSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { threadId } from 'node:worker_threads';
import { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import { controlFolder, MAX_PATH, makeFolder, pathOf } from './folder.js';

/** Answers a request, given its other fields, which nobody has checked. What it returns goes back as JSON. */
export type RequestHandler = (fields: Readonly<Record<string, unknown>>) => unknown;
/** By the name that stands in `request`. */
export type RequestHandlers = ReadonlyMap<string, RequestHandler>;

/** Bytes of a request. */
export const MAX_REQUEST = 65536;
/** Clients at once; more are turned away. */
export const MAX_CLIENTS = 16;
/** How long a client may take to ask, and again to take the answer, in milliseconds. */
export const CLIENT_TIME = 5000;
/** Names that are tried if others left theirs behind. */
const TRIES = 1000;

let count = 0;

/** An id for a runtime, that people can type: pid, thread unless it is the main one, and a number. */
export function newId(): string {
  return `${process.pid}${threadId === 0 ? '' : `.${threadId}`}-${count++}`;
}

/** Those to be removed when the process ends without closing its runtimes. */
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

  private constructor(id: string, path: string, handlers: RequestHandlers, log: Log) {
    this.id = id;
    this.#path = path;
    this.#handlers = handlers;
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#serve(socket));
    this.#server.maxConnections = MAX_CLIENTS;
    this.#server.on('error', (error) => log('info', `control socket: ${error.message}`));
    // In a cluster it would otherwise be the primary that listens.
    this.#server.listen({ path, exclusive: true });
    this.#server.unref();
    if (!this.#server.listening) return; // 'error' follows.
    removeAtExit(path);
    chmodSync(path, 0o600);
  }

  /** Serve, without waiting for anything. @returns undefined if that cannot be; why is logged at `info` */
  static open(handlers: RequestHandlers, log: Log): ControlSocket | undefined {
    try {
      const folder = controlFolder();
      let id = newId();
      const bytes = Buffer.byteLength(pathOf(folder, id));
      if (bytes > MAX_PATH) {
        log('info', `no control socket: the path ${pathOf(folder, id)} has ${bytes} bytes, at most ${MAX_PATH} fit`);
        return undefined;
      }
      makeFolder(folder);
      // Left by a process that had our pid, or of one that has it in another pid namespace.
      for (let i = 0; i < TRIES && existsSync(pathOf(folder, id)); i++) id = newId();
      return new ControlSocket(id, pathOf(folder, id), handlers, log);
    } catch (error) {
      log('info', `no control socket: ${(error as Error).message}`);
      return undefined;
    }
  }

  /** Idempotent. */
  close(): void {
    // This removes the file as well.
    this.#server.close();
    left.delete(this.#path);
    for (const client of this.#clients) client.destroy();
  }

  #serve(socket: Socket): void {
    this.#clients.add(socket);
    socket.unref();
    socket.on('error', () => {}); // 'close' follows.
    let timer: NodeJS.Timeout | undefined;
    const limit = () => {
      timer = setTimeout(() => socket.destroy(), CLIENT_TIME).unref();
    };
    const answer = (text: string) => {
      limit();
      socket.end(`${text}\n`);
      // What else it says is of no interest, but to close on it would look like a failure to the client.
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
      if (length <= MAX_REQUEST && end < 0) return;
      socket.off('data', collect).off('end', ended).pause();
      if (length <= MAX_REQUEST) {
        void asked(Buffer.concat(chunks).toString());
        return;
      }
      clearTimeout(timer);
      answer(failure(new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `a request of more than ${MAX_REQUEST} bytes`)));
    };
    const ended = () => socket.end();
    limit();
    socket
      .on('close', () => {
        clearTimeout(timer);
        this.#clients.delete(socket);
      })
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
        throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `"request" is none of: ${known}`);
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
    // Below.
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'a request is a line with one JSON object');
}

function failure(error: unknown): string {
  const code = error instanceof IsthmusError ? error.code : null;
  return JSON.stringify({ error: { code, message: error instanceof Error ? error.message : String(error) } });
}
