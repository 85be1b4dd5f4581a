/** Many more processes killed at random moments than `death.test.ts` has time for. */
process.env['ISTHMUS_TEST_KILLS'] ??= '60';
process.env['ISTHMUS_TEST_ONLY'] ??= 'random moments';
await import('./death.test.js');

export {};
