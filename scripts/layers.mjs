// @ts-check
/**
 * The order of the rooms of host/, and the check of it that `npm run lint` does: `node scripts/layers.mjs`.
 *
 * - A file imports only from its own room and from rooms on floors below it, types included.
 * - No folders import each other in a circle. (Circles of files: Biome's noImportCycles.)
 * - Every folder of host/ is a room of the list, and every room is a folder.
 * - No file has more than MAX_LINES lines; no folder has more than MAX_FLOORS_IN_FOLDER files that import one another in a
 *   row; there are at most MAX_FLOORS floors.
 * - Code outside host/ and test/ imports the public API, host/index.ts, and what OUTSIDE names.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * The floors, from the top: each is a list of rooms that do not import one another. docs/architecture.md says what each room
 * is for.
 */
export const FLOORS = [
  ['cli'],
  ['index.ts'],
  ['runtime'],
  ['control', 'endpoint'],
  ['messaging'],
  ['connection'],
  ['memory'],
  ['channel'],
  ['link', 'handshake'],
  ['plugins', 'polling', 'matching'],
  ['region'],
  ['device'],
  ['core', 'native'],
  ['api', 'config'],
  ['base'],
];

/** What code outside host/ and test/ may import beside host/index.ts: its folder → folders and files of host/. */
export const OUTSIDE = {
  // Measures parts of the core and the copies around it, without a runtime.
  'bench/micro/': ['host/core/', 'host/link/copies.ts'],
  // Prints tables and units as the CLI does.
  'bench/': ['host/cli/support/table.ts', 'host/cli/support/units.ts'],
};

export const MAX_LINES = 500;
export const MAX_FLOORS = 15;
export const MAX_FLOORS_IN_FOLDER = 4;

/** Folders outside host/ and test/ whose code is checked. */
const OUTER = ['bench', 'examples', 'scripts', 'vendor'];

/** @typedef {{ from: string, line: number, to: string }} Import */

/**
 * @typedef {object} Options
 * @property {readonly (readonly string[])[]} [floors]
 * @property {Readonly<Record<string, readonly string[]>>} [outside]
 */

/** Files with code below a folder, by their paths from the root. @param {string} root @param {string} folder @returns {string[]} */
function codeBelow(root, folder) {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return /^(?:node_modules|\..*)$/.test(entry.name) ? [] : codeBelow(root, path);
    return /\.[cm]?[jt]s$/.test(entry.name) ? [path] : [];
  });
}

