/** The registry of plugins: order, masks, and its reasons for unusable plugins. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { PluginMask } from '../../host/api/peer.js';
import { IsthmusError } from '../../host/base/errors.js';
import { preferences } from '../../host/handshake/preferences.js';
import { PluginRegistry } from '../../host/plugins/registry.js';
import { acceptingSide, connectingSide, deliver, FakePlugin, fakeTcp } from '../support/precon.js';
import { timebox } from '../support/timebox.js';

const shm = () => new FakePlugin('shm', 204, 90);
const ivshmem = () => new FakePlugin('ivshmem', 220, 80);

function registry(): PluginRegistry {
  return new PluginRegistry([
    { plugin: fakeTcp(), priority: 2 },
    { plugin: ivshmem(), priority: 80 },
    { plugin: shm(), priority: 0 },
  ]);
}

/** The plugins to propose, and the reasons for the others. */
function plan(from: PluginRegistry): string[] {
  return preferences(from, 32).map((each) => ('reason' in each ? each.reason : each.proposal.label));
}

test(
  'higher priorities first, equal ones by their defaults',
  timebox(5, () => {
    assert.equal(plan(registry()), ['ivshmem', 'tcp', 'shm: disabled']);
    const equal = new PluginRegistry([fakeTcp(), ivshmem(), shm()].map((plugin) => ({ plugin, priority: 7 })));
    assert.equal(plan(equal), ['shm', 'ivshmem', 'tcp']);
  }),
);

test(
  'masks: only, add, delete',
  timebox(5, () => {
    const masked = 'masked for this endpoint';
    const all: [PluginMask, string[]][] = [
      [{}, ['ivshmem', 'tcp']],
      [{ only: ['tcp'] }, [`ivshmem: ${masked}`, 'tcp']],
      [{ only: [] }, [`ivshmem: ${masked}`, `tcp: ${masked}`]],
      [{ only: ['tcp'], add: ['ivshmem'] }, ['ivshmem', 'tcp']],
      [{ add: ['tcp'] }, ['ivshmem', 'tcp']],
      [{ delete: ['tcp'] }, ['ivshmem', `tcp: ${masked}`]],
      [{ only: ['tcp', 'ivshmem'], delete: ['ivshmem'] }, [`ivshmem: ${masked}`, 'tcp']],
      [{ only: ['tcp'], add: ['ivshmem'], delete: ['ivshmem'] }, [`ivshmem: ${masked}`, 'tcp']],
    ];
    for (const [mask, expected] of all) {
      const before = registry();
      assert.equal(plan(before.masked(mask)).slice(0, 2), expected, JSON.stringify(mask));
      assert.equal(plan(before), ['ivshmem', 'tcp', 'shm: disabled']);
    }
    // A mask does not enable a disabled plugin.
    assert.equal(plan(registry().masked({ only: ['shm'] })).at(-1), 'shm: disabled');
    assert.equal(plan(registry().masked({ add: ['shm'] })).at(-1), 'shm: disabled');
    for (const mask of [{ only: ['ucp'] }, { add: ['ucp'] }, { delete: ['ucp'] }]) {
      assert.throws(
        () => registry().masked(mask),
        (error: unknown) => error instanceof IsthmusError && error.code === 'ERR_ISTHMUS_INVALID_ARGUMENT',
      );
    }
  }),
);

test(
  'a masked plugin is not used on either side, and `why` reports it',
  timebox(5, () => {
    const enabled = () =>
      new PluginRegistry([
        { plugin: ivshmem(), priority: 80 },
        { plugin: fakeTcp(), priority: 2 },
      ]);
    for (const masks of [
      [{ delete: ['ivshmem'] }, {}],
      [{}, { delete: ['ivshmem'] }],
    ]) {
      const a = connectingSide([], { registry: enabled().masked(masks[0] as PluginMask) });
      const b = acceptingSide([], { registry: enabled().masked(masks[1] as PluginMask) });
      a.precon.start();
      deliver(a, b);
      for (const [side, mask] of [
        [a, masks[0]],
        [b, masks[1]],
      ] as const) {
        if (side.outcome?.kind !== 'agreed') throw new Error(`${side.end}: ${side.message}`);
        assert.is(side.outcome.plugin.name, 'tcp');
        if (mask && 'delete' in mask) assert.is(side.outcome.why, 'ivshmem: masked for this endpoint');
      }
    }
    const none = connectingSide([], { registry: enabled().masked({ only: [] }) });
    none.precon.start();
    assert.is(none.end, 'ERR_ISTHMUS_NO_PLUGIN');
    assert.match(none.message, 'ivshmem: masked for this endpoint; tcp: masked for this endpoint');
  }),
);

test(
  'all plugins are destroyed, even if one of them fails',
  timebox(5, async () => {
    const [first, second] = [ivshmem(), fakeTcp()];
    let called = 0;
    first.destroy = () => {
      throw new Error('oops');
    };
    second.destroy = () => {
      called++;
    };
    const both = new PluginRegistry([first, second].map((plugin) => ({ plugin, priority: 1 })));
    assert.equal(await both.destroy(), ['plugin ivshmem failed to let go: oops']);
    assert.is(called, 1);
  }),
);

test.run();
