/** The address that a runtime announces, by interfaces as the operating system lists them. */
import type { NetworkInterfaceInfo } from 'node:os';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { addressIn, isOwn, ownAddress, parseNetworks } from '../../host/base/network.js';
import { timebox } from '../support/timebox.js';

function face(address: string, netmask: string, internal = false): NetworkInterfaceInfo {
  return { address, netmask, internal, family: 'IPv4', mac: '00:00:00:00:00:00', cidr: null };
}

const six: NetworkInterfaceInfo = {
  address: 'fe80::1',
  netmask: 'ffff:ffff:ffff:ffff::',
  internal: false,
  family: 'IPv6',
  mac: '00:00:00:00:00:00',
  cidr: null,
  scopeid: 2,
};

const machine = {
  lo: [face('127.0.0.1', '255.0.0.0', true)],
  eth0: [six, face('192.168.1.17', '255.255.255.0')],
  ib0: [face('10.3.0.17', '255.255.0.0'), face('200.1.2.3', '255.255.255.255')],
};

test(
  'the first network that contains an own address decides',
  timebox(5, () => {
    const told = (networks: string) => ownAddress(networks, machine);
    assert.is(told(''), '192.168.1.17', 'the address that others can reach');
    assert.is(told('10.0.0.0/8'), '10.3.0.17');
    assert.is(told('10.3.0.0'), '10.3.0.17', 'with the netmask of the interface');
    assert.is(told('10.3.255.255'), '10.3.0.17');
    assert.is(told('10.4.0.0'), '192.168.1.17', 'not in the /16 of the interface');
    assert.is(told('10.4.0.0, 172.16.0.0/12 200.1.2.3/32'), '200.1.2.3');
    assert.is(told('200.1.2.3 10.0.0.0/8'), '200.1.2.3', 'in the order of the list');
    assert.is(told('127.0.0.1'), '127.0.0.1');
    assert.is(told('0.0.0.0/0'), '127.0.0.1', 'it contains every address');
    assert.is(told('172.16.0.0/12'), '192.168.1.17', 'none matches: as without a setting');
    assert.is(ownAddress('', { lo: machine.lo }), '127.0.0.1');
    assert.is(addressIn(parseNetworks('172.16.0.0/12') ?? [], machine), undefined);
  }),
);

test(
  'own addresses are recognised',
  timebox(5, () => {
    for (const own of ['127.0.0.1', '127.9.9.9', '::1', ownAddress('')]) assert.ok(isOwn(own), own);
    assert.not(isOwn('198.51.100.1'));
  }),
);

test.run();
