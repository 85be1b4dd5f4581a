/**
 * The suspended peers that this endpoint waits for. Any peer can say that it suspends and never come back, so their number is
 * limited, and so is that of one remote address. Beyond that a connection ends: the one that has waited longest, first among
 * those that no message went over.
 */

import { IsthmusError } from '../base/errors.js';
import { networkOf } from '../base/network.js';
import type { RuntimeConnection } from '../connection/connection.js';

export class Awaited {
  readonly #limit: number;
  /** With the network of each peer, in the order in which they were suspended. */
  readonly #all = new Map<RuntimeConnection, string | undefined>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#all.size;
  }

  /** The peer has suspended. */
  add(connection: RuntimeConnection): void {
    const { peer, route } = connection;
    const network = peer.address && networkOf(peer.address.host, route.ends?.host);
    this.#all.delete(connection);
    this.#all.set(connection, network);
    if (network !== undefined) {
      const its = [...this.#all].filter(([, one]) => one === network).map(([one]) => one);
      this.#shrink(its, Math.ceil(this.#limit / 2), 'from one address');
    }
    this.#shrink([...this.#all.keys()], this.#limit, 'in all');
  }

  /** The peer has come back, or the connection has ended. */
  delete(connection: RuntimeConnection): void {
    this.#all.delete(connection);
  }

  #shrink(those: readonly RuntimeConnection[], limit: number, where: string): void {
    if (those.length <= limit) return;
    const victim = those.find((one) => isUnused(one)) ?? those[0];
    if (!victim) return;
    this.#all.delete(victim);
    victim.fail(
      new IsthmusError(
        'ERR_ISTHMUS_SUSPENDED_LIMIT',
        `more than ${limit} connections ${where} wait for suspended peers: this one gave way`,
      ),
    );
  }
}

function isUnused({ counts }: RuntimeConnection): boolean {
  return counts.sent + counts.received === 0;
}
