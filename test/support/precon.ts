/** Handshakes under test: plugins controlled by the test, and two sides without a network. */
import type { ConInfo } from '../../host/api/peer.js';
import { IsthmusError } from '../../host/base/errors.js';
import { type AcceptingOptions, AcceptingPrecon } from '../../host/handshake/accepting.js';
import { type ConnectingOptions, ConnectingPrecon } from '../../host/handshake/connecting.js';
import type { PreconOutcome } from '../../host/handshake/outcome.js';
import type { Precon, PreconOptions } from '../../host/handshake/precon.js';
import type { Attempt, AttemptChannel, Plugin, Proposal } from '../../host/plugins/plugin.js';
import { PluginRegistry } from '../../host/plugins/registry.js';

/** Cut bytes at random places, into at least one piece. */
export function cut(bytes: Buffer, random: (n: number) => number): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = 1 + random(random(2) === 0 ? 4 : bytes.length - at);
    pieces.push(bytes.subarray(at, at + length));
    at += length;
  }
  return pieces;
}

/** Called on an attempt under test. A missing method does nothing. */
export interface Script {
  begin?(channel: AttemptChannel): void;
  step?(channel: AttemptChannel, type: number, payload: Uint8Array): void;
  agreed?(channel: AttemptChannel): void;
}

/** Behaves like tcp: ready at once. */
export const atOnce: Script = { begin: (channel) => channel.ok() };

export class FakePlugin implements Plugin {
  readonly migratable = false;
  reason: string | undefined;
  /** Events of its attempts: `begin`, `step 100013 ab`, `agreed`, `undo`. */
  readonly events: string[] = [];
  /** Attempts that began and were not undone. */
  held = 0;

  constructor(
    readonly name: string,
    readonly archId: number,
    readonly priority: number,
    readonly script: Script = atOnce,
    readonly labels: readonly string[] = [name],
  ) {}

  unavailable(): string | undefined {
    return this.reason;
  }

  proposals(): Proposal[] {
    return this.labels.map((label) => ({ plugin: this, label, attempt: (channel) => this.accept(channel) }));
  }

  accept(channel: AttemptChannel): Attempt {
    this.events.push('begin');
    this.script.begin?.(channel);
    this.held++;
    let undone = false;
    return {
      step: (type, payload) => {
        this.events.push(`step ${type.toString(16)} ${Buffer.from(payload).toString('hex')}`);
        this.script.step?.(channel, type, payload);
      },
      agreed: () => {
        this.events.push('agreed');
        this.script.agreed?.(channel);
      },
      undo: () => {
        if (undone) return;
        undone = true;
        this.held--;
        this.events.push('undo');
      },
      open: () => {
        throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'a fake plugin has no link');
      },
    };
  }

  destroy(): void {}
}

export function fakeTcp(): FakePlugin {
  return new FakePlugin('tcp', 103, 2);
}

/** Enabled, with their own priorities. */
export function registryOf(...plugins: readonly FakePlugin[]): PluginRegistry {
  return new PluginRegistry(plugins.map((plugin) => ({ plugin, priority: plugin.priority })));
}

export const ALICE: ConInfo = { node: '127.0.0.1', pid: 11, id: 0x1122334455667788n, name: 'alice' };
export const BOB: ConInfo = { node: '10.1.2.3', pid: 22, id: 0xffeeddccbbaa9988n, name: 'bob' };

/** One side, with everything that it wrote, and how it ended. */
export class Side {
  readonly precon: Precon;
  readonly written: Buffer[] = [];
  /** Written, and not yet delivered to the other side. */
  readonly outbox: Buffer[] = [];
  outcome: PreconOutcome | undefined;

  constructor(create: (callbacks: Pick<PreconOptions, 'write' | 'done'>) => Precon) {
    this.precon = create({
      write: (bytes) => {
        if (this.outcome) throw new Error('written after the end');
        this.written.push(bytes);
        this.outbox.push(bytes);
      },
      done: (outcome) => {
        if (this.outcome) throw new Error('ended twice');
        this.outcome = outcome;
      },
    });
  }

  get hex(): string {
    return Buffer.concat(this.written).toString('hex');
  }

  /** The code of the failure, or its state. */
  get end(): string {
    if (!this.outcome) return 'in progress';
    return this.outcome.kind === 'failed' ? this.outcome.error.code : this.outcome.kind;
  }

  get message(): string {
    return this.outcome?.kind === 'failed' ? this.outcome.error.message : '';
  }
}

export function connectingSide(plugins: readonly FakePlugin[], more: Partial<ConnectingOptions> = {}): Side {
  const options = { local: ALICE, registry: registryOf(...plugins), ...more };
  return new Side((callbacks) => new ConnectingPrecon({ ...options, ...callbacks }));
}

export function acceptingSide(plugins: readonly FakePlugin[], more: Partial<AcceptingOptions> = {}): Side {
  const options = { local: BOB, registry: registryOf(...plugins), ...more };
  return new Side((callbacks) => new AcceptingPrecon({ ...options, ...callbacks }));
}

/** Deliver bytes between two sides until nothing is in flight any more. */
export function deliver(a: Side, b: Side): void {
  for (let moved = true; moved; ) {
    moved = false;
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      const bytes = from.outbox.splice(0);
      if (bytes.length === 0) continue;
      moved = true;
      to.precon.receive(Buffer.concat(bytes));
    }
  }
}
