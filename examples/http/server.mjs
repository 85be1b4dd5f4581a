// An HTTP server whose connections come through a region: node server.mjs [PORT]
import { createHash, randomBytes } from 'node:crypto';
import http from 'node:http';
import { pipeline } from 'node:stream/promises';
import { Runtime } from 'isthmus';

/** Pass the chunks on, and hash them (SHA-256). */
async function* hashed(chunks, hash) {
  for await (const chunk of chunks) {
    hash.update(chunk);
    yield chunk;
  }
}

function* noise(length) {
  for (let left = length; left > 0; left -= 65_536) yield randomBytes(Math.min(left, 65_536));
}

/** Send `length` random bytes, and their hash in a trailer. */
async function download(response, length) {
  const hash = createHash('sha256');
  response.writeHead(200, { 'content-type': 'application/octet-stream', trailer: 'sha-256' });
  await pipeline(hashed(noise(length), hash), response, { end: false });
  response.addTrailers({ 'sha-256': hash.digest('hex') });
  response.end();
}

async function upload(request, response) {
  const hash = createHash('sha256');
  for await (const chunk of request) hash.update(chunk);
  response.end(hash.digest('hex'));
}

// Longer than the pauses of the client: an idle connection must not close just when the client sends a request.
const server = http.createServer({ keepAliveTimeout: 60_000 }, async (request, response) => {
  try {
    const { pathname } = new URL(request.url, 'http://region');
    const length = /^\/bytes\/(\d+)$/.exec(pathname)?.[1];
    if (pathname === '/') response.end(`hello from process ${process.pid}\n`);
    else if (length) await download(response, Number(length));
    else if (pathname === '/upload' && request.method === 'PUT') await upload(request, response);
    else response.writeHead(404).end();
  } catch (error) {
    // A client that aborts a download is no error of the server.
    console.log(`${request.method} ${request.url}: ${error.code ?? error.message}`);
  }
});

// The server never listens itself. With this event it begins to check its timeouts, and to know its idle connections.
server.emit('listening');

const runtime = await Runtime.create({ name: 'http' });
const listening = await runtime.listen({ port: Number(process.argv[2] ?? 7100) }, (connection) => {
  console.log(`a connection over ${connection.plugin}`);
  server.emit('connection', connection.stream());
});
console.log(`listening on ${listening.host}:${listening.port}`);

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    await listening.close();
    server.close();
    await runtime.close();
  });
}
