/** The other side of the control socket: who is there, and what they answer. */
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import type { RuntimeSummary } from '../api/snapshots.js';
import { checkFolder, controlFolder, idOf, isId, pathOf } from './folder.js';

/** How long one runtime may take to answer, in milliseconds: it may be busy, or stopped. */
export const ANSWER_TIME = 5000;
/** Largest answer that is taken, in bytes. */
const MAX_ANSWER = 64 << 20;
/** A socket that nobody listens on may be one that is not listened on yet, if it is younger than this (milliseconds). */
const NEWBORN = 1000;

export type Answer =
  | { readonly kind: 'result'; readonly value: unknown }
  /** The runtime did not like the question. */
  | { readonly kind: 'error'; readonly message: string }
  /** Nobody is there (any more). */
  | { readonly kind: 'gone' }
  /** Somebody is there and does not answer: busy, stopped, asked by too many, or just closing. */
  | { readonly kind: 'silent' };

/**
 * Ask one runtime. Always settles, and rejects only for what cannot happen to a user.
 * @param limit for the answer, in milliseconds: what is asked for may take longer than to answer
 */
export function ask(
  path: string,
  request: string,
  fields: Record<string, unknown> = {},
  limit = ANSWER_TIME,
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
    const timer = setTimeout(() => done({ kind: 'silent' }), limit);
    socket
      .on('connect', () => socket.write(`${JSON.stringify({ request, ...fields })}\n`))
      .on('data', (chunk: Buffer) => {
        chunks.push(chunk);
        length += chunk.length;
        if (length > MAX_ANSWER) done({ kind: 'error', message: `an answer of more than ${MAX_ANSWER} bytes` });
      })
      .on('error', (error: NodeJS.ErrnoException) => {
        // Only these prove that nobody listens. EAGAIN, for one: so many wait already that the kernel takes no more.
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
    return { kind: 'error', message: 'an answer that is no JSON' };
  }
}

/** A runtime of this user. */
export interface Found {
  readonly id: string;
  readonly path: string;
  /** Undefined: it does not answer. */
  readonly summary: RuntimeSummary | undefined;
}

/**
 * The runtimes of this user, by their ids. Sockets of which the process is dead are removed on the way.
 * @throws ERR_ISTHMUS_SYSCALL if the folder is somebody else's or open to others
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

/** Path of the socket of that very id, if there is one: others need not be asked. */
export function socketOf(id: string): string | undefined {
  const folder = controlFolder();
  const path = pathOf(folder, id);
  return isId(id) && checkFolder(folder) && existsSync(path) ? path : undefined;
}

function removeStale(path: string): void {
  try {
    if (Date.now() - statSync(path).ctimeMs > NEWBORN) rmSync(path);
  } catch {
    // Somebody else was faster.
  }
}
