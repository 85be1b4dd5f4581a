/**
 * The network between guests and this machine: an Ethernet switch, into which each QEMU is plugged by a unix socket, and one
 * more QEMU without a machine, whose network for users is the way to 127.0.0.1 here. No rights are needed for any of it; and
 * since the network belongs to no guest, connections outlive a guest's move from one QEMU to another.
 *
 * (A hub will not do: QEMU's network for users would answer what is meant for other guests, too.)
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** QEMU puts its length in front of each frame on a stream, in 32 bits, big-endian. */
const PREFIX = 4;
/** Destination and source. */
const ADDRESSES = 12;
/** Bytes that wait for a slow machine; what is more is dropped, as a switch does. */
const BACKLOG = 4 << 20;

/** Takes the frames out of a stream. */
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
  /** This machine's 127.0.0.1, as the guests call it. */
  static readonly host = '10.0.2.2';
  readonly #folder = mkdtempSync(join(tmpdir(), 'isthmus-switch-'));
  readonly #path = join(this.#folder, 'switch');
  readonly #ports = new Set<Socket>();
  /** Behind which port an address was seen last. */
  readonly #places = new Map<string, Socket>();
  readonly #server = createServer((socket) => this.#plugged(socket));
  #way: ChildProcess | undefined;
  /** Its port, the first. */
  #user: Socket | undefined;

  static async start(): Promise<Switch> {
    const made = new Switch();
    made.#server.listen(made.#path).unref();
    await once(made.#server, 'listening');
    made.#way = spawn(
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
   * Arguments of a QEMU that is plugged in.
   * @param number of the guest, from 1: a guest that moves keeps it
   */
  plug(number: number): string[] {
    const mac = `52:54:00:00:00:${number.toString(16).padStart(2, '0')}`;
    return [
      ...['-netdev', `stream,id=net0,server=off,addr.type=unix,addr.path=${this.#path}`],
      // Without the firmware to boot from it.
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
        // Of a guest that is just moving: the network for users would answer for it.
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
