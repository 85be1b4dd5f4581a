/** A million stores of the hostile peer of `core.test.ts`. */
process.env['ISTHMUS_HOSTILE_MUTATIONS'] ??= '1000000';
await import('./core.test.js');

export {};
