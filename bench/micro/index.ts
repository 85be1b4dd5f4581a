import type { RunOptions } from '../ends.js';
import type { Handlers } from '../transports/transport.js';

export function probe(_name: string, _options: RunOptions): Handlers {
  return {};
}
