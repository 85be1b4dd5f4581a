/** Makes what the lab of virtual machines makes, and waits to be interrupted. */

import { serve, tell } from '../support/process.js';
import { owned, ownFolder } from '../vm/lifetime.js';
import { Host, Segment } from '../vm/segment.js';
import { Switch } from '../vm/switch.js';

const [segment, host] = [new Segment('bare', 1 << 20), await Host.start('served', 1), await Switch.start()];
tell('ready', { owned, folder: ownFolder('some'), paths: [segment.path, host.path] });
// The channel to the parent keeps this process alive.
serve({});
