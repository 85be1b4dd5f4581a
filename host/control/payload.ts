/**
 * Topics and payloads of control over MQTT: those of the C fork, so that its migration framework can drive Isthmus
 * unchanged. Encoding and decoding only.
 *
 * ```
 * fast/pscom/<hostname>/<pid>/request    → suspend, resume, or a toggle; <pid> may be any_proc
 * fast/pscom/<hostname>/<pid>/response   ← "<pid> : ALLOWED"
 * fast/pscom/<hostname>/<pid>/status/<instance>   ← retained JSON; new
 * ```
 *
 * A pid is not unique: two containers with one host name may both have pid 1. The instance is (instance.ts), and stands where
 * the C fork does not look. So does the nonce of a request of our own tools: behind a NUL, where a C string ends. An answer to
 * a request with a nonce has it there too, and every other one is that of the C fork, byte for byte.
 *
 * ```
 * suspend<NUL>nonce:<nonce>
 * 4711 : ALLOWED<NUL>instance:<instance> nonce:<nonce> …
 * ```
 */
import type { MigrationState } from '../api/migratable.js';
import { printable } from '../base/printable.js';
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
  status: (host: string, id: string, instance: string): string => `fast/pscom/${host}/${id}/status/${instance}`,
  /** Of a version that had no instance. */
  oldStatus: (host: string, id: string): string => `fast/pscom/${host}/${id}/status`,
} as const;

export interface TopicParts {
  readonly id: string;
  readonly part: 'request' | 'response' | 'status';
  /** Of a status; undefined: that of a version that had no instance. */
  readonly instance: string | undefined;
}

/** @returns undefined: none of these topics */
export function partsOfTopic(topic: string): TopicParts | undefined {
  const [, , , id, part, instance, ...more] = topic.split('/');
  if (id === undefined || more.length > 0) return undefined;
  if (part === 'status') return instance === undefined || isInstance(instance) ? { id, part, instance } : undefined;
  return (part === 'request' || part === 'response') && instance === undefined ? { id, part, instance } : undefined;
}

/**
 * Why a host name cannot be a level of a topic: requests to such a host would lead nowhere, or everywhere. (A C pscom has the
 * same limit: a broker refuses such topics, or delivers the requests of all hosts.)
 * @returns undefined: it can
 */
export function whyNoLevel(host: string): string | undefined {
  if (host === '') return 'it is empty';
  const found = /[/+#\0]/.exec(host)?.[0];
  return found === undefined
    ? undefined
    : `it contains '${found === '\0' ? 'NUL' : found}', which MQTT does not allow there`;
}

/** Nonces that an answer names; of more requests that wait for one answer, the latest count. */
export const MAX_NONCES = 16;

const isInstance = (text: string): boolean => /^[0-9a-f]{16}$/.test(text);
const isNonce = (text: string): boolean => /^[\w-]{16,64}$/.test(text);

export type Request =
  | { readonly kind: 'suspend' | 'resume'; readonly nonce: string | undefined }
  | { readonly kind: 'toggle' }
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

/** What stands behind the first NUL of a payload: `key:value` pairs, separated by blanks. Padding has none. */
function extrasOf(payload: Uint8Array): [key: string, value: string][] {
  const text = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString('latin1');
  const start = text.search(/[^\0\s]/);
  const end = start < 0 ? -1 : text.indexOf('\0', start);
  if (end < 0) return [];
  const extras = text.slice(end + 1).matchAll(/([a-z]{1,20}):([\w-]{1,64})(?=[ \0]|$)/g);
  return [...extras].slice(0, MAX_NONCES + 1).map(([, key = '', value = '']) => [key, value]);
}

const extra = (extras: readonly (readonly [string, string])[], name: string): string[] =>
  extras.filter(([key]) => key === name).map(([, value]) => value);

/** A request of our own tools. */
export function requestOf(kind: 'suspend' | 'resume', nonce: string): string {
  return `${kind}\0nonce:${nonce}`;
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
  if (word === 'suspend' || word === 'resume') {
    return { kind: word, nonce: extra(extrasOf(payload), 'nonce').find(isNonce) };
  }
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
  const line = printable(reason.replace(/[\s\p{Cc}]+/gu, ' ').trim(), MAX_REASON_LENGTH);
  return outcome === 'FAILED' ? `${id} : FAILED ${line || 'no reason given'}` : `${id} : ${outcome}`;
}

/** What an answer has behind its NUL. @param nonces of the requests that it answers; none: nothing */
export function proof(instance: string, nonces: readonly string[]): string {
  return nonces.length === 0 ? '' : `\0instance:${instance}${nonces.map((nonce) => ` nonce:${nonce}`).join('')}`;
}

/** An answer, as it was received. */
export interface Answer extends Feedback {
  readonly id: string;
  /** Undefined: of a C pscom, of a version without, or to a request without a nonce. */
  readonly instance: string | undefined;
  readonly nonces: readonly string[];
}

/** An answer of Isthmus or of a C pscom. @returns undefined: not an answer */
export function parseFeedback(payload: Uint8Array): Answer | undefined {
  if (payload.byteLength > MAX_STATUS_BYTES) return undefined;
  const text = trimmed(payload);
  const found = /^(\S{1,64}) : (ALLOWED|COMPLETED|FAILED)(?: (.*))?$/.exec(text);
  if (!found?.[1] || !isControlId(found[1])) return undefined;
  const reason = found[3] === undefined ? undefined : Buffer.from(found[3], 'latin1').toString();
  const extras = extrasOf(payload);
  return {
    id: found[1],
    outcome: found[2] as Outcome,
    reason,
    instance: extra(extras, 'instance').find(isInstance),
    nonces: extra(extras, 'nonce').filter(isNonce),
  };
}

/** Where a process runs, and since when: enough to see on the same kernel whether it still does. */
export interface Origin {
  /** Hash of the id of this boot of the kernel. */
  readonly kernel: string;
  /** Number of its pid namespace. */
  readonly namespace: string;
  /** When it started, in ticks since the boot. */
  readonly started: string;
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
  readonly origin?: Origin;
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
  const { state, since, name, pid, plugins, more, origin } = value;
  if (typeof state !== 'string' || !STATES.includes(state)) return undefined;
  const listed = typeof plugins === 'object' && plugins !== null ? Object.entries(plugins) : [];
  return {
    state: state as Status['state'],
    since: typeof since === 'string' && !Number.isNaN(Date.parse(since)) ? since : null,
    name: typeof name === 'string' ? name.slice(0, 200) : '',
    pid: Number.isSafeInteger(pid) ? (pid as number) : 0,
    plugins: Object.fromEntries(listed.filter(([, plugin]) => typeof plugin === 'string').slice(0, MAX_PLUGINS)),
    ...(Number.isSafeInteger(more) ? { more: more as number } : {}),
    ...(isOrigin(origin)
      ? { origin: { kernel: origin.kernel, namespace: origin.namespace, started: origin.started } }
      : {}),
  };
}

function isOrigin(value: unknown): value is Origin {
  if (typeof value !== 'object' || value === null) return false;
  const { kernel, namespace, started } = value as Partial<Record<keyof Origin, unknown>>;
  return [kernel, namespace, started].every((each) => typeof each === 'string' && /^[0-9a-f]{1,32}$/.test(each));
}

/** A connection, as the status lists it. */
export interface StatusConnection {
  readonly number: number;
  readonly plugin: string;
}
