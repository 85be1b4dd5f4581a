/** Which part of the runtime takes which type of message. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type MessageHandler, ProtocolRouter } from '../../host/link/protocol-router.js';
import { thrownBy } from '../support/outcomes.js';
import { timebox } from '../support/timebox.js';

const handler = (): MessageHandler => ({ begin: () => undefined, complete: () => undefined });

test(
  'a handler is made when the first message of its type comes, and once',
  timebox(5, () => {
    const router = new ProtocolRouter();
    const made: number[] = [];
    for (const type of [1, 11]) {
      router.register(type, () => {
        made.push(type);
        return handler();
      });
    }
    assert.equal(made, []);
    const first = router.handler(11);
    assert.is(router.handler(11), first);
    assert.is.not(router.handler(1), first);
    router.handler(1);
    assert.equal(made, [11, 1]);
  }),
);

test(
  'a type that no handler takes breaks the protocol; the error names it',
  timebox(5, () => {
    const router = new ProtocolRouter();
    router.register(4, handler);
    for (const type of [0, 3, 5, 65_535]) {
      const error = thrownBy(() => router.handler(type));
      assert.is(error.code, 'ERR_ISTHMUS_PEER_PROTOCOL');
      assert.is(error.message, `the peer sent a message of type ${type}, which is not supported`);
    }
  }),
);

test(
  'a type is registered once',
  timebox(5, () => {
    const router = new ProtocolRouter();
    router.register(4, handler);
    const error = thrownBy<Error>(() => router.register(4, handler));
    assert.match(error.message, /type 4 is registered twice/);
    router.handler(4);
    assert.throws(() => router.register(4, handler));
  }),
);

test(
  'two connections have handlers of their own',
  timebox(5, () => {
    const [one, two] = [new ProtocolRouter(), new ProtocolRouter()];
    for (const router of [one, two]) router.register(4, handler);
    assert.is.not(one.handler(4), two.handler(4));
  }),
);

test.run();
