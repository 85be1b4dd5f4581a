/** A limit of time for waiting. */

/** Wait for a promise, but not longer than `limitMs`. What it stands for goes on. Rejects as the promise does. */
export async function bounded(task: Promise<unknown>, limitMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limitMs);
  });
  try {
    await Promise.race([task, expired]);
  } finally {
    clearTimeout(timer);
  }
}
