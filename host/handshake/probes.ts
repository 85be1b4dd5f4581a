/**
 * Connections over which the peer sends no byte: probes of a load balancer or of a monitor, which come every few
 * seconds for as long as the service runs. They are no faults, and must not fill the log.
 */
import type { Level } from '../base/log.js';

/** Addresses to count for; of more, the oldest is forgotten, and logged once more when it comes again. */
const MAX_ADDRESSES = 256;

export class Probes {
  readonly #counts = new Map<string, number>();

  /** One more from that address. @returns what to log: the first at `info`, the others at `debug` */
  note(host: string): { readonly level: Level; readonly line: string } {
    const count = (this.#counts.get(host) ?? 0) + 1;
    this.#counts.set(host, count);
    if (this.#counts.size > MAX_ADDRESSES) this.#counts.delete(this.#counts.keys().next().value as string);
    return count === 1
      ? {
          level: 'info',
          line: `${host} has connected and sent no byte, as a health probe does; further ones of this address are logged at level debug`,
        }
      : { level: 'debug', line: `${host} has connected and sent no byte, ${count} times so far` };
  }
}
