/** Messages that no receive has taken: what they cost, their age, and announced ones among them. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Message } from '../../host/base/message.js';
import type { Announced } from '../../host/matching/announced.js';
import { UnreadQueue } from '../../host/matching/unread-queue.js';
import { bytesOf, textOf } from '../support/channel.js';
import { FakeClock } from '../support/clock.js';
import { rejection } from '../support/outcomes.js';
import { timebox } from '../support/timebox.js';

const message = (text: string, xheader = '') => new Message(bytesOf(text), bytesOf(xheader));

/** An announced message; its data comes when the test says so, or lies here. */
class TestAnnounced implements Announced {
  readonly xheader = bytesOf('xy');
  readonly length: number;
  here: boolean;
  fetches = 0;
  drops = 0;
  resolve: (data: Uint8Array) => void = () => {};
  reject: (error: unknown) => void = () => {};
  readonly #text: string;

  constructor(text: string, here = false) {
    this.#text = text;
    this.length = text.length;
    this.here = here;
  }

  fetch(): Uint8Array | Promise<Uint8Array> {
    this.fetches++;
    if (this.here) return bytesOf(this.#text);
    return new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }

  lend(): undefined {
    return undefined;
  }

  drop(): void {
    this.drops++;
  }
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
const texts = (queue: UnreadQueue) =>
  [...queue].map((one) => (one instanceof Message ? textOf(one.data) : `announced ${one.length}`));

test(
  'bytes: data and xheader, and 64 for each; of an announced message no data',
  timebox(5, () => {
    const queue = new UnreadQueue();
    assert.is(queue.bytes, 0);
    queue.push(message('12345', 'abc'));
    assert.is(queue.bytes, 64 + 5 + 3);
    queue.push(new TestAnnounced('0123456789'));
    assert.is(queue.bytes, 72 + 64 + 2);
    queue.push(message(''));
    assert.is(queue.bytes, 138 + 64);
    queue.shift();
    assert.is(queue.bytes, 130);
    queue.shift();
    assert.is(queue.bytes, 64);
    queue.shift();
    assert.is(queue.bytes, 0);
    assert.is(queue.shift(), undefined);
    assert.is(queue.bytes, 0);
  }),
);

test(
  'one is taken out of the middle, once',
  timebox(5, () => {
    const queue = new UnreadQueue();
    const [one, two, three] = ['1', '22', '333'].map((text) => message(text)) as [Message, Message, Message];
    for (const each of [one, two, three]) queue.push(each);
    assert.ok(queue.remove(two));
    assert.is(queue.bytes, 2 * 64 + 4);
    assert.not(queue.remove(two));
    assert.is(queue.bytes, 2 * 64 + 4);
    assert.equal(texts(queue), ['1', '333']);
    assert.ok(queue.remove(one));
    assert.is(queue.peek(), three);
    assert.is(queue.length, 1);
  }),
);

test(
  'its owner is told each time that the last one was taken',
  timebox(5, () => {
    const queue = new UnreadQueue();
    let emptied = 0;
    queue.onEmptied = () => emptied++;
    queue.shift();
    const two = message('2');
    queue.push(message('1'));
    queue.push(two);
    queue.shift();
    assert.is(emptied, 0);
    queue.remove(two);
    assert.is(emptied, 1);
    queue.push(message('3'));
    queue.shift();
    assert.is(emptied, 2);
    queue.push(message('4'));
    queue.drop();
    assert.is(emptied, 2, 'what is discarded was not taken');
  }),
);

test(
  'the age of the oldest',
  timebox(5, async () => {
    using clock = new FakeClock();
    const queue = new UnreadQueue();
    assert.is(queue.ageMs, 0);
    queue.push(message('1'));
    await clock.advance(500);
    queue.tick();
    queue.push(message('2'));
    await clock.advance(250);
    assert.is(queue.ageMs, 750);
    queue.evacuate();
    assert.is(queue.ageMs, 750, 'nothing lies in a region');
    queue.shift();
    assert.is(queue.ageMs, 250);
    queue.shift();
    assert.is(queue.ageMs, 0);
  }),
);

test(
  'an announced message whose data is here is the head at once, and takes its place in the queue',
  timebox(5, () => {
    const queue = new UnreadQueue();
    const announced = new TestAnnounced('12345', true);
    queue.push(announced);
    queue.push(message('2'));
    const head = queue.head();
    assert.equal([head?.text(), textOf(head!.xheader)], ['12345', 'xy']);
    assert.is(queue.head(), head);
    assert.is(announced.fetches, 1);
    assert.is(queue.bytes, 64 + 2 + 5 + 64 + 1, 'its data counts now');
    assert.is(queue.shift(), head);
    assert.is(queue.head()?.text(), '2');
    queue.shift();
    assert.is(queue.head(), undefined);
  }),
);

test(
  'an announced message is fetched once, and replaced by what comes',
  timebox(5, async () => {
    const queue = new UnreadQueue();
    const announced = new TestAnnounced('12345');
    queue.push(announced);
    assert.not(queue.isFetching(announced));
    assert.is(queue.head(), undefined);
    assert.is(queue.head(), undefined);
    assert.ok(queue.isFetching(announced));
    assert.is(announced.fetches, 1);
    assert.is(queue.peek(), announced, 'it keeps its place');
    announced.resolve(bytesOf('12345'));
    await turn();
    assert.not(queue.isFetching(announced));
    assert.is(queue.head()?.text(), '12345');
    assert.is(queue.bytes, 64 + 2 + 5);
    assert.is(queue.length, 1);
  }),
);

test(
  'one that is taken while its data is on its way comes with that data, and is not put back',
  timebox(5, async () => {
    const queue = new UnreadQueue();
    const announced = new TestAnnounced('12345');
    queue.push(announced);
    queue.push(message('2'));
    queue.head();
    assert.is(queue.shift(), announced);
    const fetched = queue.fetch(announced);
    announced.resolve(bytesOf('12345'));
    assert.is((await fetched).text(), '12345');
    assert.is(announced.fetches, 1);
    await turn();
    assert.equal(texts(queue), ['2']);
    assert.is(queue.bytes, 65);
    const other = new TestAnnounced('678', true);
    assert.is((await queue.fetch(other)).text(), '678');
  }),
);

test(
  'a fetch that fails takes the message out, and tells its owner',
  timebox(5, async () => {
    const queue = new UnreadQueue();
    const errors: unknown[] = [];
    queue.onFetchFailed = (error) => errors.push(error);
    const announced = new TestAnnounced('12345');
    queue.push(announced);
    queue.push(message('2'));
    queue.head();
    const fetched = queue.fetch(announced);
    const error = new Error('gone');
    announced.reject(error);
    assert.is(await rejection(fetched), error as unknown);
    await turn();
    assert.equal(errors, [error]);
    assert.equal(texts(queue), ['2']);
    assert.is(queue.bytes, 65);
  }),
);

test(
  'discarding tells the senders of what was announced',
  timebox(5, () => {
    const queue = new UnreadQueue();
    const announced = new TestAnnounced('12345');
    queue.push(message('1'));
    queue.push(announced);
    queue.drop();
    assert.equal([queue.length, queue.bytes, announced.drops], [0, 0, 1]);
    assert.is(queue.peek(), undefined);
  }),
);

test(
  'when the region goes away, what lies in it is copied; the order stays, and what has to be asked for',
  timebox(5, () => {
    const queue = new UnreadQueue();
    const [here, there] = [new TestAnnounced('12345', true), new TestAnnounced('678')];
    for (const each of [message('1'), here, there, message('4')]) queue.push(each);
    let emptied = 0;
    queue.onEmptied = () => emptied++;
    queue.evacuate();
    assert.equal(texts(queue), ['1', '12345', 'announced 3', '4']);
    assert.equal([here.fetches, there.fetches, here.drops], [1, 0, 0]);
    assert.is(queue.bytes, 4 * 64 + 1 + 5 + 2 + 2 + 1);
    assert.is(emptied, 0);
    queue.evacuate();
    assert.is(there.fetches, 0);
    assert.is(textOf((queue.shift() as Message).data) + textOf((queue.shift() as Message).xheader), '1xy');
  }),
);

test.run();
