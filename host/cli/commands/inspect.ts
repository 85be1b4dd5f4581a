/** `isthmus inspect`: the state of a running runtime and of each of its connections. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { ConnectionSnapshot, RuntimeSnapshot } from '../../api/snapshots.js';
import { interval } from '../support/args.js';
import { askInspect, findRuntime, snapshotOf, TARGET, type Target } from '../support/find.js';
import { type Exit, withExamples } from '../support/help.js';
import { isOutputClosed, print, printError, printJson, printJsonLine } from '../support/output.js';
import { clearScreen, showInPlace } from '../support/progress.js';
import { exitCodeOf, stopSignal } from '../support/signals.js';
import { indent, renderTable } from '../support/table.js';
import { bytes, counted, duration, elapsed, hostAndPort, rate } from '../support/units.js';

interface Options {
  readonly watch?: true | number;
  readonly json?: boolean;
}

/** The snapshot before, for rates. */
interface Before {
  readonly snapshot: RuntimeSnapshot;
  /** Time between the two snapshots, in seconds. */
  readonly seconds: number;
}

const COUNTS = ['messagesSent', 'messagesReceived', 'bytesSent', 'bytesReceived'] as const;

/** Totals; while watching, rates. */
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
    `${name}[${pid}] ${address ? hostAndPort(address) : node}`,
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
    { title: 'bytes out', right },
    { title: 'bytes in', right },
    { title: 'ring', right },
    { title: 'stalls', right },
    { title: 'waiting', right },
    { title: 'unread', right },
    { title: 'unread bytes', right },
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
            { title: 'own slot', right: true },
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

function renderHead(now: RuntimeSnapshot): string {
  const { name, id, pid, thread, version, node, started, listeners, debug, stats } = now;
  const at = listeners.map(hostAndPort).join(' ');
  return (
    `${name}, id ${id}, pid ${pid}${thread === 0 ? '' : `, thread ${thread}`}, Isthmus ${version}, Node.js ${node}\n` +
    `up ${elapsed(Date.now() - Date.parse(started))}, ${at === '' ? 'does not listen' : `listens at ${at}`}, ` +
    `log level ${debug}\n` +
    `${counted(stats.connections, 'open connection')}, ${stats.connectionsEver} in total; ` +
    `sent ${counted(stats.messagesSent, 'message')} (${bytes(stats.bytesSent)}), ` +
    `received ${stats.messagesReceived} (${bytes(stats.bytesReceived)}), ${counted(stats.stalls, 'stall')}\n`
  );
}

function render(now: RuntimeSnapshot, watching: boolean, before?: Before): string {
  const plugins = renderTable(
    [{ title: 'plugin' }, { title: 'priority', right: true }, { title: '' }],
    now.plugins.map(({ name, priority, unavailable }) => [
      name,
      String(priority),
      unavailable === null ? 'usable' : `not usable: ${unavailable}`,
    ]),
  );
  return [
    renderHead(now),
    `Plugins, best first\n${indent(plugins)}`,
    renderRegions(now),
    renderConnections(now, watching, before),
  ].join('\n');
}

/** Until the runtime ends, standard output is closed, or a signal comes. @returns the exit code */
async function watch(target: Target, seconds: number, json: boolean): Promise<number> {
  using stop = stopSignal();
  if (!json) clearScreen();
  let before: { snapshot: RuntimeSnapshot; at: number } | undefined;
  while (!stop.aborted && !isOutputClosed()) {
    const answer = await askInspect(target);
    if (answer.kind === 'gone' && before) {
      printError(`isthmus: ${target.id} has ended\n`);
      return 0;
    }
    if (answer.kind === 'silent' && before) {
      printError(`isthmus: ${target.id} does not answer\n`);
    } else {
      const snapshot = snapshotOf(target, answer);
      const at = performance.now();
      if (json) printJsonLine(snapshot);
      else {
        const last = before && { snapshot: before.snapshot, seconds: (at - before.at) / 1000 };
        showInPlace(render(snapshot, true, last));
      }
      before = { snapshot, at };
    }
    await sleep(seconds * 1000, undefined, { signal: stop }).catch(() => {});
  }
  return exitCodeOf(stop);
}

export function addInspect(program: Command, exit: Exit): void {
  const command = program
    .command('inspect')
    .summary('print the state of a running runtime')
    .description(
      'Print the state of a running runtime: plugins, regions, and its connections. For each connection: its plugin, and ' +
        'why it does not use a better one; its state; messages and bytes; how much of its ring the peer has not consumed; ' +
        'stalls (how often the ring was full); messages that wait for room; and messages that the application has not ' +
        'read, with the age of the oldest. A connection whose peer shows no sign of life is reported as stalled.',
    )
    .argument('<ID>', TARGET)
    .option('--watch [SECONDS]', 'repeat, with messages and bytes per second (default: every second)', interval)
    .option('--json', 'print one JSON object; with --watch one per line');
  withExamples(
    command,
    `
  $ isthmus pp --listen 7100 &
  $ isthmus inspect pp --watch
  $ isthmus inspect pp --json`,
  ).action(async (id: string, { watch: every, json = false }: Options) => {
    const target = await findRuntime(id);
    if (every !== undefined) {
      exit(await watch(target, every === true ? 1 : every, json));
      return;
    }
    const snapshot = snapshotOf(target, await askInspect(target));
    if (json) printJson(snapshot);
    else print(render(snapshot, false));
  });
}
