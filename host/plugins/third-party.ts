/** Plugins of third parties (stream-plugin.ts), as the registry and the handshake of a runtime see them. */
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { bytesOf } from '../base/bytes.js';
import { messageOf } from '../base/errors.js';
import { ignoreError } from '../base/sockets.js';
import type { Core } from '../core/core.js';
import { Guard } from './guard.js';
import { ARCH, type Attempt, type AttemptChannel, type Link, type Plugin, type Proposal } from './plugin.js';
import { StreamLink } from './stream-link.js';
import {
  checkDefinition,
  invalid,
  type StreamAttempt,
  type StreamChannel,
  type StreamPlugin,
  type StreamPluginDefinition,
} from './stream-plugin.js';

/** What a runtime provides for the plugins of third parties. */
export interface StreamContext {
  /** Returns the private core, which is created with the first use. */
  readonly core: () => Core;
  readonly ringSize: number;
  /** Whether the end of the guard is the end of the peer (`PSP_GUARD`). */
  readonly guard: boolean;
}

/** How long a runtime that is closed waits for a plugin. */
const MAX_DESTROY_MS = 5000;
const BUILT_IN_NAMES = Object.keys(ARCH);
const BUILT_IN_IDS: readonly number[] = Object.values(ARCH);

/**
 * The plugins that were given to a runtime.
 * @throws ERR_ISTHMUS_INVALID_ARGUMENT: an entry is no plugin, or has the name or architecture id of a built-in one or of
 * another entry
 */
export function bindPlugins(plugins: readonly StreamPlugin[], context: StreamContext): BoundPlugin[] {
  if (!Array.isArray(plugins)) throw invalid('plugins must be an array');
  const names = new Set(BUILT_IN_NAMES);
  const archIds = new Set(BUILT_IN_IDS);
  const definitions = plugins.map((plugin: StreamPlugin | undefined) => {
    // Not by class: a plugin may come with another copy of this library.
    if (plugin?.kind !== 'stream') throw invalid('an entry of plugins is not a plugin: make one with streamPlugin()');
    const { definition } = plugin;
    checkDefinition(definition);
    const { name, archId } = definition;
    if (names.has(name)) throw invalid(`there is another plugin '${name}'`);
    if (archIds.has(archId)) throw invalid(`plugin ${name}: another plugin has the architecture id ${archId}`);
    names.add(name);
    archIds.add(archId);
    return definition;
  });
  return definitions.map((definition) => new BoundPlugin(definition, context));
}

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
      timer = setTimeout(() => reject(new Error(`not done after ${MAX_DESTROY_MS} ms`)), MAX_DESTROY_MS);
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
  #done = false;

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
        step: (type, payload) => this.#guarded(() => channel.step(type, bytesOf(payload, 'the payload'))),
        ok: (stream) => this.#ready(stream),
        next: (reason) => channel.next(String(reason)),
      });
    } catch (error) {
      // There is no attempt to undo, but perhaps a stream.
      this.undo();
      throw error;
    }
  }

  step(type: number, payload: Uint8Array): void {
    this.#guarded(() => this.#attempt?.step?.(type, payload));
  }

  agreed(): void {
    // The ARCH_OK of this side follows with the stream; until then the time limit of the handshake applies.
  }

  undo(): void {
    if (this.#done) return;
    this.#done = true;
    this.#stream?.destroy();
    try {
      this.#attempt?.undo?.();
    } catch {
      // Nothing depends on it any more.
    }
  }

  open(socket: Socket, rest: Buffer): Link {
    const stream = this.#stream;
    if (!stream) throw new Error('the plugin has handed over no stream');
    const { core, ringSize, guard } = this.#context;
    const link = new StreamLink(core(), ringSize, stream, Buffer.alloc(0), (onEnd) => {
      return new Guard(socket, rest, (bye) => {
        if (bye || guard) onEnd(bye);
      });
    });
    this.#done = true;
    return link;
  }

  #ready(stream: Duplex): void {
    if (this.#done || this.#stream) {
      // The stream comes too late, or is the second one.
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
    // The end of the readable side is not the end of the writable side.
    stream.allowHalfOpen = true;
    stream.pause();
    this.#channel.ok();
  }

  /** An error that the plugin throws, now or later, gives the attempt up. */
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
  if (typeof stream?.pipe !== 'function' || typeof stream.write !== 'function')
    return 'the plugin gave no Duplex stream';
  if (stream.readableObjectMode || stream.writableObjectMode) return 'the stream carries objects, not bytes';
  if (stream.readableEncoding) return 'the stream gives strings: it has an encoding';
  if (stream.destroyed || !stream.writable) return 'the stream is closed';
  return undefined;
}

function discard(stream: Duplex): void {
  if (typeof stream?.on !== 'function' || typeof stream.destroy !== 'function') return;
  stream.on('error', ignoreError).destroy();
}
