/** A runtime: the facade over its plugins, regions, endpoints and control. */

import { setMaxListeners } from 'node:events';
import type { Connection } from '../api/connection.js';
import type { Migratable, MigrationState } from '../api/migratable.js';
import type { PluginMask } from '../api/peer.js';
import type { SharedMemory } from '../api/shared-memory.js';
import type { RegionInfo, RuntimeSnapshot, RuntimeStats } from '../api/snapshots.js';
import { IsthmusError } from '../base/errors.js';
import { type Log, type Logger, makeLog } from '../base/log.js';
import { addressIn, interfacesKnown, ownAddress, parseNetworks } from '../base/network.js';
import { type Config, type ConfigOptions, SETTINGS } from '../config/config.js';
import { configure } from '../config/resolve.js';
import { RuntimeConnection } from '../connection/connection.js';
import type { MqttOptions } from '../control/broker.js';
import type { Core } from '../core/core.js';
import { addressSpaceLimited, createPrivateCore } from '../core/private.js';
import type { UioRoots } from '../device/uio.js';
import type { Address } from '../endpoint/address.js';
import type { ConnectionHandler } from '../endpoint/connections.js';
import { type ConnectOptions, Endpoint } from '../endpoint/endpoint.js';
import type { Listening, ListenOptions } from '../endpoint/listeners.js';
import type { EndpointContext, EndpointEvents } from '../endpoint/state.js';
import { disabled } from '../plugins/registry.js';
import type { StreamPlugin } from '../plugins/stream-plugin.js';
import { Poller } from '../polling/poller.js';
import { Control } from './control.js';
import { type Publish, publisher } from './diagnostics.js';
import { attachRegions, type FoundRegions } from './discovery.js';
import { Ledger, refusedSnapshot, regionInfo, regionSnapshot } from './inspect.js';
import { Memories } from './memories.js';
import { Migration } from './migration.js';
import { makePlugins, type Plugins } from './plugins.js';
import { Regions } from './regions.js';

/** Options of `Runtime.create`. The environment (`PSP_*`), or the default, applies to each option that is left out. */
export interface RuntimeOptions extends Omit<ConfigOptions, 'regions'> {
  /** Name of the runtime; the first 8 bytes go over the wire. Default `isthmus`. */
  readonly name?: string | undefined;
  /** Region files, as `PSP_IVSHMEM_REGIONS`. A name without `*` and `?` must exist. */
  readonly regions?: string | readonly string[] | undefined;
  /** Search these places for devices, instead of `/sys` and `/dev`. */
  readonly uio?: UioRoots | undefined;
  /** Plugins besides the built-in ones, made by `streamPlugin`. */
  readonly plugins?: readonly StreamPlugin[] | undefined;
  /** Credentials and certificates for the broker, besides its URL. */
  readonly mqtt?: MqttOptions | undefined;
  /** Receives the lines of the log, instead of standard error. `debug` sets which lines there are. */
  readonly log?: Log | undefined;
}

/** Options of `runtime.endpoint`. */
export interface EndpointOptions {
  readonly name?: string | undefined;
  /** pscom's connection type mask. */
  readonly plugins?: PluginMask | undefined;
}

/** What `Runtime.create` has prepared. */
interface Parts {
  readonly name: string;
  readonly config: Config;
  readonly log: Logger;
  readonly plugins: Plugins;
  readonly found: FoundRegions;
  readonly discover: () => Promise<FoundRegions>;
  readonly privateCore: () => Core;
  readonly mqtt: MqttOptions | undefined;
}

/**
 * A runtime finds regions and plugins once, and makes connections over the best plugin that both sides have.
 *
 * ```ts
 * const runtime = await Runtime.create({ name: 'worker' });
 * const connection = await runtime.connect('10.0.0.2:7100');
 * ```
 *
 * It never ends the process. Of signals it handles SIGBUS alone, in the memory of its regions (`sigbusHandler`).
 */
export class Runtime implements AsyncDisposable, Migratable {
  readonly name: string;
  /** The id that `isthmus ps` prints: unique among the runtimes of this user. */
  readonly id: string;
  readonly #log: Logger;
  readonly #plugins: Plugins;
  readonly #memories = new Memories();
  readonly #regions: Regions;
  readonly #poller: Poller;
  readonly #endpoints = new Set<Endpoint>();
  readonly #endpointContext: EndpointContext;
  readonly #ledger = new Ledger();
  readonly #migration: Migration;
  readonly #control: Control;
  readonly #publish: Publish = publisher(this);
  /** Aborted when the runtime is closed. */
  readonly #ending = new AbortController();
  #closed: Promise<void> | undefined;

