/**
 * Plugins of third parties: transports that are byte streams.
 *
 * What is public is this much and not {@link Plugin} itself: a `Link` is two entries of the core's connection table, and
 * whoever holds the core can spoil every connection of the process. A byte stream has no such reach.
 */
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { IsthmusError, messageOf } from '../base/errors.js';
import { ignoreError } from '../base/sockets.js';
import type { Core } from '../core/core.js';
import { Guard } from './guard.js';
import { ARCH, type Attempt, type AttemptChannel, type Link, type Plugin, type Proposal } from './plugin.js';
import { StreamLink } from './stream.js';

/** What an attempt of a plugin may do to the handshake that it is part of. Nothing of it throws, or works twice. */
export interface StreamChannel {
  /** Which side of the handshake this is. */
  readonly role: 'connect' | 'accept';
  /** Send a frame to the plugin on the other side: `STEP.STEP1` to `STEP.STEP4`, with up to 4,096 bytes. */
  step(type: number, payload: Uint8Array): void;
  /**
   * The stream is connected: hand it over, and say so to the other side (ARCH_OK). Behind it no STEP frame comes or goes.
   *
   * From here on Isthmus reads, writes and destroys it, and listens to its errors. It must carry bytes in both
   * directions, in order and without loss; what is written must arrive although the other direction has ended; and at
   * the end of the other side's writing it must end. Bytes that have been read too many go back with `unshift`.
   */
  ok(stream: Duplex): void;
  /** Give up on this plugin: the connection goes on with the next one. */
  next(reason: string): void;
}

/** One attempt at one connection. What its functions throw, or reject with, gives the attempt up. */
export interface StreamAttempt {
  /** A frame that the plugin on the other side has sent. */
  step?(type: number, payload: Uint8Array): void | Promise<void>;
  /**
   * The attempt has come to nothing: undo what was set up. Called once, also when the time of the handshake is up. A
   * stream that was handed over is destroyed already.
   */
  undo?(): void;
}

/** What {@link streamPlugin} takes. */
export interface StreamPluginDefinition {
  /** 1 to 32 of `a-z`, `0-9` and `_`, a letter first. `PSP_` with it in upper case is the variable of the priority. */
  readonly name: string;
  /** u32 that names the plugin on the wire, the same on both sides. C pscom uses ids from 101 to 120. */
  readonly archId: number;
  /** 0 (disabled) to 1000, higher first; `ivshmem` has 80, `tcp` 2. `PSP_<NAME>` overrules it. */
  readonly priority: number;
  /** Whether its connections survive a migration of the process; default false. */
  readonly migratable?: boolean | undefined;
  /** Why it cannot be used in this process at the moment, for people; undefined if it can. */
  unavailable?(): string | undefined;
  /** Labels of what the connecting side proposes, best first, each an attempt of its own; default one. */
  propose?(): readonly string[];
  /**
   * An attempt begins, on either side. Throws to refuse.
   * @param label the proposal, on the connecting side
   */
  attempt(channel: StreamChannel, label: string | undefined): StreamAttempt | undefined;
  /**
   * Let go of everything: the runtime was closed, and none of its connections is open. A promise is waited for, a few
   * seconds long. A plugin that was given to several runtimes hears it from each, and may be asked again afterwards.
   */
  destroy?(): void | Promise<void>;
}

/** A plugin for `Runtime.create({ plugins: […] })`. Made by {@link streamPlugin}. */
export interface StreamPlugin {
  readonly kind: 'stream';
  readonly definition: StreamPluginDefinition;
}

/** What a runtime gives to the plugins of third parties. */
export interface StreamContext {
  /** Gives the private core, made with the first use. */
  readonly core: () => Core;
  readonly ringSize: number;
  /** Whether the end of the guard is the end of the peer (`PSP_GUARD`). */
  readonly guard: boolean;
}

