/** `connection.stream()`: Isthmus for a program that expects a Duplex, as a socket is. */
import { BytesNear, bytesFar } from './bytes.js';
import { createRuntime } from './isthmus.js';
import type { Transport } from './transport.js';

const tagged = <T extends { readonly tag: string }>(options: T): T => ({ ...options, tag: `${options.tag}-stream` });

export const stream: Transport = {
  name: 'stream',
  title: 'Isthmus, connection.stream()',
  ours: true,
  missing: () => undefined,
  async near(options, start) {
    const far = await start();
    const port = await far.call<number>('listen');
    const runtime = await createRuntime(tagged(options));
    const connection = await runtime.connect({ host: '127.0.0.1', port });
    if (connection.plugin !== 'shm') throw new Error(`it went over ${connection.plugin}: ${connection.why}`);
    return new BytesNear(connection.stream(), far, async () => {
      await runtime.close();
      await far.call('leave');
    });
  },
  far(options) {
    const { accepted, handlers } = bytesFar();
    let leave = async () => {};
    return {
      ...handlers,
      async listen() {
        const runtime = await createRuntime(tagged(options));
        leave = () => runtime.close();
        const { port } = await runtime.listen({}, async (connection) => {
          accepted(connection.stream());
          await connection.closed;
        });
        return port;
      },
      leave: () => leave(),
    };
  },
};
