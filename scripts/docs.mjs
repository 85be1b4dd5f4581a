/**
 * Generates docs/errors.md from the table in host/base/errors.ts, and docs/configuration.md from the table in
 * host/config/config.ts. With `--check` it only checks whether the files are up to date. In either case
 * it reports links of the documents that lead nowhere.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bundle, common, root } from './build.mjs';
import { brokenLinks } from './links.mjs';

async function load(source) {
  const { outputFiles } = await bundle({ ...common, entryPoints: [join(root, source)], write: false });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].text).toString('base64')}`);
}

async function errors() {
  const { ERRORS } = await load('host/base/errors.ts');
  const { ERRNO_ADVICE } = await load('host/base/advice.ts');
  const rows = Object.entries(ERRNO_ADVICE).map(([errno, advice]) => `| ${errno} | ${advice} |`);
  const sections = Object.entries(ERRORS).map(
    ([code, { cause, action }]) => `## ${code}\n\n${cause}\n\n**What to do:** ${action}\n`,
  );
  return `# Errors

<!-- Generated from host/base/errors.ts by \`npm run docs\`. -->

Every error that Isthmus itself throws is an \`IsthmusError\` with one of these codes in \`code\`. The codes are stable; the
messages are for people and may change.

${sections.join('\n')}
## Errnos

What the commands print for an ERR_ISTHMUS_SYSCALL with that \`errno\`; for EMFILE, ENFILE, ENOMEM, EDQUOT, EIO, ENOBUFS and
EROFS instead of the advice of any code.

| errno | what to do |
| --- | --- |
${rows.join('\n')}
`;
}

async function configuration() {
  const { SETTINGS } = await load('host/config/config.ts');
  const { GROUPS } = await load('host/config/setting.ts');
  const cell = (text) => text.replaceAll('|', '\\|').replaceAll('*', '\\*').replaceAll('_', '\\_');
  const plain = (value) => (value === '' ? 'empty' : `\`${typeof value === 'boolean' ? Number(value) : value}\``);
  const row = ([name, { variable, default: fallback, follows, takes, meaning }]) => {
    const or = follows === undefined ? '' : `; \`${SETTINGS[follows].variable}\` if that is set`;
    return `| \`${variable}\` | \`${name}\` | ${plain(fallback)}${or} | ${cell(meaning)} | ${cell(takes)} |`;
  };
  const sections = Object.entries(GROUPS).map(([group, title]) => {
    const rows = Object.entries(SETTINGS).filter(([, setting]) => setting.group === group);
    return `## ${title}

| variable | option | default | meaning | values |
| --- | --- | --- | --- | --- |
${rows.map(row).join('\n')}
`;
  });
  return `# Configuration

<!-- Generated from host/config/config.ts by \`npm run docs\`. -->

An option of \`Runtime.create\` takes precedence over the environment variable, and the variable over the default. A variable
that also exists in pscom has the same name and meaning as there. A flag is \`true\` or \`false\` as an option, \`1\` or \`0\` as a
variable. A value that is not valid is an error, \`ERR_ISTHMUS_CONFIG\`; the message names the variable or the option, and the
value. No value is guessed. \`isthmus info\` prints the same table with the effective values and the origin of each.

${sections.join('\n')}`;
}

const check = process.argv.includes('--check');
for (const [path, source, make] of [
  ['docs/errors.md', 'host/base/errors.ts', errors],
  ['docs/configuration.md', 'host/config/config.ts', configuration],
]) {
  const text = await make();
  let current = '';
  try {
    current = readFileSync(join(root, path), 'utf8');
  } catch {
    // The file does not exist yet.
  }
  if (current === text) {
    console.log(`docs: ${path} is up to date`);
  } else if (check) {
    console.error(`docs: ${path} does not match ${source}: run \`npm run docs\``);
    process.exitCode = 1;
  } else {
    mkdirSync(join(root, 'docs'), { recursive: true });
    writeFileSync(join(root, path), text);
    console.log(`docs: wrote ${path}`);
  }
}

const broken = brokenLinks(root);
for (const line of broken) console.error(`docs: ${line}`);
if (broken.length > 0) process.exitCode = 1;
else console.log('docs: all links lead somewhere');
