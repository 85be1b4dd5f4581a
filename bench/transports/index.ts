/** All transports that are compared, in the order of the tables. */
import { copies } from './copies.js';
import { ipc } from './ipc.js';
import { isthmus } from './isthmus.js';
import { mpi } from './mpi.js';
import { tcp, unix } from './sockets.js';
import { stream } from './stream.js';
import type { Transport } from './transport.js';
import { ucx } from './ucx.js';
import { worker } from './worker.js';
import { zeromq } from './zeromq.js';

/** @param baseline another build of the library, to be measured in turns with this one */
export function transports(baseline?: string): readonly Transport[] {
  const before =
    baseline === undefined
      ? []
      : [
          isthmus('into-before', 'Isthmus before, polled', { form: 'into' }, baseline),
          isthmus('poll-before', 'Isthmus before, polled in place', { form: 'poll' }, baseline),
          isthmus('receive-before', 'Isthmus before, trySend, await receive()', { form: 'receive' }, baseline),
          isthmus('await-before', 'Isthmus before, await send() and receive()', { form: 'await' }, baseline),
        ];
  return [
    isthmus('into', 'Isthmus, polled: tryReceiveInto', { form: 'into' }),
    isthmus('poll', 'Isthmus, polled in place: poll', { form: 'poll' }),
    isthmus('loan', 'Isthmus, a loan: written by the sender, read by the receiver', { form: 'loan' }),
    isthmus('reference', 'Isthmus, a loan: the reference only', { form: 'reference' }),
    isthmus('receive', 'Isthmus, trySend, await receive()', { form: 'receive' }),
    isthmus('await', 'Isthmus, await send() and receive()', { form: 'await' }),
    isthmus('await-spin', 'the same, PSP_WAIT=spin', { form: 'await', wait: 'spin' }),
    stream,
    isthmus('await-tcp', 'Isthmus over its plugin tcp, await', { form: 'await', plugin: 'tcp' }),
    ...before,
    copies,
    ucx,
    mpi,
    unix,
    tcp,
    worker,
    ipc,
    zeromq,
  ];
}
