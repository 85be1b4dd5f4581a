/** Everything of one connection that concerns memory: exposures, remote access, rendezvous, loans. Made when it is needed. */
import type { Receiver } from '../channel/receiver.js';
import type { Sender } from '../channel/sender.js';
import type { Core } from '../core/core.js';
import type { Extent } from '../link/borrowed-records.js';
import type { LinkBinding } from '../link/link-binding.js';
import type { ProtocolRouter } from '../link/protocol-router.js';
import { Exposures } from './exposures.js';
import { InFlightRuns } from './in-flight-runs.js';
import { Loans } from './loan.js';
import { RemoteAccess } from './remote-access.js';
import { Rendezvous } from './rendezvous.js';
import { Replies } from './replies.js';

/** The parts that a connection without rendezvous and remote access does not have. */
interface Remote {
  readonly exposures: Exposures;
  readonly inFlight: InFlightRuns;
  readonly access: RemoteAccess;
  readonly rendezvous: Rendezvous;
}

export class ConnectionMemory {
  /** The peer has fetched the last of what was offered. Set by the connection. */
  onOffersFetched: () => void = () => {};
  /** The application has given back the last loan, or the last of what it read in place. Set by the connection. */
  onBorrowReturned: () => void = () => {};
  readonly #binding: LinkBinding;
  readonly #sender: Sender;
  readonly #receiver: Receiver;
  #remote: Remote | undefined;
  #loans: Loans | undefined;

  constructor(binding: LinkBinding, sender: Sender, receiver: Receiver, router: ProtocolRouter) {
    this.#binding = binding;
    this.#sender = sender;
    this.#receiver = receiver;
    RemoteAccess.register(router, () => this.access);
    Rendezvous.register(router, () => this.rendezvous);
  }

  #make(): Remote {
    if (this.#remote) return this.#remote;
    const binding = this.#binding;
    const sender = this.#sender;
    const { ring } = this.#receiver;
    const inFlight = new InFlightRuns();
    const exposures = new Exposures(binding, (address, length) => inFlight.find(address, length));
    const replies = new Replies(sender);
    const access = new RemoteAccess(binding, sender, exposures, replies);
    const { maxMessageSize } = ring.limits;
    const read = (address: bigint, target: Uint8Array) => access.ask(address, target);
    const rendezvous = new Rendezvous(binding, sender, exposures, inFlight, read, replies, maxMessageSize);
    rendezvous.onOffersFetched = () => this.onOffersFetched();
    rendezvous.onBorrowReturned = () => this.onBorrowReturned();
    ring.addDemand(access);
    this.#remote = { exposures, inFlight, access, rendezvous };
    return this.#remote;
  }

  get exposures(): Exposures {
    return this.#make().exposures;
  }

  get access(): RemoteAccess {
    return this.#make().access;
  }

  get rendezvous(): Rendezvous {
    return this.#make().rendezvous;
  }

  get loans(): Loans {
    this.#loans ??= new Loans(
      this.#binding,
      () => this.reclaim(),
      () => this.onBorrowReturned(),
    );
    return this.#loans;
  }

  /** Whether the peer has to fetch something before this side may end. */
  get offering(): boolean {
    return this.#remote?.rendezvous.offering === true;
  }

  /** Number of loans and messages that the application has in its hands. */
  get borrowed(): number {
    return (this.#loans?.out ?? 0) + (this.#remote?.rendezvous.borrowed ?? 0);
  }

  /** Frames are wanted: take back runs that the peer has released. */
  reclaim(): void {
    this.#remote?.inFlight.pass();
  }

  /** The link goes away. */
  evacuate(): void {
    this.#remote?.rendezvous.evacuate();
  }

  /** The memory under a region goes away. @returns the parts of it that must keep their bytes */
  abandon(core: Core): Extent[] {
    return [...(this.#loans?.abandon(core) ?? []), ...(this.#remote?.rendezvous.abandon(core) ?? [])];
  }

  /** The connection is over. @param cut by this side: the peer may be about to adopt a run */
  end(error: unknown, cut: boolean): void {
    if (!this.#remote) return;
    const { exposures, inFlight, access, rendezvous } = this.#remote;
    exposures.end();
    rendezvous.end(error);
    inFlight.end(cut);
    access.end(error);
  }
}
