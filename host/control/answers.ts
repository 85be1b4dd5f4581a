/** The answers of a process, on their way to the broker. */

/** Answers that wait for the broker. Of more, the oldest is dropped. */
const MAX_UNSENT = 16;

/** Sends answers in order. An answer that the broker has not confirmed is sent again when the broker can be reached. */
export class AnswerQueue {
  readonly #publish: (text: string) => Promise<boolean>;
  /** The oldest first. */
  readonly #unsent: string[] = [];
  #sending = false;

  /** @param publish resolves with whether the broker has confirmed the text */
  constructor(publish: (text: string) => Promise<boolean>) {
    this.#publish = publish;
  }

  add(text: string): void {
    this.#unsent.push(text);
    if (this.#unsent.length > MAX_UNSENT) this.#unsent.shift();
    void this.send();
  }

  async send(): Promise<void> {
    if (this.#sending) return;
    this.#sending = true;
    for (let text = this.#unsent[0]; text !== undefined; text = this.#unsent[0]) {
      if (!(await this.#publish(text))) break;
      if (this.#unsent[0] === text) this.#unsent.shift();
    }
    this.#sending = false;
  }

  clear(): void {
    this.#unsent.length = 0;
  }
}
