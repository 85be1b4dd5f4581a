import type { RunOptions } from './ends.js';
import type { Plan } from './race.js';
import type { Measure } from './results.js';

export const runMeasures = {
  prepare(_plan: Plan, _run: RunOptions) {
    return { total: 0, run: async (_step: (what: string) => void): Promise<Measure[]> => [] };
  },
};
