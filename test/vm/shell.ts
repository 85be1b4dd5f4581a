/** The shell in a guest, through the console on which its first process accepts commands (image.ts). */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { slowness } from './tools.js';

export interface Result {
  readonly code: number;
  readonly output: string;
}

export class Shell {
  readonly #socket: Socket;
  #text = '';
  #ended = false;
  #wake: () => void = () => {};
  #commands = 0;
  /** One command at a time. */
  #last: Promise<unknown> = Promise.resolve();

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('utf8').on('data', (text: string) => {
      this.#text += text;
      this.#wake();
    });
    const end = () => {
      this.#ended = true;
      this.#wake();
    };
    socket.on('close', end).on('error', end);
  }

  /** @param path of the socket at the other end of the console */
  static async open(path: string): Promise<Shell> {
    const socket = createConnection(path);
    await once(socket, 'connect');
    return new Shell(socket);
  }

  /** The machine has booted. */
  async ready(seconds: number): Promise<void> {
    await this.#until('boot', seconds, () => {
      const [before, after] = this.#text.split(/^@@ready\s*?\n/m, 2);
      if (after === undefined) return undefined;
      this.#text = after;
      return before;
    });
  }

  /** Runs a command there. @returns its output, and its exit code */
  run(command: string, seconds = 60): Promise<Result> {
    if (command.includes('\n')) throw new Error('a command is one line');
    const result = this.#last.then(async () => {
      // Late output of the command before is dropped.
      this.#text = '';
      const mark = `@@${++this.#commands} `;
      this.#socket.write(`${this.#commands} ${command}\n`);
      return this.#until(command, seconds, () => {
        const at = this.#text.indexOf(mark);
        const end = this.#text.indexOf('\n', at);
        if (at < 0 || end < 0) return undefined;
        return { code: Number(this.#text.slice(at + mark.length, end)), output: this.#text.slice(0, at) };
      });
    });
    this.#last = result.catch(() => {});
    return result;
  }

  /** The same, for commands that must succeed. @returns the trimmed output */
  async good(command: string, seconds = 60): Promise<string> {
    const { code, output } = await this.run(command, seconds);
    if (code !== 0) throw new Error(`${command}: exit code ${code}\n${output}`);
    return output.trim();
  }

  /** Repeats a command until its output matches. */
  async until(command: string, fits: (output: string) => boolean, seconds = 60): Promise<string> {
    const end = performance.now() + seconds * slowness * 1000;
    for (;;) {
      const { output } = await this.run(command, seconds);
      if (fits(output)) return output.trim();
      if (performance.now() > end) throw new Error(`${command}: still\n${output}`);
      await pause(100);
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  /** @param find called with the text so far; it may shorten the text */
  async #until<T>(what: string, seconds: number, find: () => T | undefined): Promise<T> {
    const end = performance.now() + seconds * slowness * 1000;
    for (;;) {
      const found = find();
      if (found !== undefined) return found;
      if (this.#ended) throw new Error(`${what}: the machine has ended`);
      const left = end - performance.now();
      if (left <= 0) throw new Error(`${what}: not within ${seconds * slowness} s; so far: ${this.#text.slice(-2000)}`);
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        timer = setTimeout(resolve, left);
      });
      clearTimeout(timer);
    }
  }
}
