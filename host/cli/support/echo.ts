/** The side of the ping-pong that echoes. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Connection, IsthmusError, type ReceiveInfo, type Runtime } from '../../index.js';
import { BYTES_PER_POLL_LOG2, isPolled, MAX_BUSY_MS, POLLS_PER_TURN } from './polled.js';

/** How long a connection without messages is polled. Then the runtime waits for the next message. */
const MAX_IDLE_MS = 50;
/** Polls of one connection before the next connection has its turn. */
const POLLS_PER_CONNECTION = 16;
const MAX_XHEADER_BYTES = 65_535;

interface Served {
  readonly connection: Connection;
  readonly info: ReceiveInfo & { readonly xheader: Uint8Array };
  buffer: Uint8Array;
  /** View of `buffer` that is sent; made anew only when the length changes. */
  answer: Uint8Array;
  options: { xheader: Uint8Array } | undefined;
  /** Whether the answer still waits for room in the ring. */
  due: boolean;
  /** Messages since the clock was last read, and the time of the last message. */
  messages: number;
  last: number;
  /** Called at the end of the connection: with the error, or with undefined if it was closed. */
  readonly end: (error?: unknown) => void;
}

/** Point `answer` and `options` at the message that was received. */
function prepare(served: Served, length: number): void {
  const { info } = served;
  if (served.answer.length !== length || served.answer.buffer !== served.buffer.buffer) {
    served.answer = served.buffer.subarray(0, length);
  }
  const xlength = info.xheaderLength;
  if (xlength === 0) served.options = undefined;
  else if (served.options?.xheader.length !== xlength) served.options = { xheader: info.xheader.subarray(0, xlength) };
}

/** Echo the messages that are there, with at most `polls` polls. @returns the polls that are left */
function echo(served: Served, polls: number): number {
  const { connection, info } = served;
  let rest = polls;
  while (rest > 0) {
    if (served.due) {
      rest--;
      if (!connection.trySend(served.answer, served.options)) continue;
      served.due = false;
    }
    const length = connection.tryReceiveInto(served.buffer, info);
    if (length < 0) {
      rest--;
      continue;
    }
    prepare(served, length);
    served.due = !connection.trySend(served.answer, served.options);
    served.messages++;
    rest -= 1 + (length >> BYTES_PER_POLL_LOG2);
  }
  return rest;
}

/** Serves all connections of a runtime, polled in turn while they carry messages. */
export class Echo {
  readonly #runtime: Runtime;
  readonly #polled: Served[] = [];
  #running = false;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** Echo until the connection ends. @throws the error that ended it, unless it was closed */
  serve(connection: Connection): Promise<void> {
    return new Promise((resolve, reject) => {
      const served: Served = {
        connection,
        info: { xheader: new Uint8Array(MAX_XHEADER_BYTES), xheaderLength: 0 },
        buffer: new Uint8Array(65536),
        answer: new Uint8Array(0),
        options: undefined,
        due: false,
        messages: 0,
        last: performance.now(),
        end: (error) => (error === undefined ? resolve() : reject(error)),
      };
      this.#poll(served);
    });
  }

  #poll(served: Served): void {
    served.last = performance.now();
    this.#polled.push(served);
    if (this.#running) return;
    this.#running = true;
    void this.#run();
  }

  async #run(): Promise<void> {
    while (this.#polled.length > 0) {
      this.#pollAll();
      const now = performance.now();
      for (const served of [...this.#polled]) {
        if (served.messages > 0 || served.due) {
          served.messages = 0;
          served.last = now;
        } else if (now - served.last > MAX_IDLE_MS) {
          this.#remove(served);
          void this.#wait(served);
        }
      }
      if (this.#polled.every(({ last }) => now - last > MAX_BUSY_MS)) await sleep(1);
      await this.#runtime.turn();
    }
    this.#running = false;
  }

  /** Poll all connections in turn until the event loop has to turn. */
  #pollAll(): void {
    const connections = this.#polled;
    // Over tcp nothing arrives before the event loop has turned.
    const budget = connections.every(({ connection }) => isPolled(connection)) ? POLLS_PER_TURN : 1;
    const polls = connections.length === 1 ? budget : Math.min(POLLS_PER_CONNECTION, budget);
    for (let rest = budget; rest > 0 && connections.length > 0; ) {
      for (let i = connections.length - 1; i >= 0; i--) {
        const served = connections[i] as Served;
        try {
          rest -= polls - echo(served, polls);
        } catch (error) {
          this.#onError(served, error);
        }
      }
    }
  }

  #onError(served: Served, error: unknown): void {
    if (error instanceof IsthmusError && error.code === 'ERR_ISTHMUS_BUFFER_TOO_SMALL') {
      // The message is still there, and fits next time.
      served.buffer = new Uint8Array(Math.max(error.needed ?? 0, served.buffer.length * 2));
      return;
    }
    this.#remove(served);
    served.end(isClosed(error) ? undefined : error);
  }

  #remove(served: Served): void {
    const place = this.#polled.indexOf(served);
    if (place >= 0) this.#polled.splice(place, 1);
  }

  /** Wait for the next message without polling, echo it, and poll again. */
  async #wait(served: Served): Promise<void> {
    const { connection } = served;
    try {
      const message = await connection.receive();
      if (message === undefined) {
        served.end();
        return;
      }
      await connection.send(message.data, message.xheader.length > 0 ? { xheader: message.xheader } : undefined);
      this.#poll(served);
    } catch (error) {
      served.end(isClosed(error) ? undefined : error);
    }
  }
}

/** Whether the connection ended because it was closed. */
function isClosed(error: unknown): boolean {
  return error instanceof IsthmusError && error.code === 'ERR_ISTHMUS_CLOSED';
}