/** How long a runtime that is closed waits for a plugin, in milliseconds. */
const DESTROY_LIMIT = 5000;
const NAMES = Object.keys(ARCH);
const ARCH_IDS: readonly number[] = Object.values(ARCH);

function invalid(message: string): IsthmusError {
  return new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', message);
}

/** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
function check(definition: StreamPluginDefinition): void {
  if (typeof definition !== 'object' || definition === null) throw invalid('a plugin is defined by an object');
  const { name, archId, priority, migratable = false } = definition;
  if (typeof name !== 'string' || !/^[a-z][a-z0-9_]{0,31}$/.test(name)) {
    throw invalid(`the name of a plugin is 1 to 32 of a-z, 0-9 and _, a letter first, not '${String(name)}'`);
  }
  const whole = (value: unknown, max: number) => Number.isInteger(value) && Number(value) >= 0 && Number(value) <= max;
  if (!whole(archId, 0xffffffff)) throw invalid(`plugin ${name}: archId is a u32, not '${String(archId)}'`);
  if (!whole(priority, 1000)) throw invalid(`plugin ${name}: priority is 0 to 1000, not '${String(priority)}'`);
  if (typeof migratable !== 'boolean') throw invalid(`plugin ${name}: migratable is true or false`);
  if (typeof definition.attempt !== 'function') throw invalid(`plugin ${name}: attempt is a function`);
  for (const optional of ['unavailable', 'propose', 'destroy'] as const) {
    if (!['function', 'undefined'].includes(typeof definition[optional])) {
      throw invalid(`plugin ${name}: ${optional} is a function, or left out`);
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
 * Whatever its functions throw is taken for "this plugin does not work here": the connection goes on with the next one,
 * and `connection.why` has the message.
 *
 * @throws ERR_ISTHMUS_INVALID_ARGUMENT
 */
export function streamPlugin(definition: StreamPluginDefinition): StreamPlugin {
  check(definition);
  return Object.freeze({ kind: 'stream', definition });
}

/**
 * The plugins that were handed to a runtime.
 * @throws ERR_ISTHMUS_INVALID_ARGUMENT: one of them is none, or has the name or architecture id of a built-in one or of
 * another
 */
export function bindPlugins(plugins: readonly StreamPlugin[], context: StreamContext): BoundPlugin[] {
  if (!Array.isArray(plugins)) throw invalid('plugins is an array');
  const names = new Set(NAMES);
  const archIds = new Set(ARCH_IDS);
  const definitions = plugins.map((plugin: StreamPlugin | undefined) => {
    // Not by class: a plugin may come with another copy of this library.
    if (plugin?.kind !== 'stream') throw invalid('plugins holds what is not a plugin: make one with streamPlugin()');
    const { definition } = plugin;
    check(definition);
    const { name, archId } = definition;
    if (names.has(name)) throw invalid(`there is another plugin '${name}'`);
    if (archIds.has(archId)) throw invalid(`plugin ${name}: another plugin has the architecture id ${archId}`);
    names.add(name);
    archIds.add(archId);
    return definition;
  });
  return definitions.map((definition) => new BoundPlugin(definition, context));
}

/** A plugin of a third party as the registry and the handshake see it. */
export class BoundPlugin implements Plugin {
  readonly name: string;
  readonly archId: number;
  readonly priority: number;
  readonly migratable: boolean;
  readonly #definition: StreamPluginDefinition;
  readonly #context: StreamContext;

  constructor(definition: StreamPluginDefinition, context: StreamContext) {
    this.name = definition.name;
    this.archId = definition.archId;
    this.priority = definition.priority;
    this.migratable = definition.migratable ?? false;
    this.#definition = definition;
    this.#context = context;
  }

  unavailable(): string | undefined {
    try {
      const reason = this.#definition.unavailable?.();
      return reason === undefined ? undefined : String(reason);
    } catch (error) {
      return messageOf(error);
    }
  }

