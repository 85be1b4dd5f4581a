/**
 * Links of the documents: every relative link of a Markdown file leads to a file that is there and, behind `#`, to a heading
 * of it; a path of this repository between backquotes is that of a file or folder. A comment that cites a document by its
 * section, as in `docs/protocol.md, "The guard"`, names one that is there.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';

/** Where documents and their citations are. */
const FOLDERS = ['docs', 'examples', 'test', 'vendor', 'host', 'assembly', 'native', 'scripts', 'bench'];

function* files(root, folder) {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
    if (entry.isDirectory()) {
      if (folder !== '' || FOLDERS.includes(entry.name)) if (entry.name !== 'node_modules') yield* files(root, path);
    } else if (/\.(?:md|[cm]?[jt]s|cc|h|pml)$/.test(entry.name)) yield path;
  }
}

/** What stands between backquotes as a path. A pattern, or a name that stands for others (`NAME`, `…`), is none. */
const PATH = /^(?:host|assembly|native|scripts|test|bench|vendor|docs|examples)\/[\w./-]*$/;
/** Files that a reader is told to make, and folders that are installed. */
const MADE_UP = /\/[A-Z]+\b|\/node_modules$|^host\/plugins\/uds\.ts$/;

/** Without code: a block that is fenced, and what stands between backquotes. */
const prose = (text) => text.replace(/^```[\s\S]*?^```$/gm, '').replace(/`[^`\n]*`/g, '');

/** The headings of a document: their texts, and their anchors as GitHub makes them. */
function headings(text) {
  const titles = new Set();
  const anchors = new Set();
  for (const [, title] of text.replace(/^```[\s\S]*?^```$/gm, '').matchAll(/^#{1,6} +(.+?) *$/gm)) {
    const plain = title.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').replaceAll('`', '');
    titles.add(plain);
    const slug = plain
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\p{M}_ -]/gu, '')
      .replaceAll(' ', '-');
    for (let i = 0, anchor = slug; ; anchor = `${slug}-${++i}`) {
      if (anchors.has(anchor)) continue;
      anchors.add(anchor);
      break;
    }
  }
  return { titles, anchors };
}

/** @returns a line for each link and each citation that leads nowhere */
export function brokenLinks(root) {
  const broken = [];
  const known = new Map();
  const headingsOf = (path) => {
    if (!known.has(path)) known.set(path, headings(readFileSync(join(root, path), 'utf8')));
    return known.get(path);
  };
  for (const path of files(root, '')) {
    const text = readFileSync(join(root, path), 'utf8');
    if (path.endsWith('.md')) {
      for (const [, target] of prose(text).matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(target)) continue;
        const [file, anchor] = target.split('#');
        const to = file === '' ? path : normalize(join(dirname(path), file));
        if (to.startsWith('..') || !existsSync(join(root, to))) broken.push(`${path}: there is no ${target}`);
        else if (anchor && !(to.endsWith('.md') && headingsOf(to).anchors.has(anchor))) {
          broken.push(`${path}: ${to} has no heading for #${anchor}`);
        }
      }
      for (const [, cited] of text.replace(/^```[\s\S]*?^```$/gm, '').matchAll(/`([^`\n]+)`/g)) {
        if (!PATH.test(cited) || MADE_UP.test(cited) || existsSync(join(root, cited))) continue;
        if (!existsSync(join(root, dirname(path), cited))) broken.push(`${path}: there is no ${cited}`);
      }
      continue;
    }
    const joined = text.replace(/\s*\n\s*(?:\*|\/\/)?\s*/g, ' ');
    for (const [, to, sections] of joined.matchAll(/\b(docs\/[\w-]+\.md), ("[^"\n]+"(?: and "[^"\n]+")*)/g)) {
      for (const [, title] of sections.matchAll(/"([^"]+)"/g)) {
        if (!existsSync(join(root, to))) broken.push(`${path}: there is no ${to}`);
        else if (!headingsOf(to).titles.has(title)) broken.push(`${path}: ${to} has no section "${title}"`);
      }
    }
  }
  return broken;
}
