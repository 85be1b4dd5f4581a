/** What follows from each transition of a connection's lifecycle, and from what its link tells. */
import type { Closed } from '../api/connection.js';
import { IsthmusError } from '../base/errors.js';
import { NO_BYTES } from '../base/message.js';
import type { PolledReads } from '../channel/polled-reads.js';
import type { Receiver } from '../channel/receiver.js';
import type { Sender } from '../channel/sender.js';
import type { Core } from '../core/core.js';
import type { BorrowedRecords, Extent } from '../link/borrowed-records.js';
import { BoundLink } from '../link/bound-link.js';
import type { LifecycleEvent, Phase } from '../link/lifecycle.js';
import type { LinkBinding } from '../link/link-binding.js';
import type { ConnectionMemory } from '../memory/connection-memory.js';
import type { Link, LinkEnd, LinkOwner, SocketOptions } from '../plugins/plugin.js';
import type { ConnectionContext, Route } from './context.js';
import type { Counters } from './counters.js';
import type { Liveness } from './liveness.js';
import type { Shutdown } from './shutdown.js';

/**
 * Which side confirms a link that may be given up before both use it: the initiator confirms it with SUSPEND; the responder
 * waits for that, and reverts if the link ends first. Undefined: neither, since C peers know nothing of it.
 */
export type ConfirmRole = 'initiator' | 'responder' | undefined;

/** The parts of a connection. */
export interface ConnectionParts {
  readonly binding: LinkBinding;
  readonly sender: Sender;
  readonly receiver: Receiver;
  readonly polled: PolledReads;
  readonly memory: ConnectionMemory;
  readonly shutdown: Shutdown;
  readonly liveness: Liveness;
  readonly counters: Counters;
}

/** A link that is not confirmed yet. */
interface Unconfirmed {
  readonly route: Route;
  /** Called when messages go over it. */
  readonly onUp: () => void;
  readonly role: ConfirmRole;
}

export class LinkLifetime implements LinkOwner {
  readonly closed: Promise<Closed>;
  route: Route;
  readonly #parts: ConnectionParts;
  readonly #context: ConnectionContext;
  #resolveClosed!: (closed: Closed) => void;
  #unconfirmed: Unconfirmed | undefined;
  /** What the link has told of its end. */
  #end: LinkEnd | undefined;
  /** How the connection was ended without its link: {@link fail}, {@link cut}. */
  #cut: Closed | undefined;
  readonly #onLetGo: (() => void)[] = [];
  /** Rings of links that are gone, of which records are borrowed. */
  readonly #borrowed = new Set<BorrowedRecords>();
  #referenced = true;
  /** What the application has asked of the socket: for the link, and for those that follow. */
  #socketOptions: SocketOptions | undefined;

  constructor(parts: ConnectionParts, context: ConnectionContext, route: Route) {
    this.#parts = parts;
    this.#context = context;
    this.route = route;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    const { binding, memory, sender } = parts;
    binding.lifecycle.onTransition = (event, from) => this.#onTransition(event, from);
    binding.onViolation = (error) => this.fail(error);
    sender.onQueueEmpty = () => this.finish();
    memory.onOffersFetched = () => {
      if (sender.waiting === 0) this.finish();
    };
    memory.onBorrowReturned = () => this.#settled();
  }

  // ─── a link comes ──────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * There is a link.
   * @param onUp called when messages go over it
   */
  attach(link: Link, route: Route, onUp: () => void, role: ConfirmRole): void {
    const { binding, receiver, sender } = this.#parts;
    const { lifecycle } = binding;
    const bound = new BoundLink(link);
    binding.bind(bound);
    receiver.attach(bound);
    if (this.#referenced) link.ref();
    else link.unref();
    if (this.#socketOptions) link.setSocketOptions?.(this.#socketOptions);
    binding.join();
    this.#unconfirmed = { route, onUp, role };
    lifecycle.raise('linkUp');
    if (role !== 'responder') {
      lifecycle.raise('confirm');
      if (role === 'initiator') sender.sendFirst(bound.core.layout.MESSAGE_SUSPEND);
    }
    link.start(this);
    if (binding.link === bound && !lifecycle.unconfirmed) this.#pump();
  }

  /** The initiator has called again: it has given up the link that it has not confirmed. */
  revert(): void {
    if (this.#parts.binding.lifecycle.unconfirmed) this.#parts.binding.lifecycle.raise('revert');
  }

  // ─── transitions ───────────────────────────────────────────────────────────────────────────────────────────────────

  #onTransition(event: LifecycleEvent, from: Phase): void {
    switch (this.#parts.binding.lifecycle.phase) {
      case 'open':
        this.#onConfirmed();
        break;
      case 'draining':
        this.letGo();
        break;
      case 'idle':
      case 'suspended':
        if (from === 'confirming' || from === 'reconfirming') this.#onReverted();
        break;
      case 'closed':
        this.#onClosed(event, from);
        break;
      default: // The other phases wait for the next event.
    }
  }

  #onConfirmed(): void {
    const { binding, sender, shutdown } = this.#parts;
    const { route, onUp, role } = this.#unconfirmed as Unconfirmed;
    this.#unconfirmed = undefined;
    const { link } = binding;
    this.route = route;
    binding.announceFrom = this.#context.rendezvous(route.plugin);
    sender.attach(link as BoundLink);
    shutdown.linkUp();
    onUp();
    // The initiator's first message is the confirmation: attach() goes on with that.
    if (role !== 'responder') return;
    this.#tellLetGo();
    if (binding.link === link) this.#pump();
  }

  #onReverted(): void {
    this.#unconfirmed = undefined;
    this.#unlink();
    this.#end = undefined;
    this.#context.onSuspended();
    this.#tellLetGo();
  }

