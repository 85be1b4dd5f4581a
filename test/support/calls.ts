/**
 * Programs that are called like objects: calls with answers, and events, over any channel for JSON.
 *
 * The program `serve`s handlers and `tell`s events to the process that started it, over the channel of `child_process`,
 * or, with ISTHMUS_PARENT=host:port, over a TCP connection to there (one line of JSON each), as from a virtual machine.
 */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { IsthmusError } from '../../host/base/errors.js';
import { slowness, tookFrom } from './limits.js';

/** Seconds that a call or an event may take; longer on a slow machine, like a timebox. */
export const LIMIT = 30;

export type Handlers = Record<string, (...args: any[]) => unknown>;
export type Call = { readonly id: number; readonly name: string; readonly args: readonly unknown[] };
export type Said =
  | { readonly id: number; readonly value?: unknown; readonly error?: { message: string; code?: string } }
  | { readonly event: string; readonly value: unknown };

// ── The program ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** The role of this process, undefined where the tests run. */
export const role: string | undefined = /^role:(.*)/.exec(process.argv[2] ?? '')?.[1];

/** Options that it was started with. */
export function roleOptions<T>(): T {
  return JSON.parse(process.argv[3] ?? '{}') as T;
}

/**
 * Play the role that the program was started with.
 * @throws Error if it has no such role
 */
export async function play(roles: Readonly<Record<string, () => unknown>>): Promise<void> {
  if (role === undefined || !Object.hasOwn(roles, role)) throw new Error(`no role '${role}' in ${process.argv[1]}`);
  await roles[role]?.();
}

let parent: Socket | undefined;

/** The connection to the process that started this one, if that is not its parent. */
function distant(): Socket | undefined {
  const address = process.env['ISTHMUS_PARENT'];
  if (parent || address === undefined) return parent;
  const at = address.lastIndexOf(':');
  parent = connect(Number(address.slice(at + 1)), address.slice(0, at));
  parent.setNoDelay().setKeepAlive(true);
  // Without the starting process this one is not needed any more.
  parent.on('error', () => {}).on('close', () => process.exit(0));
  parent.unref();
  return parent;
}

function say(message: Said): void {
  const socket = distant();
  if (socket) socket.write(`${JSON.stringify(message)}\n`);
  else process.send?.(message);
}

/** Send an event, without staying alive for it. */
export function tell(event: string, value: unknown = null): void {
  say({ event, value });
}

/** Answer calls until the starting process is gone. */
export function serve(handlers: Handlers): void {
  const answer = async ({ id, name, args }: Call) => {
    try {
      const handler = handlers[name];
      if (!handler) throw new Error(`the child has no '${name}'`);
      say({ id, value: await handler(...args) });
    } catch (error) {
      const { message } = error as Error;
      const code = error instanceof IsthmusError ? { code: error.code } : {};
      say({ id, error: { message, ...code } });
    }
  };
  const socket = distant();
  if (socket) {
    socket.ref();
    createInterface({ input: socket }).on('line', (line) => void answer(JSON.parse(line) as Call));
  } else {
    process.on('disconnect', () => process.exit(0));
    process.on('message', answer);
  }
}

// ── The starting process ─────────────────────────────────────────────────────────────────────────────────────────────

/** The other side of `serve` and `tell`. */
export abstract class Callee {
  #next = 1;
  readonly #calls = new Map<number, { resolve: (value: any) => void; reject: (error: Error) => void }>();
  readonly #events = new Map<string, unknown[]>();
  readonly #waiting = new Map<string, ((value: any) => void)[]>();
  /** Its output, for the message of an assertion. */
  output = '';
  /** Factor on all limits, for a program on a slow machine. */
  readonly #patience: number;

  constructor(patience = 1) {
    this.#patience = patience;
  }

  /** Send a call to the program. */
  protected abstract post(call: Call, failed: (error: Error) => void): void;

  /** Call one of its handlers. Rejects with an `IsthmusError` where it threw one. */
  call<T = any>(name: string, ...args: readonly unknown[]): Promise<T> {
    const id = this.#next++;
    const result = this.limited(
      `'${name}'`,
      new Promise<T>((resolve, reject) => {
        this.#calls.set(id, { resolve, reject });
        this.post({ id, name, args }, reject);
      }).finally(() => this.#calls.delete(id)),
    );
    // A test that has failed elsewhere does not wait for the answer.
    result.catch(() => {});
    return result;
  }

  /** The next of its events of that name, or one that arrived before. */
  event<T = any>(name: string, seconds = LIMIT): Promise<T> {
    const come = this.#events.get(name);
    if (come?.length) return Promise.resolve(come.shift() as T);
    const waiting = this.#waiting.get(name) ?? [];
    this.#waiting.set(name, waiting);
    return this.limited(`the event '${name}'`, new Promise<T>((resolve) => waiting.push(resolve)), seconds);
  }

  protected received(message: Said): void {
    if ('event' in message) {
      const waiting = this.#waiting.get(message.event)?.shift();
      if (waiting) waiting(message.value);
      else this.#events.set(message.event, [...(this.#events.get(message.event) ?? []), message.value]);
      return;
    }
    const call = this.#calls.get(message.id);
    if (!call) return;
    const { error } = message;
    if (!error) call.resolve(message.value);
    else if (error.code) call.reject(new IsthmusError(error.code as IsthmusError['code'], error.message));
    else call.reject(new Error(error.message));
  }

  /** The program is gone: calls are not answered any more. */
  protected lost(what: string): void {
    const error = new Error(`${what}\n${this.output}`);
    for (const { reject } of this.#calls.values()) reject(error);
    this.#calls.clear();
  }

  protected async limited<T>(what: string, promise: Promise<T>, seconds = LIMIT): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const start = performance.now();
    const late = new Promise<never>((_, reject) => {
      const error = new Error(`${what} of a child took more than ${seconds} s\n`);
      timer = setTimeout(
        () => {
          error.message += this.output;
          reject(error);
        },
        seconds * this.#patience * slowness * 1000,
      );
    });
    try {
      const result = await Promise.race([promise, late]);
      tookFrom(start, `${what} of a child`, seconds * this.#patience);
      return result;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** A program that connects to this process: it was started with this address in ISTHMUS_PARENT. */
export class Remote extends Callee {
  readonly #server: Server;
  #socket: Socket | undefined;

  private constructor(server: Server, patience: number) {
    super(patience);
    this.#server = server;
    server.once('connection', (socket) => {
      this.#socket = socket.setNoDelay().unref();
      server.close();
      createInterface({ input: socket }).on('line', (line) => this.received(JSON.parse(line) as Said));
      socket.on('error', () => {}).on('close', () => this.lost('the program has ended'));
    });
  }

  /** @returns an instance that waits for its program, and the port where it waits */
  static async listen(host = '127.0.0.1', port = 0, patience = 1): Promise<{ remote: Remote; port: number }> {
    const server = createServer().listen(port, host);
    await once(server, 'listening');
    server.unref();
    return { remote: new Remote(server, patience), port: (server.address() as { port: number }).port };
  }

  protected override post(call: Call, failed: (error: Error) => void): void {
    if (this.#socket && !this.#socket.destroyed) this.#socket.write(`${JSON.stringify(call)}\n`);
    else failed(new Error(`'${call.name}': the program is not connected`));
  }

  /** Close the connection; the program then ends. */
  close(): void {
    this.#server.close();
    this.#socket?.destroy();
  }
}