  private constructor({ name, config, log, plugins, found, discover, privateCore, mqtt }: Parts) {
    this.name = name;
    // Each connect under way adds a listener.
    setMaxListeners(0, this.#ending.signal);
    this.#log = log;
    this.#plugins = plugins;
    this.#poller = new Poller(config.wait);
    this.#regions = new Regions({
      plugins,
      memories: this.#memories,
      connections: () => this.#open(),
      discover,
      publish: this.#publish,
      log,
    });
    this.#endpointContext = {
      config,
      log,
      registry: plugins.registry,
      loop: plugins.loop,
      poller: this.#poller,
      ending: this.#ending.signal,
      privateCore,
      endpoints: this.#endpoints,
      events: this.#events(),
    };
    this.#migration = new Migration({
      endpoints: this.#endpoints,
      connections: () => this.#open().filter(({ plugin }) => !this.#migratable(plugin)),
      leaveDevices: () => this.#regions.leave(),
      takeDevices: () => this.#regions.attach(),
      changed: (state) => this.#publish('isthmus:migration', () => ({ state })),
      timeout: config.suspendTimeout,
      log,
    });
    this.#control = new Control(this, name, config, mqtt, log);
    this.id = this.#control.id;
    this.#regions.use(found);
  }

  /**
   * Find regions and plugins.
   * @throws ERR_ISTHMUS_CONFIG; ERR_ISTHMUS_INVALID_ARGUMENT; ERR_ISTHMUS_REGION_… and ERR_ISTHMUS_NATIVE_MISSING for a
   * region that was named; ERR_ISTHMUS_ADDRESS_SPACE where that is limited, and too short even for tcp
   */
  static async create(options: RuntimeOptions = {}): Promise<Runtime> {
    const { name = 'isthmus', regions, uio, plugins: own = [], mqtt, log: sink, ...settings } = options;
    if (typeof name !== 'string' || name === '' || name.includes('\0')) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'the name of a runtime is a string that is not empty');
    }
    const patterns = typeof regions === 'object' ? regions.join(' ') : regions;
    const config = configure({ ...settings, regions: patterns });
    const log = makeLog(config.debug, name, { sink, path: config.debugOut });
    if (!interfacesKnown()) {
      log(
        'warning',
        `the addresses of this machine cannot be listed (no AF_NETLINK? no descriptors?): peers are told ${ownAddress(config.network)}, which PSP_NETWORK=ADDRESS sets; peers at other addresses are taken for other hosts`,
      );
    }
    const networks = parseNetworks(config.network) ?? [];
    if (networks.length > 0 && addressIn(networks) === undefined) {
      log('warning', `PSP_NETWORK: no address of this machine lies in '${config.network}'; ${ownAddress('')} is used`);
    }
    let core: Core | undefined;
    const privateCore = () => {
      core ??= createPrivateCore();
      return core;
    };
    const plugins = makePlugins(config, name, own, {
      core: privateCore,
      attached: (region) => runtime.#regions.onAttached(region),
      leaving: (region) => runtime.#regions.onLeaving(region),
      log,
    });
    const discover = (strict: boolean): Promise<FoundRegions> =>
      config.ivshmem > 0
        ? attachRegions(
            { patterns: config.regions, pci: config.pci, roots: uio, survivesLoss: config.sigbusHandler },
            name,
            strict,
          )
        : Promise.resolve({ regions: [], refused: [], missing: undefined });
    // Every message over tcp needs it, and no message needs a region: where addresses are short it comes first.
    if (addressSpaceLimited()) privateCore();
    const found = await discover(true);
    const runtime = new Runtime({
      name,
      config,
      log,
      plugins,
      found,
      discover: () => discover(false),
      privateCore,
      mqtt,
    });
    return runtime;
  }

  // ─── inspecting ────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * The plugins with their priorities, best first. `unavailable`: the reason why a plugin cannot be used. `path`: the
   * region file of `shm`, which is attached with the first connection that uses it.
   */
  plugins(): {
    name: string;
    archId: number;
    priority: number;
    unavailable: string | undefined;
    path: string | undefined;
  }[] {
    const { registry, shm } = this.#plugins;
    return registry.all.map((ranked) => ({
      name: ranked.plugin.name,
      archId: ranked.plugin.archId,
      priority: ranked.priority,
      unavailable: disabled(ranked) ?? ranked.plugin.unavailable(),
      path: ranked.plugin === shm ? shm.path : undefined,
    }));
  }

  /** The attached regions; that of `shm` last. */
  regions(): RegionInfo[] {
    return this.#regions.usable.map(regionInfo);
  }

  /** The level of the log, as `PSP_DEBUG`. A change takes effect at once. */
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

  /** Sums over all connections, those that have ended included. */
  stats(): RuntimeStats {
    return this.#ledger.stats(this.#open());
  }

  /** The whole state of the runtime and its connections, as plain data that survives JSON. */
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
      regions: this.#regions.usable.map(regionSnapshot),
      refused: this.#regions.refused.map(refusedSnapshot),
      connections: this.#open().map((connection) => this.#ledger.connection(connection)),
    };
  }

  /** Candidates for regions that were found and are not used. */
  refusedRegions(): { path: string; error: IsthmusError }[] {
    return this.#regions.refused.map(({ path, error }) => ({ path, error }));
  }

  /** The connections of all endpoints. */
  connections(): Connection[] {
    return this.#open();
  }

  // ─── connecting ────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * The endpoint with that name; the first call creates it. Without a name: the default endpoint, which `listen` and
   * `connect` of the runtime use.
   * @param options.plugins the plugins that its later connections may use; default: all
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  endpoint({ name = this.name, plugins }: EndpointOptions = {}): Endpoint {
    this.#check();
    let endpoint = [...this.#endpoints].find((one) => one.name === name);
    if (!endpoint) {
      endpoint = new Endpoint(name, this.#endpointContext);
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
   * Memory to expose to peers. In the region of a connection the peer reads and writes it without this process. Without a
   * region, or without room in it, it is ordinary memory, and this process serves the peer: `inRegion` tells.
   * @param size in bytes
   * @param options.connection whose region to take; default: the first region with room
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  allocate(size: number, { connection }: { readonly connection?: Connection | undefined } = {}): SharedMemory {
    this.#check();
    if (!connection) return this.#memories.allocate(size, this.#regions.usable);
    const region = connection instanceof RuntimeConnection ? connection.region : undefined;
    return this.#memories.allocate(size, region ? [region] : []);
  }

  // ─── migration ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** After a migration, with `postponeFeedback`: the application is ready, COMPLETED may be answered. */
  completeMigration(): void {
    this.#control.complete();
  }

  /** The state of the migration. */
  get migration(): MigrationState {
    return this.#migration.migration;
  }

  /** Call `listener` at each change of {@link migration}. @returns removes the listener */
  onMigration(listener: (state: MigrationState) => void): () => void {
    return this.#migration.onMigration(listener);
  }

  /**
   * Let go of everything that a migration would break: each connection finishes the message under way and lets go of its
   * link; each region is left, so that its device can be unplugged. Messages that are sent meanwhile wait; received
   * messages stay. It never waits for the application. A call while a suspension is under way, or done, returns the promise
   * of that suspension.
   * @param options.timeout in milliseconds; default: `suspendTimeout`
   * @throws ERR_ISTHMUS_SUSPEND: it was not possible in time, and everything goes on as before; ERR_ISTHMUS_CLOSED
   */
  async suspend(options?: { readonly timeout?: number | undefined }): Promise<void> {
    this.#check();
    return this.#migration.suspend(options);
  }

  /**
   * Attach the regions that exist now, and bring the connections back, each over the best plugin that it can use now.
   * Resolves when they are open again, or after a second: a peer may be suspended itself, and comes back later. A
   * connection that is not open again within `resumeTimeout` fails with ERR_ISTHMUS_RESUME_TIMEOUT. Without a suspension
   * it does nothing.
   */
  async resume(): Promise<void> {
    this.#check();
    return this.#migration.resume();
  }

  // ─── progress and end ──────────────────────────────────────────────────────────────────────────────────────────────

  /** One bounded pass over all connections, for applications that poll. @returns whether anything was done */
  progress(): boolean {
    return this.#poller.pollOnce(0);
  }

  /** Let the event loop run once: sockets, timers, guards of connections. */
  turn(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }

  /**
   * Close all listeners and connections, and leave all regions. Idempotent.
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
    // A suspended connection has no link to close in order, and will not come back.
    if (this.migration !== 'inactive') {
      for (const connection of this.#open()) if (connection.state === 'suspended') connection.destroy();
    }
    await Promise.all([...this.#endpoints].map((endpoint) => endpoint.close({ timeout })));
    this.#poller.stop();
    await this.#regions.close();
    for (const connection of this.#open()) this.#ledger.leave(connection);
    for (const line of await this.#plugins.registry.destroy()) this.#log('error', line);
    await this.#control.close();
  }

  #events(): EndpointEvents {
    const publish = this.#publish;
    return {
      created: (connection) => this.#ledger.enter(connection),
      opened: (connection) => {
        publish('isthmus:connection:open', () => ({ connection }));
        connection.closed.then((closed) => publish('isthmus:connection:close', () => ({ connection, closed })));
      },
      suspended: (connection) => publish('isthmus:connection:suspend', () => ({ connection })),
      resumed: (connection) => publish('isthmus:connection:resume', () => ({ connection })),
      silence: (connection, event, silence) => publish(`isthmus:connection:${event}`, () => ({ connection, silence })),
      released: (connection) => this.#ledger.leave(connection),
      listening: (address) => publish('isthmus:listen', () => ({ ...address })),
      failed: (role, address, error) => publish('isthmus:handshake:failed', () => ({ role, address, error })),
    };
  }

  #open(): RuntimeConnection[] {
    return [...this.#endpoints].flatMap((endpoint) => [...endpoint.open]);
  }

  #check(): void {
    if (this.#closed) throw new IsthmusError('ERR_ISTHMUS_CLOSED', 'the runtime is closed');
  }

  /** Whether the connections of a plugin survive a migration. */
  #migratable(name: string): boolean {
    return this.#plugins.registry.all.find(({ plugin }) => plugin.name === name)?.plugin.migratable === true;
  }
}
