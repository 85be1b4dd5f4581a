/** A timer for the pauses between polls: in microseconds where the native addon is there, else in milliseconds. */
import { closeSync } from 'node:fs';
import { addon, addonMissing, type Watch } from '../native/native.js';

/** Calls its callback once, some time later. Keeps no process alive. */
export interface Alarm {
  /** In milliseconds from now; replaces the time that was set before. */
  set(milliseconds: number): void;
  clear(): void;
  close(): void;
}

/** Node's timer: a millisecond at least. */
class CoarseAlarm implements Alarm {
  readonly #callback: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(callback: () => void) {
    this.#callback = callback;
  }

  set(milliseconds: number): void {
    this.clear();
    this.#timer = setTimeout(this.#callback, Math.max(1, milliseconds)).unref();
  }

  clear(): void {
    clearTimeout(this.#timer);
  }

  close(): void {
    this.clear();
  }
}

/** A timerfd in the event loop: microseconds. */
class FineAlarm implements Alarm {
  readonly #fd: number;
  readonly #watch: Watch;

  constructor(callback: () => void) {
    const native = addon();
    this.#fd = native.createTimer();
    this.#watch = native.watchCounter(this.#fd, callback);
  }

  set(milliseconds: number): void {
    addon().setTimer(this.#fd, Math.round(milliseconds * 1000));
  }

  clear(): void {
    addon().setTimer(this.#fd, 0);
  }

  close(): void {
    this.#watch.close();
    closeSync(this.#fd);
  }
}

/** The finest alarm that there is: the coarse one without the addon, and when the kernel refuses a timerfd. */
export function newAlarm(callback: () => void): Alarm {
  if (addonMissing() === undefined) {
    let alarm: FineAlarm | undefined;
    try {
      alarm = new FineAlarm(callback);
      // A sandbox may refuse this call.
      alarm.clear();
      return alarm;
    } catch {
      // Out of descriptors, or refused.
      alarm?.close();
    }
  }
  return new CoarseAlarm(callback);
}
