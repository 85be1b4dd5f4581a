/**
 * Which thread of a process leads. The main thread leads as soon as it takes part; otherwise the first thread that gets no
 * answer to its question. If two threads lead, as can happen when one was busy, the one with the lower number stays.
 */

/** Silence after which a thread has ended: threads end without a message. */
export const MAX_SILENCE_MS = 6000;
/** Time for the thread that leads to answer. */
const MAX_ANSWER_MS = 250;

export interface LeadershipEvents {
  /** Send to all other threads: the question which thread leads, or the statement that this one does. */
  send(kind: 'query' | 'lead'): void;
  /** This thread leads from here on, or no longer. */
  changed(leading: boolean): void;
  /** Another thread leads than before. */
  newLeader(): void;
}

export class Leadership {
  readonly #own: number;
  readonly #events: LeadershipEvents;
  #leading = false;
  /** The thread that leads, if another one does, and when it last stated that. */
  #leader: { readonly thread: number; readonly heard: number } | undefined;
  #election: NodeJS.Timeout | undefined;

  /** @param own number of this thread; 0: the main thread */
  constructor(own: number, events: LeadershipEvents) {
    this.#own = own;
    this.#events = events;
  }

  get leading(): boolean {
    return this.#leading;
  }

  start(): void {
    if (this.#own === 0) this.#lead();
    else this.#elect();
  }

  stop(): void {
    clearTimeout(this.#election);
  }

  #elect(): void {
    if (this.#election) return;
    this.#leader = undefined;
    this.#events.send('query');
    this.#election = setTimeout(() => {
      this.#election = undefined;
      if (!this.#leader) this.#lead();
    }, MAX_ANSWER_MS).unref();
  }

  #lead(): void {
    this.#leader = undefined;
    this.#leading = true;
    this.#events.send('lead');
    this.#events.changed(true);
  }

  #follow(thread: number): void {
    clearTimeout(this.#election);
    this.#election = undefined;
    const known = this.#leader?.thread === thread;
    this.#leader = { thread, heard: performance.now() };
    if (this.#leading) {
      this.#leading = false;
      this.#events.changed(false);
    }
    if (!known) this.#events.newLeader();
  }

  /** Another thread asks which thread leads. */
  onWho(): void {
    if (this.#leading) this.#events.send('lead');
  }

  /** Another thread states that it leads. */
  onLead(thread: number): void {
    if (this.#leading && thread > this.#own) this.#events.send('lead');
    else this.#follow(thread);
  }

  /** Another thread takes part no longer. */
  onLeft(thread: number): void {
    if (thread === this.#leader?.thread) this.#elect();
  }

  /** Called at each heartbeat. @returns whether the thread that leads was silent for too long, so that an election begins */
  checkLeader(): boolean {
    if (!this.#leader || performance.now() - this.#leader.heard <= MAX_SILENCE_MS) return false;
    this.#elect();
    return true;
  }
}
