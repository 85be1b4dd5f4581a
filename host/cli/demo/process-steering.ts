/** Suspends and resumes one process over MQTT, with what `isthmus suspend --pid` uses. */

import { hostname } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import type { Feedback } from '../../control/payload.js';
import { Watcher } from '../../control/watcher.js';
import { brokerLog } from '../support/broker-options.js';
import { CliError } from '../support/errors.js';
import { BUSY, DEFECT } from './advice.js';
import { monotonicMs } from './reports.js';

/** For an answer of the process, which gives up earlier itself. */
const ANSWER_LIMIT_MS = 30_000;
/** Between two checks whether the answer has come; its time is noted when it comes. */
const POLL_MS = 5;

/** An answer with the time at which it came. */
type Answer = Feedback & { readonly at: number };

export class ProcessSteering {
  readonly #watcher: Watcher;
  readonly #id: string;
  readonly #signal: AbortSignal;
  readonly #answers: Answer[];

  private constructor(watcher: Watcher, id: string, signal: AbortSignal, answers: Answer[]) {
    this.#watcher = watcher;
    this.#id = id;
    this.#signal = signal;
    this.#answers = answers;
  }

  static async open(broker: string, pid: number, signal: AbortSignal): Promise<ProcessSteering> {
    const answers: Answer[] = [];
    const watcher = await Watcher.open({
      broker,
      host: hostname(),
      log: brokerLog,
      answer: (answer) => {
        if (answer.id === String(pid)) answers.push({ ...answer, at: monotonicMs() });
      },
    });
    return new ProcessSteering(watcher, String(pid), signal, answers);
  }

  /** Wait until the process accepts requests. */
  async ready(): Promise<void> {
    const inactive = () => this.#watcher.withId(this.#id).some(({ state }) => state === 'inactive') || undefined;
    await this.#until(inactive, 'no status');
  }

  /** @returns the times of the request and of the answer. @throws CliError unless the answer reports success */
  async ask(kind: 'suspend' | 'resume'): Promise<{ asked: number; answered: number }> {
    const asked = monotonicMs();
    void this.#watcher.request(this.#id, kind);
    const { outcome, reason, at } = await this.#until(() => this.#answers.shift(), `no answer to '${kind}'`);
    if (outcome !== (kind === 'suspend' ? 'ALLOWED' : 'COMPLETED')) {
      throw new CliError(`process ${this.#id} answers '${kind}' with ${outcome}${reason ? `: ${reason}` : ''}`, DEFECT);
    }
    return { asked, answered: at };
  }

  close(): Promise<void> {
    return this.#watcher.close();
  }

  async #until<T>(find: () => T | undefined, late: string): Promise<T> {
    for (const end = performance.now() + ANSWER_LIMIT_MS; ; await pause(POLL_MS)) {
      this.#signal.throwIfAborted();
      const found = find();
      if (found !== undefined) return found;
      if (performance.now() > end) {
        throw new CliError(`process ${this.#id}: ${late} over MQTT within ${ANSWER_LIMIT_MS / 1000} s`, BUSY);
      }
    }
  }
}
