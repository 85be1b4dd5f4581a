/** Names by patterns with `*` and `?`. */

/**
 * Whether the pattern matches the whole name: `*` stands for any number of characters, `?` for one.
 *
 * Takes as many steps as the product of both lengths at most, whatever they contain. A regular expression with `.*` for each
 * `*` takes exponentially many.
 * @param step called for each comparison, for tests
 */
export function matchesWildcards(pattern: string, name: string, step?: () => void): boolean {
  let at = 0;
  let next = 0;
  // Where to go on after a mismatch: behind the last `*`, which then stands for one character more.
  let behindStar = -1;
  let retry = 0;
  while (at < name.length) {
    step?.();
    if (pattern[next] === '*') {
      behindStar = ++next;
      retry = at;
    } else if (next < pattern.length && (pattern[next] === '?' || pattern[next] === name[at])) {
      next++;
      at++;
    } else if (behindStar >= 0) {
      next = behindStar;
      at = ++retry;
    } else {
      return false;
    }
  }
  while (pattern[next] === '*') next++;
  return next === pattern.length;
}
