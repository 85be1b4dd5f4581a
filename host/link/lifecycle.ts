/**
 * The state of a connection: one table of phases and events.
 *
 * Every event is defined in every phase. An event that the table leaves out changes nothing; it is counted, and traced at
 * `PSP_DEBUG=4` as every transition is. Beside the phase a connection is marked when it is being closed: the mark stays,
 * whatever phases follow, because a connection that is suspended while it closes comes back to send its end.
 *
 *   one side suspends                                     both suspend at once
 *
 *   A  open ─suspend─▶ suspending                         A and B   suspending ─shutdownQueued─▶ shutdownSent
 *   A  ─shutdownQueued─▶ shutdownSent   ····REQ····▶                ····REQ····▶ ◀····REQ····
 *   B  open ─request─▶ shutdownReceived                             shutdownSent ─request─▶ draining
 *   B  ─shutdownQueued─▶ draining       ◀····ACK····                (the peer's REQ is the answer: no ACK is sent)
 *   A  shutdownSent ─acknowledge─▶ draining
 *
 * Each transition names the step of `test/model/suspend.pml` that it implements.
 */
import type { Connection } from '../api/connection.js';
import { IsthmusError } from '../base/errors.js';

export const PHASES = [
  /** No link yet, and none is being made. */
  'idle',
  /** The first link is being made. */
  'connecting',
  /** The first link is there; the responder waits for the initiator to confirm it. */
  'confirming',
  'open',
  /** This side suspends; its REQ is not in the ring yet. */
  'suspending',
  /** The REQ of this side is in the ring. */
  'shutdownSent',
  /** The REQ of the peer has come; the answer is not in the ring yet. */
  'shutdownReceived',
  /** Both sides have sent their last message; it may still be on its way out of the ring. */
  'draining',
  /** No link: both sides have let go of it. */
  'suspended',
  /** A further link is being made. */
  'resuming',
  /** A further link is there; the responder waits for the initiator to confirm it. */
  'reconfirming',
  /** The end of this direction is in the ring. */
  'eofSent',
  /** The link is cut; the application may still hold borrowed messages and loans. */
  'closed',
  /** The application holds nothing any more. */
  'released',
] as const;
export type Phase = (typeof PHASES)[number];

export const EVENTS = [
  /** A link is being made. */
  'dial',
  /** What was making a link has been given up for a suspension of the process. */
  'hold',
  'linkUp',
  /** The peer is known to have the link as well. */
  'confirm',
  /** The initiator has given up the link before it confirmed it. */
  'revert',
  /** This side is to suspend. */
  'suspend',
  /** The last message of this side is in the ring, or went out of band. */
  'shutdownQueued',
  /** SHUTDOWN_REQ of the peer. */
  'request',
  /** SHUTDOWN_ACK of the peer. */
  'acknowledge',
  /** The link has been let go of. */
  'letGo',
  /** The application closes the connection. */
  'close',
  /** Nothing waits to be sent, and the end of this direction is in the ring. */
  'queueEmpty',
  /** The link says that the peer closed in order. */
  'peerClosed',
  /** The link says that the peer is lost. */
  'lost',
  /** The peer broke the protocol. */
  'violation',
  /** This side cuts the connection. */
  'destroy',
  /** The application has given back the last of what it had borrowed. */
  'borrowsReturned',
] as const;
export type LifecycleEvent = (typeof EVENTS)[number];

export interface Transition {
  readonly to: Phase;
  /** Step of suspend.pml; undefined: the model has no such step. */
  readonly step?: string;
  /** Applies only to a connection that is being closed (`closing`), or only to one that is not (`live`). */
  readonly when?: 'live' | 'closing';
}

type Row = { readonly [event in LifecycleEvent]?: Transition };

const CUT = { violation: { to: 'closed' }, destroy: { to: 'closed' } } as const satisfies Row;
const LINK_ENDS = {
  peerClosed: { to: 'closed', step: 'ended' },
  lost: { to: 'closed', step: 'ended' },
} as const satisfies Row;

/** All transitions but the mark of `close`. */
export const TABLE: { readonly [phase in Phase]: Row } = {
  idle: {
    dial: { to: 'connecting', step: 'bring_up' },
    linkUp: { to: 'confirming', step: 'agreed' },
    ...CUT,
  },
  connecting: {
    hold: { to: 'idle', step: 'hold' },
    linkUp: { to: 'confirming', step: 'agreed' },
    ...CUT,
  },
  confirming: {
    confirm: { to: 'open', step: 'begin' },
    revert: { to: 'idle', step: 'revert' },
    peerClosed: { to: 'idle', step: 'revert' },
    lost: { to: 'idle', step: 'revert' },
    ...CUT,
  },
  open: {
    suspend: { to: 'suspending', step: 'start', when: 'live' },
    request: { to: 'shutdownReceived', step: 'heard' },
    queueEmpty: { to: 'eofSent', when: 'closing' },
    ...LINK_ENDS,
    ...CUT,
  },
  suspending: {
    shutdownQueued: { to: 'shutdownSent', step: 'said' },
    // The REQ of this side is not in the ring yet; it will be the answer.
    request: { to: 'shutdownReceived', step: 'heard' },
    queueEmpty: { to: 'eofSent', when: 'closing' },
    ...LINK_ENDS,
    ...CUT,
  },
  shutdownSent: {
    request: { to: 'draining', step: 'heard' },
    acknowledge: { to: 'draining', step: 'heard' },
    ...LINK_ENDS,
    ...CUT,
  },
  shutdownReceived: {
    shutdownQueued: { to: 'draining', step: 'said' },
    queueEmpty: { to: 'eofSent', when: 'closing' },
    ...LINK_ENDS,
    ...CUT,
  },
  draining: {
    letGo: { to: 'suspended', step: 'let_go' },
    ...LINK_ENDS,
    ...CUT,
  },
  suspended: {
    dial: { to: 'resuming', step: 'bring_up' },
    // The peer was first.
    linkUp: { to: 'reconfirming', step: 'agreed' },
    ...CUT,
  },
  resuming: {
    hold: { to: 'suspended', step: 'hold' },
    linkUp: { to: 'reconfirming', step: 'agreed' },
    ...CUT,
  },
  reconfirming: {
    confirm: { to: 'open', step: 'begin' },
    revert: { to: 'suspended', step: 'revert' },
    peerClosed: { to: 'suspended', step: 'revert' },
    lost: { to: 'suspended', step: 'revert' },
    ...CUT,
  },
  eofSent: {
    ...LINK_ENDS,
    ...CUT,
  },
  closed: {
    borrowsReturned: { to: 'released' },
  },
  released: {},
};

