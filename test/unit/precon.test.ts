import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import type { AcceptingOptions } from '../../host/handshake/accepting.js';
import {
  decodeConInfo,
  encodeArchReq,
  encodeConInfo,
  encodeFrame,
  encodeVersion,
  FRAME,
  FrameDecoder,
} from '../../host/handshake/frames.js';
import type { AttemptChannel } from '../../host/plugins/plugin.js';
import { PluginRegistry } from '../../host/plugins/registry.js';
import {
  ALICE,
  acceptingSide,
  BOB,
  connectingSide,
  cut,
  deliver,
  FakePlugin,
  fakeTcp,
  registryOf,
  type Script,
  type Side,
} from '../support/precon.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const seed = testSeed();

const VERSION = encodeVersion();
const OK = encodeFrame(FRAME.ARCH_OK);
const REFUSED = encodeFrame(FRAME.REFUSED);
const NEXT = encodeFrame(FRAME.ARCH_NEXT);
const STEP = encodeFrame(FRAME.STEP1, Buffer.from('ab', 'hex'));
const REQ_TCP = encodeArchReq(103);
const HELLO = Buffer.concat([VERSION, encodeConInfo(ALICE)]);
const ANSWER = Buffer.concat([VERSION, encodeConInfo(BOB)]);
const hex = (...parts: readonly Buffer[]) => Buffer.concat(parts).toString('hex');

const code = (expected: string) => (error: Error) => error instanceof IsthmusError && error.code === expected;
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

function agreed(side: Side) {
  if (side.outcome?.kind !== 'agreed') throw new Error(`${side.end}: ${side.message}`);
  return side.outcome;
}

/** A plugin like the region plugins: both exchange nonces, then both send ARCH_OK. */
function stepping(name: string, archId: number, priority: number, script: Script = {}, labels = [name]): FakePlugin {
  const usual: Script = {
    begin: (channel) => channel.step(FRAME.STEP1, Buffer.from('ab', 'hex')),
    step: (channel) => channel.ok(),
  };
  return new FakePlugin(name, archId, priority, { ...usual, ...script }, labels);
}

// ---------------------------------------------------------------- codec

test(
  'frames have the bytes of the protocol',
  timebox(5, () => {
    assert.is(hex(VERSION), '00100003000000080002000000020000');
    assert.is(hex(REQ_TCP), '001000100000000467000000');
    assert.is(hex(OK, NEXT), '00100011000000000010001200000000');
    const info = { node: '127.0.0.1', pid: 0x1edd, id: 0x5566b3dae3d0n, name: 'p7901' };
    assert.is(hex(encodeConInfo(info)), '00100002000000180100007fdd1e0000d0e3dab3665500007037393031000000');
    assert.is(hex(encodeConInfo(info, FRAME.CON_INFO_DEMAND)).slice(0, 8), '00100004');
    assert.equal(decodeConInfo(encodeConInfo(info).subarray(8)), info);
    const full = { node: '255.0.1.2', pid: 0xffffffff, id: 0xffffffffffffffffn, name: 'eightby8' };
    assert.equal(decodeConInfo(encodeConInfo(full).subarray(8)), full);
  }),
);

test(
  'invalid con_info is refused',
  timebox(5, () => {
    for (const wrong of [
      { name: 'ninebytes' },
      { name: 'äääää' },
      { name: 'a\0b' },
      { node: '::1' },
      { node: 'host' },
    ]) {
      assert.throws(() => encodeConInfo({ ...ALICE, ...wrong }), code('ERR_ISTHMUS_INVALID_ARGUMENT'));
    }
    for (const size of [0, 23, 25, 40]) {
      assert.throws(() => decodeConInfo(Buffer.alloc(size)), code('ERR_ISTHMUS_HANDSHAKE_VERSION'));
      assert.throws(() => decodeConInfo(Buffer.alloc(size)), /another pscom generation/);
    }
  }),
);

test(
  'the decoder extracts frames from chunks of any size, and returns the rest',
  timebox(5, () => {
    const random = seeded(seed);
    const frames = Array.from({ length: 20 }, (_, i) => encodeFrame(0x100000 + i, Buffer.alloc(random(300), i)));
    const bytes = Buffer.concat([...frames, Buffer.from('rest')]);
    for (let round = 0; round < 200; round++) {
      const decoder = new FrameDecoder();
      const found: Buffer[] = [];
      const scratch = Buffer.alloc(bytes.length);
      for (const piece of cut(bytes, random)) {
        // The caller owns the chunk again after push.
        scratch.set(piece);
        decoder.push(scratch.subarray(0, piece.length));
        scratch.fill(0xee);
        // Sometimes later, so that several frames wait.
        if (random(3) === 0) continue;
        for (let frame = decoder.next(); frame; frame = decoder.next())
          found.push(encodeFrame(frame.type, frame.payload));
      }
      while (found.length < frames.length) {
        const frame = decoder.next();
        if (!frame) break;
        found.push(encodeFrame(frame.type, frame.payload));
      }
      assert.is(hex(...found), hex(...frames));
      assert.is(decoder.rest().toString(), 'rest');
      assert.is(decoder.rest().length, 0);
    }
  }),
);

