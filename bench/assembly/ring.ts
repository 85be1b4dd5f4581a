/** The core, and a loop over its ring inside Wasm: the cost of a message without the host. */
import { claim, commit, peek, release } from '../../assembly/framing';

export * from '../../assembly/index';

/**
 * Send messages from one connection of this core to another, and receive each at once.
 * @returns the number of messages that arrived unchanged
 */
export function pump(from: u32, to: u32, length: u32, count: u32): u32 {
  let good: u32 = 0;
  for (let i: u32 = 0; i < count; ++i) {
    const room = claim(from, 0, 0, length);
    store<u32>(room, i);
    commit(from);
    const message = peek(to);
    if (load<u32>(message) == i) ++good;
    release(to);
  }
  return good;
}
