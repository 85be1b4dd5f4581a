#!/usr/bin/env node
/** What `isthmus` starts. */
import { flushOutput } from './output.js';
import { run } from './program.js';

const code = await run(process.argv.slice(2));
await flushOutput();
process.exit(code);