test(
  'a frame that announces too much is refused at its header, and no memory is allocated for it',
  timebox(5, () => {
    for (const type of [FRAME.CON_INFO, FRAME.STEP1, 0x777777]) {
      const header = encodeFrame(type);
      header.writeUInt32BE(0xffffffff, 4);
      const before = process.memoryUsage().arrayBuffers;
      const decoder = new FrameDecoder();
      decoder.push(header);
      assert.throws(() => decoder.next(), code('ERR_ISTHMUS_HANDSHAKE'));
      assert.ok(process.memoryUsage().arrayBuffers - before < 1 << 20);
    }
    const largest = new FrameDecoder();
    largest.push(encodeFrame(FRAME.STEP1, Buffer.alloc(4096)));
    assert.is(largest.next()?.payload.length, 4096);
    const larger = new FrameDecoder();
    larger.push(encodeFrame(FRAME.STEP1, Buffer.alloc(4097)));
    assert.throws(() => larger.next(), code('ERR_ISTHMUS_HANDSHAKE'));
  }),
);

test(
  'the bytes of one handshake are limited, those after it are not',
  timebox(5, () => {
    const side = acceptingSide([fakeTcp()]);
    const filler = encodeFrame(0x777777, Buffer.alloc(4088));
    for (let i = 0; i < 15; i++) side.precon.receive(filler);
    side.precon.receive(Buffer.concat([HELLO, REQ_TCP, OK, Buffer.alloc(100_000, 7)]));
    assert.is(agreed(side).rest.length, 100_000);

    const flooded = acceptingSide([fakeTcp()]);
    for (let i = 0; i < 16; i++) flooded.precon.receive(filler);
    assert.is(flooded.end, 'in progress');
    flooded.precon.receive(encodeFrame(0x777777));
    assert.is(flooded.end, 'ERR_ISTHMUS_HANDSHAKE');

    // Also while no frame is taken out.
    const asked = acceptingSide([fakeTcp()], { admit: () => new Promise(() => {}) });
    asked.precon.receive(HELLO);
    for (let i = 0; i < 70_000 && !asked.outcome; i++) asked.precon.receive(Buffer.alloc(1));
    assert.is(asked.end, 'ERR_ISTHMUS_HANDSHAKE');
  }),
);

// ---------------------------------------------------------------- agreement

test(
  'tcp: both sides send what the C programs send, in that order',
  timebox(5, () => {
    const connecting = connectingSide([fakeTcp()]);
    const accepting = acceptingSide([fakeTcp()], { address: { host: '127.0.0.1', port: 4242 } });
    connecting.precon.start();
    accepting.precon.start();
    assert.is(connecting.hex, hex(HELLO, REQ_TCP, OK));
    assert.is(connecting.written.length, 1, 'in one piece');
    deliver(connecting, accepting);
    assert.is(accepting.hex, hex(ANSWER, OK));
    assert.equal(agreed(connecting).peer, { ...BOB, address: undefined });
    assert.equal(agreed(accepting).peer, { ...ALICE, address: { host: '127.0.0.1', port: 4242 } });
    assert.is(agreed(accepting).plugin.name, 'tcp');
    assert.is(agreed(connecting).why, undefined);
    assert.is(agreed(accepting).why, undefined);
    assert.is(agreed(connecting).rest.length, 0);
  }),
);

test(
  'bytes may be split at any position',
  timebox(5, () => {
    const rest = Buffer.from('first bytes of phase 2');
    const toAcceptor = Buffer.concat([HELLO, REQ_TCP, OK, rest]);
    const toConnector = Buffer.concat([ANSWER, OK, rest]);
    const handshake = { accept: toAcceptor.length - rest.length, connect: toConnector.length - rest.length };
    for (const [role, bytes] of [
      ['accept', toAcceptor],
      ['connect', toConnector],
    ] as const) {
      for (let at = 0; at <= bytes.length; at++) {
        const side = role === 'accept' ? acceptingSide([fakeTcp()]) : connectingSide([fakeTcp()]);
        side.precon.start();
        side.precon.receive(bytes.subarray(0, at));
        // After the agreement, the owner reads.
        if (side.outcome) {
          assert.ok(at >= handshake[role]);
          assert.is(hex(agreed(side).rest, bytes.subarray(at)), hex(rest));
        } else {
          side.precon.receive(bytes.subarray(at));
          assert.is(hex(agreed(side).rest), hex(rest));
        }
        assert.is(side.hex, role === 'accept' ? hex(ANSWER, OK) : hex(HELLO, REQ_TCP, OK));
      }
    }
  }),
);

