/**
 * Hosts with virtual machines on one real machine, as a test needs them:
 *
 * ```ts
 * const lab = await Lab.start();                          // a network, and a broker
 * const host = await Host.start('one');                   // `isthmus server`: a region
 * const a = await lab.guest('a', { devices: [host] });    // boots; the driver is bound to the device
 * const b = await lab.guest('b', { devices: [host] });
 * const server = await lab.application(b);                // test/vm/program.ts, over the installed package
 * const client = await lab.application(a);
 * const flow = await client.connect(server);
 * ```
 *
 * `missing` (needs.ts) reports missing programs; tests are then skipped, visibly. Everything has a limit, a QEMU that ends
 * fails the scenario at once, and nothing is left (lifetime.ts).
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import type { RuntimeOptions } from '../../host/index.js';
import { TestBroker } from '../support/broker.js';
import { Remote } from '../support/calls.js';
import { chosen } from '../support/process.js';
import { testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';
import { Guest, type GuestOptions, whileGuestsRun } from './guest.js';
import { disk, drive, starter } from './image.js';
import { type Kernel, kernel } from './kernel.js';
import { ownFolder } from './lifetime.js';
import { MEMORY, missing, tooSlow } from './needs.js';
import type { FlowOptions, FlowView } from './program.js';
import type { Memory } from './segment.js';
import { Switch } from './switch.js';
import { slowness } from './tools.js';

// ── Scenarios ────────────────────────────────────────────────────────────────────────────────────────────────────────

const why = missing() ?? (await tooSlow());
if (why) console.log(`! SKIPPED, no scenarios with virtual machines here (npm run test:vm:setup): ${why}`);
const test = chosen(why ? (register.skip as unknown as typeof register) : register);

/** A test that needs virtual machines. If it fails, the logs of the guests are shown. */
export function scenario(name: string, seconds: number, body: () => Promise<void>): void {
  test(`${name}${why ? ' (skipped)' : ''}`, async () => {
    try {
      await timebox(seconds, () => whileGuestsRun(body))();
    } catch (error) {
      for (const lab of labs) await lab.show();
      throw error;
    }
  });
}

// ── A lab ────────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface GuestSetup {
  /** Devices that are plugged in before it starts, as `ivshmem0`, … */
  readonly devices?: readonly Memory[];
  /** Whether the driver is loaded; default yes. */
  readonly driver?: boolean;
}

const labs = new Set<Lab>();

export class Lab {
  readonly broker: TestBroker;
  readonly #switch: Switch;
  readonly #kernel: Kernel;
  readonly #disk: string;
  readonly #folder = ownFolder('lab');
  readonly #numbers = new Map<string, number>();
  readonly #guests = new Set<Guest>();

  private constructor(broker: TestBroker, network: Switch, kernel: Kernel, disk: string) {
    this.broker = broker;
    this.#switch = network;
    this.#kernel = kernel;
    this.#disk = disk;
    labs.add(this);
  }

  static async start(): Promise<Lab> {
    const found = kernel();
    return new Lab(await TestBroker.start(), await Switch.start(), found, await disk());
  }

  /** URL of the broker for guests. */
  get brokerUrl(): string {
    return `mqtt://${Switch.host}:${this.broker.port}`;
  }

