/** Calls between the processes of the benchmark, over the channel that `fork` gives them. Never on the way of what is measured. */
import type { ChildProcess } from 'node:child_process';

/** What the other process answers to. Arguments and results survive JSON. */
export type Handlers = Readonly<Record<string, (argument: never) => unknown>>;

interface Call {
  readonly call: number;
  readonly name: string;
  readonly argument: unknown;
}

interface Answer {
  readonly answer: number;
  readonly result?: unknown;
  readonly error?: string;
}

/** The longest that one step of the benchmark may take, in milliseconds. */
const LIMIT = 120_000;

/** Answer to whoever started this process. It ends when he does. */
export function serve(handlers: Handlers): void {
  process.on('disconnect', () => process.exit());
  process.on('message', async ({ call, name, argument }: Call) => {
    if (call === undefined) return;
    let answer: Answer;
    try {
      const handler = handlers[name];
      if (!handler) throw new Error(`nobody answers to '${name}' here`);
      answer = { answer: call, result: await handler(argument as never) };
    } catch (error) {
      answer = { answer: call, error: error instanceof Error ? (error.stack ?? error.message) : String(error) };
    }
    // Its reader may be gone: then nobody misses it.
    process.send?.(answer, () => {});
  });
}

/** A process that serves. */
export class Callee {
  readonly #child: ChildProcess;
  readonly #open = new Map<number, { resolve(result: unknown): void; reject(error: Error): void }>();
  #calls = 0;

  constructor(child: ChildProcess) {
    this.#child = child;
    child.on('message', ({ answer, result, error }: Answer) => {
      const open = this.#open.get(answer);
      if (!open) return;
      this.#open.delete(answer);
      if (error === undefined) open.resolve(result);
      else open.reject(new Error(error));
    });
    child.on('exit', (code, signal) =>
      this.#fail(new Error(`a process of the benchmark ended with ${signal ?? code}`)),
    );
    child.on('error', (error) => this.#fail(error));
  }

  #fail(error: Error): void {
    for (const { reject } of this.#open.values()) reject(error);
    this.#open.clear();
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  /** @throws what the handler threw; an Error if the process ends or is silent for too long */
  call<T>(name: string, argument?: unknown): Promise<T> {
    const call = ++this.#calls;
    return new Promise<T>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#open.delete(call);
        reject(new Error(`no answer to '${name}' for ${LIMIT / 1000} s`));
      }, LIMIT);
      this.#open.set(call, {
        resolve: (result) => {
          clearTimeout(timer);
          resolve(result as T);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      });
      this.#child.send({ call, name, argument } satisfies Call, (error) => {
        if (error) this.#open.get(call)?.reject(error);
      });
    });
  }

  /** What it prints, if it was started `silent`. */
  onOutput(heard: (text: string) => void): void {
    this.#child.stdout?.setEncoding('utf8').on('data', heard);
    this.#child.stderr?.pipe(process.stderr);
  }

  /** End it, and wait until it is gone. */
  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    if (this.#child.connected) this.#child.disconnect();
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 2000);
    await gone;
    clearTimeout(timer);
  }
}
