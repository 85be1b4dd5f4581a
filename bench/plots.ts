import type { Results } from './results.js';

export async function plot(_results: Results): Promise<Record<string, string>> {
  return {};
}
