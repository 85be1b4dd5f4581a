/** First in, first out. `shift` does not move the other items. */
export class Queue<T> implements Iterable<T> {
  #items: (T | undefined)[] = [];
  #first = 0;

  get length(): number {
    return this.#items.length - this.#first;
  }

  push(item: T): void {
    this.#items.push(item);
  }

  /** The oldest item, or the one `behind` places after it. It stays in the queue. */
  peek(behind = 0): T | undefined {
    return this.#items[this.#first + behind];
  }

  /** Replace the oldest item. */
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

  /** Remove an item, wherever it is. @returns whether it was there */
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

/** Items that were added within this time count as added at once. */
const AGE_RESOLUTION_MS = 10;

/**
 * A {@link Queue} that knows the age of its oldest item, for people: to some hundredths of a second.
 *
 * It does not read the clock for each item, but for the first one of an empty queue and for the first one after each
 * `tick()`. The items in between get the same time.
 */
export class AgedQueue<T> extends Queue<T> {
  /** Times of items; `before`: how many items were added before the one with that time. */
  readonly #marks = new Queue<{ readonly before: number; readonly at: number }>();
  #last = Number.NEGATIVE_INFINITY;
  /** Items added and removed in all. */
  #added = 0;
  #removed = 0;
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
        // Items that were removed from the middle have not been counted.
        this.#removed = this.#added;
        this.#marks.clear();
      }
      if (this.length === 0 || now - this.#last >= AGE_RESOLUTION_MS) {
        this.#last = now;
        this.#marks.push({ before: this.#added, at: now });
      }
    }
    this.#added++;
    super.push(item);
  }

  override shift(): T | undefined {
    if (this.length === 0) return undefined;
    this.#removed++;
    this.#forget();
    return super.shift();
  }

  override clear(): void {
    super.clear();
    this.#removed = this.#added;
    this.#marks.clear();
  }

  /** Drop marks until the oldest one is that of the oldest item, or of an item that was added with it. */
  #forget(): void {
    for (;;) {
      const next = this.#marks.peek(1);
      if (!next || next.before > this.#removed) break;
      this.#marks.shift();
    }
    if (this.#removed === this.#added) this.#marks.clear();
  }

  /** Milliseconds since the oldest item was added; 0: the queue is empty. */
  age(now = performance.now()): number {
    const mark = this.#marks.peek();
    return mark ? Math.max(0, now - mark.at) : 0;
  }
}
