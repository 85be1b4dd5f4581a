/** The transfer of `isthmus demo`: a file goes from one process to another through the region. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import cliProgress from 'cli-progress';
import { CliError } from '../support/errors.js';
import { print } from '../support/output.js';
import { bytes, rate } from '../support/units.js';
import type { DemoRun, RoleProcess } from './role-process.js';

/** The file should have at least so many bytes. */
const MIN_FILE_BYTES = 50_000_000;
/** Percentages at which a line is printed where there is no terminal for a bar. */
const MARKS = [25, 50, 75, 100];

/** @returns a function that takes the bytes so far, and at the end nothing */
function progressBar(total: number): (done?: number) => void {
  if (!process.stdout.isTTY) {
    const marks = [...MARKS];
    return (done) => {
      while (done !== undefined && marks[0] !== undefined && (done / total) * 100 >= marks[0]) {
        print(`  ${String(marks.shift()).padStart(3)} %\n`);
      }
    };
  }
  const bar = new cliProgress.SingleBar(
    { format: '  {bar} {percentage} %  {mb} of {all} MB', stream: process.stdout, hideCursor: true },
    cliProgress.Presets.shades_classic,
  );
  const all = Math.round(total / 1e6);
  bar.start(total, 0, { mb: 0, all });
  return (done) => (done === undefined ? bar.stop() : bar.update(done, { mb: Math.round(done / 1e6) }));
}

/** @throws CliError unless the file arrives unchanged */
async function transfer(run: DemoRun, receiver: RoleProcess, sender: RoleProcess, total: number): Promise<void> {
  const bar = progressBar(total);
  try {
    const [sent, received] = await Promise.all([
      sender.report('sent', run.signal),
      receiver.report('received', run.signal, (report) => {
        if (report.kind === 'progress') bar(report.bytes);
      }),
    ]);
    bar(received.bytes);
    bar();
    const seconds = sent.milliseconds / 1000;
    print(
      `  ${bytes(received.bytes)} in ${seconds.toFixed(2)} s, ${rate(received.bytes / seconds)}, ` +
        'hashed on both sides, and written to a file by the receiver\n',
    );
    print(`  SHA-256 sent      ${sent.sha256}\n  SHA-256 received  ${received.sha256}\n`);
    if (sent.sha256 !== received.sha256 || received.bytes !== total || received.written !== total) {
      throw new CliError(`the file has changed on its way: ${received.bytes} of ${total} bytes arrived`);
    }
    print('  The hashes are equal.\n\n');
  } finally {
    bar();
  }
}

/** @throws CliError unless the peers use the region, and the file arrives unchanged */
export async function showTransfer(run: DemoRun): Promise<void> {
  const file = process.execPath;
  const total = statSync(file).size;
  const receiver = run.start('receiver', { output: join(run.folder, 'received') });
  const { port } = await receiver.report('listening', run.signal);
  const sender = run.start('sender', { file, port });
  const { plugin, why } = await sender.report('connected', run.signal);
  print(
    `Processes ${sender.pid} and ${receiver.pid} are connected: handshake over 127.0.0.1:${port}, messages over plugin ${plugin}\n\n`,
  );
  if (plugin !== 'ivshmem') {
    throw new CliError(`the peers use ${plugin}, not ivshmem: ${why ?? 'no reason given'}`, "See 'isthmus info'.");
  }
  const small = total < MIN_FILE_BYTES ? ` (a measurement needs a file of ${bytes(MIN_FILE_BYTES)})` : '';
  print(`Transfer of ${file}, ${bytes(total)}${small}:\n`);
  await transfer(run, receiver, sender, total);
  // They would take processor time from the measurements that follow.
  await Promise.all([sender.end(), receiver.end()]);
}
