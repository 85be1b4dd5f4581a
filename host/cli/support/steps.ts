/** The steps of a command that does several things in order: each with its result and its time. */
import { lineOf } from './error-text.js';
import { CliError } from './errors.js';
import { print, printJsonLine } from './output.js';
import { ProgressTable } from './progress.js';
import { renderTable } from './table.js';
import { duration } from './units.js';

/** A step that is shown. */
interface Step {
  readonly name: string;
  /** Whether it takes back what an earlier step did. */
  readonly undo: boolean;
  result: 'ok' | 'failed' | undefined;
  text: string;
  milliseconds: number;
}

/** What a step does. `progress` shows a text while the step runs; the text returned replaces it. */
export type StepBody = (progress: (text: string) => void) => Promise<string>;

/** How often the time of a running step is redrawn. */
const REDRAW_MS = 500;

const COLUMNS = [{ title: 'step' }, { title: 'result' }, { title: 'after', right: true }, { title: '' }];

const time = ({ milliseconds }: Step) => duration(milliseconds * 1e6);
const cells = (step: Step) => [step.name, step.result ?? '…', time(step), step.text];

/** Runs steps and shows them. */
export class StepLog {
  readonly #steps: Step[] = [];
  readonly #json: boolean;
  readonly #stop: AbortSignal;
  readonly #table: ProgressTable<Step>;

  /**
   * @param json print a JSON object for each step instead
   * @param stop the signal that interrupts a step; its reason is the name of a signal
   */
  constructor(json: boolean, stop: AbortSignal) {
    this.#json = json;
    this.#stop = stop;
    this.#table = new ProgressTable({
      columns: COLUMNS,
      cells,
      line: (step) => `${step.name}: ${step.result} after ${time(step)}${step.text && `, ${step.text}`}\n`,
      done: ({ result }) => result !== undefined,
      silent: json,
    });
  }

  /** Run one step. @throws CliError whose message begins with the name of the step */
  async run(name: string, body: StepBody, undo = false): Promise<void> {
    const step: Step = { name, undo, result: undefined, text: '', milliseconds: 0 };
    this.#steps.push(step);
    const start = performance.now();
    const stoppedBefore = this.#stop.aborted;
    const show = () => {
      step.milliseconds = Math.round(performance.now() - start);
      this.#table.show(this.#steps);
    };
    const clock = setInterval(show, REDRAW_MS);
    let failure: CliError | undefined;
    show();
    try {
      step.text = await body((text) => {
        step.text = text;
        show();
      });
      step.result = 'ok';
    } catch (error) {
      // A signal makes the step fail in many ways, with messages that do not name it.
      const message = this.#stop.aborted && !stoppedBefore ? `interrupted by ${this.#stop.reason}` : lineOf(error);
      failure = new CliError(`${name}: ${message}`, error instanceof CliError ? error.action : undefined);
      step.result = 'failed';
      step.text = message;
    } finally {
      clearInterval(clock);
    }
    show();
    if (this.#json) {
      const { result, text, milliseconds } = step;
      printJsonLine({ step: name, result, undo, text, milliseconds });
    }
    if (failure) throw failure;
  }

  /** Print the table of all steps, unless a terminal shows it already. */
  summarize(): void {
    if (!this.#json && !process.stdout.isTTY) print(`\n${renderTable(COLUMNS, this.#steps.map(cells))}`);
  }
}
