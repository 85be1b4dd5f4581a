/** The share of a core that an idle runtime uses, over the ten seconds that the promise is made for. */
process.env['ISTHMUS_TEST_IDLE'] ??= '10';
process.env['ISTHMUS_TEST_ONLY'] ??= 'an idle runtime';
await import('./waiting.test.js');

export {};
