/**
 * A broker for tests: a real mosquitto, on a port of its own, that can be stopped and started again. Without mosquitto
 * the tests use aedes in a separate process, and print that.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

export const hasMosquitto = spawnSync('mosquitto', ['-h'], { env: searchPath() }).error === undefined;

/** Debian installs it where only root's PATH leads. */
function searchPath(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/usr/local/sbin` };
}

const AEDES = `
  import { createServer } from 'node:net';
  import { Aedes } from 'aedes';
  const [port, user, password] = process.argv.slice(1);
  const broker = await Aedes.createBroker();
  if (user) broker.authenticate = (_, name, word, done) => done(null, name === user && String(word) === password);
  createServer(broker.handle).listen(Number(port), '127.0.0.1');
`;

const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);
const brokers = new Set<TestBroker>();
process.on('exit', () => {
  for (const broker of brokers) broker.kill();
});

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

export interface TestBrokerOptions {
  readonly user?: string;
  readonly password?: string;
  /** Each with its name as password, instead of `user`, and the access list. Only with mosquitto. */
  readonly users?: readonly string[];
  readonly acl?: readonly string[];
  /** PEM files for TLS. Only with mosquitto. */
  readonly tls?: { readonly ca: string; readonly cert: string; readonly key: string };
}

export class TestBroker {
  readonly port: number;
  readonly #options: TestBrokerOptions;
  readonly #folder: string;
  #process: ChildProcess | undefined;
  output = '';

  private constructor(port: number, options: TestBrokerOptions) {
    this.port = port;
    this.#options = options;
    this.#folder = mkdtempSync(join(tmpdir(), 'isthmus-test-broker-'));
    brokers.add(this);
  }

  static async start(options: TestBrokerOptions = {}): Promise<TestBroker> {
    if (!hasMosquitto) {
      console.log('! no mosquitto here (apt-get install mosquitto mosquitto-clients): AEDES stands in for it');
    }
    const broker = new TestBroker(await freePort(), options);
    await broker.start();
    return broker;
  }

  get url(): string {
    return `mqtt://127.0.0.1:${this.port}`;
  }

  /** On the same port as before; the broker keeps no state. */
  async start(): Promise<void> {
    const { user, password, users = [], acl, tls } = this.#options;
    const accounts = user === undefined ? users.map((name) => [name, name]) : [[user, password ?? '']];
    if (hasMosquitto) {
      const lines = [
        `listener ${this.port} 127.0.0.1`,
        `allow_anonymous ${accounts.length === 0}`,
        'persistence false',
      ];
      // Started by root it would switch to another user, without access to the files.
      if (process.getuid?.() === 0) lines.push('user root');
      if (accounts.length > 0) {
        const path = join(this.#folder, 'passwords');
        writeFileSync(path, '');
        for (const [name = '', word = ''] of accounts) {
          spawnSync('mosquitto_passwd', ['-b', path, name, word], { env: searchPath() });
        }
        lines.push(`password_file ${path}`);
      }
      if (acl) {
        const path = join(this.#folder, 'access');
        writeFileSync(path, `${acl.join('\n')}\n`);
        lines.push(`acl_file ${path}`);
      }
      if (tls) lines.push(`cafile ${tls.ca}`, `certfile ${tls.cert}`, `keyfile ${tls.key}`);
      const config = join(this.#folder, 'mosquitto.conf');
      writeFileSync(config, `${lines.join('\n')}\n`);
      this.#run('mosquitto', ['-c', config]);
    } else {
      this.#run(process.execPath, ['--input-type=module', '-e', AEDES, String(this.port), user ?? '', password ?? '']);
    }
    await this.#listening();
  }

  #run(program: string, args: readonly string[]): void {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: searchPath() });
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.output += text;
      });
      (stream as unknown as { unref(): void }).unref();
    }
    child.on('error', (error) => {
      this.output += error.message;
    });
    child.unref();
    this.#process = child;
  }

  async #listening(): Promise<void> {
    const limit = performance.now() + 10_000 * slowness;
    for (;;) {
      const socket = connect(this.port, '127.0.0.1');
      const there = await new Promise<boolean>((resolve) => {
        socket.on('connect', () => resolve(true)).on('error', () => resolve(false));
      });
      socket.destroy();
      if (there) return;
      if (performance.now() > limit) throw new Error(`no broker: ${this.output}`);
      await pause(20);
    }
  }

  async stop(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    // The wait itself may be all that keeps this process alive.
    child.ref();
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }

  /** At the end. */
  async close(): Promise<void> {
    await this.stop();
    brokers.delete(this);
    rmSync(this.#folder, { recursive: true, force: true });
  }

  kill(): void {
    this.#process?.kill('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
