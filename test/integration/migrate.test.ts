/**
 * `isthmus migrate`: with real virtual machines without an operating system, which cannot release a device; and, for
 * behaviour that needs an operating system or a failure at a certain moment, with simulated ones. The broker is real.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { Qmp } from '../../host/cli/vm/qmp.js';
import { freePort, TestBroker } from '../support/broker.js';
import { printed } from '../support/cli.js';
import { disguise } from '../support/disguise.js';
import { libvirtMissing, TestLibvirt } from '../support/libvirt.js';
import { Child, chosen, endChildren, program } from '../support/process.js';
import { QmpStandIn } from '../support/qmp.js';
import { MIB, namedRegions, newPath, newRegion, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

namedRegions();

const test = chosen(register);
const CLI = process.env['ISTHMUS_CLI'] ?? resolve('dist/cli.js');
const QEMU = 'qemu-system-x86_64';
const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);
/** Limits for answers that arrive, and for those that do not, in seconds. */
const WAIT = String(3 * slowness);

type Args = Readonly<Record<string, unknown>>;

// ─── real machines ───────────────────────────────────────────────────────────────────────────────────────────────────

const machines = new Set<ChildProcess>();
process.on('exit', () => {
  for (const machine of machines) machine.kill('SIGKILL');
});

/** Its firmware searches for something to boot, for ever. */
class RealQemu {
  readonly path = newPath('qmp');
  readonly process: ChildProcess;

  constructor(...args: string[]) {
    const common = ['-nodefaults', '-display', 'none', '-machine', 'pc', '-accel', 'tcg', '-m', '32'];
    this.process = spawn(QEMU, [...common, '-qmp', `unix:${this.path},server=on,wait=off`, ...args], {
      stdio: 'ignore',
    });
    machines.add(this.process);
  }

  static async start(...args: string[]): Promise<RealQemu> {
    const qemu = new RealQemu(...args);
    await qemu.ask('query-status');
    return qemu;
  }

  async ask<T>(command: string, args?: Args): Promise<T> {
    for (const end = performance.now() + 20_000 * slowness; ; await pause(50)) {
      let qmp: Qmp | undefined;
      try {
        qmp = await Qmp.open(this.path);
        return (await qmp.execute(command, args)) as T;
      } catch (error) {
        if (performance.now() > end) throw error;
      } finally {
        await qmp?.close();
      }
    }
  }

  async status(): Promise<string> {
    return (await this.ask<{ status: string }>('query-status')).status;
  }

  /** Ids of its ivshmem devices. */
  async devices(): Promise<string[]> {
    const all = await this.ask<{ name: string; type: string }[]>('qom-list', { path: '/machine/peripheral' });
    return all.filter(({ type }) => type === 'child<ivshmem-plain>').map(({ name }) => name);
  }
}

const ivshmem = (path: string) => [
  ...['-object', `memory-backend-file,id=mem0,share=on,mem-path=${path},size=1M`],
  ...['-device', 'ivshmem-plain,id=dev0,memdev=mem0'],
];

// ─── simulated machines ──────────────────────────────────────────────────────────────────────────────────────────────

interface Part {
  readonly id: string;
  readonly path: string;
}

/** A machine whose guest releases devices or does not, and whose migration proceeds as the test wants. */
class SimulatedQemu {
  readonly devices: Part[] = [];
  readonly objects: Part[] = [];
  status: string;
  migration: string | undefined;
  /** How long the guest takes to release a device, in milliseconds. */
  lettingGo = 10;
  qmp!: QmpStandIn;

  private constructor(status: string) {
    this.status = status;
  }

