/** `isthmus info`: what is on this machine, and why a device or a region is not used. */
import type { Command } from 'commander';
import type { ConfigRow } from '../../config/resolve.js';
import { GROUPS } from '../../config/setting.js';
import { WAYS } from '../../device/backing.js';
import { withExamples } from '../support/help.js';
import { print, printJson } from '../support/output.js';
import { type Found, type Survey, survey } from '../support/survey.js';
import { indent, renderTable } from '../support/table.js';
import { bytes } from '../support/units.js';

function renderFound(title: string, none: string, found: readonly Found[]): string {
  if (found.length === 0) return `${title}\n  ${none}\n`;
  const rows = found
    .filter(({ state, sameAs }) => state !== 'refused' && sameAs === undefined)
    .map(({ path, kind, size, state, uuid, peers }) => [
      path,
      ...(kind === 'posix' ? [] : [WAYS[kind]]),
      bytes(size ?? 0),
      uuid ?? state,
      peers.length === 0 ? '-' : peers.map(({ name, pid }) => `${name}[${pid}]`).join(' '),
    ]);
  const devices = found.some(({ kind }) => kind !== 'posix');
  const columns = [
    { title: 'path' },
    ...(devices ? [{ title: 'reached by' }] : []),
    { title: 'size', right: true },
    { title: 'UUID' },
    { title: 'attached' },
  ];
  const usable = rows.length > 0 ? indent(renderTable(columns, rows)) : '';
  const refused = found
    .flatMap(({ refused: why }) => (why ? [`  not used: ${why.message} (${why.code})\n`] : []))
    .join('');
  const remarks = found
    .flatMap(({ path, foreignOwner, sameAs }) => [
      ...(sameAs === undefined ? [] : [`  ${path}: the same file as ${sameAs}\n`]),
      ...(foreignOwner === undefined
        ? []
        : [`  ${path}: belongs to uid ${foreignOwner}; it is used because it is named\n`]),
    ])
    .join('');
  return `${title}\n${usable}${refused}${remarks}`;
}

function settingRow({ variable, name, value, origin, meaning, takes }: ConfigRow): string[] {
  const text = value === '' ? "''" : value === true ? '1' : value === false ? '0' : String(value);
  return [variable, name, text, origin, `${meaning} (${takes})`];
}

export function render({ native, devices, regions, shm, shmTaken, plugins, configuration }: Survey): string {
  const pluginTable = renderTable(
    [{ title: 'plugin' }, { title: 'priority', right: true }, { title: 'arch id', right: true }, { title: '' }],
    plugins.map(({ name, priority, archId, unavailable, path }) => [
      name,
      String(priority),
      String(archId),
      unavailable === undefined ? `usable${path === undefined ? '' : `: ${path}`}` : `not usable: ${unavailable}`,
    ]),
  );
  const settingTable = renderTable(
    [
      { title: 'variable' },
      { title: 'option' },
      { title: 'value' },
      { title: 'origin' },
      { title: 'meaning', width: 60 },
    ],
    configuration.flatMap((row, i, all) => [
      ...(row.group === all[i - 1]?.group ? [] : [[`${GROUPS[row.group]}:`, '', '', '', '']]),
      settingRow(row),
    ]),
  );
  return [
    `Native part: ${native.loaded ? 'loaded' : native.reason}\n`,
    renderFound('Devices', 'none', devices),
    renderFound('Regions (files)', "none ('isthmus server -s NAME -m MB -c migration-framework' creates one)", regions),
    renderFound('Region of shm', 'none (the first connection creates it)', shm ? [shm] : []) +
      (shmTaken === undefined ? '' : `  ${shmTaken}\n`),
    `Plugins, best first\n${indent(pluginTable)}`,
    `Configuration\n${indent(settingTable)}`,
  ].join('\n');
}

export function addInfo(program: Command): void {
  const command = program
    .command('info')
    .summary('print devices, regions, plugins and configuration')
    .description(
      'Print the devices and regions of this machine, and why one of them is not used; the plugins with their ' +
        'priorities; and each setting with its value and its origin. Attaches nothing.',
    )
    .option('--json', 'print one JSON object');
  withExamples(
    command,
    `
  $ isthmus info
  $ PSP_IVSHMEM_REGIONS=demo isthmus info --json`,
  ).action(({ json }: { json?: true }) => {
    const found = survey();
    if (json) printJson(found);
    else print(render(found));
  });
}
