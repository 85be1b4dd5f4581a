/** Simulates a QEMU at the other end of its control channel: the test decides on its answers and their times. */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { newPath } from './regions.js';

type Args = Readonly<Record<string, unknown>>;

/** Its result is the answer, an exception is an error; `SILENT`: there is no answer. */
export type Handler = (args: Args) => unknown;

export const SILENT = Symbol('no answer');

export const GREETING = { QMP: { version: { qemu: { micro: 22, minor: 2, major: 7 } }, capabilities: ['oob'] } };

export class QmpStandIn {
  readonly path = newPath('qmp');
  /** Received commands, without `qmp_capabilities`. */
  readonly commands: string[] = [];
  readonly handlers: Record<string, Handler>;
  readonly #server: Server;
  #client: Socket | undefined;

  private constructor(handlers: Record<string, Handler>) {
    this.handlers = handlers;
    this.#server = createServer((socket) => {
      // Like QEMU: one client at a time.
      if (this.#client) return void socket.on('error', () => {});
      this.#client = socket;
      let text = '';
      socket.setEncoding('utf8').on('data', (part: string) => {
        const lines = (text + part).split('\n');
        text = lines.pop() as string;
        for (const line of lines) void this.#command(JSON.parse(line));
      });
      socket
        .on('error', () => {})
        .on('close', () => {
          this.#client = undefined;
        });
      this.say(GREETING);
    });
  }

  static async start(handlers: Record<string, Handler> = {}): Promise<QmpStandIn> {
    const standIn = new QmpStandIn(handlers);
    standIn.#server.listen(standIn.path).unref();
    await once(standIn.#server, 'listening');
    return standIn;
  }

  async #command({ execute, arguments: args = {}, id }: { execute: string; arguments?: Args; id: unknown }) {
    if (execute === 'qmp_capabilities') return this.say({ return: {}, id });
    this.commands.push(execute);
    try {
      const handler = this.handlers[execute];
      if (!handler) throw new Error(`The command ${execute} has not been found`);
      const value = await handler(args);
      if (value !== SILENT) this.say({ return: value ?? {}, id });
    } catch (error) {
      this.say({ error: { class: 'GenericError', desc: (error as Error).message }, id });
    }
  }

  /** Written unchanged. */
  write(text: string): void {
    this.#client?.write(text);
  }

  say(message: object): void {
    this.write(`${JSON.stringify(message)}\r\n`);
  }

  event(event: string, data: Args = {}): void {
    this.say({ event, data, timestamp: { seconds: 1, microseconds: 2 } });
  }

  /** Like a QEMU that ends. */
  hangUp(): void {
    this.#client?.destroy();
  }

  async close(): Promise<void> {
    this.hangUp();
    this.#server.close();
    rmSync(this.path, { force: true });
  }
}
