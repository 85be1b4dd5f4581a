/** Two hosts of one kernel: processes in network namespaces of their own, and a cable between them that can be cut. */
import { spawnSync } from 'node:child_process';
import type { Child } from './process.js';

/** Debian installs these programs where only root's PATH leads. */
const env = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin`, LC_ALL: 'C' };

function run(command: string, args: readonly string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { env, encoding: 'utf8', timeout: 30_000 });
  if (error || status !== 0) throw error ?? new Error(`${[command, ...args].join(' ')}: ${stderr}`);
}

/** For `Child.start({ under })`: a network namespace of its own. */
export const OWN_NETWORK = ['unshare', '--net'] as const;

/** Why there can be no networks here; undefined: there can. */
export function withoutNetworks(): string | undefined {
  const tried = spawnSync(
    'unshare',
    ['--net', 'ip', 'link', 'add', 'cable0', 'type', 'veth', 'peer', 'name', 'cable1'],
    { env },
  );
  if (tried.error) return 'no program unshare';
  return tried.status === 0 ? undefined : 'network namespaces and veth devices want root and iproute2';
}

/** A cable between the networks of two processes. It goes with them. */
export class Cable {
  readonly addresses = ['10.111.0.1', '10.111.0.2'] as const;
  readonly #ends: readonly [Child, Child];

  constructor(one: Child, other: Child) {
    this.#ends = [one, other];
    run('ip', [
      'link',
      'add',
      'cable',
      'netns',
      String(one.pid),
      'type',
      'veth',
      'peer',
      'name',
      'cable',
      'netns',
      String(other.pid),
    ]);
    this.#ends.forEach((end, index) => {
      this.#in(end, 'ip', 'link', 'set', 'lo', 'up');
      this.#in(end, 'ip', 'address', 'add', `${this.addresses[index]}/24`, 'dev', 'cable');
      this.#in(end, 'ip', 'link', 'set', 'cable', 'up');
    });
  }

  #in(end: Child, ...command: string[]): void {
    run('nsenter', [`--target=${end.pid}`, '--net', ...command]);
  }

  /** The other host takes nothing from the one any more, and sends nothing: as if it had lost its power. */
  cut(): void {
    this.#in(this.#ends[1], 'ip', 'route', 'add', 'blackhole', `${this.addresses[0]}/32`);
  }

  /** How often the kernel of the one repeats bytes before it gives up (net.ipv4.tcp_retries2). */
  retries(count: number): void {
    this.#in(this.#ends[0], 'sh', '-c', `echo ${count} > /proc/sys/net/ipv4/tcp_retries2`);
  }
}
