// An HTTP client whose connections go through a region: node client.mjs [HOST:PORT]
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { Runtime } from 'isthmus';

const address = process.argv[2] ?? '127.0.0.1:7100';
const LARGE = Number(process.env.LARGE ?? 64 << 20);

const runtime = await Runtime.create({ name: 'client' });

/**
 * An agent needs to know only how to get a stream. It does not count a connection that is still being opened, so
 * `maxSockets` has no effect here; the number of concurrent requests limits the connections.
 */
class RegionAgent extends http.Agent {
  connections = 0;

  createConnection(_options, callback) {
    runtime.connect(address).then((connection) => {
      this.connections++;
      console.log(`connected over ${connection.plugin}${connection.why ? `; ${connection.why}` : ''}`);
      callback(null, connection.stream());
    }, callback);
  }
}

const agent = new RegionAgent({ keepAlive: true });
const open = (path, options) => http.request({ host: 'region', path, agent, ...options });

async function get(path) {
  const request = open(path).end();
  const [response] = await once(request, 'response');
  return response;
}

function check(what, right) {
  console.log(`${right ? 'ok' : 'FAILED'}: ${what}`);
  if (!right) process.exitCode = 1;
}

// Many requests, few connections: four requests at a time need no more than four connections.
const answers = [];
await Promise.all(
  Array.from({ length: 4 }, async () => {
    for (let i = 0; i < 50; i++) answers.push(await text(await get('/')));
  }),
);
check(
  `${answers.length} requests over ${agent.connections} connections`,
  agent.connections <= 4 && answers.every((answer) => answer === answers[0] && answer.startsWith('hello')),
);

// A large body in each direction. The expected hash of the download is in its trailer.
const hash = createHash('sha256');
const response = await get(`/bytes/${LARGE}`);
let length = 0;
for await (const chunk of response) {
  hash.update(chunk);
  length += chunk.length;
}
check(`${length} bytes down`, length === LARGE && hash.digest('hex') === response.trailers['sha-256']);

const sent = createHash('sha256');
const upload = open('/upload', { method: 'PUT' });
const answered = once(upload, 'response');
await pipeline(function* () {
  for (let left = LARGE; left > 0; left -= 1_000_000) {
    const chunk = randomBytes(Math.min(left, 1_000_000));
    sent.update(chunk);
    yield chunk;
  }
}, upload);
check(`${LARGE} bytes up`, (await text((await answered)[0])) === sent.digest('hex'));

// The client aborts a download in the middle.
const endless = await get(`/bytes/${2 ** 40}`);
let seen = 0;
for await (const chunk of endless) {
  seen += chunk.length;
  if (seen > 1 << 20) break;
}
check('a download that was aborted', seen > 1 << 20 && !endless.complete);
check('and the server continues', (await text(await get('/'))) === answers[0]);

agent.destroy();
await runtime.close();
