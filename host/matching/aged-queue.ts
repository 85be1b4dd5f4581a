/** First in, first out, without moving the rest at each `shift`. */
export class Queue<T> implements Iterable<T> {
  #items: (T | undefined)[] = [];
  #first = 0;

  get length(): number {
    return this.#items.length - this.#first;
  }

  push(item: T): void {
    this.#items.push(item);
  }

  /** The oldest, or so many behind it; it stays. */
  peek(behind = 0): T | undefined {
    return this.#items[this.#first + behind];
  }

  /** Put another in the place of the oldest. */
  replace(item: T): void {
    this.#items[this.#first] = item;
  }

  shift(): T | undefined {
    if (this.#first === this.#items.length) return undefined;
    const item = this.#items[this.#first];
    this.#items[this.#first++] = undefined;
    if (this.#first === this.#items.length) this.clear();
    else if (this.#first >= 1024 && this.#first * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#first);
      this.#first = 0;
    }
    return item;
  }

  /** Take one out of the middle. @returns whether it was there */
  remove(item: T): boolean {
    if (this.peek() === item) {
      this.shift();
      return true;
    }
    const place = this.#items.indexOf(item, this.#first);
    if (place < 0) return false;
    this.#items.splice(place, 1);
    return true;
  }

  clear(): void {
    this.#items = [];
    this.#first = 0;
  }

  *[Symbol.iterator](): Iterator<T> {
    for (let i = this.#first; i < this.#items.length; i++) yield this.#items[i] as T;
  }
}

/** Items that came within so many milliseconds count as having come at once. */
const COARSE = 10;

/**
 * A {@link Queue} that knows how old its oldest item is, for people: to some hundredths of a second.
 *
 * It does not look at the clock for each item, but for the first one of an empty queue and for the first one after each
 * `tick()`; those in between are taken to have come with it.
 */
export class AgedQueue<T> extends Queue<T> {
  /** Since when which item is there: the number of items that came before it. */
  readonly #marks = new Queue<{ readonly before: number; readonly at: number }>();
  #last = Number.NEGATIVE_INFINITY;
  #came = 0;
  #left = 0;
  #ticked = true;

  /** Time may have passed since the last `push`. */
  tick(): void {
    this.#ticked = true;
  }

  override push(item: T): void {
    if (this.#ticked || this.length === 0) {
      this.#ticked = false;
      const now = performance.now();
      if (this.length === 0) {
        // One that was taken out of the middle has not been counted.
        this.#left = this.#came;
        this.#marks.clear();
      }
      if (this.length === 0 || now - this.#last >= COARSE) {
        this.#last = now;
        this.#marks.push({ before: this.#came, at: now });
      }
    }
    this.#came++;
    super.push(item);
  }

  override shift(): T | undefined {
    if (this.length === 0) return undefined;
    this.#left++;
    this.#forget();
    return super.shift();
  }

  override clear(): void {
    super.clear();
    this.#left = this.#came;
    this.#marks.clear();
  }

  /** The oldest mark is that of the oldest item, or of one that came with it. */
  #forget(): void {
    for (;;) {
      const next = this.#marks.peek(1);
      if (!next || next.before > this.#left) break;
      this.#marks.shift();
    }
    if (this.#left === this.#came) this.#marks.clear();
  }

  /** Milliseconds since the oldest item came; 0: there is none. */
  age(now = performance.now()): number {
    const mark = this.#marks.peek();
    return mark ? Math.max(0, now - mark.at) : 0;
  }
}
