#!/usr/bin/env node
import { run } from './program.js';
/** What `isthmus` starts. */
import { flushOutput } from './support/output.js';

const code = await run(process.argv.slice(2));
await flushOutput();
process.exit(code);
