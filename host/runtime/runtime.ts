/** A runtime: its regions, plugins, listeners and connections. */

import { setMaxListeners } from 'node:events';
import type { Connection } from '../api/connection.js';
import type { Migratable, MigrationState } from '../api/migratable.js';
import type { PluginMask } from '../api/peer.js';
import type { SharedMemory } from '../api/shared-memory.js';
import type { RegionInfo, RuntimeSnapshot, RuntimeStats } from '../api/snapshots.js';
import { IsthmusError } from '../base/errors.js';
import { type Log, type Logger, makeLog } from '../base/log.js';
import { addressIn, ownAddress, parseNetworks } from '../base/network.js';
import { type Config, type ConfigOptions, SETTINGS } from '../config/config.js';
import { configure, pluginPriority } from '../config/resolve.js';
import { RuntimeConnection } from '../connection/connection.js';
import type { MqttOptions } from '../control/broker.js';
import { joinMqtt, type Membership } from '../control/mqtt.js';
import { requestsOf } from '../control/requests.js';
import { ControlSocket, newId } from '../control/socket.js';
import type { Core } from '../core/core.js';
import { createPrivateCore } from '../core/private.js';
import { WAYS } from '../device/backing.js';
import type { UioRoots } from '../device/uio.js';
import type { Address } from '../endpoint/address.js';
import type { ConnectionHandler } from '../endpoint/connections.js';
import { type ConnectOptions, Endpoint } from '../endpoint/endpoint.js';
import type { Listening, ListenOptions } from '../endpoint/listeners.js';
import type { EndpointContext, EndpointEvents } from '../endpoint/state.js';
import { takeRun } from '../memory/runs.js';
import { RegionMemory } from '../memory/shared-memory.js';
import { IvshmemPlugin } from '../plugins/ivshmem.js';
import { LoopPlugin } from '../plugins/loop.js';
import { disabled, PluginRegistry, type RankedPlugin } from '../plugins/registry.js';
import { ShmPlugin } from '../plugins/shm.js';
import type { StreamPlugin } from '../plugins/stream-plugin.js';
import { TcpPlugin } from '../plugins/tcp.js';
import { bindPlugins } from '../plugins/third-party.js';
import { Poller } from '../polling/poller.js';
import type { Region } from '../region/region.js';
import { publish, type RegionIdentity } from './diagnostics.js';
import { attachRegions, type Refused } from './discovery.js';
import { Ledger, refusedSnapshot, regionSnapshot } from './inspect.js';
import { Migration } from './migration.js';

/** What `Runtime.create` takes; anything left out comes from the environment (`PSP_*`) or the defaults. */
export interface RuntimeOptions extends Omit<ConfigOptions, 'regions'> {
  /** How the runtime calls itself; the first 8 bytes go over the wire. Default `isthmus`. */
  readonly name?: string | undefined;
  /** Region files, as `PSP_IVSHMEM_REGIONS`. What is named without `*` and `?` must be there. */
  readonly regions?: string | readonly string[] | undefined;
  /** Other places than `/sys` and `/dev` to find devices in. */
  readonly uio?: UioRoots | undefined;
  /** Plugins besides the built-in ones, made by `streamPlugin`. */
  readonly plugins?: readonly StreamPlugin[] | undefined;
  /** Credentials and certificates for the broker, besides its URL. */
  readonly mqtt?: MqttOptions | undefined;
  /** Receives what is logged, instead of standard error; how much is `debug`'s matter. */
  readonly log?: Log | undefined;
}

/** What `runtime.endpoint` takes. */
export interface EndpointOptions {
  readonly name?: string | undefined;
  /** pscom's connection type mask. */
  readonly plugins?: PluginMask | undefined;
}

/** The most that `allocate` gives, in bytes. */
const MOST = 2 ** 31;

/**
 * A runtime finds regions and plugins once, and makes connections over the best of them that both sides have.
 *
 * ```ts
 * const runtime = await Runtime.create({ name: 'worker' });
 * const connection = await runtime.connect('10.0.0.2:7100');
 * ```
 *
 * It installs no signal handlers and never ends the process.
 */