  static async start(status: string, ...paths: string[]): Promise<SimulatedQemu> {
    const qemu = new SimulatedQemu(status);
    for (const [i, path] of paths.entries()) {
      qemu.objects.push({ id: `mem${i}`, path });
      qemu.devices.push({ id: `dev${i}`, path });
    }
    qemu.qmp = await QmpStandIn.start(qemu.#handlers());
    played.add(qemu);
    return qemu;
  }

  /** Commands that it received, without queries. */
  get done(): string[] {
    return this.qmp.commands.filter((command) => !/^(query|qom|human)-/.test(command));
  }

  /** Its devices and their memory. */
  get has(): string {
    return [...this.objects, ...this.devices].map(({ id }) => id).join(' ');
  }

  remove(from: Part[], id: unknown): void {
    const at = from.findIndex((part) => part.id === id);
    if (at < 0) throw new Error(`'${id}' not found`);
    from.splice(at, 1);
  }

  #handlers(): QmpStandIn['handlers'] {
    const children = (parts: Part[], type: string) => parts.map(({ id }) => ({ name: id, type: `child<${type}>` }));
    return {
      'query-status': () => ({ status: this.status }),
      'human-monitor-command': () => '              Block Name    PSize\r\n                  pc.ram    4 KiB\r\n',
      'query-uuid': () => ({ UUID: '00000000-0000-0000-0000-000000000000' }),
      'query-migrate': () => (this.migration === undefined ? {} : { status: this.migration }),
      'qom-list': ({ path }) => {
        if (path === '/machine/peripheral') return children(this.devices, 'ivshmem-plain');
        return path === '/objects' ? children(this.objects, 'memory-backend-file') : [];
      },
      'qom-get': ({ path, property }) => {
        const device = this.devices.find(({ id }) => path === `/machine/peripheral/${id}`);
        const object = this.objects.find(({ id }) => path === `/objects/${id}`);
        if (property === 'memdev') return `/objects/${this.objects.find((part) => part.path === device?.path)?.id}`;
        if (property === 'parent_bus') return '/machine/i440fx/pci.0';
        if (property === 'addr') return 0x21;
        return property === 'size' ? MIB : object?.path;
      },
      device_del: ({ id }) => {
        setTimeout(() => {
          this.remove(this.devices, id);
          this.qmp.event('DEVICE_DELETED', { device: id, path: `/machine/peripheral/${id}` });
        }, this.lettingGo);
      },
      'object-del': ({ id }) => this.remove(this.objects, id),
      'object-add': ({ id, 'mem-path': path, size, share }) => {
        assert.equal([size, share], [MIB, true]);
        this.objects.push({ id: String(id), path: String(path) });
      },
      device_add: ({ id, memdev, bus }) => {
        assert.is(bus, 'pci.0');
        this.devices.push({ id: String(id), path: this.objects.find((part) => part.id === memdev)?.path as string });
      },
      migrate_cancel: () => {
        this.migration = 'cancelled';
      },
      'migrate-incoming': () => {},
      cont: () => {
        this.status = 'running';
      },
      quit: () => this.qmp.hangUp(),
    };
  }

  /** Result of `migrate`. */
  onMigrate(act: () => void): void {
    this.qmp.handlers['migrate'] = act;
  }
}

const played = new Set<SimulatedQemu>();

/** Two machines; the first moves to the second unless the test says otherwise. */
async function pair(...paths: string[]): Promise<[SimulatedQemu, SimulatedQemu]> {
  const [source, destination] = [
    await SimulatedQemu.start('running', ...paths),
    await SimulatedQemu.start('inmigrate'),
  ];
  source.onMigrate(() => moves(source, destination));
  return [source, destination];
}

function moves(source: SimulatedQemu, destination: SimulatedQemu): void {
  source.migration = 'active';
  setTimeout(() => {
    source.migration = 'completed';
    source.status = 'postmigrate';
  }, 100);
  setTimeout(() => {
    destination.status = 'running';
  }, 200);
}

// ─── the path to the broker ──────────────────────────────────────────────────────────────────────────────────────────

/** Forwards bytes between a process and the broker, until it is cut. */
class Relay {
  readonly #sockets = new Set<Socket>();
  #server: ReturnType<typeof createServer> | undefined;
  #port = 0;
  readonly #to: number;

  constructor(to: number) {
    this.#to = to;
  }

  get url(): string {
    return `mqtt://127.0.0.1:${this.#port}`;
  }

