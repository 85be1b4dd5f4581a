/** A wait that an event can end early. */
export class Waiter {
  #wake: (() => void) | undefined;

  /** End the current wait, if there is one. */
  wake(): void {
    this.#wake?.();
  }

  /** Wait for {@link wake}, at most so long; one wait at a time. */
  async wait(milliseconds: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      timer = setTimeout(resolve, Math.max(1, milliseconds));
      this.#wake = resolve;
    });
    clearTimeout(timer);
    this.#wake = undefined;
  }
}
