/**
 * `node scripts/check-dist.ts [FOLDER]`: is the dist/ of that project folder (default: this one) what its sources build to, byte for byte?
 * Exits with 1 and the differences when not.
 */

import { realpathSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { type Bundle, bundle } from './build.ts'

/** What differs between a fresh bundle and a folder, a line for each file; empty when nothing does. */
export async function compare(fresh: Bundle, folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => [])
  const present = new Map<string, string>()
  for (const entry of entries) {
    const path = join(entry.parentPath, entry.name)
    if (!entry.isDirectory()) present.set(path.slice(folder.length + 1), path)
  }
  const problems: string[] = []
  for (const [name, content] of fresh) {
    const path = present.get(name)
    if (!path) problems.push(`missing: dist/${name}`)
    else if (!content.equals(await readFile(path))) problems.push(`different: dist/${name}`)
  }
  for (const name of present.keys()) if (!fresh.has(name)) problems.push(`extra: dist/${name}`)
  return problems.sort()
}

// Not import.meta.main: that came with Node 24.2.
if (realpathSync(process.argv[1] ?? '') === import.meta.filename) {
  const root = resolve(process.argv[2] ?? dirname(import.meta.dirname))
  const fresh = await bundle(root)
  const problems = await compare(fresh, join(root, 'dist'))
  if (problems.length > 0) {
    console.error(`dist/ is not what the sources build to:\n${problems.map((line) => `  ${line}`).join('\n')}`)
    console.error('To fix it: npm run build, then commit dist/.')
    process.exitCode = 1
  } else {
    console.log(`dist/ is what the sources build to (${fresh.size} files).`)
  }
}