test(
  'plugins exchange steps, then both send ARCH_OK',
  timebox(5, () => {
    const ours = stepping('shm', 204, 90);
    const theirs = stepping('shm', 204, 90);
    const connecting = connectingSide([ours, fakeTcp()]);
    const accepting = acceptingSide([theirs, fakeTcp()]);
    connecting.precon.start();
    deliver(connecting, accepting);
    assert.is(connecting.hex, hex(HELLO, encodeArchReq(204), STEP, OK));
    assert.is(accepting.hex, hex(ANSWER, STEP, OK));
    assert.equal(ours.events, ['begin', 'step 100013 ab', 'agreed']);
    assert.equal(theirs.events, ['begin', 'step 100013 ab', 'agreed']);
    assert.is(agreed(accepting).plugin, theirs);
  }),
);

test(
  'ARCH_OK may be sent later, from agreed or from anywhere',
  timebox(5, async () => {
    const late: Script = {
      step: () => {},
      agreed: (channel) => {
        setImmediate(() => {
          channel.ok();
          channel.ok();
          channel.next('too late');
        });
      },
    };
    const early: Script = { begin: (channel) => setImmediate(() => channel.ok()), step: () => {} };
    const connecting = connectingSide([stepping('shm', 204, 90, early)]);
    const accepting = acceptingSide([stepping('shm', 204, 90, late)]);
    connecting.precon.start();
    for (let i = 0; i < 4; i++) {
      deliver(connecting, accepting);
      await turn();
    }
    assert.is(agreed(connecting).plugin.name, 'shm');
    assert.is(agreed(accepting).plugin.name, 'shm');
    assert.is(accepting.hex, hex(ANSWER, STEP, OK));
  }),
);

test(
  'every better plugin that was not used is explained',
  timebox(5, () => {
    const shm = stepping('shm', 204, 90);
    shm.reason = 'no native part';
    const ivshmem = stepping('ivshmem', 220, 80, {}, ['ivshmem (demo)', 'ivshmem (other)']);
    const off = new FakePlugin('off', 300, 0);
    const connecting = connectingSide([shm, ivshmem, fakeTcp(), off]);
    const accepting = acceptingSide([fakeTcp()]);
    connecting.precon.start();
    deliver(connecting, accepting);
    assert.is(agreed(connecting).label, 'tcp');
    assert.is(
      agreed(connecting).why,
      'shm: no native part; ivshmem (demo): refused by the peer; ivshmem (other): refused by the peer',
    );
    assert.is(agreed(accepting).why, 'no plugin with architecture id 220; no plugin with architecture id 220');
    assert.is(ivshmem.held, 0);
    assert.is(hex(...accepting.written), hex(ANSWER, NEXT, NEXT, OK));
  }),
);

