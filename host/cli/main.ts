#!/usr/bin/env node
/** What `isthmus` starts. */
import { run } from './program.js';
import { flushOutput } from './support/output.js';

const code = await run(process.argv.slice(2));
await flushOutput();
process.exit(code);
