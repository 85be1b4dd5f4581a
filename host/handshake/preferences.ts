/** The proposals of the connecting side, best first; a plugin that it cannot propose is a reason in its place. */
import { messageOf } from '../base/errors.js';
import type { Proposal } from '../plugins/plugin.js';
import { disabled, type PluginRegistry } from '../plugins/registry.js';

/** A proposal, or the reason why a plugin that is better than the following ones is not proposed. */
export type Preference = { readonly proposal: Proposal } | { readonly reason: string };

/**
 * At most `limit` proposals. Of more, the first ones and the very last one are kept: the last one is the fallback, and the
 * handshake must reach it before the limit of the accepting side.
 *
 * A plugin without proposals (`loop`, for a peer in another process) is not mentioned.
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
