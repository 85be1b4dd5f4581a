/** Silence of a peer: when it is reported, to which listeners, and when the peer is given up. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import { Liveness, type LivenessLimits } from '../../host/connection/liveness.js';
import { timebox } from '../support/timebox.js';

/** The events, in order, as a listener sees them. */
function watched(limits: LivenessLimits): { stalls: Liveness; told: string[] } {
  const told: string[] = [];
  const stalls = new Liveness(
    limits,
    (level, line) => told.push(`${level}: ${line}`),
    (event, silence) => told.push(`${event} ${silence}`),
  );
  stalls.onPeerTimeout = ({ code }) => told.push(code);
  return { stalls, told };
}

test(
  'reported once when it begins and once when it ends',
  timebox(5, () => {
    const { stalls, told } = watched({ stallTimeout: 1500, peerTimeout: 0 });
    for (const ms of [500, 1000, 0]) stalls.silent(ms);
    assert.equal(told, []);
    stalls.silent(1000);
    assert.is(stalls.silence, 0, 'silent, and not stalled');
    stalls.silent(1500);
    assert.is(stalls.silence, 1500);
    stalls.silent(2000);
    assert.is(stalls.silence, 2000);
    stalls.silent(0);
    assert.is(stalls.silence, 0);
    stalls.silent(0);
    assert.equal(told, ['stalled 1500', 'recovered 2000']);
    stalls.silent(1500);
    assert.equal(told.slice(2), ['stalled 1500'], 'and anew');
  }),
);

test(
  'without a link, no peer is stalled and none recovers',
  timebox(5, () => {
    const { stalls, told } = watched({ stallTimeout: 1000, peerTimeout: 0 });
    stalls.silent(1000);
    stalls.reset();
    assert.is(stalls.silence, 0);
    stalls.silent(500);
    stalls.silent(0);
    assert.equal(told, ['stalled 1000']);
  }),
);

test(
  'the two limits do not depend on each other, and 0 means for ever',
  timebox(5, () => {
    const run = (limits: LivenessLimits) => {
      const { stalls, told } = watched(limits);
      for (let ms = 500; ms <= 2000; ms += 500) stalls.silent(ms);
      return told;
    };
    const ended = 'ERR_ISTHMUS_PEER_TIMEOUT';
    assert.equal(run({ stallTimeout: 0, peerTimeout: 0 }), []);
    assert.equal(run({ stallTimeout: 0, peerTimeout: 2000 }), [ended]);
    assert.equal(run({ stallTimeout: 5000, peerTimeout: 1600 }), [ended]);
    assert.equal(run({ stallTimeout: 2000, peerTimeout: 2000 }), ['stalled 2000', ended]);
  }),
);

test(
  'listeners: on, once, off, one that throws, and refused arguments',
  timebox(5, () => {
    const { stalls, told } = watched({ stallTimeout: 500, peerTimeout: 0 });
    const twice = (ms: number) => told.push(`twice ${ms}`);
    stalls.listen(
      'stalled',
      () => {
        throw new Error('oh');
      },
      true,
    );
    stalls.listen('stalled', twice, false);
    stalls.listen('stalled', twice, true);
    stalls.listen('recovered', (ms) => told.push(`listener ${ms}`), false);
    stalls.silent(500);
    assert.equal(told.splice(0), [
      'stalled 500',
      "error: a listener for 'stalled' failed: oh",
      'twice 500',
      'twice 500',
    ]);
    stalls.silent(0);
    assert.equal(told.splice(0), ['recovered 500', 'listener 500']);
    stalls.silent(500);
    assert.equal(told.splice(0), ['stalled 500', 'twice 500']);
    stalls.unlisten('stalled', twice);
    stalls.unlisten('stalled', twice);
    stalls.silent(0);
    stalls.silent(500);
    assert.equal(told.splice(0), ['recovered 500', 'listener 500', 'stalled 500']);

    const refused = (event: string, listener: unknown) => {
      try {
        stalls.listen(event as 'stalled', listener as () => void, false);
      } catch (error) {
        return error instanceof IsthmusError && error.code === 'ERR_ISTHMUS_INVALID_ARGUMENT' && error.message;
      }
      return undefined;
    };
    assert.match(refused('error', () => {}) || '', /no event 'error', only stalled and recovered/);
    assert.match(refused('stalled', undefined) || '', /not a function/);
  }),
);

test.run();
