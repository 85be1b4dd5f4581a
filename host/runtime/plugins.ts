/** The plugins of a runtime, with their priorities. */
import type { Log } from '../base/log.js';
import type { Config } from '../config/config.js';
import { pluginPriority } from '../config/resolve.js';
import type { Core } from '../core/core.js';
import { IvshmemPlugin } from '../plugins/ivshmem.js';
import { LoopPlugin } from '../plugins/loop.js';
import { PluginRegistry } from '../plugins/registry.js';
import { ShmPlugin, type ShmPluginOptions } from '../plugins/shm.js';
import type { StreamPlugin } from '../plugins/stream-plugin.js';
import { TcpPlugin } from '../plugins/tcp.js';
import { bindPlugins } from '../plugins/third-party.js';

export interface Plugins {
  readonly loop: LoopPlugin;
  readonly shm: ShmPlugin;
  readonly ivshmem: IvshmemPlugin;
  /** These, `tcp`, and those of the application. */
  readonly registry: PluginRegistry;
}

/** Part of the handshake's time that `shm` may take to attach its region. */
const SHM_SHARE = 0.4;

/** @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CONFIG: for a plugin of the application */
export function makePlugins(
  config: Config,
  name: string,
  own: readonly StreamPlugin[],
  {
    core,
    attached,
    leaving,
    log,
  }: Pick<ShmPluginOptions, 'attached' | 'leaving'> & { readonly core: () => Core; readonly log: Log },
): Plugins {
  const streamRingSize = config.tcpRingSize || 65536;
  const { guard } = config;
  const ringSize = config.ringSize || undefined;
  const thirdParty = bindPlugins(own, { core, ringSize: streamRingSize, guard });
  const loop = new LoopPlugin();
  const ivshmem = new IvshmemPlugin({ ringSize, guard });
  const shm = new ShmPlugin({
    name,
    file: config.shmName,
    size: config.shmSize,
    limit: config.handshakeTimeout * SHM_SHARE,
    survivesLoss: config.sigbusHandler,
    refused: (reason) => log('warning', `shm is not used: ${reason}`),
    ringSize,
    guard,
    attached,
    leaving,
  });
  const tcp = new TcpPlugin(core, {
    noDelay: config.noDelay,
    sendBuffer: config.sendBuffer,
    receiveBuffer: config.receiveBuffer,
    log: (line) => log('warning', line),
    ringSize: streamRingSize,
  });
  const registry = new PluginRegistry([
    { plugin: loop, priority: config.loop },
    { plugin: shm, priority: config.shm },
    { plugin: ivshmem, priority: config.ivshmem },
    { plugin: tcp, priority: config.tcp },
    ...thirdParty.map((plugin) => ({ plugin, priority: pluginPriority(plugin.name, plugin.priority) })),
  ]);
  return { loop, shm, ivshmem, registry };
}
