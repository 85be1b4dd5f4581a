/** What the connecting side proposes, best first, with the reasons of what it cannot propose at their places. */
import { messageOf } from '../base/errors.js';
import type { Proposal } from '../plugins/plugin.js';
import { disabled, type PluginRegistry } from '../plugins/registry.js';

/** Something to propose, or why something better than what follows is not proposed. */
export type Preference = { readonly proposal: Proposal } | { readonly reason: string };

/**
 * At most `limit` proposals. Of more, the first ones and the very last one are kept: that one is the fallback, and it
 * must be reached before the other side has enough of us.
 *
 * A plugin that has no proposals (`loop`, when the other side is somebody else) is not mentioned.
 */
export function preferences(registry: PluginRegistry, limit: number): Preference[] {
  const found: Preference[] = [];
  for (const ranked of registry.all) {
    const { plugin } = ranked;
    try {
      const reason = disabled(ranked) ?? plugin.unavailable();
      if (reason !== undefined) found.push({ reason: `${plugin.name}: ${reason}` });
      else found.push(...plugin.proposals().map((proposal) => ({ proposal })));
    } catch (error) {
      found.push({ reason: `${plugin.name}: ${messageOf(error)}` });
    }
  }
  const total = found.filter((preference) => 'proposal' in preference).length;
  let index = 0;
  return found.map((preference) => {
    if (!('proposal' in preference)) return preference;
    index++;
    if (index < limit || index === total) return preference;
    return { reason: `${preference.proposal.label}: not tried, ${limit} proposals are the limit` };
  });
}
