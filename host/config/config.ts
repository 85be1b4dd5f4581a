/**
 * The configuration, in one table (resolve.ts applies it). An option takes precedence over its `PSP_*` variable, a variable
 * over the default.
 *
 * A variable that also exists in pscom (`pscom_env.c`) has the same name and meaning as there. `isthmus info` prints this
 * table, and docs/configuration.md is generated from it (`npm run docs`).
 */
import { parseNetworks } from '../base/network.js';
import { BROKER_URL, maskBroker, readBroker } from './broker-url.js';
import { isControlId } from './control-id.js';
import {
  choice,
  flag,
  integer,
  NEVER,
  namePart,
  priority,
  rendezvous,
  ringSize,
  type Setting,
  size,
  text,
} from './setting.js';

/**
 * `spin`: never sleep; `adaptive`: spin for a while after each message, then sleep; `block`: sleep as soon as there is no
 * message.
 */
export type Wait = 'spin' | 'adaptive' | 'block';

const WAITS: readonly Wait[] = ['spin', 'adaptive', 'block'];

export const SETTINGS = {
  loop: priority('loop', 'PSP_LOOP', 100),
  shm: priority('shm', 'PSP_SHM', 90),
  ivshmem: priority('ivshmem', 'PSP_IVSHMEM', 80),
  tcp: priority('tcp', 'PSP_TCP', 2),
  regions: text(
    'regions',
    'PSP_IVSHMEM_REGIONS',
    'names in /dev/shm or paths, separated by blanks; * and ? match formatted regions; empty: none',
    'region files that stand for ivshmem devices',
    { fallback: '*' },
  ),
  pci: flag(
    'regions',
    'PSP_IVSHMEM_PCI',
    true,
    'whether ivshmem devices without a driver are used, through resource2 in sysfs: slow, uncached, for root only',
  ),
  shmSize: size(
    'regions',
    'PSP_SHM_SIZE',
    0x2000000,
    "size of the user's region of shm, for the process that creates it",
    { min: 0x100000, max: 0x40000000 },
  ),
  shmName: namePart(
    'regions',
    'PSP_SHM_NAME',
    'up to 200 letters, digits, dots, - and _; empty: the user id',
    'the part after isthmus-shm- in the name of that region; processes with different values do not connect over shm',
  ),
  wait: choice(
    'regions',
    'PSP_WAIT',
    WAITS,
    'adaptive',
    'what a runtime does while no message arrives: poll without sleeping (spin), sleep at once (block), or poll for 2 ms and then sleep (adaptive)',
  ),
  sigbusHandler: flag(
    'regions',
    'PSP_SIGBUS_HANDLER',
    true,
    'whether a truncated region file, or a removed device, ends only the connections over it ' +
      '(ERR_ISTHMUS_REGION_LOST); otherwise the kernel ends the process (SIGBUS)',
  ),
  guard: flag('regions', 'PSP_GUARD', true, 'whether the end of the guard socket means that the peer has died'),
  stallTimeout: integer(
    'regions',
    'PSP_STALL_TIMEOUT',
    3000,
    'time without a heartbeat of the peer after which its connections are reported as stalled; they continue; 0: never. ' +
      'A live peer shows a heartbeat twice a second',
    { max: 0x7fffffff, unit: 'ms' },
  ),
  peerTimeout: integer(
    'regions',
    'PSP_PEER_TIMEOUT',
    0,
    'time without a heartbeat of the peer after which its connections end with ERR_ISTHMUS_PEER_TIMEOUT; 0: never. A ' +
      'paused virtual machine, or a blocked event loop, shows no heartbeat either',
    { max: 0x7fffffff, unit: 'ms' },
  ),
  ringSize: ringSize(
    'regions',
    'PSP_RING_SIZE',
    0,
    'a 48th of the free memory of the region, as a power of two from 16 KiB to 1 MiB',
    'capacity of the ring that a connection reads from',
  ),
  tcpRingSize: ringSize(
    'tcp',
    'PSP_TCP_RING_SIZE',
    65536,
    'the default',
    'capacity of the ring in private memory that a connection over tcp or loop reads from',
  ),
  noDelay: flag('tcp', 'PSP_TCP_NODELAY', true, 'TCP_NODELAY on the sockets of tcp'),
  sendBuffer: integer('tcp', 'PSP_SO_SNDBUF', 0, 'SO_SNDBUF of the sockets of tcp; 0: the kernel sizes it', {
    max: 0x3fffffff,
    unit: 'bytes',
  }),
  receiveBuffer: integer('tcp', 'PSP_SO_RCVBUF', 0, 'SO_RCVBUF of the sockets of tcp; 0: the kernel sizes it', {
    max: 0x3fffffff,
    unit: 'bytes',
  }),
  network: text(
    'connecting',
    'PSP_NETWORK',
    'IPv4 addresses, or networks as 10.0.0.0/8, separated by blanks or commas',
    'address of this host that is sent to peers: the first that lies in one of these networks; a network without a ' +
      'length has the netmask of the interface',
    { readable: (value) => parseNetworks(value) !== undefined },
  ),
  retry: integer('connecting', 'PSP_RETRY', 10, 'number of times that a refused connect is retried', {
    max: 1_000_000,
  }),
  backlog: integer(
    'connecting',
    'PSP_TCP_BACKLOG',
    262144,
    'backlog of a listening socket; the kernel limits it as well',
    { min: 1, max: 0x7fffffff },
  ),
  handshakeTimeout: integer('connecting', 'PSP_HANDSHAKE_TIMEOUT', 10_000, 'time limit of one handshake', {
    min: 1,
    max: 3_600_000,
    unit: 'ms',
  }),
  closeTimeout: integer(
    'connecting',
    'PSP_CLOSE_TIMEOUT',
    5000,
    'time that the peer has for its part of an orderly close; after that the connection is cut. `close({ timeout })` takes precedence',
    { min: 1, max: 0x7fffffff, unit: 'ms' },
  ),
  suspendTimeout: integer(
    'migration',
    'PSP_SUSPEND_TIMEOUT',
    10_000,
    'time limit for the suspension of all connections; if it is exceeded, the runtime continues as before',
    { min: 1, max: 3_600_000, unit: 'ms' },
  ),
  resumeTimeout: integer(
    'migration',
    'PSP_RESUME_TIMEOUT',
    600_000,
    'time that a suspended connection waits for its peer before it fails',
    { min: 1, max: 0x7fffffff, unit: 'ms' },
  ),
  unread: integer(
    'messages',
    'PSP_UNREAD_LIMIT',
    1 << 20,
    'unread messages that the receiver takes out of the ring of a connection; beyond that the sender waits',
    { unit: 'bytes' },
  ),
  unexpectedReceives: flag(
    'messages',
    'PSP_UNEXPECTED_RECEIVES',
    false,
    'whether the runtime reads without that limit, so that no sender waits for the application; memory use is then unlimited',
  ),
  maxMessageSize: integer(
    'messages',
    'PSP_MAX_MESSAGE',
    2 ** 30,
    'largest message that is sent or accepted, xheader included',
    {
      max: 2 ** 32 - 1,
      unit: 'bytes',
    },
  ),
  rendezvous: rendezvous('PSP_RENDEZVOUS', NEVER, 'message size from which rendezvous is used over tcp'),
  rendezvousShm: rendezvous(
    'PSP_RENDEZVOUS_SHM',
    1 << 20,
    'the same for shm. Exceptions: a message for a peer that waits to copy it out goes through the ring; a smaller ' +
      'message for a peer that reads in place, and would get it in pieces, goes by rendezvous',
    'rendezvous',
  ),
  rendezvousIvshmem: rendezvous('PSP_RENDEZVOUS_IVSHMEM', 1 << 20, 'the same for ivshmem', 'rendezvous'),
  suspendResume: flag(
    'migration',
    'PSP_SUSPEND_RESUME',
    false,
    'whether the runtime accepts and answers requests to suspend and resume over MQTT',
  ),
  broker: {
    ...text('migration', 'PSP_MQTT_BROKER', BROKER_URL, 'the MQTT broker for these requests', {
      fallback: 'mqtt://localhost:1883',
      readable: (value) => readBroker(value) !== undefined,
    }),
    shown: maskBroker,
  },
  mqttKeepalive: integer(
    'migration',
    'PSP_MQTT_KEEPALIVE',
    15,
    'MQTT keep-alive: the broker considers this process dead after 1.5 times this time of silence; choose more where ' +
      'machines are slow or paused',
    { min: 1, max: 65_535, unit: 's' },
  ),
  controlId: text(
    'migration',
    'PSP_CONTROL_ID',
    'up to 64 letters, digits, dots, colons, - and _; empty: the pid',
    'id of the process in topics and answers, instead of the pid, where pids of one host name collide',
    { readable: (value) => value === '' || isControlId(value) },
  ),
  postponeFeedback: flag(
    'migration',
    'PSP_POSTPONE_FEEDBACK',
    false,
    'whether the answer COMPLETED waits until the application calls completeMigration()',
  ),
  debug: integer('insight', 'PSP_DEBUG', 2, 'log level: 0 nothing, 1 errors, 2 warnings, 3 events, 4 everything', {
    max: 10,
  }),
  debugOut: text(
    'insight',
    'PSP_DEBUG_OUT',
    'a path, in which $$ is the pid and $NAME a variable of the environment; empty or -: standard error',
    'file to which the log is appended',
    { readable: (value) => !value.includes('\0') },
  ),
  control: flag(
    'insight',
    'PSP_CONTROL',
    true,
    "whether the runtime serves a control socket, for 'isthmus ps', 'inspect' and 'debug'",
  ),
} as const;

type Settings = typeof SETTINGS;
export type SettingName = keyof Settings;
type Value<S> = S extends Setting<infer T> ? T : never;

/** The effective values. */
export type Config = { readonly [name in SettingName]: Value<Settings[name]> };
/** The options of an application; a missing one comes from the environment or the defaults. */
export type ConfigOptions = { readonly [name in SettingName]?: Value<Settings[name]> | undefined };
