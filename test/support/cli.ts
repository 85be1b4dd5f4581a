/** The `isthmus` program, run in the process of the test. */
import { run } from '../../host/cli/program.js';

/** Output of a command, and its exit code. */
export async function printed(args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const { write } = process.stdout;
  let stdout = '';
  let stderr = '';
  process.stdout.write = ((text: string) => {
    stdout += text;
    return true;
  }) as typeof write;
  try {
    const code = await run(args, (text) => {
      stderr += text;
    });
    return { code, stdout, stderr };
  } finally {
    process.stdout.write = write;
  }
}
