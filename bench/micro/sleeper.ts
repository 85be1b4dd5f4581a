/** The time of a message to a sleeping process: each message carries its send time, by the clock of all processes. */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { now } from '../clock.js';

/** Bytes of a message: a float64. */
export const STAMP = 8;

export function stamp(into: DataView): void {
  into.setFloat64(0, now());
}

export function ageOf(message: Uint8Array): number {
  const at = now();
  return at - new DataView(message.buffer, message.byteOffset, STAMP).getFloat64(0);
}

const place = (folder: string) => join(folder, 'sleeper');

/** @param age called for each message */
export async function sleepAtSocket(folder: string, age: (nanoseconds: number) => void): Promise<void> {
  rmSync(place(folder), { force: true });
  const server = createServer((socket) => socket.on('data', (chunk) => age(ageOf(chunk))));
  server.listen(place(folder));
  await once(server, 'listening');
}

export async function wakeBySocket(folder: string): Promise<Socket> {
  const socket = connect(place(folder));
  await once(socket, 'connect');
  return socket;
}