  proposals(): Proposal[] {
    const labels = this.#definition.propose?.();
    return (labels ?? [undefined]).map((label) => ({
      plugin: this,
      label: label === undefined ? this.name : `${this.name} (${label})`,
      attempt: (channel) => this.#attempt(channel, label ?? this.name),
    }));
  }

  accept(channel: AttemptChannel): Attempt {
    return this.#attempt(channel, undefined);
  }

  #attempt(channel: AttemptChannel, label: string | undefined): Attempt {
    return new BoundAttempt(channel, this.#context, (own) => this.#definition.attempt(own, label));
  }

  async destroy(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`not done after ${DESTROY_LIMIT} ms`)), DESTROY_LIMIT);
    });
    try {
      await Promise.race([this.#definition.destroy?.(), late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

class BoundAttempt implements Attempt {
  readonly #channel: AttemptChannel;
  readonly #context: StreamContext;
  readonly #attempt: StreamAttempt | undefined;
  #stream: Duplex | undefined;
  #over = false;

  constructor(
    channel: AttemptChannel,
    context: StreamContext,
    begin: (channel: StreamChannel) => StreamAttempt | undefined,
  ) {
    this.#channel = channel;
    this.#context = context;
    try {
      this.#attempt = begin({
        role: channel.role,
        step: (type, payload) => this.#guarded(() => channel.step(type, payload)),
        ok: (stream) => this.#ready(stream),
        next: (reason) => channel.next(String(reason)),
      });
    } catch (error) {
      // There is no attempt that could be undone, but perhaps a stream.
      this.undo();
      throw error;
    }
  }

  step(type: number, payload: Uint8Array): void {
    this.#guarded(() => this.#attempt?.step?.(type, payload));
  }

  agreed(): void {
    // Ours follows when the stream is there; until then the time of the handshake runs.
  }

  undo(): void {
    if (this.#over) return;
    this.#over = true;
    this.#stream?.destroy();
    try {
      this.#attempt?.undo?.();
    } catch {
      // There is nothing left that it could keep from happening.
    }
  }

  open(socket: Socket, rest: Buffer): Link {
    const stream = this.#stream;
    if (!stream) throw new Error('there is no stream');
    const { core, ringSize, guard } = this.#context;
    const link = new StreamLink(core(), ringSize, stream, Buffer.alloc(0), (over) => {
      return new Guard(socket, rest, (bye) => {
        if (bye || guard) over(bye);
      });
    });
    this.#over = true;
    return link;
  }

  #ready(stream: Duplex): void {
    if (this.#over || this.#stream) {
      // It comes too late, or is one too many.
      if (stream !== this.#stream) discard(stream);
      return;
    }
    const wrong = wrongWith(stream);
    if (wrong !== undefined) {
      discard(stream);
      this.#channel.next(wrong);
      return;
    }
    this.#stream = stream;
    if (!stream.listeners('error').includes(ignoreError)) stream.on('error', ignoreError);
    // The end of what we read is not the end of what we write.
    stream.allowHalfOpen = true;
    stream.pause();
    this.#channel.ok();
  }

  /** Whatever a plugin throws, now or later, gives the attempt up. */
  #guarded(body: () => void | Promise<void> | undefined): void {
    const failed = (error: unknown) => this.#channel.next(messageOf(error));
    try {
      Promise.resolve(body()).catch(failed);
    } catch (error) {
      failed(error);
    }
  }
}

/** Why a stream cannot carry a connection, or undefined. */
function wrongWith(stream: Duplex): string | undefined {
  if (typeof stream?.pipe !== 'function' || typeof stream.write !== 'function') return 'it gave no Duplex stream';
  if (stream.readableObjectMode || stream.writableObjectMode) return 'its stream carries objects, not bytes';
  if (stream.readableEncoding) return 'its stream gives strings: it has an encoding';
  if (stream.destroyed || !stream.writable) return 'its stream is closed';
  return undefined;
}

function discard(stream: Duplex): void {
  if (typeof stream?.on !== 'function' || typeof stream.destroy !== 'function') return;
  stream.on('error', ignoreError).destroy();
}
