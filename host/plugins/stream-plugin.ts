/**
 * Plugins of third parties, as their authors see them: transports that are byte streams.
 *
 * This much is public, and the plugin interface itself (plugin.ts) is not: a link is two entries of the core's connection
 * table, and code that holds the core can spoil every connection of the process. A byte stream cannot.
 */
import type { Duplex } from 'node:stream';
import { IsthmusError } from '../base/errors.js';

/** What an attempt of a plugin may do in the handshake that it is part of. No method throws; none has effect twice. */
export interface StreamChannel {
  /** Which side of the handshake this is. */
  readonly role: 'connect' | 'accept';
  /** Send a frame to the plugin of the peer: `STEP.STEP1` to `STEP.STEP4`, with up to 4,096 bytes. */
  step(type: number, payload: Uint8Array): void;
  /**
   * The stream is connected: hand it over, and tell the peer (ARCH_OK). After that no STEP frame is sent or received.
   *
   * From here on Isthmus reads, writes and destroys the stream, and handles its errors. The stream must carry bytes in
   * both directions, in order and without loss. What is written must arrive although the other direction has ended. When
   * the peer ends its writing, the stream must end. Bytes that were read in excess go back with `unshift`.
   */
  ok(stream: Duplex): void;
  /** Give up on this plugin: the connection goes on with the next one. */
  next(reason: string): void;
}

/** One attempt at one connection. An error that its functions throw, or reject with, gives the attempt up. */
export interface StreamAttempt {
  /** A frame of the peer's plugin. */
  step?(type: number, payload: Uint8Array): void | Promise<void>;
  /**
   * The attempt has failed: undo what was set up. Called once, also when the handshake takes too long. A stream that was
   * handed over is destroyed already.
   */
  undo?(): void;
}

/** What {@link streamPlugin} takes. */
export interface StreamPluginDefinition {
  /** 1 to 32 of `a-z`, `0-9` and `_`, a letter first. `PSP_<NAME>`, in upper case, is the variable of the priority. */
  readonly name: string;
  /** u32 that names the plugin on the wire, the same on both sides. The C pscom uses 101 to 120. */
  readonly archId: number;
  /** 0 (disabled) to 1000, higher first; `ivshmem` has 80, `tcp` 2. `PSP_<NAME>` overrides it. */
  readonly priority: number;
  /** Whether its connections survive a migration of the process; default false. */
  readonly migratable?: boolean | undefined;
  /** Why the plugin cannot be used in this process at the moment, for people; undefined: it can. */
  unavailable?(): string | undefined;
  /** Labels of the proposals of the connecting side, best first, each an attempt of its own; default: one. */
  propose?(): readonly string[];
  /**
   * An attempt begins, on either side. Throws to refuse.
   * @param label the proposal, on the connecting side
   */
  attempt(channel: StreamChannel, label: string | undefined): StreamAttempt | undefined;
  /**
   * Release everything: the runtime was closed, and none of its connections is open. The runtime waits for a promise, for
   * a few seconds. Each runtime that has the plugin calls this; those that are still open go on using it.
   */
  destroy?(): void | Promise<void>;
}

/** A plugin for `Runtime.create({ plugins: […] })`. Made by {@link streamPlugin}. */
export interface StreamPlugin {
  readonly kind: 'stream';
  readonly definition: StreamPluginDefinition;
}

/** @internal */
export function invalid(message: string): IsthmusError {
  return new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', message);
}

/** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
export function checkDefinition(definition: StreamPluginDefinition): void {
  if (typeof definition !== 'object' || definition === null)
    throw invalid('the definition of a plugin must be an object');
  const { name, archId, priority, migratable = false } = definition;
  if (typeof name !== 'string' || !/^[a-z][a-z0-9_]{0,31}$/.test(name)) {
    throw invalid(`the name of a plugin must be 1 to 32 of a-z, 0-9 and _, a letter first, not '${String(name)}'`);
  }
  const whole = (value: unknown, max: number) => Number.isInteger(value) && Number(value) >= 0 && Number(value) <= max;
  if (!whole(archId, 0xffffffff)) throw invalid(`plugin ${name}: archId must be a u32, not '${String(archId)}'`);
  if (!whole(priority, 1000)) throw invalid(`plugin ${name}: priority must be 0 to 1000, not '${String(priority)}'`);
  if (typeof migratable !== 'boolean') throw invalid(`plugin ${name}: migratable must be true or false`);
  if (typeof definition.attempt !== 'function') throw invalid(`plugin ${name}: attempt must be a function`);
  for (const optional of ['unavailable', 'propose', 'destroy'] as const) {
    if (!['function', 'undefined'].includes(typeof definition[optional])) {
      throw invalid(`plugin ${name}: ${optional} must be a function, or left out`);
    }
  }
}

/**
 * Define a plugin whose transport is a byte stream.
 *
 * ```ts
 * const unix = streamPlugin({
 *   name: 'unix',
 *   archId: 1001,
 *   priority: 50,
 *   attempt: (channel) => ({ step(type, payload) { … channel.ok(socket); } }),
 * });
 * const runtime = await Runtime.create({ plugins: [unix] });
 * ```
 *
 * An error that a function of the plugin throws means "this plugin does not work here": the connection goes on with the
 * next plugin, and `connection.why` has the message.
 *
 * @throws ERR_ISTHMUS_INVALID_ARGUMENT
 */
export function streamPlugin(definition: StreamPluginDefinition): StreamPlugin {
  checkDefinition(definition);
  return Object.freeze({ kind: 'stream', definition });
}