  /** Both sides have sent their last message: let go of the link. Called again when a stream has taken this side's. */
  letGo(): void {
    const { binding, receiver, sender, memory } = this.#parts;
    const { link, lifecycle } = binding;
    if (!link) return;
    // Over a stream the last message may still be on its way out of the ring: onWritable() comes back here.
    if (!link.polled && link.call.unread(link.index) > 0) return;
    const { ring } = receiver;
    if (ring.partial) {
      this.fail(new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', 'the peer suspended in the middle of a message'));
      return;
    }
    ring.drainRequested = false;
    receiver.unread.evacuate();
    sender.evacuate(link.bytes.buffer);
    memory.evacuate();
    // What was copied out of the region may be zeros: the connection cannot go on as if it had all messages.
    if (link.core.lost) {
      this.fail(link.core.lostError());
      return;
    }
    link.link.finish();
    this.#unlink();
    // The last message of the peer was in the ring when the link was lost: the connection goes on, and nothing was lost.
    if (this.#end?.kind === 'lost' && lifecycle.error === this.#end.error) lifecycle.error = undefined;
    this.#end = undefined;
    // A link that broke behind its last message ends nothing.
    lifecycle.error = undefined;
    lifecycle.raise('letGo');
    this.#context.onSuspended();
    this.#tellLetGo();
  }

  #onClosed(event: LifecycleEvent, from: Phase): void {
    const { binding, receiver, sender, memory } = this.#parts;
    const { lifecycle } = binding;
    const reason = lifecycle.closedError();
    receiver.cut(reason);
    sender.rejectAll(reason);
    memory.end(reason, event === 'violation' || event === 'destroy');
    if (event === 'peerClosed' && from !== 'eofSent') {
      sender.sendEof();
      binding.link?.link.finish();
    }
    this.#unlink();
    this.#resolveClosed(this.#closedAs());
    receiver.dismiss();
  }

  #closedAs(): Closed {
    if (this.#cut) return this.#cut;
    const { closing, error } = this.#parts.binding.lifecycle;
    if (closing) return { reason: closing };
    return error ? { reason: 'error', error } : { reason: 'peer' };
  }

  /** Let go of the link, and of its ring when no record of it is borrowed any more. */
  #unlink(): void {
    const { binding, sender, receiver, polled, counters, liveness } = this.#parts;
    const { link } = binding;
    if (link) {
      // Its entry in the core has another owner soon.
      counters.keep();
      binding.leave();
      link.link.destroy();
    }
    binding.unbind();
    liveness.reset();
    sender.detach();
    polled.detach();
    const borrowed = receiver.detach();
    const onReturned = () => {
      link?.link.free();
      if (borrowed) this.#borrowed.delete(borrowed);
      this.#settled();
    };
    // Borrowed bytes stay where they are until they are released.
    if (!borrowed) onReturned();
    else {
      this.#borrowed.add(borrowed);
      borrowed.detach(onReturned);
    }
  }

  /** The application has given something back. With the last of it a closed connection holds nothing any more. */
  #settled(): void {
    const { binding, memory } = this.#parts;
    if (binding.lifecycle.phase !== 'closed' || binding.link || this.#borrowed.size > 0 || memory.borrowed > 0) return;
    binding.lifecycle.raise('borrowsReturned');
    this.#context.onReleased();
  }

  #tellLetGo(): void {
    for (const done of this.#onLetGo.splice(0)) done();
  }

  // ─── what a link tells ─────────────────────────────────────────────────────────────────────────────────────────────

  onReadable(): void {
    this.progress();
  }

