/** The processes of `isthmus demo`: which function each role runs. */
import { IsthmusError } from '../../index.js';
import { RegionServer } from '../../region/server.js';
import { CliError } from '../support/errors.js';
import { aborted } from '../support/signals.js';
import { MIB } from '../support/units.js';
import { regionEcho, regionPing, socketEcho, socketPing } from './latency-roles.js';
import { endOfInput, type Role, report } from './reports.js';
import { streamer } from './streamer.js';
import { receiver, sender } from './transfer-roles.js';

async function regionServer({ name, megabytes }: { name: string; megabytes: number }): Promise<void> {
  const stop = endOfInput();
  using server = await RegionServer.open({ name, size: megabytes * MIB, access: { mode: 0o660 } });
  if (!stop.aborted) report({ kind: 'ready' });
  await aborted(stop);
  // The file is removed even if peers are attached: they end, too.
  server.close(true);
}

/** The demo passes the arguments of a role as JSON. */
const ROLES: Readonly<Record<Role, (args: never) => Promise<void>>> = {
  'region server': regionServer,
  receiver,
  sender,
  streamer,
  'region echo': regionEcho,
  'region ping': regionPing,
  'socket echo': socketEcho,
  'socket ping': socketPing,
};

/** @returns the exit code */
export async function runRole(role: string, args: string): Promise<number> {
  // Ctrl-C reaches all processes of a terminal; the demo ends its processes in order.
  process.on('SIGINT', () => {});
  try {
    const body = Object.hasOwn(ROLES, role) ? ROLES[role as Role] : undefined;
    if (!body) throw new CliError(`there is no role '${role}'`);
    await body(JSON.parse(args) as never);
    return 0;
  } catch (error) {
    const { code, message } = error instanceof IsthmusError ? error : { code: undefined, message: String(error) };
    report({ kind: 'error', code, message });
    return 1;
  }
}
