/** All transports that are compared, in the order of the tables. */
import { copies } from './copies.js';
import { ipc } from './ipc.js';
import { isthmus, type Ways } from './isthmus.js';
import { mpi } from './mpi.js';
import { tcp, unix } from './sockets.js';
import { stream } from './stream.js';
import type { Transport } from './transport.js';
import { ucx } from './ucx.js';
import { worker } from './worker.js';
import { zeromq } from './zeromq.js';

/** A way to send and receive with Isthmus. */
export interface Form {
  readonly name: string;
  readonly title: string;
  /** Whether `--before` compares it unless `--only` says otherwise. */
  readonly compared: boolean;
  readonly after: Transport;
  /** The same form of another build: the path of its `dist/index.js`. */
  before(library: string): Transport;
}

function form(name: string, title: string, ways: Ways, compared: boolean): Form {
  return {
    name,
    title,
    compared,
    after: isthmus(name, title, ways),
    before: (library) => isthmus(`${name}-before`, `${title}, before`, ways, library),
  };
}

const into = form('into', 'Isthmus, polled: tryReceiveInto', { form: 'into' }, true);
const poll = form('poll', 'Isthmus, polled in place: poll', { form: 'poll' }, true);
const loan = form('loan', 'Isthmus, a loan: written by the sender, read by the receiver', { form: 'loan' }, true);
const reference = form('reference', 'Isthmus, a loan: the reference only', { form: 'reference' }, false);
const receive = form('receive', 'Isthmus, trySend, await receive()', { form: 'receive' }, true);
const awaited = form('await', 'Isthmus, await send() and receive()', { form: 'await' }, true);
const spinning = form('await-spin', 'the same, PSP_WAIT=spin', { form: 'await', wait: 'spin' }, false);
const overTcp = form('await-tcp', 'Isthmus over its plugin tcp, await', { form: 'await', plugin: 'tcp' }, false);

/** The forms that two builds of Isthmus can be compared in. */
export const forms: readonly Form[] = [into, poll, loan, reference, receive, awaited, spinning, overTcp];

/** What the race runs. */
export const transports: readonly Transport[] = [
  ...[into, poll, loan, reference, receive, awaited, spinning].map(({ after }) => after),
  stream,
  overTcp.after,
  copies,
  ucx,
  mpi,
  unix,
  tcp,
  worker,
  ipc,
  zeromq,
];

/** @param baseline the library of another build, whose forms have names that end with `-before` */
export function findTransport(name: string, baseline: string | undefined): Transport | undefined {
  const before = baseline === undefined ? [] : forms.map((one) => one.before(baseline));
  return [...transports, ...before].find((one) => one.name === name);
}