  async open(): Promise<void> {
    this.#port ||= await freePort();
    this.#server = createServer((near) => {
      const far = connect(this.#to, '127.0.0.1');
      for (const socket of [near, far]) {
        this.#sockets.add(socket);
        socket
          .on('error', () => {})
          .on('close', () => {
            near.destroy();
            far.destroy();
          });
      }
      near.pipe(far).pipe(near);
    }).listen(this.#port, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  cut(): void {
    this.#server?.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

// ─── the tests ───────────────────────────────────────────────────────────────────────────────────────────────────────

function main(): void {
  let broker: TestBroker;
  process.env['XDG_RUNTIME_DIR'] = mkdtempSync(join(tmpdir(), 'isthmus-test-migrate-'));
  test.before(async () => {
    broker = await TestBroker.start();
  });
  test.after.each(async () => {
    await endChildren();
    for (const { qmp } of played) await qmp.close();
    played.clear();
    for (const machine of machines) machine.kill('SIGKILL');
    machines.clear();
  });
  test.after(async () => {
    await broker.close();
    removeRegions();
    rmSync(process.env['XDG_RUNTIME_DIR'] as string, { recursive: true });
  });

  let hosts = 0;
  /** A separate host for each test, with processes that take part. */
  async function guest(count: number, url = broker.url): Promise<{ host: string; children: Child[] }> {
    const host = `vm-${process.pid}-${++hosts}`;
    const children = Array.from({ length: count }, () => {
      return Child.start(program('migratable'), 'process', { url, options: { host } });
    });
    await Promise.all(children.map((child) => child.event('ready')));
    for (const end = performance.now() + 20_000 * slowness; ; await pause(50)) {
      const { stdout } = await printed(['status', '--host', host, '--broker', broker.url, '--json']);
      if (JSON.parse(stdout).length === count) return { host, children };
      if (performance.now() > end) throw new Error(stdout);
    }
  }

  const calls = (child: Child) => child.call<string[][]>('calls').then(([first]) => first);
  const states = (children: Child[]) =>
    Promise.all(children.map((child) => child.call<string[]>('states').then(([state]) => state)));

  interface Ends {
    readonly path: string;
  }
  const args = (host: string, [source, destination]: readonly [Ends, Ends], ...more: string[]) => [
    ...['migrate', '--qmp', source.path, '--to-qmp', destination.path, '--host', host, '--broker', broker.url],
    ...(more.includes('--uri') ? more : ['--uri', 'unix:/nonexistent/isthmus', ...more]),
  ];
  const play = (host: string, [source, destination]: readonly [SimulatedQemu, SimulatedQemu], ...more: string[]) =>
    printed(args(host, [source.qmp, destination.qmp], ...more));

  /** Names and results, in order. */
  const steps = (stdout: string) =>
    [...stdout.matchAll(/^([\w ]+): (ok|failed) after \S+ \S+?(?:,|$)/gm)].map(
      ([, name, result]) => `${name} ${result}`,
    );
  const ALL = ['look', 'suspend', 'migrate', 'attach', 'resume', 'quit'].map((name) => `${name} ok`);

  const real = spawnSync(QEMU, ['--version']).error === undefined;
  if (!real) console.log(`! no ${QEMU} here (apt-get install qemu-system-x86): real virtual machines are NOT MIGRATED`);
  const withQemu = real ? test : (register.skip as unknown as typeof test);

  withQemu(
    'a real machine moves, and gets a device at the destination; all output',
    timebox(90, async () => {
      const { host, children } = await guest(2);
      const uri = `unix:${newPath('move')}`;
      const pairOf = [await RealQemu.start(), await RealQemu.start('-incoming', uri)] as const;
      const [source, destination] = pairOf;
      const file = newRegion(MIB);
      const { code, stdout, stderr } = await printed(args(host, pairOf, '--uri', uri, '--attach', basename(file)));
      assert.is(code, 0, stdout + stderr);
      assert.equal(steps(stdout), ALL, stdout);
      assert.match(stdout, /^look: ok after .*, no ivshmem device; 2 processes of vm-\d+-\d+ to suspend$/m);
      assert.match(stdout, /^suspend: ok after .*, 2 of 2 suspended$/m);
      assert.match(stdout, new RegExp(`^attach: ok after .*, ${basename(file)} \\(1 MiB\\)$`, 'm'));
      assert.match(stdout, /\n\nstep +result +after\nlook +ok +\S+ \S+ +no ivshmem/);
      for (const child of children) assert.equal(await calls(child), ['suspend', 'resume']);
      assert.is(await destination.status(), 'running');
      assert.equal(await destination.devices(), [`isthmus-${basename(file)}`]);
      if (source.process.exitCode === null) await once(source.process, 'exit');
      assert.is(source.process.exitCode, 0);
    }),
  );

  withQemu(
    'a real machine moves to one that was started with -incoming defer; --keep-source, --json, and no process to suspend',
    timebox(90, async () => {
      const uri = `tcp:127.0.0.1:${await freePort()}`;
      const pairOf = [await RealQemu.start(), await RealQemu.start('-incoming', 'defer')] as const;
      const done = await printed(args('vm-empty', pairOf, '--uri', uri, '--keep-source', '--json'));
      assert.is(done.code, 0, done.stdout + done.stderr);
      const lines = done.stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
      assert.equal(
        lines.map(({ step, result, undo }) => [step, result, undo]),
        ['look', 'suspend', 'migrate'].map((step) => [step, 'ok', false]),
      );
      assert.is(lines[1].text, 'no process of vm-empty takes part');
      assert.is(await pairOf[0].status(), 'postmigrate');
      assert.is(await pairOf[1].status(), 'running');
    }),
  );

  withQemu(
    'a guest that does not release its device: the state before is restored',
    timebox(90, async () => {
      const { host, children } = await guest(1);
      const uri = `unix:${newPath('move')}`;
      const file = newRegion(MIB);
      const pairOf = [await RealQemu.start(...ivshmem(file)), await RealQemu.start('-incoming', uri)] as const;
      const { code, stdout, stderr } = await printed(args(host, pairOf, '--uri', uri, '--wait', WAIT));
      assert.is(code, 1);
      assert.equal(steps(stdout), ['look ok', 'suspend ok', 'detach failed', 'attach again ok', 'resume ok'], stdout);
      assert.match(stdout, /^attach again: ok after .*, the guest still has \S+$/m);
      assert.match(
        stderr,
        /has not moved, and runs at the source as before: detach: the guest .* within \S+ s\n {2}It was asked/,
      );
      assert.equal(await calls(children[0] as Child), ['suspend', 'resume']);
      assert.equal(await states(children), ['inactive']);
      assert.is(await pairOf[0].status(), 'running');
      assert.equal(await pairOf[0].devices(), ['dev0']);
      assert.is(await pairOf[1].status(), 'inmigrate');
    }),
  );

  withQemu(
    'no listener at the destination of the real machine',
    timebox(90, async () => {
      const { host, children } = await guest(1);
      const pairOf = [await RealQemu.start(), await RealQemu.start('-incoming', `unix:${newPath('move')}`)] as const;
      const { code, stdout, stderr } = await printed(args(host, pairOf));
      assert.is(code, 1);
      assert.equal(steps(stdout), ['look ok', 'suspend ok', 'migrate failed', 'resume ok'], stdout);
      assert.match(stderr, /runs at the source as before: migrate: .*No such file or directory\n/);
      assert.equal(await states(children), ['inactive']);
      assert.is(await pairOf[0].status(), 'running');
    }),
  );

  withQemu(
    'a real machine that is missing, does not run, or has no waiting destination',
    timebox(90, async () => {
      const [source, waiting] = [await RealQemu.start(), await RealQemu.start('-incoming', 'defer')];
      const look = async (...ends: [Ends, Ends]) => (await printed(args('vm-empty', ends))).stderr;
      assert.match(await look({ path: newPath() }, waiting), /^isthmus: look: --qmp: .*ENOENT.*\n {2}Start QEMU with/);
      assert.match(
        await look(source, source),
        /look: --to-qmp: .*has not sent its greeting: is another client connected/,
      );
      assert.match(
        await look(source, await RealQemu.start()),
        /does not wait for a migration: it is running\n {2}Start it/,
      );
      assert.match(await look(await RealQemu.start('-S'), waiting), /the machine is prelaunch at/);
      const away = [...args('vm-empty', [source, waiting]), '--broker', 'mqtt://127.0.0.1:1'];
      assert.match((await printed(away)).stderr, /^isthmus: look: mqtt:\/\/127\.0\.0\.1:1: .*ECONNREFUSED/);
      assert.is(await source.status(), 'running');
      assert.is(await waiting.status(), 'inmigrate');
    }),
  );

  test(
    'two devices are detached and another one attached, in order',
    timebox(90, async () => {
      const { host, children } = await guest(1);
      const both = await pair(newPath(), newPath());
      const path = newRegion(MIB);
      const { code, stdout, stderr } = await play(host, both, '--attach', path);
      assert.is(code, 0, stdout + stderr);
      assert.equal(steps(stdout), [...ALL.slice(0, 2), 'detach ok', 'detach ok', ...ALL.slice(2)]);
      const [source, destination] = both;
      assert.equal(source.done, ['device_del', 'object-del', 'device_del', 'object-del', 'migrate', 'quit']);
      assert.equal(destination.done, ['migrate-incoming', 'object-add', 'device_add']);
      assert.is(destination.devices[0]?.path, path);
      assert.equal(await states(children), ['inactive']);
    }),
  );

  test(
    'a process that cannot be suspended: no further step, and the others are resumed',
    timebox(90, async () => {
      const { host, children } = await guest(2);
      const both = await pair(newPath());
      await children[0]?.call('fail', 0, 'no answer from b[8]');
      const { code, stdout, stderr } = await play(host, both);
      assert.is(code, 1);
      assert.equal(steps(stdout), ['look ok', 'suspend failed', 'resume ok'], stdout);
      assert.match(stderr, /suspend: 1 of 2 suspended: worker FAILED no answer from b\[8\]\n/);
      assert.equal(await states(children), ['inactive', 'inactive']);
      assert.equal(both[0].done, []);
      assert.equal(both[1].done, []);
    }),
  );

  test(
    'a process that left the broker without a message may hold the device: no further step, unless the operator confirms that it has ended',
    timebox(90, async () => {
      const relay = new Relay(broker.port);
      await relay.open();
      const { host, children } = await guest(1, relay.url);
      const both = await pair(newPath());
      // It runs on, cut off from the broker.
      relay.cut();
      const { code, stdout, stderr } = await play(host, both, '--wait', '1');
      assert.is(code, 1);
      assert.equal(steps(stdout), ['look failed'], stdout);
      assert.match(
        stderr,
        /look: 1 process of \S+ lost the connection to the broker and may still use a device: \d+\n/,
      );
      assert.match(stderr, /'--ignore-lost'/);
      assert.equal(both[0].done, []);
      const again = await play(host, both, '--ignore-lost');
      assert.is(again.code, 0, again.stdout + again.stderr);
      const without = ['look ok', 'suspend ok', 'detach ok', 'migrate ok', 'quit ok'];
      assert.equal(steps(again.stdout), without);
      assert.equal(await states(children), ['inactive']);
    }),
  );

  test(
    'a process that left the broker and has ended for certain, as is seen on its own kernel, is not waited for',
    timebox(90, async () => {
      const { host, children } = await guest(2);
      await children[0]?.kill();
      const { code, stdout, stderr } = await play(host, await pair(newPath()), '--wait', '5');
      assert.is(code, 0, stdout + stderr);
      assert.match(stdout, /^look: .*; 1 process of \S+ to suspend$/m);
    }),
  );

  test(
    'a process that takes too long to be suspended is stopped',
    timebox(90, async () => {
      const { host, children } = await guest(2);
      await children[0]?.call('delay', 0, 60_000);
      const { code, stdout } = await play(host, await pair(), '--wait', WAIT);
      assert.is(code, 1);
      assert.equal(steps(stdout), ['look ok', 'suspend failed', 'resume ok'], stdout);
      assert.equal(await states(children), ['inactive', 'inactive']);
    }),
  );

  test(
    'a migration that fails: the devices are attached again where they were, the guest runs, the processes are resumed',
    timebox(90, async () => {
      const { host, children } = await guest(1);
      const both = await pair(newPath(), newPath());
      const [source] = both;
      const before = source.has;
      source.onMigrate(() => {
        source.migration = 'failed';
        source.status = 'paused';
      });
      const { code, stdout, stderr } = await play(host, both);
      assert.is(code, 1);
      assert.match(stderr, /runs at the source as before: migrate: the migration has failed\n/);
      assert.equal(steps(stdout).slice(-4), ['migrate failed', 'attach again ok', 'attach again ok', 'resume ok']);
      assert.equal(source.done.slice(4), ['migrate', 'cont', 'object-add', 'device_add', 'object-add', 'device_add']);
      assert.is(source.has.split(' ').sort().join(), before.split(' ').sort().join());
      assert.equal(await states(children), ['inactive']);
    }),
  );

  test(
    'a device that is released only after the limit is attached again',
    timebox(90, async () => {
      const { host, children } = await guest(1);
      const both = await pair(newPath());
      both[0].lettingGo = Number(WAIT) * 1000 + 1500;
      const { stdout } = await play(host, both, '--wait', WAIT);
      assert.equal(steps(stdout), ['look ok', 'suspend ok', 'detach failed', 'attach again ok', 'resume ok'], stdout);
      assert.equal(both[0].done, ['device_del', 'device_add']);
      assert.is(both[0].has, 'mem0 dev0');
      assert.equal(await states(children), ['inactive']);
    }),
  );

  test(
    'another failure while a migration is undone: the remaining steps are done all the same',
    timebox(90, async () => {
      const { host, children } = await guest(1);
      const both = await pair(newPath(), newPath());
      const [source] = both;
      source.onMigrate(() => {
        throw new Error('State blocked by non-migratable device');
      });
      const add = source.qmp.handlers['object-add'];
      source.qmp.handlers['object-add'] = (object) => {
        if (object['id'] === 'mem1') throw new Error('No space left on device');
        return add?.(object);
      };
      const { code, stdout, stderr } = await play(host, both);
      assert.is(code, 1);
      assert.equal(steps(stdout).slice(-4), ['migrate failed', 'attach again failed', 'attach again ok', 'resume ok']);
      assert.match(
        stderr,
        /is not as it was before: migrate: .*non-migratable device; attach again: .*No space left.*\n {2}Attach/,
      );
      assert.is(source.has, 'mem0 dev0');
      assert.equal(await states(children), ['inactive']);
    }),
  );

  test(
    'a destination that ends with the last bytes: the guest continues at the source. One that does not answer: unknown',
    timebox(90, async () => {
      const { host, children } = await guest(1);
      const both = await pair(newPath());
      const [source, destination] = both;
      source.onMigrate(() => {
        source.migration = 'completed';
        source.status = 'postmigrate';
        destination.qmp.hangUp();
      });
      const { code, stdout, stderr } = await play(host, both);
      assert.is(code, 1);
      assert.match(stderr, /runs at the source as before: migrate: the destination has not taken the machine/);
      assert.equal(source.done.slice(2), ['migrate', 'cont', 'object-add', 'device_add']);
      assert.equal(steps(stdout).slice(-3), ['migrate failed', 'attach again ok', 'resume ok']);
      assert.equal(await states(children), ['inactive']);

      const unknown = await pair(newPath());
      unknown[0].onMigrate(() => {
        unknown[0].migration = 'completed';
        unknown[0].status = 'postmigrate';
        unknown[1].qmp.handlers['query-status'] = () => {
          throw new Error('I do not know');
        };
      });
      const lost = await play(host, unknown);
      assert.is(lost.code, 1);
      assert.match(
        lost.stderr,
        /^isthmus: it is not known where vm-\S+ runs: migrate: .*I do not know\n {2}Look at both/,
      );
      assert.equal(unknown[0].done.slice(2), ['migrate']);
      assert.equal(await states(children), ['inactive']);
    }),
  );

  test(
    'a device that the destination cannot attach: the processes are resumed there without it',
    timebox(90, async () => {
      const { host, children } = await guest(1);
      const both = await pair(newPath());
      both[1].qmp.handlers['device_add'] = () => {
        throw new Error("Bus 'pci.0' does not support hotplugging");
      };
      const { code, stdout, stderr } = await play(host, both, '--attach', newRegion(MIB));
      assert.is(code, 1);
      assert.equal(steps(stdout).slice(-4), ['migrate ok', 'attach failed', 'resume ok', 'quit ok'], stdout);
      assert.match(stderr, /runs at the destination, but .*: attach: device_add: Bus.*\n {2}Its processes use tcp/);
      assert.equal(both[1].done, ['migrate-incoming', 'object-add', 'device_add', 'object-del']);
      assert.equal(await states(children), ['inactive']);
    }),
  );

  test(
    'SIGINT while it moves: the migration is cancelled and all is undone; SIGTERM when it has moved does not stop it',
    timebox(90, async () => {
      const { host, children } = await guest(1);
      const both = await pair(newPath());
      const [source] = both;
      const begun = new Promise<void>((done) =>
        source.onMigrate(() => {
          source.migration = 'active';
          done();
        }),
      );
      const child = Child.run(CLI, args(host, [source.qmp, both[1].qmp]));
      await begun;
      child.process.kill('SIGINT');
      assert.is((await child.ended()).code, 130, child.output);
      assert.equal(steps(child.output).slice(-3), ['migrate failed', 'attach again ok', 'resume ok'], child.output);
      assert.match(child.output, /runs at the source as before: migrate: interrupted by SIGINT\n/);
      assert.equal(source.done.slice(2), ['migrate', 'migrate_cancel', 'object-add', 'device_add']);
      assert.is(source.has, 'mem0 dev0');
      assert.equal(await states(children), ['inactive']);

      const moved = await pair(newPath());
      moved[0].qmp.handlers['migrate_cancel'] = () => moves(...moved);
      const again = new Promise<void>((done) =>
        moved[0].onMigrate(() => {
          moved[0].migration = 'active';
          done();
        }),
      );
      const late = Child.run(CLI, args(host, [moved[0].qmp, moved[1].qmp], '--attach', newRegion(MIB)));
      await again;
      late.process.kill('SIGTERM');
      assert.is((await late.ended()).code, 143, late.output);
      assert.equal(steps(late.output).slice(-4), ['migrate ok', 'attach ok', 'resume ok', 'quit ok'], late.output);
      assert.equal(await states(children), ['inactive']);
    }),
  );

  test(
    'SIGINT while a process is being suspended',
    timebox(90, async () => {
      const { host, children } = await guest(2);
      await children[0]?.call('delay', 0, 60_000);
      const both = await pair(newPath());
      const child = Child.run(CLI, args(host, [both[0].qmp, both[1].qmp]));
      while ((await states(children)).join() !== 'preparing,allowed') await pause(20);
      child.process.kill('SIGINT');
      assert.is((await child.ended()).code, 130, child.output);
      assert.equal(steps(child.output), ['look ok', 'suspend failed', 'resume ok'], child.output);
      assert.equal(await states(children), ['inactive', 'inactive']);
      assert.equal(both[0].done, []);
    }),
  );

  test(
    'a process loses the broker while it moves, and gets the request again when it returns',
    timebox(90, async () => {
      const relay = new Relay(broker.port);
      await relay.open();
      const { host, children } = await guest(1, relay.url);
      const both = await pair();
      both[0].onMigrate(() => {
        relay.cut();
        moves(...both);
      });
      const migrating = play(host, both);
      while (!both[0].done.includes('migrate')) await pause(20);
      await pause(1500);
      assert.equal(await states(children), ['allowed']);
      await relay.open();
      const { code, stdout, stderr } = await migrating;
      relay.cut();
      assert.is(code, 0, stdout + stderr);
      assert.match(stdout, /^resume: ok after .*, 1 of 1 running$/m);
      assert.equal(await states(children), ['inactive']);
    }),
  );

  test(
    'a process that does not return to the broker',
    timebox(90, async () => {
      const { host, children } = await guest(2);
      const both = await pair();
      both[0].onMigrate(() => {
        children[0]?.process.kill('SIGKILL');
        moves(...both);
      });
      const { code, stdout, stderr } = await play(host, both, '--wait', WAIT);
      assert.is(code, 1);
      assert.equal(steps(stdout).slice(-2), ['migrate ok', 'resume failed'], stdout);
      assert.match(
        stderr,
        /resume: 1 of 2 running: worker not connected to the broker within \S+ s\n {2}'isthmus resume --host vm-\S+'/,
      );
      assert.equal(await states(children.slice(1)), ['inactive']);
    }),
  );

  test(
    '--dry-run checks, prints and does nothing',
    timebox(90, async () => {
      const { host, children } = await guest(1);
      const both = await pair(newPath());
      const path = newRegion(MIB);
      const { code, stdout, stderr } = await play(host, both, '--attach', path, '--dry-run');
      assert.is(code, 0, stderr);
      assert.equal(steps(stdout), ['look ok']);
      assert.equal(
        [...stdout.matchAll(/^# (\w+)$/gm)].map(([, name]) => name),
        ['suspend', 'detach', 'migrate', 'attach', 'resume', 'quit'],
      );
      assert.ok(stdout.includes(`isthmus suspend --host ${host} --broker ${broker.url}\n`), stdout);
      assert.ok(stdout.includes(`${both[0].qmp.path} {"execute":"device_del","arguments":{"id":"dev0"}}\n`), stdout);
      assert.ok(stdout.includes(`"mem-path":"${path}","size":${MIB}`), stdout);
      assert.equal([...both[0].done, ...both[1].done], []);
      assert.equal(await calls(children[0] as Child), []);
      const { stdout: json } = await play(host, both, '--dry-run', '--json');
      assert.equal(
        json
          .trim()
          .split('\n')
          .map((line) => JSON.parse(line).step),
        ['look', 'suspend', 'detach', 'migrate', 'resume', 'quit'],
      );
    }),
  );

  test(
    'processes that are attached: no answer of theirs makes the command pull the device from under them',
    timebox(90, async () => {
      const { host, children } = await guest(1);
      const path = newRegion(MIB);
      // It takes no part over the broker, or somebody has answered in its name.
      const attached = Child.start(program('regions'), 'attach', { path, at: 0 });
      const { slot } = await attached.event<{ slot: number }>('attached');
      disguise(path, slot, host);
      const refused = await pair(path);
      const { code, stdout, stderr } = await play(host, refused);
      assert.is(code, 1);
      assert.equal(steps(stdout), ['look ok', 'suspend ok', 'detach failed', 'resume ok'], stdout);
      assert.match(stderr, new RegExp(`1 process of '${host}' still has ${basename(path)} mapped: slot ${slot} \\(`));
      assert.match(stderr, /\n {2}Suspend them.*--force/);
      assert.equal(refused[0].done, []);
      assert.equal(await states(children), ['inactive']);

      assert.is((await play(host, await pair(path), '--force')).code, 0);
      await attached.call('close');
      assert.is((await play(host, await pair(path))).code, 0);
    }),
  );

  // ─── with libvirt ──────────────────────────────────────────────────────────────────────────────────────────────────

  test(
    'with libvirt, and a program that stands in for virsh: the steps, and the steps undone',
    timebox(90, async () => {
      const { host, children } = await guest(1);
      const folder = mkdtempSync(join(tmpdir(), 'isthmus-test-virsh-'));
      // The devices of a domain are in a file for each side; the libvirtd of the destination is that of --connect.
      writeFileSync(
        join(folder, 'virsh'),
        `#!/bin/sh
cd ${folder}
side=source
test "$1" = --connect && { side=destination; shift 2; }
case "$1" in dumpxml|hostname|domstate|domuuid) ;; *) echo "$side $*" >> log ;; esac
case "$1" in
domuuid) echo 00000000-0000-0000-0000-000000000000 ;;
domstate) cat $side.state 2>/dev/null || { echo "error: failed to get domain 'vm1'" >&2; exit 1; } ;;
dumpxml) cat $side.xml ;;
detach-device) : > $side.xml ;;
attach-device) cat /dev/stdin > $side.xml ;;
migrate) test -f refuse && { echo "error: internal error: unable to connect to 'host2'" >&2; exit 1; }
  rm source.state; echo running > destination.state ;;
esac
exit 0
`,
        { mode: 0o755 },
      );
      const file = (name: string, text: string) => writeFileSync(join(folder, name), text);
      const xml = (name: string) =>
        `<shmem name='${name}'>\n  <model type='ivshmem-plain'/>\n  <size unit='M'>1</size>\n</shmem>\n`;
      file('source.xml', xml('ivshmem0'));
      file('source.state', 'running\n');
      file('destination.xml', '');
      const { PATH } = process.env;
      process.env['PATH'] = `${folder}:${PATH}`;
      const migrate = (...more: string[]) => {
        const to = ['--to', 'qemu+ssh://host2/system', '--host', host, '--broker', broker.url];
        return printed(['migrate', 'vm1', ...to, ...more]);
      };
      const log = () => spawnSync('cat', [join(folder, 'log')], { encoding: 'utf8' }).stdout;
      try {
        const shown = await migrate('--dry-run', '--attach', 'ivshmem1:1', '--', '--persistent');
        assert.is(shown.code, 0, shown.stderr);
        assert.match(
          shown.stdout,
          /\nvirsh migrate --live --persistent --domain vm1 --desturi qemu\+ssh:\/\/host2\/system\n/,
        );
        assert.match(
          shown.stdout,
          /\nvirsh --connect qemu\+ssh:\S+ attach-device .* --live <<'EOF'\n<shmem name='ivshmem1'>/,
        );
        assert.is(log(), '');

        file('refuse', '');
        const refused = await migrate('--attach', 'ivshmem1:1');
        assert.is(refused.code, 1);
        assert.equal(steps(refused.stdout).slice(-3), ['migrate failed', 'attach again ok', 'resume ok']);
        assert.match(
          refused.stderr,
          /runs at the source as before: migrate: virsh: internal error: unable to connect to 'host2'\n/,
        );
        assert.equal(
          log()
            .trim()
            .split('\n')
            .map((line) => line.split(' ').slice(0, 2).join(' ')),
          ['source detach-device', 'source migrate', 'source attach-device'],
        );
        assert.equal(await states(children), ['inactive']);

        rmSync(join(folder, 'refuse'));
        const done = await migrate('--attach', 'ivshmem1:1');
        assert.is(done.code, 0, done.stderr);
        assert.equal(
          steps(done.stdout),
          ['look', 'suspend', 'detach', ...['migrate', 'attach', 'resume']].map((name) => `${name} ok`),
        );
        assert.match(log(), /\ndestination attach-device --domain vm1 --file \/dev\/stdin --live\n$/);
        assert.is((await migrate()).code, 1);
        assert.match(
          (await migrate()).stderr,
          /^isthmus: look: virsh: failed to get domain 'vm1'\n {2}'virsh list --all'/,
        );
      } finally {
        process.env['PATH'] = PATH;
        rmSync(folder, { recursive: true });
      }
    }),
  );

  const missing = libvirtMissing.length > 0;
  if (missing) console.log(`! no ${libvirtMissing.join(', ')} here: a migration by a real libvirt IS NOT TESTED`);
  (missing ? (register.skip as unknown as typeof test) : test)(
    'with a real libvirt, from one daemon to another: a machine moves, gets a device there, and cannot return with it',
    timebox(200, async () => {
      const { host, children } = await guest(1);
      const [here, there] = [await TestLibvirt.start(), await TestLibvirt.start()];
      try {
        const domain = here.domain('create', 'isthmus-migrate');
        const file = newRegion(MIB);
        there.give(file);
        const migrate = (from: TestLibvirt, to: TestLibvirt, ...more: string[]) => {
          const ends = ['--connect', from.uri, '--to', to.uri, '--host', host, '--broker', broker.url];
          return printed(['migrate', domain, ...ends, ...more]);
        };
        const { code, stdout, stderr } = await migrate(here, there, '--attach', basename(file));
        assert.is(code, 0, stdout + stderr);
        assert.equal(steps(stdout), ALL.slice(0, -1), stdout);
        assert.is(there.virsh('domstate', domain).trim(), 'running');
        assert.match(there.virsh('dumpxml', domain), new RegExp(`<shmem name='${basename(file)}'`));
        assert.is(here.try('domstate', domain).status, 1);
        assert.equal(await states(children), ['inactive']);

        const back = await migrate(there, here, '--wait', WAIT);
        assert.is(back.code, 1);
        assert.equal(steps(back.stdout).slice(-3), ['detach failed', 'attach again ok', 'resume ok'], back.stdout);
        assert.match(there.virsh('dumpxml', domain), new RegExp(`<shmem name='${basename(file)}'`));
        assert.is(there.virsh('domstate', domain).trim(), 'running');
        assert.equal(await states(children), ['inactive']);
      } finally {
        await here.stop();
        await there.stop();
      }
    }),
  );

  test.run();
}

main();
