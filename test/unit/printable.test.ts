/** Hostile text from outside, at each way out: log, errors, tables, output and JSON of the command line. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import { makeLog } from '../../host/base/log.js';
import { MAX_PRINTABLE, printable, printableJson, printableLines } from '../../host/base/printable.js';
import { describeError, lineOf } from '../../host/cli/support/error-text.js';
import { CliError } from '../../host/cli/support/errors.js';
import { print, printError, printJson, printJsonLine } from '../../host/cli/support/output.js';
import { ProgressTable, showInPlace } from '../../host/cli/support/progress.js';
import { renderRow, renderTable } from '../../host/cli/support/table.js';
import { testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

/** A control sequence of a terminal. */
const ESCAPE = '\x1b';
const SEQUENCE = new RegExp(`${ESCAPE}\\[\\??\\w+`, 'g');

/** By code point, independent of the classes that the code uses. */
const HOSTILE: readonly (readonly [from: number, to: number])[] = [
  [0x00, 0x1f], // C0
  [0x7f, 0x9f], // DEL, C1
  [0xad, 0xad], // soft hyphen
  [0x34f, 0x34f], // combining grapheme joiner
  [0x61c, 0x61c], // Arabic letter mark
  [0x115f, 0x1160], // Hangul fillers
  [0x180b, 0x180f], // Mongolian variation selectors
  [0x200b, 0x200f], // zero width, marks of direction
  [0x2028, 0x202e], // separators of lines and paragraphs, overrides of direction
  [0x2060, 0x206f], // word joiner, isolates
  [0x3164, 0x3164], // Hangul filler
  [0xd800, 0xdfff], // unpaired surrogates
  [0xe000, 0xe000], // private use
  [0xfe00, 0xfe0f], // variation selectors
  [0xfeff, 0xfeff], // byte order mark
  [0xfff9, 0xfffb], // interlinear annotation
  [0xe0001, 0xe007f], // tags
  [0xe0100, 0xe01ef], // variation selectors
  [0x10fffd, 0x10ffff], // private use, and no character
];
const POINTS = HOSTILE.flatMap(([from, to]) => Array.from({ length: to - from + 1 }, (_, i) => from + i));
const isHostile = (point: number) => HOSTILE.some(([from, to]) => point >= from && point <= to);

/** What of it would act on a terminal or a reader. @param lines whether line feeds are the layout's own */
function hostileIn(text: string, lines = false): string[] {
  return Array.from(text, (character) => character.codePointAt(0) as number)
    .filter((point) => isHostile(point) && !(lines && point === 0x0a))
    .map((point) => point.toString(16));
}

const within = (point: number) => `a${String.fromCodePoint(point)}b`;
/** Hostile code points of each kind between letters, and some that are used in attacks together. */
const TEXTS = [
  ...HOSTILE.flatMap(([from, to]) => [within(from), within(to)]),
  'x\n2026-01-01 isthmus root[1] error: forged',
  '\x1b[2J\x1b]0;title\x07',
  '\u202egnp.exe',
  '\u2028forged\u2029forged',
  `z${'\u0335'.repeat(500)}`,
];

/** Standard output and standard error during `act`. */
function written(act: () => void, isTTY = false): { stdout: string; stderr: string } {
  const texts = { stdout: '', stderr: '' };
  const undo = (['stdout', 'stderr'] as const).map((name) => {
    const { write, isTTY: was, rows } = process[name];
    process[name].write = ((text: string) => {
      texts[name] += text;
      return true;
    }) as typeof write;
    process[name].isTTY = isTTY;
    if (isTTY) process[name].rows = 50;
    return () => {
      process[name].write = write;
      process[name].isTTY = was;
      process[name].rows = rows;
    };
  });
  try {
    act();
  } finally {
    for (const each of undo) each();
  }
  return texts;
}

test(
  'one line, bounded, and letters of all scripts as they are',
  timebox(20, () => {
    for (const text of [...TEXTS, ...POINTS.map(within)]) {
      assert.equal(hostileIn(printable(text)), [], JSON.stringify(text));
    }
    for (const text of ['naïve', 'Ωmega', '日本語', 'שלום', 'हिन्दी', '🙂', 'a\u0301\u0323', '…→─'])
      assert.is(printable(text), text);
    assert.is(printable('a\r\n\tb\u2028c\0'), 'a b c?');
    assert.is(printableLines('a\nb\r\u2028c'), 'a\nb??c');
    assert.is(printable('x'.repeat(1e6)).length, MAX_PRINTABLE);
    assert.is(printable('abcdef', 4), 'abc…');
    // Cut between the halves of a pair.
    assert.is(printable('ab🙂d', 4), 'ab?…');
    assert.ok(printable(`z${'\u0335'.repeat(500)}`).length < 10);
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => {
        assert.equal(hostileIn(printable(text)), []);
        assert.equal(hostileIn(printableLines(text), true), []);
        const json = JSON.stringify({ [text]: text });
        assert.equal(hostileIn(printableJson(json), true), []);
        assert.is(printableJson(json) && JSON.stringify(JSON.parse(printableJson(json))), json);
      }),
      { seed: testSeed(), numRuns: 2000 },
    );
  }),
);

