/** The name of a process in topics and payloads of the control side. */

/** The level of a topic that means every process of the host. */
export const ANY_PROC = 'any_proc';
/** Words that a payload or a topic gives another meaning. */
const RESERVED: readonly string[] = [ANY_PROC, 'suspend', 'resume'];

/** What stands for a process in topics and payloads: a pid, or `controlId`. */
export function isControlId(text: string): boolean {
  return /^[\w.:-]{1,64}$/.test(text) && !RESERVED.includes(text);
}