test(
  'without a common plugin all reasons are reported',
  timebox(5, () => {
    const tcp = fakeTcp();
    const registry = new PluginRegistry([
      { plugin: stepping('ivshmem', 220, 80, { begin: () => assert.unreachable() }, []), priority: 80 },
      { plugin: new FakePlugin('shm', 204, 90), priority: 0 },
      { plugin: tcp, priority: 2 },
    ]);
    const connecting = connectingSide([], { registry });
    const disabled = new PluginRegistry([{ plugin: fakeTcp(), priority: 0 }]);
    const accepting = acceptingSide([], { registry: disabled });
    connecting.precon.start();
    deliver(connecting, accepting);
    assert.is(connecting.end, 'ERR_ISTHMUS_NO_PLUGIN');
    assert.match(connecting.message, 'tcp: refused by the peer; shm: disabled');
    assert.is(tcp.held, 0);
    // The ARCH_OK right after the refused ARCH_REQ is no violation.
    assert.is(accepting.end, 'in progress');
    accepting.precon.socketEnded();
    assert.is(accepting.end, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
  }),
);

test(
  'on the connecting side, an attempt that cannot begin sends nothing',
  timebox(5, () => {
    const throwing = stepping('shm', 204, 90, {
      begin: (channel) => {
        channel.step(FRAME.STEP1, Buffer.alloc(1));
        throw new Error('no frames');
      },
    });
    const giving = stepping('ivshmem', 220, 80, { begin: (channel) => channel.next('no region') });
    const connecting = connectingSide([throwing, giving, fakeTcp()]);
    connecting.precon.start();
    assert.is(connecting.hex, hex(HELLO, REQ_TCP, OK));
    connecting.precon.receive(Buffer.concat([ANSWER, OK]));
    assert.is(agreed(connecting).why, 'shm: no frames; ivshmem: no region');
    assert.equal(giving.events, ['begin', 'undo']);
  }),
);

test(
  'on the accepting side, an attempt that cannot begin is answered with ARCH_NEXT alone',
  timebox(5, () => {
    const throwing = stepping('shm', 204, 90, {
      begin: (channel) => {
        channel.step(FRAME.STEP1, Buffer.alloc(1));
        throw new Error('no frames');
      },
    });
    const giving = stepping('ivshmem', 220, 80, { begin: (channel) => channel.next('no region') });
    const accepting = acceptingSide([throwing, giving, fakeTcp()]);
    accepting.precon.receive(
      Buffer.concat([HELLO, encodeArchReq(204), STEP, STEP, encodeArchReq(220), STEP, REQ_TCP, OK]),
    );
    assert.is(accepting.hex, hex(ANSWER, NEXT, NEXT, OK));
    assert.is(agreed(accepting).why, 'shm: no frames; ivshmem: no region');
  }),
);

test(
  'a connecting side that gives up continues at once, and drops frames that cross',
  timebox(5, () => {
    const shm = stepping('shm', 204, 90, {
      step: () => {
        throw new Error('another nonce');
      },
    });
    const tcp = fakeTcp();
    const connecting = connectingSide([shm, tcp]);
    connecting.precon.start();
    // The peer's STEP makes this side give up; its ARCH_OK and a second STEP were already in flight.
    connecting.precon.receive(Buffer.concat([ANSWER, STEP]));
    assert.is(connecting.hex, hex(HELLO, encodeArchReq(204), STEP, NEXT, REQ_TCP, OK));
    connecting.precon.receive(Buffer.concat([STEP, OK]));
    assert.is(connecting.end, 'in progress');
    connecting.precon.receive(NEXT);
    assert.is(connecting.end, 'in progress');
    assert.equal(tcp.events, ['begin']);
    connecting.precon.receive(OK);
    assert.is(agreed(connecting).why, 'shm: another nonce');
    assert.equal(shm.events, ['begin', 'step 100013 ab', 'undo']);
  }),
);

test(
  'an accepting side answers ARCH_NEXT with ARCH_NEXT, unless it gave up first',
  timebox(5, () => {
    const shm = stepping('shm', 204, 90);
    const accepting = acceptingSide([shm, fakeTcp()]);
    accepting.precon.receive(Buffer.concat([HELLO, encodeArchReq(204), STEP, NEXT]));
    assert.is(accepting.hex, hex(ANSWER, STEP, OK, NEXT));
    assert.is(shm.held, 0);
    accepting.precon.receive(Buffer.concat([encodeArchReq(999), NEXT, REQ_TCP, OK]));
    assert.is(accepting.hex, hex(ANSWER, STEP, OK, NEXT, NEXT, OK));
    assert.is(agreed(accepting).why, 'shm: refused by the peer; no plugin with architecture id 999');
  }),
);

test(
  'after ARCH_OK was received a plugin may still give up, as long as it has not sent ARCH_OK itself',
  timebox(5, () => {
    for (const agreedScript of [
      (channel: { next(reason: string): void }) => channel.next('changed my mind'),
      () => {
        throw new Error('changed my mind');
      },
    ]) {
      const script = { step: () => {}, agreed: agreedScript };
      const connecting = connectingSide([stepping('shm', 204, 90, script), fakeTcp()]);
      const accepting = acceptingSide([stepping('shm', 204, 90), fakeTcp()]);
      connecting.precon.start();
      deliver(connecting, accepting);
      assert.is(agreed(connecting).why, 'shm: changed my mind');
      assert.is(agreed(accepting).why, 'shm: refused by the peer');
      assert.is(agreed(accepting).plugin.name, 'tcp');
    }
  }),
);

test(
  'after its ARCH_OK a plugin cannot give up: the handshake fails',
  timebox(5, () => {
    const shm = stepping('shm', 204, 90, { begin: (channel) => channel.ok(), step: (channel) => channel.next('oh') });
    const connecting = connectingSide([shm, fakeTcp()]);
    connecting.precon.start();
    connecting.precon.receive(Buffer.concat([ANSWER, STEP]));
    assert.is(connecting.end, 'ERR_ISTHMUS_HANDSHAKE');
    assert.is(shm.held, 0);
  }),
);

test(
  'whatever plugins do and however frames cross, both sides agree on the same plugin or neither does',
  timebox(60, async () => {
    const random = seeded(seed ^ 0x5eed);
    const ends = new Map<string, number>();
    for (let round = 0; round < 3000; round++) {
      const later: (() => void)[] = [];
      const ready = new WeakSet<AttemptChannel>();
      const act = (channel: AttemptChannel) => {
        const action = random(12);
        const run = () => {
          // Giving up after ARCH_OK ends the handshake: too often, and there would be nothing to test.
          const bound = ready.has(channel) && random(10) > 0;
          if (action < 5) {
            ready.add(channel);
            channel.ok();
          } else if (action === 5) channel.step(FRAME.STEP1 + random(4), Buffer.alloc(random(4)));
          else if (action < 8 && !bound) channel.next('at will');
          else if (action === 8 && !bound) throw new Error('at will');
        };
        if (random(2) === 0 || action === 8) run();
        else later.push(run);
      };
      const agree = (channel: AttemptChannel) => {
        if (random(3) === 0) act(channel);
        else channel.ok();
      };
      const script: Script = { begin: act, step: act, agreed: agree };
      const some = () =>
        [0, 1, 2, 3]
          .filter(() => random(4) > 0)
          .map((i) => new FakePlugin(`p${i}`, 200 + i, 90 - i, script, random(3) ? ['a'] : ['a', 'b']));
      const plugins = { a: [...some(), fakeTcp()], b: [...some(), fakeTcp()] };
      const a = connectingSide(plugins.a);
      const b = acceptingSide(plugins.b);
      a.precon.start();
      for (let idle = 0; idle < 50 && !(a.outcome && b.outcome); ) {
        const [from, to] = random(2) ? [a, b] : [b, a];
        if (later.length > 0 && random(3) === 0) later.splice(random(later.length), 1)[0]?.();
        const bytes = Buffer.concat(from.outbox.splice(0));
        if (bytes.length === 0) {
          idle++;
          // A failed side has closed the socket.
          if (from.outcome?.kind === 'failed' && !to.outcome) to.precon.socketEnded();
          continue;
        }
        idle = 0;
        const at = random(bytes.length) + 1;
        if (at < bytes.length) from.outbox.unshift(bytes.subarray(at));
        if (!to.outcome) to.precon.receive(bytes.subarray(0, at));
      }
      for (const run of later) {
        try {
          run();
        } catch {
          // The plugin's own callback: no caller above it catches.
        }
      }
      deliverEnd(a);
      deliverEnd(b);
      const where = `seed ${seed}, round ${round}`;
      const ended = `${where}: ${a.end} ${a.message} / ${b.end} ${b.message}`;
      if (a.outcome?.kind === 'agreed' && b.outcome?.kind === 'agreed') {
        assert.is(a.outcome.plugin.archId, b.outcome.plugin.archId, ended);
        assert.is(a.outcome.rest.length + b.outcome.rest.length, 0, ended);
      } else if (agreedName(a) !== agreedName(b)) {
        // One side failed with its ARCH_OK already in flight: the other learns it from the end of the socket.
        assert.match(a.message + b.message, 'failed after it had sent ARCH_OK', ended);
      }
      for (const [side, its] of [
        [a, plugins.a],
        [b, plugins.b],
      ] as const) {
        const held = its.reduce((sum, plugin) => sum + plugin.held, 0);
        assert.is(held, side.end === 'agreed' ? 1 : 0, `${ended}: ${held} attempts held`);
      }
      const end = agreedName(a);
      ends.set(end, (ends.get(end) ?? 0) + 1);
    }
    // The rounds prove something only if they end in many ways.
    for (const end of ['p0', 'p1', 'tcp', 'failed']) assert.ok((ends.get(end) ?? 0) > 20, `${end}: ${ends.get(end)}`);
  }),
);

function deliverEnd(side: Side): void {
  if (!side.outcome) side.precon.socketEnded();
}

function agreedName(side: Side): string {
  return side.outcome?.kind === 'agreed' ? side.outcome.plugin.name : 'failed';
}

// ---------------------------------------------------------------- refusals

test(
  'other versions are refused, wider ranges and longer frames are accepted',
  timebox(5, () => {
    const wide = encodeVersion(0x0100, 0x0300);
    const long = encodeFrame(FRAME.VERSION, Buffer.concat([VERSION.subarray(8), Buffer.alloc(8, 0xff)]));
    for (const good of [wide, long]) {
      const side = acceptingSide([fakeTcp()]);
      side.precon.receive(Buffer.concat([good, encodeConInfo(ALICE), REQ_TCP, OK]));
      assert.is(side.end, 'agreed');
    }
    const bigEndian = encodeFrame(FRAME.VERSION, Buffer.from('0000020000000200', 'hex'));
    const short = encodeFrame(FRAME.VERSION, Buffer.alloc(7));
    for (const bad of [encodeVersion(0x0201, 0x0300), encodeVersion(0, 0x01ff), bigEndian, short]) {
      for (const side of [acceptingSide([fakeTcp()]), connectingSide([fakeTcp()])]) {
        side.precon.receive(bad);
        assert.is(side.end, 'ERR_ISTHMUS_HANDSHAKE_VERSION');
      }
    }
    const newer = acceptingSide([fakeTcp()]);
    newer.precon.receive(Buffer.concat([VERSION, encodeFrame(FRAME.CON_INFO, Buffer.alloc(40))]));
    assert.is(newer.end, 'ERR_ISTHMUS_HANDSHAKE_VERSION');
    assert.match(newer.message, 'another pscom generation');
    assert.is(newer.hex, '');
  }),
);

test(
  'frames out of order are refused',
  timebox(5, () => {
    const info = encodeConInfo(ALICE);
    const shm = encodeArchReq(204);
    const wrong: Record<'accept' | 'connect', Buffer[][]> = {
      accept: [
        [info],
        [VERSION, VERSION],
        [HELLO, info],
        [HELLO, encodeConInfo(ALICE, FRAME.CON_INFO_DEMAND)],
        [HELLO, encodeConInfo(ALICE, FRAME.BACK_CONNECT)],
        [encodeFrame(FRAME.BACK_ACK)],
        [VERSION, REQ_TCP],
        [OK],
        [HELLO, OK],
        [NEXT],
        [HELLO, NEXT],
        [HELLO, shm, REQ_TCP],
        [HELLO, encodeFrame(FRAME.ARCH_REQ, Buffer.alloc(3))],
        [HELLO, encodeFrame(FRAME.ARCH_REQ, Buffer.alloc(8))],
      ],
      connect: [
        [OK],
        [NEXT],
        [STEP],
        [VERSION, OK],
        [ANSWER, REQ_TCP],
        [ANSWER, info],
        [VERSION, encodeConInfo(ALICE, FRAME.CON_INFO_DEMAND)],
        [encodeConInfo(ALICE, FRAME.BACK_CONNECT)],
        [encodeFrame(FRAME.BACK_ACK)],
      ],
    };
    for (const role of ['accept', 'connect'] as const) {
      for (const frames of wrong[role]) {
        const shmPlugin = stepping('shm', 204, 90);
        const side = (role === 'accept' ? acceptingSide : connectingSide)([shmPlugin, fakeTcp()]);
        side.precon.start();
        side.precon.receive(Buffer.concat(frames));
        assert.is(side.end, 'ERR_ISTHMUS_HANDSHAKE', `${role}: ${hex(...frames)}`);
        assert.is(shmPlugin.held, 0);
      }
    }
  }),
);

test(
  'EOF, unknown frames, and steps without an attempt are ignored',
  timebox(5, () => {
    const noise = Buffer.concat([encodeFrame(FRAME.EOF), encodeFrame(0x100099, Buffer.alloc(50)), STEP]);
    const accepting = acceptingSide([fakeTcp()]);
    accepting.precon.receive(
      Buffer.concat([noise, VERSION, noise, encodeConInfo(ALICE), noise, encodeArchReq(1), noise, REQ_TCP, OK]),
    );
    assert.is(accepting.hex, hex(ANSWER, NEXT, OK));
    assert.is(accepting.end, 'agreed');
  }),
);

test(
  'the number of proposals is limited, and the fallback is among them',
  timebox(5, () => {
    const accepting = acceptingSide([fakeTcp()]);
    accepting.precon.receive(HELLO);
    for (let i = 0; i < 32; i++) accepting.precon.receive(encodeArchReq(1));
    assert.is(accepting.end, 'in progress');
    accepting.precon.receive(encodeArchReq(1));
    assert.is(accepting.end, 'ERR_ISTHMUS_HANDSHAKE');

    const labels = Array.from({ length: 50 }, (_, i) => `ivshmem (${i})`);
    const connecting = connectingSide([stepping('ivshmem', 220, 80, {}, labels), fakeTcp()]);
    const answering = acceptingSide([fakeTcp()]);
    connecting.precon.start();
    deliver(connecting, answering);
    assert.is(agreed(connecting).plugin.name, 'tcp');
    assert.match(agreed(connecting).why ?? '', 'ivshmem (49): not tried');
  }),
);

test(
  'accept is called before anything is sent',
  timebox(5, async () => {
    const asked: unknown[] = [];
    const side = acceptingSide([fakeTcp()], {
      admit: async (peer) => {
        asked.push(peer);
        await turn();
        return true;
      },
    });
    side.precon.receive(Buffer.concat([HELLO, REQ_TCP]));
    side.precon.receive(Buffer.concat([OK, Buffer.from('more')]));
    assert.equal(asked, [{ ...ALICE, address: undefined }]);
    assert.is(side.hex, '');
    assert.match(side.precon.waitingFor, 'accept');
    await turn();
    await turn();
    assert.is(side.hex, hex(ANSWER, OK));
    assert.is(agreed(side).rest.toString(), 'more');
  }),
);

test(
  'accept that refuses, throws or rejects ends the handshake, and nothing is said but that',
  timebox(5, async () => {
    const refusing: NonNullable<AcceptingOptions['admit']>[] = [
      () => false,
      async () => false,
      // Only `true` accepts.
      (() => undefined) as never,
      (async () => undefined) as never,
      (() => 'yes') as never,
      () => {
        throw new Error('broken');
      },
      () => Promise.reject(new Error('broken')),
    ];
    for (const admit of refusing) {
      const tcp = fakeTcp();
      const side = acceptingSide([tcp], { admit });
      side.precon.receive(Buffer.concat([HELLO, REQ_TCP, OK]));
      await turn();
      assert.is(side.end, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
      assert.is(side.hex, hex(REFUSED));
      assert.is(side.outcome?.kind === 'failed' && side.outcome.told, true);
      assert.equal(tcp.events, []);
    }
    // An answer after the end has no effect.
    let answer: (yes: boolean) => void = () => {};
    const side = acceptingSide([fakeTcp()], {
      admit: () =>
        new Promise((resolve) => {
          answer = resolve;
        }),
    });
    side.precon.receive(HELLO);
    side.precon.socketFailed(Object.assign(new Error('reset'), { code: 'ECONNRESET' }));
    answer(true);
    await turn();
    assert.is(side.end, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
    assert.is(side.hex, '');
  }),
);

test(
  'on-demand requests are refused without a handler',
  timebox(5, async () => {
    const demand = Buffer.concat([VERSION, encodeConInfo(ALICE, FRAME.CON_INFO_DEMAND), REQ_TCP, OK]);
    const back = encodeConInfo(ALICE, FRAME.BACK_CONNECT);
    for (const bytes of [demand, back]) {
      for (const more of [{}, { onDemand: () => undefined }, { onDemand: async () => undefined }]) {
        const side = acceptingSide([fakeTcp()], more);
        side.precon.receive(bytes);
        await turn();
        assert.is(side.end, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
        assert.is(side.hex, hex(REFUSED));
      }
    }
    const local = { ...BOB, id: 7n, name: 'other' };
    const found = acceptingSide([fakeTcp()], { onDemand: async () => ({ local }) });
    found.precon.receive(demand);
    await turn();
    assert.is(found.hex, hex(VERSION, encodeConInfo(local), OK));
    assert.equal(agreed(found).local, local);

    const called = acceptingSide([fakeTcp()], { onDemand: ({ kind }) => (kind === 'back-connect' ? {} : undefined) });
    called.precon.receive(back);
    assert.is(called.end, 'acknowledged');
    assert.is(called.hex, '0010000600000000');
  }),
);

test(
  'a listener that says no is not one that has too much to do',
  timebox(5, () => {
    const failed = (side: Side) => (side.outcome?.kind === 'failed' ? side.outcome.error : undefined);
    const start = () => {
      const tcp = fakeTcp();
      const side = connectingSide([tcp]);
      side.precon.start();
      return { tcp, side };
    };
    // Closed, or reset, before a byte came: later.
    for (const end of [
      (side: Side) => side.precon.socketEnded(),
      (side: Side) => side.precon.socketFailed(Object.assign(new Error('reset'), { code: 'ECONNRESET' })),
    ]) {
      const { tcp, side } = start();
      end(side);
      assert.is(failed(side)?.code, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
      assert.is(failed(side)?.temporary, true);
      assert.is(tcp.held, 0);
    }
    // Said: never. Behind an answer, however short: not a matter of too many peers.
    for (const bytes of [REFUSED, Buffer.concat([ANSWER, REFUSED]), VERSION.subarray(0, 1), ANSWER]) {
      const { tcp, side } = start();
      side.precon.receive(bytes);
      side.precon.socketEnded();
      assert.is(failed(side)?.code, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
      assert.is(failed(side)?.temporary, bytes.includes(REFUSED) ? false : undefined);
      assert.is(tcp.held, 0);
    }
    // A peer that hangs up at a listener has no listener to come back to.
    const accepting = acceptingSide([fakeTcp()]);
    accepting.precon.socketEnded();
    assert.is(failed(accepting)?.temporary, undefined);
  }),
);

test(
  'the admission may let a handshake wait before the application is asked, and before a plugin begins',
  timebox(5, async () => {
    const stages: string[] = [];
    const turns: (() => void)[] = [];
    const asked: string[] = [];
    const tcp = fakeTcp();
    const side = acceptingSide([tcp], {
      pass: (stage) => {
        stages.push(stage);
        return new Promise((resolve) => turns.push(resolve));
      },
      admit: ({ name }) => asked.push(name) > 0,
    });
    side.precon.receive(HELLO.subarray(0, -1));
    assert.equal(stages, []);
    assert.ok(side.precon.waitsForPeer);
    side.precon.receive(Buffer.concat([HELLO.subarray(-1), REQ_TCP, OK, Buffer.from('more')]));
    assert.equal([stages, asked, side.hex], [['introduced'], [], '']);
    assert.not(side.precon.waitsForPeer);
    turns.shift()?.();
    await turn();
    assert.equal([stages, asked, side.hex], [['introduced', 'proposed'], ['alice'], hex(ANSWER)]);
    assert.equal([tcp.events, side.precon.attempting], [[], false]);
    turns.shift()?.();
    await turn();
    assert.is(side.hex, hex(ANSWER, OK));
    assert.is(agreed(side).rest.toString(), 'more');

    // Aborted meanwhile: the turn comes to nothing.
    const gone = acceptingSide([fakeTcp()], { pass: () => new Promise((resolve) => turns.push(resolve)) });
    gone.precon.receive(HELLO);
    gone.precon.abort(new IsthmusError('ERR_ISTHMUS_HANDSHAKE_TIMEOUT', 'too late'));
    turns.shift()?.();
    await turn();
    assert.equal([gone.end, gone.hex], ['ERR_ISTHMUS_HANDSHAKE_TIMEOUT', '']);
  }),
);

test(
  'abort undoes the attempts in progress, once',
  timebox(5, () => {
    const shm = stepping('shm', 204, 90);
    const side = connectingSide([shm]);
    side.precon.start();
    side.precon.abort(new IsthmusError('ERR_ISTHMUS_CLOSED', 'enough'));
    side.precon.abort(new IsthmusError('ERR_ISTHMUS_HANDSHAKE', 'again'));
    side.precon.receive(ANSWER);
    assert.is(side.end, 'ERR_ISTHMUS_CLOSED');
    assert.equal(shm.events, ['begin', 'undo']);
  }),
);

test(
  'a plugin that throws unexpectedly does no harm',
  timebox(5, () => {
    const bad = new FakePlugin('bad', 400, 99);
    bad.unavailable = () => {
      throw new Error('unavailable broke');
    };
    const worse = new FakePlugin('worse', 401, 98);
    worse.proposals = () => {
      throw new Error('proposals broke');
    };
    const undoing = stepping('undoing', 402, 97, { begin: () => {} });
    const accept = undoing.accept.bind(undoing);
    undoing.accept = (channel) => ({
      ...accept(channel),
      undo: () => {
        throw new Error('undo broke');
      },
    });
    const connecting = connectingSide([bad, worse, undoing, fakeTcp()]);
    const accepting = acceptingSide([bad, fakeTcp()]);
    connecting.precon.start();
    deliver(connecting, accepting);
    assert.is(agreed(connecting).why, 'bad: unavailable broke; worse: proposals broke; undoing: refused by the peer');
    const asked = acceptingSide([bad]);
    asked.precon.receive(Buffer.concat([HELLO, encodeArchReq(400)]));
    assert.is(asked.hex, hex(ANSWER, NEXT));
  }),
);

// ---------------------------------------------------------------- garbage

test(
  'garbage and mutated handshakes end with a code or wait for more; nothing crashes, nothing leaks',
  timebox(60, () => {
    const random = seeded(seed ^ 0xbad);
    const good = {
      accept: Buffer.concat([HELLO, encodeArchReq(204), STEP, NEXT, encodeArchReq(104), REQ_TCP, OK]),
      connect: Buffer.concat([ANSWER, STEP, NEXT, OK]),
    };
    const codes = new Map<string, number>();
    for (let round = 0; round < 3000; round++) {
      const role = random(2) ? 'accept' : 'connect';
      let bytes: Buffer = Buffer.from(good[role]);
      if (random(4) === 0) {
        bytes = Buffer.from(Array.from({ length: random(200) }, () => random(256)));
      } else {
        for (let i = random(4); i >= 0; i--) {
          const at = random(bytes.length);
          switch (random(4)) {
            case 0:
              bytes[at] = random(256);
              break;
            case 1:
              bytes[at] = (bytes[at] ?? 0) ^ (1 << random(8));
              break;
            case 2:
              bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random(12))]);
              break;
            default:
              bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(random(at + 1), at), bytes.subarray(at)]);
          }
          if (bytes.length === 0) break;
        }
      }
      const shm = stepping('shm', 204, 90);
      const tcp = fakeTcp();
      const side = (role === 'accept' ? acceptingSide : connectingSide)([], { registry: registryOf(shm, tcp) });
      side.precon.start();
      for (const piece of cut(bytes, random)) if (!side.outcome) side.precon.receive(piece);
      if (!side.outcome) side.precon.socketEnded();
      assert.match(side.end, /^(agreed|ERR_ISTHMUS_(HANDSHAKE(_VERSION|_REFUSED)?|NO_PLUGIN))$/, `round ${round}`);
      assert.is(shm.held + tcp.held, side.end === 'agreed' ? 1 : 0, `seed ${seed}, round ${round}`);
      codes.set(side.end, (codes.get(side.end) ?? 0) + 1);
    }
    for (const end of ['agreed', 'ERR_ISTHMUS_HANDSHAKE', 'ERR_ISTHMUS_HANDSHAKE_VERSION']) {
      assert.ok((codes.get(end) ?? 0) > 20, end);
    }
  }),
);

test.run();
