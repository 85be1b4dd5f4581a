/** `isthmus inspect`: what can be seen of a running runtime and of each of its connections. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { ConnectionSnapshot, RuntimeSnapshot } from '../../api/snapshots.js';
import { exitCodeOf, interval, stopSignal } from '../support/args.js';
import { askInspect, findRuntime, snapshotOf, TARGET, type Target } from '../support/find.js';
import {
  bytes,
  clearScreen,
  complain,
  duration,
  elapsed,
  indent,
  nobodyReads,
  rate,
  renderTable,
  say,
  showInPlace,
} from '../support/output.js';

interface Options {
  readonly watch?: true | number;
  readonly json?: boolean;
}

/** An earlier look, for rates. */
interface Before {
  readonly snapshot: RuntimeSnapshot;
  /** Between the two, in seconds. */
  readonly seconds: number;
}

const COUNTS = ['messagesSent', 'messagesReceived', 'bytesSent', 'bytesReceived'] as const;

/** Counts as they are, or per second. */
function counts(now: ConnectionSnapshot, watching: boolean, before: Before | undefined): string[] {
  if (!watching) {
    return [String(now.messagesSent), String(now.messagesReceived), bytes(now.bytesSent), bytes(now.bytesReceived)];
  }
  const then = before?.snapshot.connections.find(({ number }) => number === now.number);
  return COUNTS.map((count) => {
    if (!before) return '-';
    const perSecond = Math.max(0, now[count] - (then?.[count] ?? 0)) / before.seconds;
    return count.startsWith('bytes') ? rate(perSecond) : String(Math.round(perSecond));
  });
}

function connectionRow(now: ConnectionSnapshot, watching: boolean, before: Before | undefined): string[] {
  const { address, name, pid, node } = now.peer;
  return [
    String(now.number),
    now.plugin,
    now.state,
    `${name}[${pid}] ${address ? `${address.host}:${address.port}` : node}`,
    ...counts(now, watching, before),
    `${bytes(now.ringUsed)} of ${bytes(now.ringSize)}`,
    String(now.stalls),
    String(now.pendingSends),
    String(now.unreadMessages),
    bytes(now.unreadBytes),
    now.unreadMessages === 0 ? '-' : duration(now.oldestUnreadMs * 1e6),
  ];
}

function renderConnections(now: RuntimeSnapshot, watching: boolean, before: Before | undefined): string {
  if (now.connections.length === 0) return 'Connections\n  none\n';
  const right = true;
  const columns = [
    { title: '#', right },
    { title: 'plugin' },
    { title: 'state' },
    { title: 'peer' },
    { title: watching ? 'sent/s' : 'sent', right },
    { title: watching ? 'received/s' : 'received', right },
    { title: 'out', right },
    { title: 'in', right },
    { title: 'ring', right },
    { title: 'stalls', right },
    { title: 'waiting', right },
    { title: 'unread', right },
    { title: 'bytes', right },
    { title: 'oldest', right },
  ];
  const rows = now.connections.map((connection) => connectionRow(connection, watching, before));
  const why = now.connections
    .filter(({ why }) => why !== null)
    .map(({ number, plugin, why }) => `  ${number} is on ${plugin}: ${why}\n`);
  const stalled = now.connections
    .filter(({ stalled }) => stalled > 0)
    .map(
      ({ number, stalled }) => `  ${number} is stalled: no sign of life of its peer for ${duration(stalled * 1e6)}\n`,
    );
  return `Connections\n${indent(renderTable(columns, rows))}${why.join('')}${stalled.join('')}`;
}

function renderRegions({ regions, refused }: RuntimeSnapshot): string {
  const table =
    regions.length === 0
      ? 'none\n'
      : renderTable(
          [
            { title: 'path' },
            { title: 'size', right: true },
            { title: 'our slot', right: true },
            { title: 'slots used', right: true },
            { title: 'frames free', right: true },
          ],
          regions.map(({ path, size, slot, slots, slotsUsed, frames, freeFrames }) => [
            path,
            bytes(size),
            String(slot),
            `${slotsUsed} of ${slots}`,
            `${freeFrames} of ${frames}`,
          ]),
        );
  const why = refused.map(({ message, code }) => `  not used: ${message} (${code})\n`);
  return `Regions\n${indent(table)}${why.join('')}`;
}

