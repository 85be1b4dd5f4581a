/**
 * One process of the chaos test: it exchanges messages with each of the others, and is suspended and moved meanwhile.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import type { Connection } from '../../host/api/connection.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { play, roleOptions, serve } from '../support/process.js';
import { seeded } from '../support/seeded.js';

export interface WorkerOptions {
  readonly runtime: RuntimeOptions;
  readonly me: number;
  readonly seed: number;
  /** How it receives messages. */
  readonly manner: Manner;
}

export type Manner = 'receive' | 'borrow' | 'poll' | 'late';
/** Counts of a worker's traffic with another one. */
export interface Tally {
  sent: number;
  received: number;
  /** Hash over everything sent, and over everything received. */
  sentHash: string;
  receivedHash: string;
  error: string | null;
}

const GOODBYE = 0xffffffff;

/** Message `number`: its number, then bytes that follow from it, then a checksum. */
function make(random: (n: number) => number, number: number): Buffer {
  const sizes = [12, 12, 12, 40, 300, 5000, 70_000];
  const length = random(200) === 0 ? 400_000 : (sizes[random(sizes.length)] as number) + random(8);
  const data = Buffer.alloc(length, number % 251);
  data.writeUInt32LE(number, 0);
  data.writeUInt32LE(checksum(data), 4);
  return data;
}

/** Over all bytes except its own. */
function checksum(data: Buffer): number {
  let sum = data.readUInt32LE(0) ^ data.length;
  for (let i = 8; i < data.length; i += 1 + (data.length >> 8)) sum = (Math.imul(sum, 31) + (data[i] as number)) >>> 0;
  return sum >>> 0;
}

/** Mappings and descriptors of this process whose path begins with the prefix. */
function holds(prefix: string): string[] {
  const maps = readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(prefix));
  const descriptors = readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)].filter((path) => path.startsWith(prefix));
    } catch {
      return [];
    }
  });
  return [...maps, ...descriptors];
}

async function worker(): Promise<void> {
  const { runtime: options, me, seed, manner } = roleOptions<WorkerOptions>();
  const runtime = await Runtime.create(options);
  const connections = new Map<number, Connection>();
  const tallies = new Map<number, Tally>();
  const outHashes = new Map<number, ReturnType<typeof createHash>>();
  let going = true;
  let reading = manner !== 'late';
  const held: Disposable[] = [];

  const send = async (other: number, connection: Connection) => {
    const random = seeded(seed + me * 1000 + other);
    const tally = tallies.get(other) as Tally;
    const hash = createHash('sha256');
    outHashes.set(other, hash);
    try {
      for (; going; tally.sent++) {
        const data = make(random, tally.sent);
        hash.update(data);
        await connection.send(data);
        // In bursts: so many processes that poll all the time would starve each other on a small machine.
        if (random(6) === 0) await pause(50 + random(200));
      }
      const last = Buffer.alloc(12);
      last.writeUInt32LE(GOODBYE);
      await connection.send(last);
    } catch (error) {
      tally.error ??= String(error);
    }
    tally.sentHash = hash.digest('hex');
  };
  const receive = async (other: number, connection: Connection) => {
    const tally = tallies.get(other) as Tally;
    const hash = createHash('sha256');
    const take = (data: Buffer): boolean => {
      const number = data.readUInt32LE(0);
      if (number === GOODBYE) return false;
      if (number !== tally.received) throw new Error(`message ${number} instead of ${tally.received}`);
      if (data.readUInt32LE(4) !== checksum(data)) throw new Error(`message ${number} is damaged`);
      hash.update(data);
      tally.received++;
      return true;
    };
    try {
      for (let more = true; more; ) {
        while (!reading) await pause(20);
        if (manner === 'borrow') {
          const message = await connection.borrow();
          if (!message) throw new Error('the end');
          more = take(Buffer.from(message.data));
          // Some stay unread for a while, also over a migration.
          held.push(message);
          if (held.length > 6) held.shift()?.[Symbol.dispose]();
        } else if (manner === 'poll') {
          const taken = connection.poll((memory, offset, length) => {
            more = take(Buffer.from(memory.slice(offset, offset + length)));
          }, 1);
          if (taken === 0) await pause(1);
        } else {
          const message = await connection.receive();
          if (!message) throw new Error('the end');
          more = take(Buffer.from(message.data));
        }
      }
    } catch (error) {
      tally.error ??= String(error);
    }
    tally.receivedHash = hash.digest('hex');
  };
  const running: Promise<void>[] = [];
  const begin = (other: number, connection: Connection) => {
    connections.set(other, connection);
    tallies.set(other, { sent: 0, received: 0, sentHash: '', receivedHash: '', error: null });
    running.push(send(other, connection), receive(other, connection));
  };
  const { port } = await runtime.listen({}, async (connection) => {
    const hello = await connection.receive();
    begin(Number(hello?.data[0]), connection);
    await connection.closed;
  });
  serve({
    port: () => port,
    async connect(other: number, to: number) {
      const connection = await runtime.connect({ host: '127.0.0.1', port: to });
      await connection.send(Uint8Array.of(me));
      begin(other, connection);
    },
    connected: () => connections.size,
    suspend: () => runtime.suspend(),
    resume: () => runtime.resume(),
    /** State of the traffic, for display. */
    look: () =>
      [...connections].map(([other, connection]) => {
        const { plugin, state } = connection;
        const { pendingSends, unreadMessages, ringUsed, messagesSent, messagesReceived } = connection.stats();
        const { sent, received, error } = tallies.get(other) as Tally;
        return `${me}→${other} ${plugin} ${state}: sent ${sent}, received ${received}, ${pendingSends} wait, ${unreadMessages} unread, ${ringUsed} in the ring, ${messagesSent} and ${messagesReceived} in all, ${error ?? 'no error'}`;
      }),
    /** Region files that this process still holds. */
    holds: (prefix: string) => holds(prefix),
    stop() {
      going = false;
      reading = true;
    },
    async tallies() {
      await Promise.all(running);
      for (const message of held.splice(0)) message[Symbol.dispose]();
      return [...tallies];
    },
    async close() {
      await runtime.close({ timeout: 5000 });
      // A socket may take a moment to send its last bytes; the timer of the pause belongs to this test.
      const left = () => process.getActiveResourcesInfo().filter((one) => !/^(Pipe|TTY|Immediate)/.test(one));
      const until = performance.now() + 10_000;
      while (left().length > 0 && performance.now() < until) await pause(50);
      return left();
    },
  });
}

await play({ worker });
