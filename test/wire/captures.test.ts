/** Replays the exchange of two C programs (`*.jsonl`), with this handshake in place of one of them. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ConInfo } from '../../host/api/peer.js';
import { decodeConInfo, encodeFrame, FRAME, type Frame, frameName } from '../../host/handshake/frames.js';
import type { OnDemandRequest } from '../../host/handshake/outcome.js';
import { capture, split } from '../support/captures.js';
import { acceptingSide, connectingSide, cut, FakePlugin, fakeTcp, type Side } from '../support/precon.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const random = seeded(testSeed());
const ROUNDS = 200;

const names = (frames: readonly Frame[]) => frames.map(({ type }) => frameName(type)).join(' ');

function conInfo(frames: readonly Frame[]): ConInfo {
  const found = frames.find(({ type }) =>
    ([FRAME.CON_INFO, FRAME.CON_INFO_DEMAND, FRAME.BACK_CONNECT] as number[]).includes(type),
  );
  if (!found) throw new Error('no con_info in the capture');
  return decodeConInfo(found.payload);
}

/** Feed one direction, cut at random places, until a plugin is agreed on; the rest belongs to the owner. */
function feed(side: Side, stream: Buffer): Buffer {
  const pieces = cut(stream, random);
  while (pieces.length > 0 && !side.outcome) side.precon.receive(pieces.shift() as Buffer);
  return Buffer.concat([side.outcome?.kind === 'agreed' ? side.outcome.rest : Buffer.alloc(0), ...pieces]);
}

test(
  'the captures decode',
  timebox(5, () => {
    const pingpong = capture('tcp-pingpong');
    const connecting = split(pingpong['C>S']);
    const accepting = split(pingpong['S>C']);
    assert.is(names(connecting.frames), 'VERSION CON_INFO ARCH_REQ ARCH_OK');
    assert.is(names(accepting.frames), 'VERSION CON_INFO ARCH_OK');
    assert.equal(conInfo(connecting.frames), { node: '127.0.0.1', pid: 7901, id: 0x5566b3dae3d0n, name: 'p7901' });
    assert.equal(conInfo(accepting.frames), { node: '127.0.0.1', pid: 7880, id: 0x55575ca8f570n, name: 'p7880' });

    const back = split(capture('ondemand-back-connect')['C>S']);
    const demand = split(capture('ondemand-connect')['C>S']);
    assert.is(names(back.frames), 'BACK_CONNECT');
    assert.is(names(split(capture('ondemand-back-connect')['S>C']).frames), 'BACK_ACK');
    assert.is(names(demand.frames), 'VERSION CON_INFO_DEMAND ARCH_REQ ARCH_OK');
    assert.is(conInfo(back.frames).name, 'BBBB');
    assert.is(conInfo(demand.frames).name, 'AAAA');
    // The process that asked for a call answers the call.
    assert.equal(conInfo(split(capture('ondemand-connect')['S>C']).frames), conInfo(back.frames));
  }),
);

test(
  'the accepting side answers as the C program did',
  timebox(20, () => {
    const { 'C>S': heard, 'S>C': said } = capture('tcp-pingpong');
    const expected = split(said);
    for (let round = 0; round < ROUNDS; round++) {
      const side = acceptingSide([fakeTcp()], { local: conInfo(expected.frames) });
      side.precon.start();
      const rest = feed(side, heard);
      assert.is(side.hex, expected.handshake.toString('hex'));
      assert.is(side.end, 'agreed');
      assert.is(rest.toString('hex'), split(heard).rest.toString('hex'));
    }
  }),
);

test(
  'the connecting side sends what the C program sent',
  timebox(20, () => {
    for (const name of ['tcp-pingpong', 'ondemand-connect']) {
      const { 'C>S': said, 'S>C': heard } = capture(name);
      const expected = split(said);
      for (let round = 0; round < ROUNDS; round++) {
        const local = conInfo(expected.frames);
        const side = connectingSide([fakeTcp()], { local, demand: name === 'ondemand-connect' });
        side.precon.start();
        const rest = feed(side, heard);
        assert.is(side.hex, expected.handshake.toString('hex'));
        if (side.outcome?.kind !== 'agreed') throw new Error(`${side.end}: ${side.message}`);
        assert.equal(side.outcome.peer, { ...conInfo(split(heard).frames), address: undefined });
        assert.is(rest.toString('hex'), split(heard).rest.toString('hex'));
      }
    }
  }),
);

test(
  'an on-demand connect is answered like any other, by the connection that it names',
  timebox(20, () => {
    const { 'C>S': heard, 'S>C': said } = capture('ondemand-connect');
    const expected = split(said);
    for (let round = 0; round < ROUNDS; round++) {
      const asked: OnDemandRequest[] = [];
      const side = acceptingSide([fakeTcp()], {
        onDemand: (request) => {
          asked.push(request);
          return { local: conInfo(expected.frames) };
        },
      });
      feed(side, heard);
      assert.is(side.end, 'agreed');
      assert.is(side.hex, expected.handshake.toString('hex'));
      assert.equal(
        asked.map(({ kind, peer }) => [kind, peer.name]),
        [['connect', 'AAAA']],
      );
    }
    const refusing = acceptingSide([fakeTcp()]);
    feed(refusing, heard);
    assert.is(refusing.end, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
    // An extension, which C ignores as every frame of a type that it does not know: then the connection ends.
    assert.is(refusing.hex, encodeFrame(FRAME.REFUSED).toString('hex'));
  }),
);

test(
  'a back-connect is acknowledged, and then this TCP connection ends',
  timebox(20, () => {
    const { 'C>S': heard, 'S>C': said } = capture('ondemand-back-connect');
    for (let round = 0; round < ROUNDS; round++) {
      const asked: OnDemandRequest[] = [];
      const side = acceptingSide([fakeTcp()], {
        onDemand: (request) => {
          asked.push(request);
          return {};
        },
      });
      feed(side, heard);
      assert.is(side.end, 'acknowledged');
      assert.is(side.hex, said.toString('hex'));
      assert.equal(
        asked.map(({ kind, peer }) => [kind, peer.name]),
        [['back-connect', 'BBBB']],
      );
    }
    const refusing = acceptingSide([fakeTcp()]);
    feed(refusing, heard);
    assert.is(refusing.end, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
    assert.is(refusing.hex, encodeFrame(FRAME.REFUSED).toString('hex'));
  }),
);

test(
  'another plugin is refused, and then tcp is agreed on, with a C program that has only tcp',
  timebox(5, () => {
    const heard = split(capture('tcp-pingpong')['S>C']);
    const answer = heard.handshake.subarray(0, heard.handshake.length - 8);
    const side = connectingSide([
      new FakePlugin('shm', 204, 90, {}),
      new FakePlugin('ivshmem', 220, 80, {}),
      fakeTcp(),
    ]);
    side.precon.start();
    side.precon.receive(Buffer.concat([answer, Buffer.from('0010001200000000', 'hex')]));
    side.precon.receive(Buffer.from('0010001200000000', 'hex'));
    side.precon.receive(Buffer.concat([Buffer.from('0010001100000000', 'hex'), heard.rest]));
    if (side.outcome?.kind !== 'agreed') throw new Error(`${side.end}: ${side.message}`);
    assert.is(side.outcome.why, 'shm: refused by the peer; ivshmem: refused by the peer');
    assert.is(side.outcome.rest.toString('hex'), heard.rest.toString('hex'));
  }),
);

test.run();