function render(now: RuntimeSnapshot, watching: boolean, before?: Before): string {
  const { stats } = now;
  const listeners = now.listeners.map(({ host, port }) => `${host}:${port}`).join(' ') || 'nowhere';
  const plugins = renderTable(
    [{ title: 'plugin' }, { title: 'priority', right: true }, { title: '' }],
    now.plugins.map(({ name, priority, unavailable }) => [
      name,
      String(priority),
      unavailable === null ? 'usable' : `not usable: ${unavailable}`,
    ]),
  );
  return [
    `${now.name}, id ${now.id}, pid ${now.pid}${now.thread === 0 ? '' : `, thread ${now.thread}`}, ` +
      `Isthmus ${now.version}, Node.js ${now.node}\n` +
      `up ${elapsed(Date.now() - Date.parse(now.started))}, listens at ${listeners}, log level ${now.debug}\n` +
      `${stats.connections} connections of ${stats.connectionsEver}; sent ${stats.messagesSent} (${bytes(stats.bytesSent)}), ` +
      `received ${stats.messagesReceived} (${bytes(stats.bytesReceived)}), ${stats.stalls} stalls\n`,
    `Plugins, best first\n${indent(plugins)}`,
    renderRegions(now),
    renderConnections(now, watching, before),
  ].join('\n');
}

/** Until the runtime ends, nobody reads, or a signal comes. @returns the exit code */
async function watch(target: Target, seconds: number, json: boolean): Promise<number> {
  const stop = stopSignal();
  if (!json) clearScreen();
  let before: { snapshot: RuntimeSnapshot; at: number } | undefined;
  while (!stop.aborted && !nobodyReads()) {
    const answer = await askInspect(target);
    if (answer.kind === 'gone' && before) {
      complain(`isthmus: ${target.id} has ended\n`);
      return 0;
    }
    if (answer.kind === 'silent' && before) {
      complain(`isthmus: ${target.id} does not answer\n`);
    } else {
      const snapshot = snapshotOf(target, answer);
      const at = performance.now();
      if (json) say(`${JSON.stringify(snapshot)}\n`);
      else
        showInPlace(render(snapshot, true, before && { snapshot: before.snapshot, seconds: (at - before.at) / 1000 }));
      before = { snapshot, at };
    }
    await sleep(seconds * 1000, undefined, { signal: stop }).catch(() => {});
  }
  return stop.aborted ? exitCodeOf(stop.reason) : 0;
}

export function addInspect(program: Command, exit: (code: number) => void): void {
  program
    .command('inspect')
    .summary('what a running runtime is doing')
    .description(
      'Print what can be seen of a running runtime: plugins, regions, and for each connection its plugin and why not a ' +
        'better one, its state, messages, bytes, what the peer has not consumed of the ring, stalls (how often the ring ' +
        'was full), messages that wait for room, and what the application has not read yet, with the age of the oldest. ' +
        'Connections of which the peer shows no sign of life are named as stalled.',
    )
    .argument('<ID>', TARGET)
    .option(
      '--watch [SECONDS]',
      'again and again, with messages and bytes per second (default: every second)',
      interval,
    )
    .option('--json', 'print one JSON object, with --watch one in each line')
    .addHelpText(
      'after',
      `
Example:
  $ isthmus pp --listen 7100 &
  $ isthmus inspect pp --watch
  $ isthmus inspect pp --json`,
    )
    .action(async (id: string, { watch: every, json = false }: Options) => {
      const target = await findRuntime(id);
      if (every !== undefined) {
        exit(await watch(target, every === true ? 1 : every, json));
        return;
      }
      const snapshot = snapshotOf(target, await askInspect(target));
      say(json ? `${JSON.stringify(snapshot, null, 2)}\n` : render(snapshot, false));
    });
}
