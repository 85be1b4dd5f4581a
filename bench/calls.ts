/** Calls between the processes of the benchmark, over the channel that `fork` gives them. No measured message uses this channel. */
import type { ChildProcess } from 'node:child_process';

/** The calls that a process answers. Arguments and results can be written as JSON. */
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

/** One step of the benchmark may take this long. */
const CALL_TIMEOUT_MS = 120_000;

/** Answer the calls of the process that started this one. This process ends when that process does. */
export function serve(handlers: Handlers): void {
  process.on('disconnect', () => process.exit());
  process.on('message', async ({ call, name, argument }: Call) => {
    if (call === undefined) return;
    let answer: Answer;
    try {
      const handler = handlers[name];
      if (!handler) throw new Error(`this process has no handler for '${name}'`);
      answer = { answer: call, result: await handler(argument as never) };
    } catch (error) {
      answer = { answer: call, error: error instanceof Error ? (error.stack ?? error.message) : String(error) };
    }
    // The calling process may have ended; then the answer is not needed.
    process.send?.(answer, () => {});
  });
}

/** A process that answers calls. */
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
        reject(new Error(`no answer to '${name}' for ${CALL_TIMEOUT_MS / 1000} s`));
      }, CALL_TIMEOUT_MS);
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

  /** Receive the output of the process, if it was started `silent`. */
  onOutput(heard: (text: string) => void): void {
    this.#child.stdout?.setEncoding('utf8').on('data', heard);
    this.#child.stderr?.pipe(process.stderr);
  }

  /** End the process, and wait until it has exited. */
  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    if (this.#child.connected) this.#child.disconnect();
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 2000);
    await gone;
    clearTimeout(timer);
  }
}
