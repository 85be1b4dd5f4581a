/** Counts numbered messages as they come: which are there, doubled, or out of order. */
export class Tally {
  /** All that came, doubled ones included. */
  received = 0;
  doubled = 0;
  disordered = 0;
  #next = 0;
  /** Numbers that were passed over. */
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

  /** How many never came of so many, numbered from 0. */
  lost(sent: number): number {
    return this.#missing.size + sent - this.#next;
  }
}
