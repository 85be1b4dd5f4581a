/** The client of control sockets: finds the runtimes of a user, and sends them requests. */
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import type { RuntimeSummary } from '../api/snapshots.js';
import { checkFolder, controlFolder, idOf, isId, pathOf } from './folder.js';

/** Time for a runtime to answer: it may be busy, or stopped. */
const MAX_ANSWER_MS = 5000;
const MAX_ANSWER_BYTES = 64 << 20;
/** Age below which a socket without a listener may be one whose runtime does not listen yet. */
const MIN_STALE_MS = 1000;

export type Answer =
  | { readonly kind: 'result'; readonly value: unknown }
  /** The runtime refused the request. */
  | { readonly kind: 'error'; readonly message: string }
  /** No process listens there. */
  | { readonly kind: 'gone' }
  /** A process listens and does not answer: busy, stopped, with too many clients, or about to close. */
  | { readonly kind: 'silent' };

/**
 * Send a request to one runtime. It always settles, and rejects only for faults of the program.
 * @param limitMs time for the answer, which comes when the request is done
 */
export function ask(
  path: string,
  request: string,
  fields: Record<string, unknown> = {},
  limitMs = MAX_ANSWER_MS,
): Promise<Answer> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const socket = connect(path);
    const done = (answer: Answer) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    const timer = setTimeout(() => done({ kind: 'silent' }), limitMs);
    socket
      .on('connect', () => socket.write(`${JSON.stringify({ request, ...fields })}\n`))
      .on('data', (chunk: Buffer) => {
        chunks.push(chunk);
        length += chunk.length;
        if (length > MAX_ANSWER_BYTES) {
          done({ kind: 'error', message: `an answer of more than ${MAX_ANSWER_BYTES} bytes` });
        }
      })
      .on('error', (error: NodeJS.ErrnoException) => {
        // Only these prove that no process listens. EAGAIN, for example, means that the queue of the listener is full.
        const gone = error.code === 'ECONNREFUSED' || error.code === 'ENOENT';
        done({ kind: gone ? 'gone' : 'silent' });
      })
      .on('close', () => done(read(Buffer.concat(chunks).toString())));
  });
}

function read(text: string): Answer {
  if (text === '') return { kind: 'silent' };
  try {
    const { result, error } = JSON.parse(text) as { result?: unknown; error?: { message?: unknown } };
    if (error) return { kind: 'error', message: String(error.message) };
    return { kind: 'result', value: result };
  } catch {
    return { kind: 'error', message: 'an answer that is not JSON' };
  }
}

/** A runtime of this user. */
export interface Found {
  readonly id: string;
  readonly path: string;
  /** Undefined: the runtime does not answer. */
  readonly summary: RuntimeSummary | undefined;
}

/**
 * The runtimes of this user, ordered by their ids. It removes the sockets of dead processes.
 * @throws ERR_ISTHMUS_CONTROL_FOLDER: the folder belongs to another user, or is open to others
 */
export async function findRuntimes(): Promise<Found[]> {
  const folder = controlFolder();
  if (!checkFolder(folder)) return [];
  const ids = readdirSync(folder)
    .map(idOf)
    .filter((id) => id !== undefined)
    .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  const found = await Promise.all(
    ids.map(async (id): Promise<Found[]> => {
      const path = pathOf(folder, id);
      const answer = await ask(path, 'summary');
      if (answer.kind === 'gone') {
        removeStale(path);
        return [];
      }
      const summary = answer.kind === 'result' ? (answer.value as RuntimeSummary) : undefined;
      return [{ id, path, summary }];
    }),
  );
  return found.flat();
}

/** Path of the socket with exactly that id, if there is one: no other runtime need be asked. */
export function socketOf(id: string): string | undefined {
  const folder = controlFolder();
  const path = pathOf(folder, id);
  return isId(id) && checkFolder(folder) && existsSync(path) ? path : undefined;
}

function removeStale(path: string): void {
  try {
    if (Date.now() - statSync(path).ctimeMs > MIN_STALE_MS) rmSync(path);
  } catch {
    // Another process was faster.
  }
}
