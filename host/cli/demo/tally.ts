/** Counts numbered messages as they arrive: lost, doubled, out of order. */
export class Tally {
  /** All messages, doubled ones included. */
  received = 0;
  doubled = 0;
  disordered = 0;
  #next = 0;
  /** Numbers below `#next` that have not arrived. */
  readonly #missing = new Set<number>();

  take(number: number): void {
    this.received++;
    if (number >= this.#next) {
      for (let passed = this.#next; passed < number; passed++) this.#missing.add(passed);
      this.#next = number + 1;
    } else if (this.#missing.delete(number)) {
      this.disordered++;
    } else {
      this.doubled++;
    }
  }

  /** Messages that never arrived of `sent` messages, numbered from 0. */
  lost(sent: number): number {
    return this.#missing.size + sent - this.#next;
  }
}
