/** A process of `isthmus demo`, as the demo sees it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { unlessAborted } from '../../base/abortable.js';
import { ERRORS, type ErrorCode, IsthmusError } from '../../base/errors.js';
import { CliError } from '../support/errors.js';
import type { Report, Role } from './reports.js';

/** From the request to end to SIGKILL. */
const END_LIMIT_MS = 3000;
/** Characters of standard error that are kept for an error message. */
const MAX_ERROR_OUTPUT = 2000;

/** This program in another process, with a role. */
export class RoleProcess {
  readonly role: Role;
  readonly #process: ChildProcess;
  readonly #reports: Report[] = [];
  /** How it ended: as a promise, and once it has. */
  readonly #ended: Promise<string>;
  #end: string | undefined;
  #wake: (() => void) | undefined;
  /** Received text that is not a whole line yet. */
  #rest = '';
  #errorOutput = '';

  constructor(role: Role, args: Record<string, string | number>, env: NodeJS.ProcessEnv) {
    this.role = role;
    const program = process.argv[1] as string;
    // Its standard input is a pipe, which ends when the demo ends in any way: then the process ends too.
    this.#process = spawn(
      process.execPath,
      [...process.execArgv, program, 'demo', '--role', role, JSON.stringify(args)],
      { stdio: ['pipe', 'pipe', 'pipe'], env },
    );
    this.#process.stdin?.on('error', () => {});
    this.#process.stdout?.setEncoding('utf8').on('data', (text: string) => this.#receive(text));
    this.#process.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#errorOutput = (this.#errorOutput + text).slice(-MAX_ERROR_OUTPUT);
    });
    this.#ended = new Promise((resolve) => {
      this.#process.on('error', (error) => resolve(error.message));
      this.#process.on('close', (code, signal) => resolve(signal ? `ended by ${signal}` : `ended with code ${code}`));
    });
    void this.#ended.then((how) => {
      this.#end = how;
      this.#wake?.();
    });
  }

  #receive(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) if (line !== '') this.#reports.push(JSON.parse(line) as Report);
    this.#wake?.();
  }

  get pid(): number {
    return this.#process.pid as number;
  }

  order(order: object): void {
    this.#process.stdin?.write(`${JSON.stringify(order)}\n`);
  }

  /** Wait for a report of that kind; reports before it go to `other`. @throws the error that the process reported */
  async report<K extends Report['kind']>(
    kind: K,
    signal: AbortSignal,
    other?: (report: Report) => void,
  ): Promise<Extract<Report, { kind: K }>> {
    for (;;) {
      for (let report = this.#reports.shift(); report; report = this.#reports.shift()) {
        if (report.kind === kind) return report as Extract<Report, { kind: K }>;
        if (report.kind === 'error') throw this.#error(report);
        other?.(report);
      }
      signal.throwIfAborted();
      if (this.#end !== undefined) {
        throw new CliError(`the ${this.role} process ${this.#end}${this.#errorOutput ? `: ${this.#errorOutput}` : ''}`);
      }
      await unlessAborted(
        signal,
        new Promise<void>((resolve) => {
          this.#wake = resolve;
        }),
      );
    }
  }

  #error({ code, message }: Extract<Report, { kind: 'error' }>): Error {
    const text = `${message} (in the ${this.role} process)`;
    return code !== undefined && code in ERRORS ? new IsthmusError(code as ErrorCode, text) : new CliError(text);
  }

  /** Ask it to end, and kill it if it does not. Idempotent. */
  async end(): Promise<void> {
    this.#process.stdin?.end();
    const force = setTimeout(() => this.#process.kill('SIGKILL'), END_LIMIT_MS);
    await this.#ended;
    clearTimeout(force);
  }
}

/** One run of the demo: what its parts share. */
export interface DemoRun {
  /** Start a process, which ends with the run at the latest. */
  readonly start: (role: Role, args: Record<string, string | number>, env?: NodeJS.ProcessEnv) => RoleProcess;
  readonly signal: AbortSignal;
  /** Path of the region file. Files whose paths begin like this are removed at the end. */
  readonly region: string;
  /** A temporary folder, removed at the end. */
  readonly folder: string;
}
