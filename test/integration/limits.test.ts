/**
 * Where the kernel allows less than usual: limits of the process, system calls that a sandbox refuses, missing file
 * systems. Messages go over tcp at least, a warning names what keeps them from shm, and where nothing goes the error has a
 * code and says what to do.
 *
 * The limits are real ones, of separate processes: this file again, with a role.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import { addonMissing } from '../../host/native/native.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { Child, chosen, endChildren, play, role, roleOptions, type StartOptions, tell } from '../support/process.js';
import { newShm, onlyShm, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

interface Outcome {
  readonly plugin?: string;
  readonly why?: string;
  readonly warnings?: readonly string[];
  readonly code?: string;
  readonly message?: string;
}

const codeOf = (error: unknown) => (error instanceof IsthmusError ? error.code : String(error));

interface Both {
  readonly shmName: string;
  /** Port of the other process; undefined: both ends are in this one. */
  readonly port?: number;
}

// ── Processes ────────────────────────────────────────────────────────────────────────────────────────────────────────

function limitedOptions(shmName: string, warnings: string[]): RuntimeOptions {
  const log = (level: string, line: string) => {
    if (level === 'warning') warnings.push(line);
  };
  return onlyShm(shmName, { debug: 2, log });
}

async function listener(shmName: string, warnings: string[]): Promise<number> {
  const runtime = await Runtime.create(limitedOptions(shmName, warnings));
  const { port } = await runtime.listen({}, async (connection) => {
    try {
      for await (const { data } of connection) await connection.send(data);
    } catch {
      // The other process has ended.
    }
  });
  return port;
}

const roles = {
  async server() {
    const { shmName } = roleOptions<Both>();
    try {
      tell('port', await listener(shmName, []));
    } catch (error) {
      tell('port', codeOf(error));
    }
  },

  /** Exchange a message. */
  async visitor() {
    const { shmName, port } = roleOptions<Both>();
    const warnings: string[] = [];
    let outcome: Outcome;
    try {
      const there = port ?? (await listener(shmName, warnings));
      const runtime = await Runtime.create(limitedOptions(shmName, warnings));
      const connection = await runtime.connect(`127.0.0.1:${there}`);
      // Long enough to be idle in between, so that each end sleeps and is woken, or polls by its timer.
      for (const text of ['one', 'two', 'three']) {
        await new Promise((resolve) => setTimeout(resolve, 30));
        await connection.send(text);
        assert.is((await connection.receive())?.text(), text);
      }
      outcome = { plugin: connection.plugin, why: connection.why ?? '', warnings };
    } catch (error) {
      outcome = { code: codeOf(error), message: (error as Error).message };
    }
    console.log(`OUTCOME ${JSON.stringify(outcome)}`);
    process.exit(0);
  },
};

// ── The tests ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Refuses one system call, or one with a certain argument, and then runs a program. */
const DENY = `
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
struct call {
  const char *name;
  int number, argument;
  unsigned value;
};
#define CALL(name) { #name, SYS_##name, -1, 0 }
static const struct call calls[] = {
  CALL(memfd_create), CALL(timerfd_create), CALL(timerfd_settime), CALL(preadv2), CALL(mremap), CALL(fallocate),
  CALL(statx), CALL(sched_getaffinity), CALL(msync), CALL(statfs), CALL(ftruncate),
  { "socket(AF_NETLINK)", SYS_socket, 0, AF_NETLINK }, { "socket(AF_UNIX)", SYS_socket, 0, AF_UNIX },
  { "fcntl(F_OFD_SETLK)", SYS_fcntl, 1, F_OFD_SETLK }, { "fcntl(F_OFD_GETLK)", SYS_fcntl, 1, F_OFD_GETLK },
};
int main(int argc, char **argv) {
  const int error = argc > 3 && !strcmp(argv[1], "EPERM") ? EPERM : ENOSYS;
  for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) {
    const struct call *call = &calls[i];
    if (argc < 4) puts(call->name);
    if (argc < 4 || strcmp(argv[2], call->name)) continue;
    const int any = call->argument < 0;
    const unsigned at = any ? offsetof(struct seccomp_data, nr)
                            : offsetof(struct seccomp_data, args) + sizeof(__u64) * call->argument;
    struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call->number, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, any ? call->number : call->value, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return 125;
    execvp(argv[3], argv + 3);
    return 126;
  }
  return argc < 4 ? 0 : 127;
}`;

/** Without one of these there is no shm; the reason has its name, or that of what it is for. */
const NEEDED: Readonly<Record<string, RegExp>> = {
  mremap: /mremap/,
  ftruncate: /cannot prepare/,
  'fcntl(F_OFD_SETLK)': /F_OFD_SETLK/,
  'fcntl(F_OFD_GETLK)': /F_OFD_GETLK/,
};

/** Without one of these the runtime warns, and loses nothing. */
const WARNED: Readonly<Record<string, RegExp>> = { 'socket(AF_NETLINK)': /addresses of this machine.*PSP_NETWORK/ };

async function visit(options: Both, start: StartOptions): Promise<Outcome> {
  const child = Child.start(import.meta.url, 'visitor', options, start);
  await child.ended();
  const said = /^OUTCOME (.*)$/m.exec(child.output)?.[1];
  assert.ok(said, child.output);
  return JSON.parse(said) as Outcome;
}

const ulimit = (flags: string) => ['bash', '-c', `ulimit ${flags} && exec "$0" "$@"`];

