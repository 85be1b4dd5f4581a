/** The processes of test/crash: those that die at a step (`victim`), and one that only echoes (`third`). */
import { readFileSync, writeSync } from 'node:fs';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { checkNumbered, LOAD, MEET, numbered, OPERATIONS, UNHEARD, Victim } from '../crash/operations.js';
import { countSteps, dieNow } from '../crash/steps.js';
import { play, roleOptions, serve, tell } from '../support/calls.js';
import { seeded } from '../support/seeded.js';

export interface VictimOptions {
  readonly options: RuntimeOptions;
  /** It attaches to the region before it reports that it is ready. */
  readonly attached: boolean;
  /** Port of the survivor. */
  readonly port: number;
  /** The instrumented core. */
  readonly core: string;
}

/**
 * Reported with a synchronous write, past the queues of JavaScript: the report is out even if the next step is the
 * last.
 */
const committed = () => writeSync(1, '.');

async function third(): Promise<void> {
  const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
  const { port } = await runtime.listen({}, async (connection) => {
    for await (const { data } of connection) await connection.send(data);
  });
  serve({});
  tell('ready', port);
}

async function victim(): Promise<void> {
  const { options, attached, port, core } = roleOptions<VictimOptions>();
  const steps = countSteps(readFileSync(core), dieNow);
  const dying = new Victim(options, port, committed);
  if (attached) await dying.attach();
  const named = (name: string) => [...OPERATIONS, UNHEARD, MEET].find((each) => each.name === name);
  serve({
    /** @returns its port */
    prepare: async (name: string) => {
      await named(name)?.before?.(dying);
      return dying.ownPort;
    },
    /** @returns the steps that it took */
    run: async (name: string, at: number) => {
      steps.arm(at);
      await named(name)?.run(dying);
      return steps.count;
    },
    load: async (at: number, seed: number, destroys: boolean) => {
      steps.arm(at);
      await load(dying, seed, destroys);
    },
  });
  tell('ready');
}

/** All operations at once, for ever. @param destroys whether it also destroys connections */
async function load({ runtime, port }: Victim, seed: number, destroys: boolean): Promise<void> {
  const random = seeded(seed);
  const one = async () => {
    for (;;) {
      const connection = await runtime.connect({ host: '127.0.0.1', port });
      const receive = async () => {
        for (let number = 0; ; number++) {
          const message = await connection.receive();
          if (!message) return;
          checkNumbered(number, message.data);
        }
      };
      const send = async (count: number) => {
        for (let number = 0; number < count; number++) {
          await connection.send(numbered(number, random(random(8) === 0 ? 150_000 : 30_000)));
          committed();
          if (random(50) === 0) runtime.allocate(1 + random(60_000), { connection }).release();
        }
      };
      const sending = send(random(4) === 0 ? random(50) : 1e9);
      if (destroys) {
        await Promise.race([receive(), sending]);
        connection.destroy();
      } else {
        void receive().catch(() => {});
        await sending;
        await connection.close();
      }
    }
  };
  await Promise.all(Array.from({ length: LOAD }, one));
}

await play({ third, victim });