export class Runtime implements AsyncDisposable, Migratable {
  readonly name: string;
  /** What `isthmus ps` calls it: unique among the runtimes of this user. */
  readonly id: string;
  readonly #log: Logger;
  readonly #regions: Region[] = [];
  #refused: readonly Refused[] = [];
  readonly #registry: PluginRegistry;
  readonly #loop: LoopPlugin;
  readonly #shm: ShmPlugin;
  readonly #ivshmem: IvshmemPlugin;
  readonly #migration: Migration;
  readonly #poller: Poller;
  readonly #endpoints = new Set<Endpoint>();
  readonly #memories = new Set<RegionMemory>();
  readonly #host: EndpointContext;
  readonly #ledger = new Ledger();
  readonly #control: ControlSocket | undefined;
  readonly #mqtt: Membership | undefined;
  /** Aborts what is under way when the runtime is closed. */
  readonly #ending = new AbortController();
  #privateCore: Core | undefined;
  #closed: Promise<void> | undefined;

  private constructor(
    name: string,
    config: Config,
    log: Logger,
    found: Awaited<ReturnType<typeof attachRegions>>,
    thirdParty: readonly RankedPlugin[],
    discover: () => ReturnType<typeof attachRegions>,
    mqtt: MqttOptions | undefined,
  ) {
    this.name = name;
    // Every connect under way listens.
    setMaxListeners(0, this.#ending.signal);
    this.#log = log;
    this.#poller = new Poller(config.wait);
    this.#loop = new LoopPlugin();
    this.#ivshmem = new IvshmemPlugin({
      ringSize: config.ringSize || undefined,
      guard: config.guard,
    });
    this.#shm = new ShmPlugin({
      name,
      file: config.shmName,
      size: config.shmSize,
      limit: config.handshakeTimeout * 0.4,
      ringSize: config.ringSize || undefined,
      guard: config.guard,
      attached: (region) => this.#attached(region),
      leaving: (region) => this.#leaving(region),
    });
    const tcp = new TcpPlugin(() => this.#private(), {
      noDelay: config.noDelay,
      sendBuffer: config.sendBuffer,
      receiveBuffer: config.receiveBuffer,
      log: (line) => log('warning', line),
      ringSize: config.tcpRingSize || 65536,
    });
    this.#registry = new PluginRegistry([
      { plugin: this.#loop, priority: config.loop },
      { plugin: this.#shm, priority: config.shm },
      { plugin: this.#ivshmem, priority: config.ivshmem },
      { plugin: tcp, priority: config.tcp },
      ...thirdParty,
    ]);
    this.#host = {
      config,
      log,
      registry: this.#registry,
      loop: this.#loop,
      poller: this.#poller,
      ending: this.#ending.signal,
      privateCore: () => this.#private(),
      endpoints: this.#endpoints,
      events: this.#events(),
    };
    this.#migration = new Migration({
      endpoints: this.#endpoints,
      connections: () => this.#open().filter(({ plugin }) => !this.#migratable(plugin)),
      leaveDevices: async () => {
        for (const region of this.#regions.splice(0)) region.detach(this.#leaving(region));
        this.#ivshmem.use([], 'suspended');
        await this.#shm.close();
      },
      takeDevices: async () => {
        this.#shm.restore();
        this.#use(await discover());
      },
      changed: (state) => publish(this, 'isthmus:migration', () => ({ state })),
      timeout: config.suspendTimeout,
      log,
    });
    this.#control = config.control ? ControlSocket.open(requestsOf(this), log) : undefined;
    this.id = this.#control?.id ?? newId();
    const { broker, mqttKeepalive: keepalive, controlId, postponeFeedback: postpone } = config;
    const connections = () => this.inspect().connections;
    const joining = { broker, mqtt, keepalive, controlId, postpone, id: this.id, name, connections, log };
    this.#mqtt = config.suspendResume ? joinMqtt(this, joining) : undefined;
    this.#use(found);
  }

  #use({ regions, refused, missing }: Awaited<ReturnType<typeof attachRegions>>): void {
    this.#regions.splice(0, this.#regions.length, ...regions);
    this.#refused = refused;
    this.#ivshmem.use(regions, missing);
    for (const region of regions) this.#attached(region);
    for (const { error } of refused) this.#log('warning', `not used: ${error.message} (${error.code})`);
  }

  /**
   * Find regions and plugins.
   * @throws ERR_ISTHMUS_CONFIG; ERR_ISTHMUS_INVALID_ARGUMENT; ERR_ISTHMUS_REGION_… and ERR_ISTHMUS_NATIVE_MISSING for a
   * region that was named
   */
  static async create(options: RuntimeOptions = {}): Promise<Runtime> {
    const { name = 'isthmus', regions, uio, plugins = [], mqtt, log: sink, ...settings } = options;
    if (typeof name !== 'string' || name === '' || name.includes('\0')) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'the name of a runtime is a string that is not empty');
    }
    const patterns = typeof regions === 'object' ? regions.join(' ') : regions;
    const config = configure({ ...settings, regions: patterns });
    const log = makeLog(config.debug, name, { sink, path: config.debugOut });
    const networks = parseNetworks(config.network) ?? [];
    if (networks.length > 0 && addressIn(networks) === undefined) {
      log('warning', `PSP_NETWORK: no address of this machine lies in '${config.network}'; ${ownAddress('')} is used`);
    }
    const thirdParty = bindPlugins(plugins, {
      core: () => runtime.#private(),
      ringSize: config.tcpRingSize || 65536,
      guard: config.guard,
    }).map((plugin) => ({ plugin, priority: pluginPriority(plugin.name, plugin.priority) }));
    const discover = (strict: boolean) =>
      config.ivshmem > 0
        ? attachRegions({ patterns: config.regions, pci: config.pci, roots: uio }, name, strict)
        : Promise.resolve({ regions: [], refused: [], missing: undefined });
    const found = await discover(true);
    const runtime = new Runtime(name, config, log, found, thirdParty, () => discover(false), mqtt);
    return runtime;
  }

  /**
   * Plugins with their priorities, best first; why one cannot be used; the region file of `shm`, which is attached with
   * the first connection that wants it.
   */
  plugins(): {
    name: string;
    archId: number;
    priority: number;
    unavailable: string | undefined;
    path: string | undefined;
  }[] {
    return this.#registry.all.map((ranked) => ({
      name: ranked.plugin.name,
      archId: ranked.plugin.archId,
      priority: ranked.priority,
      unavailable: disabled(ranked) ?? ranked.plugin.unavailable(),
      path: ranked.plugin === this.#shm ? this.#shm.path : undefined,
    }));
  }

  /** The regions that are attached, that of `shm` last. */
  regions(): RegionInfo[] {
    return this.#usable().map(regionInfo);
  }

  /** How much is logged, as `PSP_DEBUG`. Setting it has an effect at once. */
  get debug(): number {
    return this.#log.limit;
  }

  /** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
  set debug(level: number) {
    if (!SETTINGS.debug.check(level)) {
      throw new IsthmusError(
        'ERR_ISTHMUS_INVALID_ARGUMENT',
        `the level '${String(level)}' is not ${SETTINGS.debug.takes}`,
      );
    }
    this.#log.limit = level;
  }

  /** Sums over all connections that there are and have been. */
  stats(): RuntimeStats {
    return this.#ledger.stats(this.#open());
  }

  /** Everything that can be seen of the runtime and its connections, as plain data that survives JSON. */
  inspect(): RuntimeSnapshot {
    return {
      id: this.id,
      name: this.name,
      ...this.#ledger.process(),
      debug: this.debug,
      listeners: [...this.#endpoints].flatMap((endpoint) => endpoint.listening()),
      stats: this.stats(),
      migration: { state: this.migration, since: new Date(this.#migration.since).toISOString() },
      plugins: this.plugins().map(({ unavailable = null, path: _path, ...plugin }) => ({ ...plugin, unavailable })),
      regions: this.#usable().map(regionSnapshot),
      refused: this.#refused.map(refusedSnapshot),
      connections: this.#open().map((connection) => this.#ledger.connection(connection)),
    };
  }

  /** Candidates that were found and not used. */
  refusedRegions(): { path: string; error: IsthmusError }[] {
    return this.#refused.map(({ path, error }) => ({ path, error }));
  }

  /** The connections of all endpoints. */
  connections(): Connection[] {
    return this.#open();
  }

  /**
   * The endpoint of that name, made when it is asked for the first time; without a name, the one that `listen` and
   * `connect` of the runtime use.
   * @param options.plugins which plugins its connections may use, from here on; default: all
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  endpoint({ name = this.name, plugins }: EndpointOptions = {}): Endpoint {
    this.#check();
    let endpoint = [...this.#endpoints].find((one) => one.name === name);
    if (!endpoint) {
      endpoint = new Endpoint(name, this.#host);
      this.#endpoints.add(endpoint);
    }
    if (plugins) endpoint.mask(plugins);
    return endpoint;
  }

  /** {@link Endpoint.listen} of the default endpoint. */
  async listen(options: ListenOptions, handler?: ConnectionHandler): Promise<Listening> {
    return this.endpoint().listen(options, handler);
  }

  /** {@link Endpoint.connect} of the default endpoint. */
  async connect(address: Address, options?: ConnectOptions): Promise<Connection> {
    return this.endpoint().connect(address, options);
  }

  /**
   * Memory to expose to peers. In the region of a connection the peer reads and writes it without this process; where
   * there is none, or no room in it, it is ordinary memory, and the peer has to ask: `inRegion` tells.
   * @param size in bytes
   * @param options.connection whose region to take; default: the first one
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  allocate(size: number, { connection }: { readonly connection?: Connection | undefined } = {}): SharedMemory {
    this.#check();
    if (!Number.isSafeInteger(size) || size < 0 || size > MOST) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `${size} is not a number of bytes up to ${MOST}`);
    }
    const own = connection instanceof RuntimeConnection ? connection.region : undefined;
    const regions = connection ? (own ? [own] : []) : this.#usable();
    for (const region of regions) {
      const run = takeRun(region, size);
      if (!run) continue;
      const memory = new RegionMemory(size, { region, ...run });
      memory.write(0, new Uint8Array(size));
      this.#memories.add(memory);
      memory.onRelease = () => this.#memories.delete(memory);
      return memory;
    }
    return new RegionMemory(size, { bytes: new Uint8Array(size) });
  }

  /** After a migration, with `postponeFeedback`: the application is ready, whoever asked may be told COMPLETED. */
  completeMigration(): void {
    this.#mqtt?.complete();
  }

  /** Where it stands in a migration. */
  get migration(): MigrationState {
    return this.#migration.migration;
  }

  /** Be told of each change of {@link migration}. @returns how not to be */
  onMigration(listener: (state: MigrationState) => void): () => void {
    return this.#migration.onMigration(listener);
  }

  /**
   * Let go of everything that a migration would break: each connection finishes the message under way and is closed
   * underneath, each region is left, so that its device can be unplugged. Messages that are sent meanwhile wait; what was
   * received stays. It never waits for the application. While it goes on another call gets the same promise; when it is
   * done already, that promise has been resolved.
   * @param options.timeout in milliseconds; default: `suspendTimeout`
   * @throws ERR_ISTHMUS_SUSPEND: in the end it was not possible, and everything goes on as before; ERR_ISTHMUS_CLOSED
   */
  async suspend(options?: { readonly timeout?: number | undefined }): Promise<void> {
    this.#check();
    return this.#migration.suspend(options);
  }

  /**
   * Attach what is there now, and bring the connections back, each over the best plugin that there is now. Resolves when
   * they are open again, or after a second: a peer may be suspended itself, and comes when it is back. What comes too late
   * for `resumeTimeout` fails with ERR_ISTHMUS_RESUME_TIMEOUT. Without a suspension nothing happens.
   */
  async resume(): Promise<void> {
    this.#check();
    return this.#migration.resume();
  }

  /** One bounded pass over all connections, for those who poll. True: there was something. */
  progress(): boolean {
    return this.#poller.pollOnce(0);
  }

  /** Let the event loop run once: sockets, timers, the guards of connections. */
  turn(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }

  /**
   * Close all listeners and connections, and let go of all regions. Idempotent.
   * @param timeout for the orderly close of each connection, in milliseconds, default `closeTimeout`
   */
  close({ timeout }: { timeout?: number | undefined } = {}): Promise<void> {
    this.#closed ??= this.#close(timeout);
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(timeout: number | undefined): Promise<void> {
    this.#ending.abort(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the runtime was closed'));
    this.#migration.end();
    // There is nobody to say goodbye to, and no way back.
    if (this.migration !== 'inactive') {
      for (const connection of this.#open()) if (connection.state === 'suspended') connection.destroy();
    }
    await Promise.all([...this.#endpoints].map((endpoint) => endpoint.close({ timeout })));
    this.#poller.stop();
    for (const region of this.#regions) region.detach(this.#leaving(region));
    await this.#shm.close();
    for (const connection of this.#open()) this.#ledger.leave(connection);
    for (const line of await this.#registry.destroy()) this.#log('error', line);
    this.#control?.close();
    await this.#mqtt?.leave();
  }

  #events(): EndpointEvents {
    return {
      created: (connection) => this.#ledger.enter(connection),
      opened: (connection) => {
        publish(this, 'isthmus:connection:open', () => ({ connection }));
        connection.closed.then((closed) => publish(this, 'isthmus:connection:close', () => ({ connection, closed })));
      },
      suspended: (connection) => publish(this, 'isthmus:connection:suspend', () => ({ connection })),
      resumed: (connection) => publish(this, 'isthmus:connection:resume', () => ({ connection })),
      silence: (connection, event, silence) =>
        publish(this, `isthmus:connection:${event}`, () => ({ connection, silence })),
      released: (connection) => this.#ledger.leave(connection),
      listening: (address) => publish(this, 'isthmus:listen', () => ({ ...address })),
      failed: (role, address, error) => publish(this, 'isthmus:handshake:failed', () => ({ role, address, error })),
    };
  }

  #open(): RuntimeConnection[] {
    return [...this.#endpoints].flatMap((endpoint) => [...endpoint.open]);
  }

  #check(): void {
    if (this.#closed) throw new IsthmusError('ERR_ISTHMUS_CLOSED', 'the runtime is closed');
  }

  #private(): Core {
    this.#privateCore ??= createPrivateCore();
    return this.#privateCore;
  }

  /** Whether the connections of a plugin survive a migration. */
  #migratable(name: string): boolean {
    return this.#registry.all.find(({ plugin }) => plugin.name === name)?.plugin.migratable === true;
  }

  #usable(): Region[] {
    return [...this.#regions, ...this.#shm.regions()].filter((region) => region.usable);
  }

  #attached(region: Region): void {
    const { kind, path, size } = region.backing;
    this.#log('info', `attached to ${path}, ${size} bytes`);
    if (kind === 'pci') {
      this.#log('warning', `${path}: ${WAYS.pci}; install the driver (vendor/ivshmem/driver) to have it at full speed`);
    }
    region.onFenced = (error) => this.#fenced(region, error);
    publish(this, 'isthmus:region:attach', () => ({ region: identityOf(region) }));
  }

  /** A region is about to be let go of. @returns what must keep its bytes there: messages that are borrowed */
  #leaving(region: Region): { readonly offset: number; readonly length: number }[] {
    const kept = this.#open().flatMap((connection) => connection.abandon(region.core));
    for (const memory of this.#memories) memory.evacuate(region);
    // That of one which was taken away from us has been told.
    if (region.usable) {
      publish(this, 'isthmus:region:detach', () => ({ region: identityOf(region), error: undefined }));
    }
    return kept;
  }

  #fenced(region: Region, error: IsthmusError): void {
    this.#log('error', error.message);
    publish(this, 'isthmus:region:detach', () => ({ region: identityOf(region), error }));
    for (const connection of this.#open()) if (connection.link?.core === region.core) connection.destroy(error);
    // Nothing of ours is written there any more, so what was kept for us may be had by others.
    region.detach(this.#leaving(region));
  }
}

function identityOf({ backing, uuid }: Region): RegionIdentity {
  const { name, path, kind, size } = backing;
  return { name, path, kind, size, uuid: uuid.toString('hex') };
}

function regionInfo(region: Region): RegionInfo {
  const { slots, slotsUsed, frames, ...info } = regionSnapshot(region);
  return info;
}
