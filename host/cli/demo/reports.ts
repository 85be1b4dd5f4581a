/**
 * How the demo and its processes communicate: a process reports in lines of JSON on standard output, takes orders as lines
 * of JSON on standard input, and ends when its standard input ends.
 */
import { createInterface } from 'node:readline';
import { printJsonLine } from '../support/output.js';

/** What a process of the demo does. */
export type Role =
  | 'region server'
  | 'receiver'
  | 'sender'
  | 'streamer'
  | 'region echo'
  | 'region ping'
  | 'socket echo'
  | 'socket ping';

export type Report =
  | { readonly kind: 'ready' }
  | { readonly kind: 'listening'; readonly port: number }
  | { readonly kind: 'connected'; readonly plugin: string; readonly why: string | undefined; readonly peer: number }
  | { readonly kind: 'progress'; readonly bytes: number }
  | { readonly kind: 'sent'; readonly sha256: string; readonly milliseconds: number }
  | { readonly kind: 'received'; readonly sha256: string; readonly bytes: number; readonly written: number }
  /** The first message after a migration; `at`: its time by {@link monotonicMs}. */
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
  printJsonLine(what);
}

/** Orders, as they arrive; ends when standard input ends. */
export async function* orders<T>(): AsyncGenerator<T> {
  for await (const line of createInterface({ input: process.stdin })) yield JSON.parse(line) as T;
}

/** Aborted when the demo ends this process, or has ended itself. */
export function endOfInput(): AbortSignal {
  const controller = new AbortController();
  process.stdin.on('close', () => controller.abort('end of input')).resume();
  return controller.signal;
}

/** Time in milliseconds, on a clock that all processes of this machine share. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