/** Statements begin in the first column: Biome formats all of it. */
const STATEMENT = /^(?:import|export)\b[\w$*{},\s]*?\bfrom\s+(['"])(\.[^'"]+)\1|^import\s+(['"])(\.[^'"]+)\3/gm;
/** `import('…')`, of a module or of a type, but in a comment. */
const CALL = /^(?!\s*(?:\/\/|\/?\*)).*\bimport\(\s*(['"])(\.[^'"]+)\1/gm;

/** What a file imports by relative paths. @param {string} path @param {string} text @returns {Import[]} */
function importsOf(path, text) {
  return [...text.matchAll(STATEMENT), ...text.matchAll(CALL)].map((found) => {
    const specifier = found[2] ?? found[4] ?? '';
    const at = found.index + found[0].lastIndexOf(specifier);
    return {
      from: path,
      line: text.slice(0, at).split('\n').length,
      to: posix.normalize(posix.join(dirname(path), specifier)).replace(/\.js$/, '.ts'),
    };
  });
}

/** The room of a file of host/. @param {string} path */
const roomOf = (path) => /** @type {string} */ (path.split('/')[1]);

/** @param {readonly Import[]} imports @param {readonly (readonly string[])[]} floors @returns {string[]} */
function checkOrder(imports, floors) {
  /** @param {string} room */
  const floorOf = (room) => floors.findIndex((floor) => floor.includes(room));
  return imports.flatMap(({ from, line, to }) => {
    const [a, b] = [roomOf(from), roomOf(to)];
    if (a === b || floorOf(a) < 0 || floorOf(b) < 0 || floorOf(a) < floorOf(b)) return [];
    const why = floorOf(a) === floorOf(b) ? `${a} and ${b} are on one floor` : `${a} is below ${b}`;
    return [`${from}:${line} imports ${to}: ${why}`];
  });
}

/** Circles of folders, one for each folder that is the first of a circle. @param {readonly Import[]} imports @returns {string[]} */
function checkCircles(imports) {
  /** @type {Map<string, Map<string, Import>>} */
  const edges = new Map();
  for (const one of imports) {
    const [a, b] = [dirname(one.from), dirname(one.to)];
    if (a === b) continue;
    const from = edges.get(a) ?? new Map();
    edges.set(a, from);
    if (!from.has(b)) from.set(b, one);
  }
  /** @type {string[]} */
  const found = [];
  const seen = new Set();
  /** @param {string} folder @param {readonly string[]} way */
  const walk = (folder, way) => {
    const start = way.indexOf(folder);
    if (start >= 0) {
      const circle = [...way.slice(start), folder];
      const places = circle.slice(1).map((to, i) => edges.get(/** @type {string} */ (circle[i]))?.get(to));
      found.push(
        `${circle.join(' → ')} is a circle of folders: ${places.map((one) => `${one?.from}:${one?.line}`).join(', ')}`,
      );
      return;
    }
    if (seen.has(folder)) return;
    for (const to of edges.get(folder)?.keys() ?? []) walk(to, [...way, folder]);
    seen.add(folder);
  };
  for (const folder of [...edges.keys()].sort()) walk(folder, []);
  return found;
}

/** The longest row of files of a folder that import one another. @param {readonly string[]} files @param {readonly Import[]} imports */
function longestRows(files, imports) {
  /** @type {Map<string, readonly string[]>} */
  const rows = new Map();
  /** @param {string} file @returns {readonly string[]} */
  const rowOf = (file) => {
    const known = rows.get(file);
    if (known) return known;
    rows.set(file, [file]); // Ends the walk in a circle of files, which Biome reports.
    const inside = imports.filter(({ from, to }) => from === file && dirname(to) === dirname(file) && to !== file);
    const below = inside
      .map(({ to }) => rowOf(to))
      .reduce((a, b) => (b.length > a.length ? b : a), /** @type {readonly string[]} */ ([]));
    rows.set(file, [file, ...below]);
    return [file, ...below];
  };
  /** @type {Map<string, readonly string[]>} */
  const longest = new Map();
  for (const file of files) {
    const row = rowOf(file);
    if (row.length > (longest.get(dirname(file))?.length ?? 0)) longest.set(dirname(file), row);
  }
  return longest;
}

/**
 * Check a checkout.
 *
 * @param {string} root
 * @param {Options} [options] in the place of the lists above
 * @returns {string[]} what is wrong; empty: nothing
 */
export function checkLayers(root, { floors = FLOORS, outside = OUTSIDE } = {}) {
  /** @type {Map<string, string>} */
  const texts = new Map();
  for (const path of ['host', ...OUTER].flatMap((folder) => codeBelow(root, folder))) {
    texts.set(path, readFileSync(join(root, path), 'utf8'));
  }
  const files = [...texts.keys()].filter((path) => path.startsWith('host/'));
  const all = [...texts].flatMap(([path, text]) => importsOf(path, text)).filter(({ to }) => to.startsWith('host/'));
  const imports = all.filter(({ from }) => from.startsWith('host/'));
  /** @type {string[]} */
  const problems = [];
  const rooms = floors.flat();
  for (const [index, room] of rooms.entries()) {
    if (rooms.indexOf(room) !== index) problems.push(`scripts/layers.mjs: ${room} is there twice`);
    else if (!existsSync(join(root, 'host', room))) {
      problems.push(`scripts/layers.mjs: there is no host/${room}; remove it from FLOORS`);
    }
  }
  const folders = floors.filter((floor) => floor.some((room) => !room.endsWith('.ts')));
  if (folders.length > MAX_FLOORS) problems.push(`scripts/layers.mjs: ${folders.length} floors, at most ${MAX_FLOORS}`);
  for (const room of new Set(files.map(roomOf))) {
    if (!rooms.includes(room)) problems.push(`host/${room}: no room of FLOORS in scripts/layers.mjs; give it a floor`);
  }
  problems.push(...checkOrder(imports, floors), ...checkCircles(imports));
  for (const path of files) {
    const lines = (texts.get(path)?.split('\n').length ?? 1) - 1;
    if (lines > MAX_LINES) problems.push(`${path}: ${lines} lines, at most ${MAX_LINES}`);
  }
  for (const [folder, row] of longestRows(files, imports)) {
    if (row.length <= MAX_FLOORS_IN_FOLDER) continue;
    const names = row.map((path) => path.slice(folder.length + 1));
    problems.push(`${folder}: ${row.length} floors of files (${names.join(' → ')}), at most ${MAX_FLOORS_IN_FOLDER}`);
  }
  for (const { from, line, to } of all.filter((one) => !one.from.startsWith('host/'))) {
    const allowed = Object.entries(outside).flatMap(([folder, paths]) => (from.startsWith(folder) ? paths : []));
    if (to === 'host/index.ts' || allowed.some((path) => (path.endsWith('/') ? to.startsWith(path) : to === path)))
      continue;
    problems.push(`${from}:${line} imports ${to}: only host/index.ts, and what OUTSIDE in scripts/layers.mjs names`);
  }
  return problems;
}

// Not where a test has it in its bundle.
if (/[\\/]layers\.mjs$/.test(process.argv[1] ?? '')) {
  const problems = checkLayers(join(dirname(fileURLToPath(import.meta.url)), '..'));
  for (const problem of problems) console.error(problem);
  if (problems.length > 0) process.exitCode = 1;
}