test(
  'every way out',
  timebox(60, () => {
    const folder = mkdtempSync(join(tmpdir(), 'isthmus-test-printable-'));
    try {
      const path = join(folder, 'log');
      for (const text of TEXTS) {
        const say = (shown: string, lines = true) =>
          assert.equal(hostileIn(shown, lines), [], `${JSON.stringify(text)} → ${JSON.stringify(shown)}`);
        // The log: a sink, standard error, and a file; text in the line, and in the name.
        const lines: string[] = [];
        makeLog(4, text, { sink: (_, line) => lines.push(line) })('warning', `peer '${text}'`);
        say(lines.join(), false);
        const { stderr } = written(() => makeLog(4, text)('warning', `peer '${text}'`));
        say(stderr);
        assert.is(stderr.split('\n').length, 2, 'one line of the log is one line');
        rmSync(path, { force: true });
        makeLog(4, text, { path })('warning', text);
        const file = readFileSync(path, 'utf8');
        say(file);
        assert.is(file.split('\n').length, 2);
        // Errors: as an application prints them, and as the command line does.
        const error = new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', `peer '${text}'`, { path: text });
        say(error.message, false);
        say(String(error), false);
        say((error.stack ?? '').split('\n')[0] as string, false);
        assert.is(error.path, text, 'a path is for programs');
        for (const each of [error, new CliError(text, text), new Error(text), text]) {
          say(written(() => printError(describeError(each))).stderr);
          say(lineOf(each), false);
        }
        // Tables, and what is printed around them.
        const columns = [{ title: 'name', width: 30 }, { title: 'state' }];
        say(renderTable(columns, [[text, 'x']]));
        say(renderRow([{ title: 'a', width: 9 }], [text]));
        say(written(() => print(`${text}\n`)).stdout);
        const rows = {
          columns,
          cells: (row: string) => [row, row],
          line: (row: string) => `${row}\n`,
          done: () => true,
        };
        say(written(() => new ProgressTable<string>({ ...rows, silent: false }).show([text])).stdout);
        // On a terminal: nothing but the sequences of the table itself.
        for (const act of [
          () => new ProgressTable<string>({ ...rows, silent: false }).show([text]),
          () => showInPlace(`${text}\n`),
        ]) {
          say(written(act, true).stdout.replaceAll(SEQUENCE, ''));
        }
        // JSON: harmless, and with the same meaning.
        for (const act of [() => printJson({ [text]: text }), () => printJsonLine([text])]) {
          const { stdout } = written(act);
          say(stdout);
          assert.ok(JSON.stringify(JSON.parse(stdout)).includes(JSON.stringify(text)));
        }
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }),
);

test(
  'the columns of a table stay where they are, whatever a cell holds',
  timebox(10, () => {
    const columns = [{ title: 'name' }, { title: 'state' }];
    const names = ['plain', 'a\u200b\u200b\u200b', '\u202eback', 'e\u0301', '日本', '\x1b[31mred'];
    const [, ...lines] = renderTable(
      columns,
      names.map((name) => [name, 'inactive']),
    )
      .trimEnd()
      .split('\n');
    const wide = /[\u1100-\ua4ff]/g;
    const at = lines.map((line) => {
      const before = line.slice(0, line.indexOf('inactive')).replaceAll('\u0301', '');
      return before.length + (before.match(wide)?.length ?? 0);
    });
    assert.is(new Set(at).size, 1, lines.join('\n'));
  }),
);

test(
  'nothing of host/ writes to standard output or standard error but the files that make text printable',
  timebox(10, () => {
    const host = resolve(process.env['ISTHMUS_ROOT'] ?? '.', 'host');
    const writers = readdirSync(host, { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts'))
      .filter((file) =>
        // Whether it is a terminal, and of how many rows, may be asked anywhere.
        /(?<!#)\bprocess\.std(?:out|err)\b(?!\.isTTY)(?<!\} = process\.stdout)|\bconsole\./.test(
          readFileSync(join(host, file), 'utf8').replace(/^\s*(?:\/?\*|\/\/).*$/gm, ''),
        ),
      )
      .sort();
    assert.equal(writers, [
      'base/log.ts',
      // The bar of a library, with numbers only.
      'cli/demo/transfer.ts',
      'cli/support/output.ts',
      // The data of `isthmus pipe`.
      'cli/support/stream-copy.ts',
    ]);
  }),
);

test.run();
