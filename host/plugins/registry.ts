/** The plugins of a runtime, and the order in which a handshake tries them. */
import type { PluginMask } from '../api/peer.js';
import { IsthmusError, messageOf } from '../base/errors.js';
import type { Plugin } from './plugin.js';

/** A plugin with the priority that applies in a runtime. */
export interface RankedPlugin {
  readonly plugin: Plugin;
  /** 0: disabled. Higher first. */
  readonly priority: number;
  /** Why it is disabled, if not by its priority. */
  readonly masked?: string;
}

/** Why a plugin may not be used at all; undefined: it may, and {@link Plugin.unavailable} decides. */
export function disabled({ priority, masked }: RankedPlugin): string | undefined {
  return masked ?? (priority <= 0 ? 'disabled' : undefined);
}

/** The plugins of one runtime, best first: by the configured priority, equal ones by the default priority. */
export class PluginRegistry {
  readonly #ranked: RankedPlugin[];

  constructor(plugins: readonly RankedPlugin[]) {
    this.#ranked = [...plugins].sort((a, b) => b.priority - a.priority || b.plugin.priority - a.plugin.priority);
  }

  /** All, disabled ones included, best first. */
  get all(): readonly RankedPlugin[] {
    return this.#ranked;
  }

  /** The plugin that an ARCH_REQ names, or why there is none. */
  byArch(archId: number): Plugin | string {
    const found = this.#ranked.find(({ plugin }) => plugin.archId === archId);
    if (!found) return `no plugin with architecture id ${archId}`;
    const reason = disabled(found) ?? found.plugin.unavailable();
    return reason === undefined ? found.plugin : `${found.plugin.name}: ${reason}`;
  }

  /**
   * The same plugins in the same order; those that the mask leaves out are disabled. A priority of 0 stays 0. The new
   * registry does not own the plugins: only the original one may be destroyed.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT for a name that no plugin has
   */
  masked({ only, add, delete: without }: PluginMask): PluginRegistry {
    const names = this.#ranked.map(({ plugin }) => plugin.name);
    for (const name of [...(only ?? []), ...(add ?? []), ...(without ?? [])]) {
      if (names.includes(name)) continue;
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `there is no plugin '${name}', only ${names.join(', ')}`);
    }
    const allowed = new Set([...(only ?? names), ...(add ?? [])]);
    for (const name of without ?? []) allowed.delete(name);
    return new PluginRegistry(
      this.#ranked.map((ranked) =>
        allowed.has(ranked.plugin.name) ? ranked : { ...ranked, masked: 'masked for this endpoint' },
      ),
    );
  }

  /** Destroy every plugin. @returns what failed, as text; a failure does not keep the others from being destroyed */
  async destroy(): Promise<string[]> {
    const destroyed = this.#ranked.map(async ({ plugin }) => {
      try {
        await plugin.destroy();
        return [];
      } catch (error) {
        return [`plugin ${plugin.name} failed to let go: ${messageOf(error)}`];
      }
    });
    return (await Promise.all(destroyed)).flat();
  }
}
