/** Wildcards: what they match, and that no pattern takes long. */
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { matchesWildcards } from '../../host/device/wildcard.js';
import { timebox } from '../support/timebox.js';

/** What the pattern means, by its definition: exponential. */
function means(pattern: string, name: string): boolean {
  if (pattern === '') return name === '';
  const rest = pattern.slice(1);
  if (pattern[0] === '*') return means(rest, name) || (name !== '' && means(pattern, name.slice(1)));
  return name !== '' && (pattern[0] === '?' || pattern[0] === name[0]) && means(rest, name.slice(1));
}

test(
  'a pattern matches what it means, whatever the characters',
  timebox(20, () => {
    const character = fc.constantFrom('a', 'b', '.', '+', '(', '[', '\\', '^', '$', '\n');
    const name = fc.array(character, { maxLength: 8 }).map((all) => all.join(''));
    const pattern = fc
      .array(fc.oneof({ weight: 2, arbitrary: fc.constantFrom('*', '?') }, { weight: 3, arbitrary: character }), {
        maxLength: 6,
      })
      .map((all) => all.join(''));
    fc.assert(
      fc.property(pattern, name, (one, other) => matchesWildcards(one, other) === means(one, other)),
      { numRuns: 20_000 },
    );
    for (const [one, other, expected] of [
      ['*', '', true],
      ['', '', true],
      ['', 'a', false],
      ['isthmus-*-?', 'isthmus-a-b-c', true],
      ['isthmus-*-?', 'isthmus-a-b-', false],
      ['*b', 'abab', true],
    ] as const) {
      assert.is(matchesWildcards(one, other), expected, `${one} ${other}`);
    }
  }),
);

test(
  'no pattern takes more steps than the product of the lengths',
  timebox(20, () => {
    const name = 'a'.repeat(255);
    for (const pattern of [
      '*'.repeat(40),
      '*a'.repeat(40),
      '*?'.repeat(40),
      `${'*a'.repeat(40)}*b`,
      `${'*'.repeat(40)}b`,
    ]) {
      let steps = 0;
      // The limit ends a matcher that would take for ever; it does not measure.
      const match = () =>
        matchesWildcards(pattern, name, () => {
          steps++;
        });
      assert.is(runInNewContext('match()', { match }, { timeout: 10_000 }), !pattern.endsWith('b'), pattern);
      assert.ok(steps <= (pattern.length + 1) * (name.length + 1), `${pattern}: ${steps} steps`);
    }
  }),
);

test.run();
