/** The name of a process in topics and payloads of the control side. */

/** The level of a topic that stands for all processes of a host. */
export const ANY_PROC = 'any_proc';
/** Words with another meaning in payloads or topics. */
const RESERVED: readonly string[] = [ANY_PROC, 'suspend', 'resume'];

/** Whether a text can name a process in topics and payloads: a pid, or the setting `controlId`. */
export function isControlId(text: string): boolean {
  return /^[\w.:-]{1,64}$/.test(text) && !RESERVED.includes(text);
}
