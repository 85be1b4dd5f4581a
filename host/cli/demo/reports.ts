/**
 * How the processes of `isthmus demo` talk to it: they report in lines of JSON on standard output, take orders in such
 * lines on standard input, and end when their input ends.
 */
import { createInterface } from 'node:readline';
import { say } from '../support/output.js';

export type Report =
  | { readonly kind: 'ready' }
  | { readonly kind: 'listening'; readonly port: number }
  | { readonly kind: 'connected'; readonly plugin: string; readonly why: string | undefined; readonly peer: number }
  | { readonly kind: 'progress'; readonly bytes: number }
  | { readonly kind: 'sent'; readonly sha256: string; readonly milliseconds: number }
  | { readonly kind: 'received'; readonly sha256: string; readonly bytes: number; readonly written: number }
  /** The first message after a migration, on the clock of the machine, in milliseconds. */
  | { readonly kind: 'back'; readonly plugin: string; readonly why: string | undefined; readonly at: number }
  | {
      readonly kind: 'streamed';
      readonly sent: number;
      readonly received: number;
      readonly doubled: number;
      readonly disordered: number;
      readonly damaged: number;
    }
  | { readonly kind: 'measured'; readonly halfRoundTripNs: number }
  | { readonly kind: 'error'; readonly code: string | undefined; readonly message: string };

export function report(what: Report): void {
  say(`${JSON.stringify(what)}\n`);
}

/** Orders, as they come; ends with the input. */
export async function* orders<T>(): AsyncGenerator<T> {
  for await (const line of createInterface({ input: process.stdin })) yield JSON.parse(line) as T;
}

/** Aborted when the demo wants us to end, or has ended. */
export function endOfInput(): AbortSignal {
  const controller = new AbortController();
  process.stdin.on('close', () => controller.abort('end of input')).resume();
  return controller.signal;
}
