// @ts-check
/**
 * V8's coverage of bundles, mapped to the sources of the bundles.
 *
 * V8 counts ranges of a script, source maps lead from places in a script to places in a source. A place counts as run where
 * the innermost range around it was entered in any process, in any of the bundles that contain it. Coverages of different
 * bundles need no other merge, and so no library.
 */

/** @typedef {{ ranges: readonly { startOffset: number, endOffset: number, count: number }[], functionName: string }} V8Function */
/** @typedef {{ sources: readonly string[], mappings: string }} Map3 */

/** A place in a script that a source map knows. @typedef {{ offset: number, source: number, line: number, column: number }} Place */

/** The coverage of a source. Lines count from 1. */
export class SourceCoverage {
  /** Line → column → whether it ran. @type {Map<number, Map<number, boolean>>} */
  #places = new Map();
  /** Line:column of a function → whether it was called. @type {Map<string, boolean>} */
  #functions = new Map();

  /** @param {number} line @param {number} column @param {boolean} ran */
  add(line, column, ran) {
    const columns = this.#places.get(line) ?? new Map();
    this.#places.set(line, columns);
    columns.set(column, ran || (columns.get(column) ?? false));
  }

  /** @param {number} line @param {number} column @param {boolean} called */
  addFunction(line, column, called) {
    const place = `${line}:${column}`;
    this.#functions.set(place, called || (this.#functions.get(place) ?? false));
  }

  /**
   * @param {string} text of the source; lines of brackets alone do not count: V8 calls them not run behind a return
   * @returns the lines with code, those of them that did not run, and those that ran in part
   */
  summary(text) {
    const texts = text.split('\n');
    const lines = [...this.#places.keys()].filter((line) => !/^[\s(){}[\];,]*$/.test(texts[line - 1] ?? ''));
    lines.sort((a, b) => a - b);
    /** @param {number} line @param {boolean} ran */
    const has = (line, ran) => [...(this.#places.get(line)?.values() ?? [])].includes(ran);
    const called = [...this.#functions.values()];
    return {
      lines: lines.length,
      missed: lines.filter((line) => !has(line, true)),
      partly: lines.filter((line) => has(line, true) && has(line, false)),
      functions: called.length,
      uncalled: called.filter((one) => !one).length,
    };
  }
}

const DIGITS = new Map([...'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'].map((c, i) => [c, i]));

/**
 * @param {string} mappings of a source map, version 3 (https://tc39.es/ecma426/)
 * @param {string} script the text that they are of
 * @returns {Place[]} in the order of their offsets
 */
export function decode(mappings, script) {
  const places = [];
  let [source, line, column] = [0, 0, 0];
  let start = 0;
  for (const group of mappings.split(';')) {
    let generated = 0;
    for (const segment of group.split(',')) {
      if (segment === '') continue;
      const fields = [];
      for (let i = 0, value = 0, shift = 0; i < segment.length; i++) {
        const digit = DIGITS.get(segment[i] ?? '');
        if (digit === undefined) throw new Error(`'${segment}' is no segment of a source map`);
        value |= (digit & 31) << shift;
        shift += 5;
        if (digit & 32) continue;
        fields.push(value & 1 ? -(value >> 1) : value >> 1);
        value = shift = 0;
      }
      const [offset = 0, toSource, toLine = 0, toColumn = 0] = fields;
      generated += offset;
      // A segment of one field begins a range without a source.
      if (toSource === undefined) continue;
      source += toSource;
      line += toLine;
      column += toColumn;
      places.push({ offset: start + generated, source, line: line + 1, column });
    }
    const end = script.indexOf('\n', start);
    start = end < 0 ? script.length : end + 1;
  }
  return places;
}

/** One bundle, and what ran of it. */
export class Bundle {
  /** @type {readonly Place[]} */
  #places;
  /** By index in the places: whether it ran in any process. @type {Uint8Array} */
  #ran;
  /** Offset → whether the function there was called. @type {Map<number, boolean>} */
  #functions = new Map();
  #sources;

  /** @param {string} script @param {Map3} map */
  constructor(script, { sources, mappings }) {
    this.#places = decode(mappings, script);
    this.#ran = new Uint8Array(this.#places.length);
    this.#sources = sources;
  }

  /** The index of the first place at an offset or behind it. @param {number} offset */
  #first(offset) {
    let [low, high] = [0, this.#places.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (/** @type {Place} */ (this.#places[middle]).offset < offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Add the counts of one process or worker thread. @param {readonly V8Function[]} functions */
  add(functions) {
    const ran = new Uint8Array(this.#places.length);
    const ranges = functions.flatMap(({ ranges: each }) => each);
    // Outer ranges before inner ones, which overwrite them.
    ranges.sort((a, b) => a.startOffset - b.startOffset || b.endOffset - a.endOffset);
    for (const { startOffset, endOffset, count } of ranges) {
      ran.fill(count > 0 ? 1 : 0, this.#first(startOffset), this.#first(endOffset));
    }
    for (const [i, one] of ran.entries()) if (one) this.#ran[i] = 1;
    this.declare(functions, true);
  }

  /**
   * Record functions of the bundle.
   * @param {readonly V8Function[]} functions
   * @param {boolean} counts whether they were called where their count says so
   */
  declare(functions, counts = false) {
    for (const { ranges, functionName } of functions) {
      const [whole] = ranges;
      // The script itself.
      if (!whole || (whole.startOffset === 0 && functionName === '')) continue;
      const called = counts && whole.count > 0;
      this.#functions.set(whole.startOffset, called || (this.#functions.get(whole.startOffset) ?? false));
    }
  }

  /** @param {(source: string) => SourceCoverage | undefined} coverageOf undefined: the source is left out */
  addTo(coverageOf) {
    const coverages = this.#sources.map((source) => coverageOf(source));
    for (const [i, { source, line, column }] of this.#places.entries()) {
      coverages[source]?.add(line, column, this.#ran[i] === 1);
    }
    for (const [offset, called] of this.#functions) {
      const place = this.#places[this.#first(offset)];
      if (place) coverages[place.source]?.addFunction(place.line, place.column, called);
    }
  }
}