/** Two processes with the same limit. */
async function between(start: StartOptions): Promise<{ server: unknown; outcome: Outcome }> {
  const { shmName } = newShm();
  const child = Child.start(import.meta.url, 'server', { shmName }, start);
  const server = await child.event('port');
  const outcome = await visit({ shmName, ...(typeof server === 'number' ? { port: server } : {}) }, start);
  await child.kill();
  return { server, outcome };
}

function overTcp({ plugin, why, warnings }: Outcome, reason: RegExp): void {
  assert.is(plugin, 'tcp', why);
  assert.match(why ?? '', reason);
  assert.match((warnings ?? []).join('\n'), /shm is not used/);
  assert.match((warnings ?? []).join('\n'), reason);
}

function main(): void {
  const missing = addonMissing();
  const test = missing ? (name: string) => register.skip(`${name} (${missing.message})`, () => {}) : chosen(register);
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-limits-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

  const GIB = 1 << 20; // in KiB, as ulimit has it
  const remedy = /ulimit -v.*--disable-wasm-trap-handler/;

  test(
    'address space for one memory: over tcp, with the reason; for two: shm',
    timebox(60, async () => {
      const [one, two] = await Promise.all([14, 32].map((gib) => between({ under: ulimit(`-v ${gib * GIB}`) })));
      overTcp(one!.outcome, remedy);
      assert.is(two!.outcome.plugin, 'shm', two!.outcome.why);
    }),
  );

  test(
    'address space for none: an error with a code and the remedy, which works',
    timebox(60, async () => {
      const under = ulimit(`-v ${8 * GIB}`);
      const [{ server, outcome }, cured] = await Promise.all([
        between({ under }),
        between({ under, env: { NODE_OPTIONS: '--disable-wasm-trap-handler' } }),
      ]);
      assert.is(server, 'ERR_ISTHMUS_ADDRESS_SPACE');
      assert.is(outcome.code, 'ERR_ISTHMUS_ADDRESS_SPACE');
      assert.match(outcome.message ?? '', remedy);
      assert.is(cured.outcome.plugin, 'shm', cured.outcome.why ?? cured.outcome.message);
    }),
  );

  test(
    'few descriptors; no memory to lock',
    timebox(60, async () => {
      const { shmName } = newShm();
      for (const flags of ['-n 64', '-n 32', '-l 0']) {
        const { plugin, code, message } = await visit({ shmName }, { under: ulimit(flags) });
        assert.match(plugin ?? '', /^(shm|tcp)$/, `${flags}: ${code} ${message}`);
      }
    }),
  );

  const deny = join(folder, 'deny');
  writeFileSync(`${deny}.c`, DENY);
  const compiled = spawnSync('cc', ['-o', deny, `${deny}.c`], { encoding: 'utf8' });
  const calls = compiled.status === 0 ? spawnSync(deny, { encoding: 'utf8' }).stdout.trim().split('\n') : [];
  const runs = compiled.status === 0 && spawnSync(deny, ['EPERM', 'memfd_create', 'true']).status === 0;
  if (!runs)
    console.log(`skipped: system calls that are refused (no C compiler, or no seccomp) ${compiled.stderr ?? ''}`);

  for (const call of runs ? calls : []) {
    test(
      `${call} is refused, as sandboxes and old kernels do it`,
      timebox(40, async () => {
        const outcomes = await Promise.all(
          ['EPERM', 'ENOSYS'].map((error) => {
            const { shmName } = newShm();
            return visit({ shmName }, { under: [deny, error, call] });
          }),
        );
        for (const outcome of outcomes) {
          const { plugin, why, code, message, warnings } = outcome;
          assert.is(code, undefined, `${code} ${message}`);
          const needed = NEEDED[call];
          if (needed) {
            overTcp(outcome, needed);
            continue;
          }
          assert.is(plugin, 'shm', why);
          const warned = WARNED[call];
          if (warned) assert.match((warnings ?? []).join('\n'), warned);
          else assert.equal(warnings, []);
        }
      }),
    );
  }

  const namespaces = spawnSync('unshare', ['-m', 'true']).status === 0;
  if (!namespaces) console.log('skipped: file systems that are missing (no mount namespaces)');
  const places: readonly (readonly [string, string, RegExp | undefined])[] = [
    ['no /proc', 'mount -t tmpfs none /proc', undefined],
    ['no /sys', 'mount -t tmpfs none /sys', undefined],
    ['a /dev/shm that cannot be written', 'mount -t tmpfs -o ro none /dev/shm', /EROFS/],
    ['a /dev/shm that is too small', 'mount -t tmpfs -o size=64k none /dev/shm', /REGION_NO_SPACE/],
    [
      'no /dev/shm',
      'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9',
      /ENOENT/,
    ],
  ];
  for (const [what, mount, reason] of namespaces ? places : []) {
    test(
      `${what}`,
      timebox(30, async () => {
        const { shmName } = newShm();
        const under = ['unshare', '-m', 'bash', '-c', `${mount} && exec "$0" "$@"`];
        const outcome = await visit({ shmName }, { under });
        if (reason) overTcp(outcome, reason);
        else assert.is(outcome.plugin, 'shm', outcome.why ?? outcome.message);
      }),
    );
  }

  register.after(async () => {
    await endChildren();
    removeRegions();
  });
  register.run();
}

if (role) await play(roles);
else main();
