/** Findings of `isthmus doctor`. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { IsthmusError } from '../../base/errors.js';
import type { ConfigRow } from '../../config/resolve.js';
import { actionOf } from './errors.js';

/** `good`; `note`: works, but can be improved; `bad`: a requirement is missing; `none`: absent, and not required. */
export type Verdict = 'good' | 'note' | 'bad' | 'none';

export interface Finding {
  /** What was checked. */
  readonly what: string;
  readonly verdict: Verdict;
  readonly finding: string;
  /** What the reader can do about it. */
  readonly action?: string | undefined;
}

/** The value of a setting by the name of its option. */
export type Setting = (name: string) => ConfigRow['value'] | undefined;

export const good = (what: string, finding: string): Finding => ({ what, verdict: 'good', finding });
export const none = (what: string, finding: string, action?: string): Finding => ({
  what,
  verdict: 'none',
  finding,
  action,
});
export const note = (what: string, finding: string, action: string): Finding => ({
  what,
  verdict: 'note',
  finding,
  action,
});
export const bad = (what: string, finding: string, action: string): Finding => ({
  what,
  verdict: 'bad',
  finding,
  action,
});

/** A check that threw. */
export function failed(what: string, error: unknown): Finding {
  return error instanceof IsthmusError
    ? bad(what, `${error.message} (${error.code})`, actionOf(error))
    : bad(what, (error as Error).message, 'If this does not change, report it with the output of this command.');
}

/** A file of /proc or /sys; undefined: it cannot be read. */
export function readSystemFile(...path: string[]): string | undefined {
  try {
    return readFileSync(join(...path), 'latin1');
  } catch {
    return undefined;
  }
}
