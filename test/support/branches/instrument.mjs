/**
 * A build of the core that records which way each of its conditions went: every condition of an `if`, a loop or a
 * ternary, and every operand of `&&` and `||` goes through an import, with its number. After each load of a word that a
 * peer may write, it calls another import: the moment at which a hostile peer writes.
 *
 *   node instrument.mjs OUT FILE…     → OUT/core.wasm, OUT/branches.json: [{ file, line, text }], by number
 */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import * as as from 'assemblyscript';
import asc from 'assemblyscript/asc';

const [out, ...files] = process.argv.slice(2);
const { NodeKind, Token } = as;
const branches = [];

/** All nodes of a tree, parents before children. */
function* nodes(node, seen = new Set()) {
  if (typeof node !== 'object' || node === null || seen.has(node)) return;
  seen.add(node);
  if (Array.isArray(node)) {
    for (const each of node) yield* nodes(each, seen);
    return;
  }
  if (typeof node.kind === 'number' && node.range) yield node;
  for (const [key, value] of Object.entries(node)) {
    // Properties that lead out of the tree, or to parts that are evaluated at compile time.
    if (key !== 'range' && key !== 'source' && key !== 'decorators') yield* nodes(value, seen);
  }
}

/** Conditions, each once. */
function conditions(tree) {
  const found = new Set();
  for (const node of nodes(tree.statements)) {
    const { kind } = node;
    if ([NodeKind.If, NodeKind.While, NodeKind.Do, NodeKind.For, NodeKind.Ternary].includes(kind) && node.condition) {
      found.add(node.condition);
    }
    if (kind === NodeKind.Binary && [Token.Ampersand_Ampersand, Token.Bar_Bar].includes(node.operator)) {
      found.add(node.left).add(node.right);
    }
  }
  // A compound condition is covered by its operands.
  const whole = ({ kind, operator, expression }) =>
    kind === NodeKind.Parenthesized
      ? whole(expression)
      : kind !== NodeKind.Binary || ![Token.Ampersand_Ampersand, Token.Bar_Bar].includes(operator);
  return [...found].filter(whole).map(({ range }) => range);
}

const LOOKS = /^(?:atomic\.(?:load|cmpxchg|xchg)<|load<u\d+>\(r, RING_)/;

/** Loads of words that peers write. */
function looks(tree, text) {
  const calls = [...nodes(tree.statements)].filter(({ kind }) => kind === NodeKind.Call).map(({ range }) => range);
  return calls.filter(({ start, end }) => LOOKS.test(text.slice(start, end)));
}

function instrument(file) {
  const text = readFileSync(file, 'utf8');
  const program = as.newProgram(as.newOptions());
  as.parse(program, text, file, true);
  const tree = program.sources.find(({ normalizedPath }) => normalizedPath === file);
  const inserts = [];
  for (const { start, end } of conditions(tree)) {
    const line = text.slice(0, start).split('\n').length;
    const number = branches.push({ file: relative('assembly', file), line, text: text.slice(start, end) }) - 1;
    inserts.push([start, `(__branch(${number}, (`], [end, `) != 0))`]);
  }
  for (const { start, end } of looks(tree, text)) inserts.push([start, '__seen('], [end, ')']);
  let result = text;
  for (const [at, what] of inserts.sort((a, b) => b[0] - a[0])) result = result.slice(0, at) + what + result.slice(at);
  return result + IMPORTS;
}

const IMPORTS = `
// @ts-ignore: decorator
@external('env', 'branch')
declare function __branch(number: u32, way: bool): bool;
// @ts-ignore: decorator
@external('env', 'moment')
declare function __moment(): void;
// @ts-ignore: decorator
@inline
function __seen<T>(value: T): T {
  __moment();
  return value;
}
`;

mkdirSync(out, { recursive: true });
cpSync('assembly', join(out, 'assembly'), { recursive: true });
for (const file of files) writeFileSync(join(out, file), instrument(file));
const { error, stderr } = await asc.main(
  ['assembly/index.ts', '--baseDir', out, '--outFile', 'core.wasm', '-O1', '--noAssert'].concat([
    '--runtime',
    'stub',
    '--importMemory',
    '--enable',
    'threads,bulk-memory,simd',
  ]),
);
if (error) {
  process.stderr.write(`${error.message}\n${stderr}`);
  process.exit(1);
}
writeFileSync(join(out, 'branches.json'), JSON.stringify(branches));