  /** Its address in the network. */
  address(guest: Guest): string {
    return Switch.address(this.#numbers.get(guest.name) as number);
  }

  #options(name: string, devices: readonly Memory[]): GuestOptions {
    let number = this.#numbers.get(name);
    if (number === undefined) {
      number = this.#numbers.size + 1;
      this.#numbers.set(name, number);
    }
    return {
      kernel: this.#kernel.image,
      initramfs: starter(this.#kernel),
      name,
      address: Switch.address(number),
      memory: MEMORY,
      args: [
        ...drive(this.#disk),
        ...this.#switch.plug(number),
        ...devices.flatMap((memory, i) => memory.plugged(`ivshmem${i}`)),
      ],
    };
  }

  /** Boots a guest of this name. */
  async guest(name: string, { devices = [], driver = true }: GuestSetup = {}): Promise<Guest> {
    const guest = await Guest.start(this.#options(name, devices));
    this.#guests.add(guest);
    if (driver) await loadDriver(guest);
    return guest;
  }

  /** A place on another host to which a guest is to move, and the address where it listens for the guest. */
  async destination(guest: Guest): Promise<{ there: Guest; uri: string }> {
    guest.mayEnd();
    const incoming = join(this.#folder, `to-${guest.name}-${this.#guests.size}`);
    const there = await Guest.start({ ...this.#options(guest.name, []), incoming });
    this.#guests.add(there);
    return { there, uri: `unix:${incoming}` };
  }

  /** An application in a guest, which takes part in migrations over the broker. */
  async application(guest: Guest, options: RuntimeOptions = {}): Promise<Application> {
    const all = { seed, name: guest.name, suspendResume: true, broker: this.brokerUrl, ...PATIENCE, ...options };
    const { remote, port } = await Remote.listen('127.0.0.1', 0, PATIENT);
    await start(guest, 'application', all, `${Switch.host}:${port}`);
    const pid = await guest.unlessItEnds(remote.event<number>('ready', 120));
    return new Application(this, guest, remote, pid);
  }

  /** Logs of the guests. */
  async show(): Promise<void> {
    for (const guest of this.#guests) {
      try {
        const { output } = await guest.run('tail -n 40 /tmp/*.log; dmesg | tail -n 15', 10);
        console.log(`── ${guest.name}\n${output}`);
      } catch {
        console.log(`── ${guest.name} does not answer`);
      }
    }
  }

  async end(): Promise<void> {
    labs.delete(this);
    await Promise.all([...this.#guests].map((guest) => guest.end()));
    this.#switch.close();
    await this.broker.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** The driver is bound to the devices that exist and to those plugged in later. */
export async function loadDriver(guest: Guest): Promise<void> {
  await guest.shell('insmod /modules/uio.ko && insmod /modules/uio_ivshmem.ko');
}

/** Factor on the limits of calls to applications. */
const PATIENT = 6;
/** An emulated processor needs far more time than a real one. */
const PATIENCE: RuntimeOptions = {
  handshakeTimeout: 60_000 * slowness,
  suspendTimeout: 60_000 * slowness,
  closeTimeout: 60_000 * slowness,
  mqttKeepalive: 120,
  stallTimeout: 20_000,
};

/** Limit for all bytes that cross. */
export const seed = testSeed();

/** Traffic of the scenarios. */
export const messages: FlowOptions = {
  longest: Number(process.env['ISTHMUS_VM_LONGEST'] ?? 100_000),
  pace: 5,
};

/** Names of log files. */
let programs = 0;

/**
 * Starts test/vm/program.ts in a guest, in the background.
 * @param parent address that it connects to
 * @returns the file with its output
 */
export async function start(guest: Guest, role: string, options: unknown, parent?: string): Promise<string> {
  const json = JSON.stringify(options).replaceAll("'", "'\\''");
  const env = parent === undefined ? '' : `ISTHMUS_PARENT=${parent} `;
  const log = `/tmp/${role}-${programs++}.log`;
  const slow = `ISTHMUS_TEST_SLOWNESS=${10 * slowness}`;
  await guest.shell(`cd /app && ${env}${slow} node program.mjs role:${role} '${json}' >${log} 2>&1 &`);
  return log;
}

export interface SuiteSetup {
  readonly lab: Lab;
  readonly near: Guest;
  readonly far: Guest;
  readonly plugin: 'ivshmem' | 'tcp';
  readonly seed: number;
}

/** Port where the near end of the suite waits for the far one. */
const SUITE_PORT = 7300;

/**
 * The conformance suite (test/support/conformance.ts) between two guests.
 * @returns its output
 */
export async function suite({ lab, near, far, plugin, seed }: SuiteSetup): Promise<string> {
  const ring = 65_536;
  const options = { ringSize: ring, tcpRingSize: ring, ...(plugin === 'tcp' ? { ivshmem: 0 } : {}) };
  const { ISTHMUS_VM_CONFORMANCE: only = '', ISTHMUS_VM_SCALE: scale = '20' } = process.env;
  const all = { plugin, seed, scale: Number(scale), ring, options, host: lab.address(far), port: SUITE_PORT, only };
  const log = await start(near, 'suite', all);
  await near.until(`cat ${log}`, (text) => text.includes('waiting for the far end'), 120);
  await start(far, 'far', options, `${lab.address(near)}:${SUITE_PORT}`);
  await near.until('pidof node || echo none', (text) => text.includes('none'), 540);
  return near.shell(`cat ${log}`);
}

// ── Applications ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** test/vm/program.ts, running in a guest. */
export class Application {
  readonly pid: number;
  /** The guest that runs it; the test sets it after a move. */
  guest: Guest;
  readonly #lab: Lab;
  readonly #remote: Remote;
  #port: number | undefined;

  constructor(lab: Lab, guest: Guest, remote: Remote, pid: number) {
    this.#lab = lab;
    this.guest = guest;
    this.#remote = remote;
    this.pid = pid;
  }

  /** Connects to another, which listens if it does not yet. */
  async connect(other: Application): Promise<Flow> {
    other.#port ??= await other.#remote.call<number>('listen');
    const here = await this.#remote.call<number>('connect', this.#lab.address(other.guest), other.#port);
    const there = await other.#remote.event<number>('come');
    return new Flow(new FlowEnd(this, here), new FlowEnd(other, there));
  }

  call<T>(name: string, ...args: readonly unknown[]): Promise<T> {
    return this.guest.unlessItEnds(this.#remote.call<T>(name, ...args));
  }

  /** Repeats a call until the answer matches. */
  async until<T>(name: string, fits: (answer: T) => boolean, seconds = 60): Promise<T> {
    const end = performance.now() + seconds * slowness * 1000;
    for (;;) {
      const answer = await this.call<T>(name);
      if (fits(answer)) return answer;
      if (performance.now() > end) throw new Error(`${name}: still ${JSON.stringify(answer)}`);
      await pause(200);
    }
  }

  /** Open files and mappings of the process that prevent the release of a device. */
  held(): Promise<string[]> {
    return this.call('held');
  }

  async close(): Promise<void> {
    await this.call('close');
    this.#remote.close();
  }
}

/** One end of a connection. */
export class FlowEnd {
  readonly application: Application;
  readonly #number: number;

  constructor(application: Application, number: number) {
    this.application = application;
    this.#number = number;
  }

  view(): Promise<FlowView> {
    return this.application.call('view', this.#number);
  }

  start(options: FlowOptions): Promise<void> {
    return this.application.call('start', this.#number, options);
  }

  stop(): Promise<number> {
    return this.application.call('stop', this.#number);
  }

  /** Waits until the state is as expected. */
  async until(what: string, fits: (view: FlowView) => boolean, seconds = 60): Promise<FlowView> {
    const end = performance.now() + seconds * slowness * 1000;
    for (;;) {
      const view = await this.view();
      if (fits(view)) return view;
      if (performance.now() > end) throw new Error(`not ${what}: ${JSON.stringify(view)}`);
      await pause(200);
    }
  }
}

/** A connection between two applications, with messages in both directions. */
export class Flow {
  readonly near: FlowEnd;
  readonly far: FlowEnd;

  constructor(near: FlowEnd, far: FlowEnd) {
    this.near = near;
    this.far = far;
  }

  get ends(): readonly FlowEnd[] {
    return [this.near, this.far];
  }

  async start(options: FlowOptions): Promise<void> {
    await Promise.all(this.ends.map((end) => end.start(options)));
  }

  /** Both ends are open over that plugin. */
  async over(plugin: string, seconds = 60): Promise<void> {
    for (const end of this.ends) {
      await end.until(`open over ${plugin}`, (view) => view.state === 'open' && view.plugin === plugin, seconds);
    }
  }

  /** Messages arrive at both ends. */
  async flows(seconds = 60): Promise<void> {
    for (const end of this.ends) {
      const { received } = await end.view();
      await end.until(`receiving more than ${received}`, (view) => view.received > received + 20, seconds);
    }
  }

  /** Ends the streams. @returns the received messages, compared with those sent */
  async stop(seconds = 120): Promise<Counts> {
    await Promise.all(this.ends.map((end) => end.stop()));
    const views = await Promise.all(
      this.ends.map((end) => end.until('at the end', ({ announced }) => announced !== undefined, seconds)),
    );
    const sum = (name: 'sent' | 'received' | 'lost' | 'doubled' | 'disordered' | 'damaged') =>
      views.reduce((total, view) => total + (view[name] ?? 0), 0);
    return {
      sent: sum('sent'),
      received: sum('received'),
      wrong: sum('lost') + sum('doubled') + sum('disordered') + sum('damaged'),
    };
  }
}

export interface Counts {
  readonly sent: number;
  readonly received: number;
  /** Messages lost, doubled, out of order, or with other bytes. */
  readonly wrong: number;
}
