/**
 * QEMU's control channel (QMP): commands with their answers, and events that QEMU sends on its own. QEMU serves one client
 * at a time: it greets the next one when the one before has disconnected.
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { abortable } from '../../base/abortable.js';

/** For the greeting and for each answer, unless a limit is given. */
const DEFAULT_LIMIT_MS = 30_000;
/** Between two looks at QEMU's blocks of memory. */
const FREED_POLL_MS = 10;
/** Characters of one message: far more than the description of a whole machine. */
const MAX_MESSAGE = 16 << 20;
/** Events that are kept for later calls of {@link Qmp.event}. */
const MAX_EVENTS = 10_000;

/** QEMU refused; did not answer in time; the channel is closed; the other end does not speak QMP. */
export type QmpFailure = 'refused' | 'late' | 'closed' | 'notQmp';

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
  /** Received text that is not a whole line yet. */
  #text = '';
  #greeted = false;
  #commands = 0;
  /** The answer, once there is one, of each command whose answer is awaited. Other answers came too late. */
  readonly #answers = new Map<number, Message | undefined>();
  readonly #events: QmpEvent[] = [];
  /** Events that were dropped from the front of `#events`. */
  #dropped = 0;
  /** Each checks again whether what it waits for is there. */
  readonly #waiting = new Set<() => void>();
  #end: QmpError | undefined;

  private constructor(socket: Socket, address: string) {
    this.#socket = socket;
    this.#address = address;
    const checkAll = () => {
      for (const check of [...this.#waiting]) check();
    };
    const end = (error: QmpError) => {
      this.#end ??= error;
      checkAll();
    };
    socket
      .setEncoding('utf8')
      .on('data', (text: string) => {
        try {
          this.#receive(text);
        } catch (error) {
          end(error instanceof QmpError ? error : new QmpError('notQmp', `${address}: this is not QMP`));
          socket.destroy();
        }
        checkAll();
      })
      .on('error', ({ message }) => end(new QmpError('closed', `${address}: ${message}`)))
      .on('close', () => end(new QmpError('closed', `${address}: QEMU has closed its control channel`)));
  }

  /**
   * @param address path of a unix socket, or HOST:PORT
   * @throws QmpError; or the error of the socket if it cannot connect
   */
  static async open(address: string, options: WaitOptions = {}): Promise<Qmp> {
    const [, host, port] = address.includes('/') ? [] : (/^\[?([^\]]*)\]?:(\d+)$/.exec(address) ?? []);
    const socket = port === undefined ? connect(address) : connect(Number(port), host || '127.0.0.1');
    // A failure to connect rejects here; the constructor handles later errors of the socket.
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve).once('error', reject);
    });
    const qmp = new Qmp(socket, address);
    try {
      const late = 'has not sent its greeting: is another client connected?';
      await qmp.#until(late, () => qmp.#greeted || undefined, options);
      await qmp.execute('qmp_capabilities', {}, options);
      return qmp;
    } catch (error) {
      await qmp.close();
      throw error;
    }
  }

  /**
   * @returns the return value of QEMU
   * @throws QmpError; or the reason of the signal, and QEMU may carry out the command nevertheless
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

  /**
   * Wait until QEMU has freed the memory of an object that was deleted. QEMU does so behind a grace period, and **aborts**,
   * with its machine, when an object of the same id is plugged into the same place before that ("RAMBlock … already
   * registered").
   * @param memory id of the object
   * @param limit in milliseconds
   * @returns false: QEMU still has it
   */
  async freed(memory: string, limit: number): Promise<boolean> {
    for (const end = performance.now() + limit; ; await sleep(FREED_POLL_MS)) {
      const list = await this.execute('human-monitor-command', { 'command-line': 'info ramblock' });
      // The first column is the path of the device, and the id.
      const names = String(list).matchAll(/^\s*(\S+)/gm);
      if (![...names].some(([, name = '']) => name === memory || name.endsWith(`/${memory}`))) return true;
      if (performance.now() > end) return false;
    }
  }

  /** Events received so far: passed to {@link event} as `since`, it excludes them. */
  get eventCount(): number {
    return this.#dropped + this.#events.length;
  }

  /** Wait for an event that fits, received earlier or from now on. @throws QmpError; or the reason of the signal */
  event(
    name: string,
    fits: (data: Data) => boolean = () => true,
    { since = 0, ...options }: WaitOptions & { readonly since?: number } = {},
  ): Promise<QmpEvent> {
    const find = () =>
      this.#events.slice(Math.max(0, since - this.#dropped)).find(({ event, data }) => event === name && fits(data));
    return this.#until(`has not sent ${name}`, find, options);
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

  #receive(text: string): void {
    this.#text += text;
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end);
      this.#text = this.#text.slice(end + 1);
      if (line.trim() !== '') this.#dispatch(JSON.parse(line) as Message);
    }
    if (this.#text.length > MAX_MESSAGE) {
      throw new QmpError('notQmp', `${this.#address}: a message of more than ${MAX_MESSAGE} characters`);
    }
  }

  #dispatch(message: Message): void {
    const { QMP, event, data = {}, id } = message;
    if (QMP) this.#greeted = true;
    else if (event !== undefined) this.#events.push({ event, data });
    else if (this.#answers.has(id as number)) this.#answers.set(id as number, message);
    if (this.#events.length <= MAX_EVENTS) return;
    this.#events.shift();
    this.#dropped++;
  }

  /** Wait until `find` finds something in what was received. @param late what to say of QEMU if it does not in time */
  #until<T>(late: string, find: () => T | undefined, options: WaitOptions): Promise<T> {
    const { limit = DEFAULT_LIMIT_MS, signal } = options;
    return abortable(signal, (resolve, reject) => {
      const done = () => {
        clearTimeout(timer);
        this.#waiting.delete(check);
      };
      const check = () => {
        const found = find();
        if (found === undefined && !this.#end) return;
        done();
        if (found !== undefined) resolve(found);
        else reject(this.#end);
      };
      const timer = setTimeout(() => {
        done();
        reject(new QmpError('late', `${this.#address}: QEMU ${late} (${limit / 1000} s)`));
      }, limit);
      this.#waiting.add(check);
      check();
      return done;
    });
  }
}
