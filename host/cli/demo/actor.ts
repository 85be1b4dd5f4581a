/** The processes of `isthmus demo`, as the demo sees them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { ERRORS, type ErrorCode, IsthmusError } from '../../base/errors.js';
import { CliError } from '../support/output.js';
import type { Report } from './reports.js';
import type { Role } from './roles.js';

/** How long a process may take to end when it is asked to, in milliseconds. */
const GRACE = 3000;

/** A process with a role, and what it reports. */
export class Actor {
  readonly role: Role;
  readonly #process: ChildProcess;
  readonly #reports: Report[] = [];
  readonly #gone: Promise<string>;
  #waiting: (() => void) | undefined;
  #rest = '';
  #complaints = '';

  constructor(role: Role, args: Record<string, string | number>, env: NodeJS.ProcessEnv) {
    this.role = role;
    const program = process.argv[1] as string;
    this.#process = spawn(
      process.execPath,
      [...process.execArgv, program, 'demo', '--role', role, JSON.stringify(args)],
      {
        // Its input ends when we do, whatever ends us: then it ends too.
        stdio: ['pipe', 'pipe', 'pipe'],
        env,
      },
    );
    this.#process.stdin?.on('error', () => {});
    this.#process.stdout?.setEncoding('utf8').on('data', (text: string) => this.#hear(text));
    this.#process.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#complaints = (this.#complaints + text).slice(-2000);
    });
    this.#gone = new Promise((resolve) => {
      this.#process.on('error', (error) => resolve(error.message));
      this.#process.on('close', (code, signal) => resolve(signal ? `ended by ${signal}` : `ended with code ${code}`));
    });
    void this.#gone.then(() => this.#waiting?.());
  }

  #hear(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) if (line !== '') this.#reports.push(JSON.parse(line) as Report);
    this.#waiting?.();
  }

  get pid(): number {
    return this.#process.pid as number;
  }

  tell(order: object): void {
    this.#process.stdin?.write(`${JSON.stringify(order)}\n`);
  }

  /** The next report of a kind; those before it go to `other`. @throws what the process reported as its error */
  async report<K extends Report['kind']>(
    kind: K,
    signal: AbortSignal,
    other?: (report: Report) => void,
  ): Promise<Extract<Report, { kind: K }>> {
    let end: string | undefined;
    void this.#gone.then((how) => {
      end = how;
    });
    for (;;) {
      for (let report = this.#reports.shift(); report; report = this.#reports.shift()) {
        if (report.kind === kind) return report as Extract<Report, { kind: K }>;
        if (report.kind === 'error') throw this.#error(report);
        other?.(report);
      }
      signal.throwIfAborted();
      if (end !== undefined) {
        throw new CliError(`the ${this.role} process ${end}${this.#complaints ? `: ${this.#complaints}` : ''}`);
      }
      await new Promise<void>((resolve) => {
        const wake = () => {
          signal.removeEventListener('abort', wake);
          this.#waiting = undefined;
          resolve();
        };
        this.#waiting = wake;
        signal.addEventListener('abort', wake, { once: true });
      });
    }
  }

  #error({ code, message }: Extract<Report, { kind: 'error' }>): Error {
    const text = `${message} (in the ${this.role} process)`;
    return code !== undefined && code in ERRORS ? new IsthmusError(code as ErrorCode, text) : new CliError(text);
  }

  /** End it: by asking, then by force. Idempotent. */
  async end(): Promise<void> {
    this.#process.stdin?.end();
    const force = setTimeout(() => this.#process.kill('SIGKILL'), GRACE);
    await this.#gone;
    clearTimeout(force);
  }
}

export interface Stage {
  /** Start a process; it is ended with the stage. */
  readonly start: (role: Role, args: Record<string, string | number>, env?: NodeJS.ProcessEnv) => Actor;
  readonly signal: AbortSignal;
  /** The file of its region; those whose names begin with this one are removed with the stage. */
  readonly region: string;
  /** A folder of its own, removed with the stage. */
  readonly folder: string;
}
