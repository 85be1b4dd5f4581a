/**
 * QEMU's control channel (QMP): commands and their answers, and what QEMU tells of its own accord. One who talks at a time:
 * QEMU greets the next one when the one before has left.
 */
import { connect, type Socket } from 'node:net';

/** For the greeting and for each answer, in milliseconds, unless told otherwise. */
const LIMIT = 30_000;
/** Characters of one message: a whole machine described is not nearly as long. */
const MAX_MESSAGE = 16 << 20;
/** Events that are kept for those who ask later. */
const MAX_EVENTS = 10_000;

/** Refused by QEMU; not answered in time; the channel is closed; or whoever is there is no QEMU. */
export type QmpFailure = 'refused' | 'late' | 'closed' | 'strange';

export class QmpError extends Error {
  readonly failure: QmpFailure;

  constructor(failure: QmpFailure, message: string) {
    super(message);
    this.failure = failure;
  }
}

type Data = Readonly<Record<string, unknown>>;

export interface QmpEvent {
  readonly event: string;
  readonly data: Data;
}

export interface WaitOptions {
  /** In milliseconds. */
  readonly limit?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

interface Message extends Partial<QmpEvent> {
  readonly QMP?: unknown;
  readonly id?: unknown;
  readonly return?: unknown;
  readonly error?: { readonly desc?: unknown };
}

export class Qmp implements AsyncDisposable {
  readonly #socket: Socket;
  readonly #address: string;
  #text = '';
  #greeted = false;
  #commands = 0;
  /** Commands that are waited for, with what came. Answers to others came too late. */
  readonly #answers = new Map<number, Message | undefined>();
  readonly #events: QmpEvent[] = [];
  /** Events that are not kept any more. */
  #forgotten = 0;
  readonly #waiting = new Set<() => void>();
  #end: QmpError | undefined;

  private constructor(socket: Socket, address: string) {
    this.#socket = socket;
    this.#address = address;
    const end = (error: QmpError) => {
      this.#end ??= error;
      for (const look of [...this.#waiting]) look();
    };
    socket
      .setEncoding('utf8')
      .on('data', (text: string) => {
        try {
          this.#take(text);
        } catch (error) {
          end(error instanceof QmpError ? error : new QmpError('strange', `${address}: this is not QMP`));
          socket.destroy();
        }
        for (const look of [...this.#waiting]) look();
      })
      .on('error', ({ message }) => end(new QmpError('closed', `${address}: ${message}`)))
      .on('close', () => end(new QmpError('closed', `${address}: QEMU has closed its control channel`)));
  }

  /**
   * @param address path of a unix socket, or HOST:PORT
   * @throws what the system says if nobody listens there
   */
  static async open(address: string, options: WaitOptions = {}): Promise<Qmp> {
    const [, host, port] = address.includes('/') ? [] : (/^\[?([^\]]*)\]?:(\d+)$/.exec(address) ?? []);
    const socket = port === undefined ? connect(address) : connect(Number(port), host || '127.0.0.1');
    // A failure to connect is told as such; from then on the channel minds its errors.
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve).once('error', reject);
    });
    const qmp = new Qmp(socket, address);
    try {
      await qmp.#until('has not greeted us: does somebody else talk to it?', () => qmp.#greeted || undefined, options);
      await qmp.execute('qmp_capabilities', {}, options);
      return qmp;
    } catch (error) {
      await qmp.close();
      throw error;
    }
  }

  /**
   * @returns what QEMU returns
   * @throws QmpError; or the reason of the signal. QEMU may carry it out all the same.
   */
  async execute(command: string, args: Data = {}, options: WaitOptions = {}): Promise<unknown> {
    options.signal?.throwIfAborted();
    const id = ++this.#commands;
    this.#answers.set(id, undefined);
    try {
      if (!this.#end) this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
      const { error, return: value } = await this.#until(
        `has not answered ${command}`,
        () => this.#answers.get(id),
        options,
      );
      if (error) throw new QmpError('refused', `${command}: ${String(error.desc)}`);
      return value;
    } finally {
      this.#answers.delete(id);
    }
  }

  /** How many events there were: what {@link event} is told, so that it takes none from before. */
  get told(): number {
    return this.#forgotten + this.#events.length;
  }

  /** Waits for an event. One that came already will do, unless it came before `since`. */
  event(
    name: string,
    fits: (data: Data) => boolean = () => true,
    { since = 0, ...options }: WaitOptions & { readonly since?: number } = {},
  ): Promise<QmpEvent> {
    const look = () =>
      this.#events.slice(Math.max(0, since - this.#forgotten)).find(({ event, data }) => event === name && fits(data));
    return this.#until(`has not told of ${name}`, look, options);
  }

  /** Idempotent. */
  async close(): Promise<void> {
    this.#end ??= new QmpError('closed', `${this.#address}: closed`);
    if (this.#socket.closed) return;
    const closed = new Promise<void>((resolve) => this.#socket.once('close', () => resolve()));
    this.#socket.destroy();
    await closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #take(text: string): void {
    this.#text += text;
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end);
      this.#text = this.#text.slice(end + 1);
      if (line.trim() !== '') this.#message(JSON.parse(line) as Message);
    }
    if (this.#text.length > MAX_MESSAGE) {
      throw new QmpError('strange', `${this.#address}: a message of more than ${MAX_MESSAGE} characters`);
    }
  }

  #message(message: Message): void {
    const { QMP, event, data = {}, id } = message;
    if (QMP) this.#greeted = true;
    else if (event !== undefined) this.#events.push({ event, data });
    else if (this.#answers.has(id as number)) this.#answers.set(id as number, message);
    if (this.#events.length <= MAX_EVENTS) return;
    this.#events.shift();
    this.#forgotten++;
  }

  /** Until `find` finds something in what has come. */
  #until<T>(late: string, find: () => T | undefined, { limit = LIMIT, signal }: WaitOptions): Promise<T> {
    return new Promise((resolve, reject) => {
      const done = (settle: () => void) => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', stop);
        this.#waiting.delete(look);
        settle();
      };
      const stop = () => done(() => reject(signal?.reason));
      const look = () => {
        const found = find();
        if (found !== undefined) done(() => resolve(found));
        else if (this.#end) done(() => reject(this.#end));
      };
      const timer = setTimeout(() => {
        done(() => reject(new QmpError('late', `${this.#address}: QEMU ${late} (${limit / 1000} s)`)));
      }, limit);
      this.#waiting.add(look);
      signal?.addEventListener('abort', stop, { once: true });
      if (signal?.aborted) stop();
      else look();
    });
  }
}
