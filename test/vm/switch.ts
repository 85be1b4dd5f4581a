/**
 * The network between guests and this machine: an Ethernet switch, to which each QEMU is connected by a Unix socket,
 * and one more QEMU without a machine, whose user-mode network is the path to 127.0.0.1 here. None of it needs
 * privileges; and since the network belongs to no guest, connections outlive the move of a guest from one QEMU to
 * another.
 *
 * (A hub does not work: QEMU's user-mode network would also answer frames meant for other guests.)
 */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { ownFolder, spawnOwned } from './lifetime.js';

/** QEMU sends the length of each frame on a stream before it, in 32 bits, big-endian. */
const PREFIX = 4;
/** Bytes of the addresses of destination and source. */
const ADDRESSES = 12;
/** Limit of bytes that wait for a slow machine; more are dropped, as in any switch. */
const BACKLOG = 4 << 20;

/** Extracts the frames from a stream. */
function frames(socket: Socket, take: (frame: Buffer) => void): void {
  let rest: Buffer = Buffer.alloc(0);
  socket.on('data', (chunk: Buffer) => {
    rest = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
    while (rest.length >= PREFIX) {
      const end = PREFIX + rest.readUInt32BE(0);
      if (rest.length < end) return;
      take(rest.subarray(0, end));
      rest = rest.subarray(end);
    }
  });
}

export class Switch {
  /** Address of this machine's 127.0.0.1 for the guests. */
  static readonly host = '10.0.2.2';
  readonly #folder = ownFolder('switch');
  readonly #path = join(this.#folder, 'switch');
  readonly #ports = new Set<Socket>();
  /** Port at which an address was last seen. */
  readonly #places = new Map<string, Socket>();
  readonly #server = createServer((socket) => this.#plugged(socket));
  #way: ChildProcess | undefined;
  /** Its port, the first. */
  #user: Socket | undefined;

  static async start(): Promise<Switch> {
    const made = new Switch();
    made.#server.listen(made.#path).unref();
    await once(made.#server, 'listening');
    made.#way = spawnOwned(
      'qemu-system-x86_64',
      [
        ...['-machine', 'none', '-nodefaults', '-display', 'none'],
        ...['-netdev', 'user,id=user,net=10.0.2.0/24', '-netdev', 'hubport,id=left,hubid=0,netdev=user'],
        ...['-netdev', `stream,id=port,server=off,addr.type=unix,addr.path=${made.#path}`],
        ...['-netdev', 'hubport,id=right,hubid=0,netdev=port'],
      ],
      { stdio: 'ignore' },
    );
    made.#way.unref();
    process.on('exit', made.#end);
    await once(made.#server, 'connection');
    return made;
  }

  /**
   * Arguments of a QEMU that is connected to the switch.
   * @param number of the guest, from 1: a guest that moves keeps it
   */
  plug(number: number): string[] {
    const mac = `52:54:00:00:00:${number.toString(16).padStart(2, '0')}`;
    return [
      ...['-netdev', `stream,id=net0,server=off,addr.type=unix,addr.path=${this.#path}`],
      // Without the firmware to boot from the network.
      ...['-device', `virtio-net-pci,netdev=net0,mac=${mac},romfile=`],
    ];
  }

  static address(number: number): string {
    return `10.0.2.${100 + number}`;
  }

  #plugged(port: Socket): void {
    this.#ports.add(port);
    this.#user ??= port;
    port.unref();
    frames(port, (frame) => {
      if (frame.length < PREFIX + ADDRESSES) return;
      const to = frame.toString('latin1', PREFIX, PREFIX + 6);
      const from = frame.toString('latin1', PREFIX + 6, PREFIX + ADDRESSES);
      this.#places.set(from, port);
      const place = this.#places.get(to);
      const all = (frame.readUInt8(PREFIX) & 1) === 1;
      for (const other of place ? [place] : this.#ports) {
        // The frame is for a guest that is just moving: the user-mode network would answer for it.
        if (!place && !all && other === this.#user) continue;
        if (other !== port && other.writableLength < BACKLOG) other.write(frame);
      }
    });
    const gone = () => {
      this.#ports.delete(port);
      for (const [address, place] of this.#places) if (place === port) this.#places.delete(address);
    };
    port.on('error', gone).on('close', gone);
  }

  readonly #end = () => {
    this.#way?.kill('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true });
  };

  close(): void {
    process.off('exit', this.#end);
    this.#server.close();
    for (const port of this.#ports) port.destroy();
    this.#end();
  }
}