const STATES: { readonly [phase in Phase]: Connection['state'] } = {
  idle: 'connecting',
  connecting: 'connecting',
  confirming: 'connecting',
  open: 'open',
  suspending: 'open',
  shutdownSent: 'open',
  shutdownReceived: 'open',
  draining: 'open',
  suspended: 'suspended',
  resuming: 'suspended',
  reconfirming: 'suspended',
  eofSent: 'closing',
  closed: 'closed',
  released: 'closed',
};

/** Phases in which `close` marks a connection. */
const CLOSABLE: ReadonlySet<Phase> = new Set(
  PHASES.filter((phase) => !['eofSent', 'closed', 'released'].includes(phase)),
);

/** Why this side closes: the application wants to (`local`), or it has seen the end of what the peer sends (`peer`). */
export type Closing = 'local' | 'peer';

/**
 * What a trace is called with: phases before and behind, the event, the step of the model. The same phase twice: it changed
 * nothing; with step `closing`: the connection was marked.
 */
export type Trace = (from: Phase, event: LifecycleEvent, to: Phase, step: string | undefined) => void;

export class Lifecycle {
  /** Read by each send and receive: plain fields, written by {@link raise} and {@link close} alone. */
  phase: Phase = 'idle';
  /** What the application is told. */
  state: Connection['state'] = 'connecting';
  closing: Closing | undefined;
  /** Whether the application may send. */
  sends = true;
  /** What ended the connection, or is about to. */
  error: IsthmusError | undefined;
  /** Events that changed nothing. */
  ignored = 0;
  /** The phase has changed: do what follows from it. Set by the connection; it may raise further events. */
  onTransition: (event: LifecycleEvent, from: Phase) => void = () => {};
  readonly #trace: Trace;

  constructor(trace: Trace = () => {}) {
    this.#trace = trace;
  }

  /** Whether the link is cut. */
  get over(): boolean {
    return this.phase === 'closed' || this.phase === 'released';
  }

  /** Whether the responder waits for the confirmation of its link. */
  get unconfirmed(): boolean {
    return this.phase === 'confirming' || this.phase === 'reconfirming';
  }

  /** Whether one of the two suspends, and the exchange of the last messages is under way. (suspend.pml: UNDER_WAY) */
  get exchanging(): boolean {
    return this.phase === 'suspending' || this.phase === 'shutdownSent' || this.phase === 'shutdownReceived';
  }

  /** What calls on a connection that is being closed, or is closed, reject with. */
  closedError(): IsthmusError {
    return this.error ?? new IsthmusError('ERR_ISTHMUS_CLOSED', `the connection is ${this.state}`);
  }

  /** @throws ERR_ISTHMUS_CLOSED, or what ended the connection */
  check(): void {
    if (!this.sends) throw this.closedError();
  }

  /** Whether an event changes the phase. */
  defines(event: LifecycleEvent): boolean {
    const transition = (TABLE[this.phase] as Row)[event];
    return transition !== undefined && (!transition.when || transition.when === (this.closing ? 'closing' : 'live'));
  }

  /** @returns whether the phase changed */
  raise(event: Exclude<LifecycleEvent, 'close'>): boolean {
    const { phase } = this;
    if (!this.defines(event)) {
      this.ignored++;
      this.#trace(phase, event, phase, undefined);
      return false;
    }
    const { to, step } = (TABLE[phase] as Row)[event] as Transition;
    this.phase = to;
    this.#derive();
    this.#trace(phase, event, to, step);
    this.onTransition(event, phase);
    return true;
  }

  /** Event `close`. @returns false: it is being closed already, or closed */
  close(why: Closing): boolean {
    const { phase } = this;
    if (this.closing || !CLOSABLE.has(phase)) {
      this.ignored++;
      this.#trace(phase, 'close', phase, undefined);
      return false;
    }
    this.closing = why;
    this.#derive();
    this.#trace(phase, 'close', phase, 'closing');
    return true;
  }

  #derive(): void {
    const state = STATES[this.phase];
    this.state = this.closing && state !== 'closed' ? 'closing' : state;
    this.sends = this.state !== 'closing' && this.state !== 'closed';
  }
}