  onWritable(): void {
    if (this.#parts.binding.lifecycle.phase === 'draining') this.letGo();
    else this.#pump();
  }

  onDrainRequested(): void {
    this.#parts.receiver.ring.drainRequested = true;
    this.#parts.binding.wake();
  }

  /** suspend.pml: last_word_heard. */
  onShutdownReceived(type: number, value: number): void {
    const { binding, receiver, shutdown } = this.#parts;
    if (!binding.link) return;
    receiver.drainAndForget();
    if (!binding.link) return;
    const data = Buffer.alloc(4);
    data.writeInt32LE(value);
    shutdown.receive(type, NO_BYTES, data);
  }

  /** What waits for a peer to suspend or to close has limits of its own. */
  onSilence(ms: number): void {
    if (this.#parts.binding.lifecycle.state === 'open') this.#parts.liveness.silent(ms);
  }

  /** All that the peer committed is in the ring by now. (suspend.pml: ended) */
  onEnded(end: LinkEnd): void {
    if (this.#end) return;
    this.#end = end;
    this.#noteLoss(end);
    this.#drain();
  }

  /** A peer that is lost while the connection is open is an error. */
  #noteLoss(end: LinkEnd): void {
    const { lifecycle } = this.#parts.binding;
    if (end.kind === 'lost' && lifecycle.state === 'open') lifecycle.error ??= end.error;
  }

  /** The application closes: what is queued goes out, then the end. */
  startClosing(): void {
    const { binding, receiver } = this.#parts;
    if (this.#end) this.#drain();
    else this.#pump();
    receiver.ring.progress();
    binding.wake();
  }

  /** The link has ended: take everything out of the ring, then let go of it. The ring is bounded, and the peer writes no more. */
  #drain(): void {
    const { binding, receiver } = this.#parts;
    const { lifecycle } = binding;
    const end = this.#end;
    if (lifecycle.over || !end) return;
    receiver.ring.drain(end.kind === 'lost');
    // What the peer had written broke the protocol; or its last message was among it, and the link is gone.
    if (lifecycle.over || !binding.link) return;
    if (end.kind === 'peer-closed' && !receiver.ring.ended) {
      // A peer that closes writes the end first. In a region that has lost its pages it wrote that to nowhere, and what it
      // had sent before reads as an empty ring.
      const lost = binding.link.link.region?.verify();
      if (lost) return this.fail(lost);
    }
    // The confirmation may have been among it: then the connection was open when the peer was lost.
    this.#noteLoss(end);
    lifecycle.raise(end.kind === 'lost' ? 'lost' : 'peerClosed');
  }

  // ─── progress ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Move messages in both directions, bounded. @returns whether anything moved */
  progress(): boolean {
    const { binding, sender, receiver } = this.#parts;
    const { link, lifecycle } = binding;
    if (!link) return false;
    const before = link.call.position(link.index);
    const moved = sender.waiting > 0 || lifecycle.state === 'closing' ? this.#pump() : false;
    receiver.ring.progress();
    if (receiver.ring.ended) receiver.dismiss();
    return moved || binding.link !== link || link.call.position(link.index) !== before;
  }

  #pump(): boolean {
    const { sender } = this.#parts;
    return sender.waiting > 0 ? sender.pump() : this.finish();
  }

  /** Of a connection that is being closed all messages are out: send the end. @returns whether that happened now */
  finish(): boolean {
    const { binding, sender, memory } = this.#parts;
    const { lifecycle } = binding;
    // What was offered is still to be fetched.
    if (!lifecycle.defines('queueEmpty') || memory.offering || !sender.sendEof()) return false;
    if (binding.link?.core.lost) {
      // The peer does not get the end, nor perhaps what was sent before it.
      this.fail(binding.link.core.lostError());
      return false;
    }
    lifecycle.raise('queueEmpty');
    binding.link?.link.finish();
    return true;
  }

  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The peer broke the protocol: this connection ends, and only this one. */
  fail(error: IsthmusError): void {
    const { lifecycle } = this.#parts.binding;
    if (lifecycle.over) return;
    lifecycle.error ??= error;
    this.#cut = { reason: 'error', error };
    lifecycle.raise('violation');
  }

  /** This side cuts the connection. */
  cut(error?: IsthmusError): void {
    const { lifecycle } = this.#parts.binding;
    if (lifecycle.over) return;
    if (error) lifecycle.error ??= error;
    this.#cut = error ? { reason: 'local', error } : { reason: 'local' };
    lifecycle.raise('destroy');
  }

  /** Let go of the link. Settles when that is done, or the connection is closed. */
  suspend(): Promise<unknown> {
    const { binding, shutdown } = this.#parts;
    const { lifecycle } = binding;
    if (!binding.link) return Promise.resolve();
    const letGo = Promise.race([this.closed, new Promise<void>((resolve) => this.#onLetGo.push(resolve))]);
    if (lifecycle.unconfirmed) return letGo.then(() => this.suspend());
    // A connection that is being closed ends by itself.
    if (lifecycle.state === 'open') shutdown.start();
    return letGo;
  }

  /**
   * A region that the connection lies in, or has lain in, goes away.
   * @returns the parts of its memory that must keep their bytes, because the application has them borrowed
   */
  abandon(core: Core): Extent[] {
    const { binding, memory } = this.#parts;
    if (binding.link?.core === core) this.cut();
    const kept = [...this.#borrowed].flatMap((borrowed) => borrowed.abandon(core) ?? []);
    return [...kept, ...memory.abandon(core)];
  }

  setSocketOptions(options: SocketOptions): void {
    this.#socketOptions = { ...this.#socketOptions, ...options };
    this.#parts.binding.link?.link.setSocketOptions?.(options);
  }

  ref(): void {
    this.#referenced = true;
    this.#parts.binding.link?.link.ref();
  }

  unref(): void {
    this.#referenced = false;
    this.#parts.binding.link?.link.unref();
  }
}
