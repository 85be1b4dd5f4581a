/**
 * Contents of a guest: an initramfs with busybox, the driver, and a small program to test devices with; and, for guests
 * with applications, a disk with Node and Isthmus as users install it, from `npm pack`.
 */
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build, stop } from 'esbuild';
import { driver, type Kernel, modules } from './kernel.js';
import { cache, cached, hash, root, run } from './tools.js';

/** Path in the guest, and contents. */
export type Files = Readonly<Record<string, { readonly data: Buffer | string; readonly mode?: number }>>;

/**
 * Archive in the format that kernels unpack ("newc"): a header of hexadecimal numbers, the name, the data, each padded.
 */
export function archive(files: Files): Buffer {
  const parts: Buffer[] = [];
  let inode = 0;
  const padded = (buffer: Buffer) => parts.push(buffer, Buffer.alloc(-buffer.length & 3));
  const entry = (name: string, mode: number, data: Buffer) => {
    const fields = [inode++, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length + 1, 0];
    const head = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${name}\0`;
    padded(Buffer.from(head));
    padded(data);
  };
  const folders = new Set<string>();
  for (const [path, { data, mode = 0o644 }] of Object.entries(files)) {
    const steps = path.split('/').filter(Boolean);
    for (let i = 1; i < steps.length; i++) {
      const folder = steps.slice(0, i).join('/');
      if (folders.has(folder)) continue;
      folders.add(folder);
      entry(folder, 0o040755, Buffer.alloc(0));
    }
    entry(steps.join('/'), 0o100000 | mode, Buffer.from(data));
  }
  entry('TRAILER!!!', 0, Buffer.alloc(0));
  return Buffer.concat(parts);
}

// ── A small guest ────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * The first process. It mounts the file systems, a disk too, configures the network if it was given an ADDRESS, and
 * runs the commands that arrive on the virtio console, one in a line, each with a number before it; after each it
 * prints the number and the exit code. (A shell with the console as its terminal would prompt and echo. A shell behind
 * a pipe from busybox's `cat` hangs: `cat` uses sendfile(), which holds the pipe while it waits. The emulated UART,
 * which needs no module, loses characters now and then.)
 */
const INIT = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t debugfs debugfs /sys/kernel/debug
mount -t tmpfs tmpfs /tmp
mkdir /dev/shm
mount -t tmpfs tmpfs /dev/shm
export PATH=/bin HOME=/tmp
hostname \${NAME:-guest}
ip link set lo up
for module in $(cat /modules/needed); do insmod /modules/$module.ko; done
if [ -e /dev/vda ]; then
  mkdir /disk
  mount -t ext4 -o ro /dev/vda /disk
  for name in $(ls -1 /disk); do ln -s /disk/$name /$name; done
  ln -s /disk/bin/node /disk/bin/isthmus /bin
fi
if [ -n "$ADDRESS" ]; then
  ip address add $ADDRESS/24 dev eth0
  ip link set eth0 up
fi
# The device appears a moment after its module is loaded, and can be opened a moment later.
for try in $(seq 300); do
  (: </dev/hvc0) 2>/dev/null && break
  sleep 0.1
done
exec 3</dev/hvc0 >/dev/hvc0 2>/dev/ttyS0
# Descriptor 3 stays open: the settings are lost when no process has the console open.
stty raw -echo <&3
echo '@@ready'
while read -r number command <&3; do
  sh -c "$command" </dev/null 2>&1 3<&-
  echo "@@$number $?"
done
`;

/** test/vm/tool.c, linked so that it runs in any guest. */
function tool(): string {
  const source = join(root, 'test/vm/tool.c');
  return cached('tool', hash(readFileSync(source)), (path) => {
    execFileSync('gcc', ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-static', '-o', path, source]);
  });
}

/** Modules that are loaded at the start, in this order, in /modules. */
function loaded(kernel: Kernel, ...names: string[]): Files {
  const needed = modules(kernel, ...names);
  const files = [...needed].map(([name, data]) => [`modules/${name}.ko`, { data }]);
  return { ...Object.fromEntries(files), 'modules/needed': { data: [...needed.keys()].join('\n') } };
}

/** The console of the shell. */
const CONSOLE = ['virtio_pci', 'virtio_console'];

function basics(kernel: Kernel): Files {
  return {
    ...loaded(kernel, ...CONSOLE),
    init: { data: INIT, mode: 0o755 },
    'bin/busybox': { data: readFileSync('/bin/busybox'), mode: 0o755 },
    'bin/tool': { data: readFileSync(tool()), mode: 0o755 },
    // Not loaded: the guest without the driver is tested too.
    'modules/uio.ko': { data: modules(kernel, 'uio').get('uio') ?? '' },
    'modules/uio_ivshmem.ko': { data: readFileSync(driver(kernel.version)) },
  };
}

/** busybox, the driver with its dependencies (in /modules, not loaded), the tool, and `files`. */
export function initramfs(kernel: Kernel, files: Files = {}): string {
  const data = archive({ ...basics(kernel), ...files });
  return cached('initramfs', hash(data), (path) => writeFileSync(path, gzipSync(data, { level: 1 })));
}

// ── A guest with applications ────────────────────────────────────────────────────────────────────────────────────────

/** The Node that runs this test, and the libraries that it needs, at their paths. */
function node(): Files {
  const program = realpathSync(process.execPath);
  const libraries = run('ldd', [program], 30)
    .split('\n')
    .map((line) => /(?:=> )?(\/\S+) \(0x/.exec(line)?.[1])
    .filter((path) => path !== undefined);
  const files = libraries.map((path) => [path, { data: readFileSync(path), mode: 0o755 }]);
  return { ...Object.fromEntries(files), 'bin/node': { data: readFileSync(program), mode: 0o755 } };
}

function filesBelow(folder: string, under: string): Files {
  const files: Record<string, { data: Buffer; mode: number }> = {};
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    files[join(under, path.slice(folder.length))] = { data: readFileSync(path), mode: statSync(path).mode & 0o777 };
  }
  return files;
}

/** A folder with `node_modules`, in which the package is installed as users do it: from the tarball of `npm pack`. */
function installed(): string {
  mkdirSync(cache, { recursive: true });
  const scratch = mkdtempSync(join(cache, 'pack-'));
  try {
    run('npm', ['pack', '--pack-destination', scratch], 300);
    const [name = ''] = readdirSync(scratch);
    const tarball = join(scratch, name);
    return cached('installed', hash(readFileSync(tarball)), (path) => {
      mkdirSync(path);
      copyFileSync(tarball, join(path, name));
      writeFileSync(join(path, 'package.json'), '{ "private": true }\n');
      const quiet = ['--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline'];
      run('npm', ['install', ...quiet, `./${name}`], 300, path);
    });
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** test/vm/program.ts with the conformance suite, bundled for the package that is installed beside it. */
async function program(): Promise<Buffer> {
  const { outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: [join(root, 'test/vm/program.ts')],
    bundle: true,
    write: false,
    platform: 'node',
    format: 'esm',
    target: 'node20.19',
    logLevel: 'silent',
    // uvu is a CommonJS module.
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
    plugins: [
      {
        name: 'the package that is installed',
        setup: ({ onResolve }) =>
          // A second copy of a class, as IsthmusError, would not be the one that the package throws.
          onResolve({ filter: /\/host\/.+\.js$/ }, ({ path }) =>
            path.includes('/host/cli/') ? undefined : { path: 'isthmus', external: true },
          ),
      },
    ],
  });
  // Otherwise its process would stay.
  await stop();
  return Buffer.from(outputFiles[0]?.contents ?? []);
}

/** Size of the disk in bytes for each byte of its files: a file system needs some for itself. */
const ROOM = 1.2;

/** A disk with all that a guest needs to run applications. Only the parts that are read are loaded. */
export async function disk(): Promise<string> {
  const files: Files = {
    ...node(),
    ...filesBelow(join(installed(), 'node_modules'), 'app/node_modules'),
    'app/program.mjs': { data: await program() },
    'app/package.json': { data: '{ "private": true, "type": "module" }\n' },
    'bin/isthmus': { data: '#!/bin/sh\nexec node /app/node_modules/isthmus/dist/cli.js "$@"\n', mode: 0o755 },
  };
  const key = hash(...Object.entries(files).flatMap(([path, { data }]) => [path, data]));
  return cached('disk', key, (path) => {
    const scratch = mkdtempSync(join(cache, 'disk-files-'));
    try {
      let size = 0;
      for (const [name, { data, mode = 0o644 }] of Object.entries(files)) {
        const place = join(scratch, name);
        mkdirSync(dirname(place), { recursive: true });
        writeFileSync(place, data, { mode });
        size += data.length + 4096;
      }
      // Without features that need more of the kernel.
      const features = '^has_journal,^metadata_csum,^64bit';
      const megabytes = `${Math.ceil((size * ROOM) / 0x100000)}M`;
      run('mke2fs', ['-q', '-t', 'ext4', '-O', features, '-d', scratch, path, megabytes], 120);
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
  });
}

/** Arguments of a QEMU with this disk. */
export function drive(path: string): string[] {
  return ['-drive', `file=${path},format=raw,if=none,id=disk,readonly=on`, '-device', 'virtio-blk-pci,drive=disk'];
}

/** Boot files of a guest with such a disk. */
export function starter(kernel: Kernel): string {
  return initramfs(kernel, loaded(kernel, ...CONSOLE, 'virtio_net', 'virtio_blk', 'crc32c_generic', 'ext4'));
}
