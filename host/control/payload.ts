/**
 * Topics and payloads of control over MQTT: those of the C fork, so that its migration framework can drive Isthmus
 * unchanged. Encoding and decoding only.
 *
 * ```
 * fast/pscom/<hostname>/<pid>/request    → suspend, resume, or a toggle; <pid> may be any_proc
 * fast/pscom/<hostname>/<pid>/response   ← "<pid> : ALLOWED"
 * fast/pscom/<hostname>/<pid>/status     ← retained JSON; new
 * ```
 */
import type { MigrationState } from '../api/migratable.js';
import { isControlId } from '../config/control-id.js';

/** Bytes of a request: enough for some thousand pids. */
export const MAX_REQUEST_BYTES = 16_384;
/** Bytes of a status or an answer. */
export const MAX_STATUS_BYTES = 65_536;
/** Connections that a status lists. */
export const MAX_PLUGINS = 256;
/** Characters of a reason. */
const MAX_REASON_LENGTH = 400;

export const topics = {
  /** The subscription of a process, as in the C fork. */
  requests: (host: string): string => `fast/pscom/${host}/+/request`,
  request: (host: string, id: string): string => `fast/pscom/${host}/${id}/request`,
  response: (host: string, id: string): string => `fast/pscom/${host}/${id}/response`,
  status: (host: string, id: string): string => `fast/pscom/${host}/${id}/status`,
} as const;

/** The id of the process that a topic belongs to: the last level but one. */
export function idOfTopic(topic: string): string | undefined {
  const levels = topic.split('/');
  return levels.length === 5 ? levels[3] : undefined;
}

export type Request =
  | { readonly kind: 'suspend' | 'resume' | 'toggle' }
  /** A list of pids without the own one. */
  | { readonly kind: 'others' }
  | { readonly kind: 'unknown'; readonly why: string };

/** Without the padding of the C side, NULs and blanks. What follows a NUL is not part of a C string. */
function trimmed(payload: Uint8Array): string {
  const text = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString('latin1');
  const start = text.search(/[^\0\s]/);
  if (start < 0) return '';
  const end = text.indexOf('\0', start);
  return text.slice(start, end < 0 ? undefined : end).trimEnd();
}

const TASK = /^(["']?)task\1\s*:\s+(["']?)([a-z]+)\2\s*(?:#.*)?$/;
/** Other lines of simple YAML: comments, document markers, nested lines, other keys. */
const OTHER_LINE = /^(?:\s*|\s*#.*|---.*|\.\.\.|\s+.*|["']?[\w-]+["']?\s*:(?:\s.*)?)$/;

/** @returns undefined unless there is one `task: …` at top level */
function taskOf(text: string): string | undefined {
  let task: string | undefined;
  for (const line of text.replace(/^---[ \t]+(?=\S)/, '').split(/\r?\n/)) {
    const found = TASK.exec(line);
    if (found && task === undefined) task = found[3];
    else if (found || /^["']?task\b/.test(line) || !OTHER_LINE.test(line)) return undefined;
  }
  return task;
}

/**
 * Decode a request. `*`, an empty payload and a list of pids with the own one toggle, as in the C fork.
 * @param id of this process
 */
export function parseRequest(payload: Uint8Array, id: string): Request {
  if (payload.byteLength > MAX_REQUEST_BYTES) return { kind: 'unknown', why: `${payload.byteLength} bytes` };
  const text = trimmed(payload);
  if (text === '' || text === '*') return { kind: 'toggle' };
  const word = /^(["']?)(suspend|resume)\1$/.exec(text)?.[2] ?? taskOf(text);
  if (word === 'suspend' || word === 'resume') return { kind: word };
  const ids = text.split(/\s+/);
  if (ids.every(isControlId)) {
    if (ids.includes(id)) return { kind: 'toggle' };
    if (ids.every((each) => /^\d+$/.test(each))) return { kind: 'others' };
  }
  return { kind: 'unknown', why: `'${excerpt(text, 60)}'` };
}

/** For a log: one line, without control characters for a terminal. */
function excerpt(text: string, length: number): string {
  const line = text.replace(/[^\x20-\x7e]+/g, ' ');
  return line.length > length ? `${line.slice(0, length)}…` : line;
}

export type Outcome = 'ALLOWED' | 'COMPLETED' | 'FAILED';

export interface Feedback {
  readonly outcome: Outcome;
  /** Reason of a failure, in one line. */
  readonly reason?: string | undefined;
}

/** `<pid> : ALLOWED`, byte for byte as in the C fork. */
export function feedback(id: string, { outcome, reason = '' }: Feedback): string {
  const line = reason
    .replace(/\p{Cc}+/gu, ' ')
    .trim()
    .slice(0, MAX_REASON_LENGTH);
  return outcome === 'FAILED' ? `${id} : FAILED ${line || 'no reason given'}` : `${id} : ${outcome}`;
}

/** An answer of Isthmus or of a C pscom. @returns undefined: not an answer */
export function parseFeedback(payload: Uint8Array): (Feedback & { readonly id: string }) | undefined {
  if (payload.byteLength > MAX_STATUS_BYTES) return undefined;
  const text = trimmed(payload);
  const found = /^(\S{1,64}) : (ALLOWED|COMPLETED|FAILED)(?: (.*))?$/.exec(text);
  if (!found?.[1] || !isControlId(found[1])) return undefined;
  const reason = found[3] === undefined ? undefined : Buffer.from(found[3], 'latin1').toString();
  return { id: found[1], outcome: found[2] as Outcome, reason };
}

/** The retained message at the status topic. */
export interface Status {
  /** `offline`: the process has ended. With `since` null that is its last will: the broker has lost the connection. */
  readonly state: MigrationState | 'offline';
  /** When the state began, ISO 8601; null in the last will, which was written long before. */
  readonly since: string | null;
  /** Names of the runtimes. */
  readonly name: string;
  readonly pid: number;
  /** Plugin by connection. The name of a connection is `<runtime>#<number>`, as in `isthmus inspect`. */
  readonly plugins: Readonly<Record<string, string>>;
  /** Connections that are not listed. */
  readonly more?: number;
}

const STATES = ['inactive', 'requested', 'preparing', 'allowed', 'finished', 'resuming', 'offline'];

/** Decode a status. @returns undefined: not a status */
export function parseStatus(payload: Uint8Array): Status | undefined {
  if (payload.byteLength > MAX_STATUS_BYTES) return undefined;
  let value: Partial<Record<keyof Status, unknown>> | null;
  try {
    value = JSON.parse(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString());
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { state, since, name, pid, plugins, more } = value;
  if (typeof state !== 'string' || !STATES.includes(state)) return undefined;
  const listed = typeof plugins === 'object' && plugins !== null ? Object.entries(plugins) : [];
  return {
    state: state as Status['state'],
    since: typeof since === 'string' && !Number.isNaN(Date.parse(since)) ? since : null,
    name: typeof name === 'string' ? name.slice(0, 200) : '',
    pid: Number.isSafeInteger(pid) ? (pid as number) : 0,
    plugins: Object.fromEntries(listed.filter(([, plugin]) => typeof plugin === 'string').slice(0, MAX_PLUGINS)),
    ...(Number.isSafeInteger(more) ? { more: more as number } : {}),
  };
}

/** A connection, as the status lists it. */
export interface StatusConnection {
  readonly number: number;
  readonly plugin: string;
}
