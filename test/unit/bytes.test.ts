/** What counts as bytes, and arguments that would be taken for something else. */
import { runInNewContext } from 'node:vm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { optionsOf, timeoutOf } from '../../host/base/arguments.js';
import { bytesOf } from '../../host/base/bytes.js';
import { kindsOfBytes, NO_BYTES_AT_ALL, transferred } from '../support/bytes.js';
import { thrownBy } from '../support/outcomes.js';
import { timebox } from '../support/timebox.js';

const CODE = 'ERR_ISTHMUS_INVALID_ARGUMENT';

test(
  'every view and every buffer, of this realm and of another: the same memory, not a copy',
  timebox(5, () => {
    const content = [1, 2, 3, 4, 5, 6, 7, 8];
    for (const [name, value] of kindsOfBytes(content)) {
      const bytes = bytesOf(value, 'data');
      assert.instance(bytes, Uint8Array, name);
      assert.equal([...bytes], content, name);
      bytes[0] = 9;
      assert.is(bytesOf(value, 'data')[0], 9, name);
    }
    const own = Buffer.from('own');
    assert.is(bytesOf(own, 'data'), own);
    const part = new Uint16Array(new ArrayBuffer(16), 4, 3);
    assert.is(bytesOf(part, 'data').byteOffset, 4);
    assert.is(bytesOf(part, 'data').length, 6);
    for (const empty of [new Uint8Array(0), new DataView(new ArrayBuffer(8), 8), new ArrayBuffer(0), Buffer.alloc(0)]) {
      assert.is(bytesOf(empty, 'data').length, 0);
    }
  }),
);

test(
  'all else is refused by name, and a string with what to do',
  timebox(5, () => {
    for (const value of NO_BYTES_AT_ALL) {
      const error = thrownBy(() => bytesOf(value, 'the header'));
      assert.is(error.code, CODE);
      assert.match(error.message, /^the header must be bytes/);
    }
    assert.match(thrownBy(() => bytesOf('text', 'data')).message, /Buffer\.from/);
  }),
);

test(
  'memory that was transferred, or cut short, is no empty message',
  timebox(5, () => {
    for (const [name, value] of transferred()) {
      const error = thrownBy(() => bytesOf(value, 'data'));
      assert.is(error.code, CODE, name);
      assert.match(error.message, /the memory of data is gone/, name);
    }
  }),
);

test(
  'options are an object, a timeout is a number that a timer can have',
  timebox(5, () => {
    const options = { offset: 3 };
    assert.is(optionsOf(options, ''), options);
    assert.is(optionsOf(undefined, ''), undefined);
    assert.is(optionsOf(null as unknown as undefined, ''), undefined);
    const foreign = runInNewContext('({ offset: 4 })') as { offset: number };
    assert.is(optionsOf(foreign, '')?.offset, 4);
    for (const wrong of [65536, 'x', true, [3], Buffer.alloc(3), new ArrayBuffer(2), new AbortController().signal]) {
      const error = thrownBy(() => optionsOf(wrong as unknown as object, '{ offset }'));
      assert.is(error.code, CODE);
      assert.match(error.message, /\{ offset \}/);
    }
    assert.is(timeoutOf(0), 0);
    assert.is(timeoutOf(1.5), 1.5);
    for (const long of [2 ** 31, 1e12, Number.POSITIVE_INFINITY]) assert.is(timeoutOf(long), 2 ** 31 - 1);
    for (const wrong of [-1, Number.NaN, '5', {}, null]) {
      assert.is(thrownBy(() => timeoutOf(wrong as number)).code, CODE);
    }
  }),
);

test.run();
