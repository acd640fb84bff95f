import { execFile } from 'node:child_process'
import { appendFile, cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { compare } from '../../scripts/check-dist.ts'

const root = join(import.meta.dirname, '..', '..')
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'dist check é '))
  for (const name of ['src', 'dist', 'tsconfig.json', 'tsconfig.build.json', 'package.json']) {
    await cp(join(root, name), join(folder, name), { recursive: true })
  }
  await symlink(join(root, 'node_modules'), join(folder, 'node_modules'))
})

afterAll(() => rm(folder, { recursive: true, force: true }))

async function checkDist(): Promise<{ code: number; stdout: string; stderr: string }> {
  const args = [join(root, 'scripts', 'check-dist.ts'), folder]
  return promisify(execFile)(process.execPath, args).then(
    (output) => ({ code: 0, ...output }),
    (error: { code: number; stdout: string; stderr: string }) => error,
  )
}

test('the committed dist/ is what the sources build to, from any folder', async () => {
  const { code, stdout, stderr } = await checkDist()
  expect(code, stderr).toBe(0)
  expect(stdout).toContain('dist/ is what the sources build to')
})

test('dist/ starts in an empty folder, as on a runner', async () => {
  const alone = await mkdtemp(join(tmpdir(), 'dist alone '))
  try {
    await cp(join(root, 'dist'), alone, { recursive: true })
    const env = { PATH: process.env['PATH'] ?? '', HOME: alone, RUNNER_TEMP: alone, GITHUB_OUTPUT: '', GITHUB_STATE: '' }
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [join(alone, 'index.js')], { env, cwd: alone }).catch(
      (error: { stdout: string; stderr: string }) => error,
    )
    expect(stderr).toBe('')
    expect(stdout).toContain('Result: failed, verified: false, reason: input')
  } finally {
    await rm(alone, { recursive: true, force: true })
  }
})

test('a changed source makes the check fail, naming the file and the fix', async () => {
  await appendFile(join(folder, 'src', 'main.ts'), `\nprocess.stdout.write('changed')\n`)
  const { code, stderr } = await checkDist()
  expect(code).toBe(1)
  expect(stderr).toContain('different: dist/shared.js')
  expect(stderr).toContain('npm run build')
})

test('every difference between the files is reported', async () => {
  const dist = join(folder, 'dist')
  const index = await readFile(join(dist, 'index.js'))
  const fresh = new Map([
    ['index.js', index],
    ['licenses.txt', await readFile(join(dist, 'licenses.txt'))],
    ['package.json', await readFile(join(dist, 'package.json'))],
  ])
  await rm(dist, { recursive: true })
  await expect(compare(fresh, dist)).resolves.toEqual([
    'missing: dist/index.js',
    'missing: dist/licenses.txt',
    'missing: dist/package.json',
  ])

  await cp(join(root, 'dist'), dist, {
    recursive: true,
    filter: (path) => path.endsWith('dist') || fresh.has(path.slice(root.length + 6)),
  })
  await expect(compare(fresh, dist)).resolves.toEqual([])

  const changed = Buffer.from(index)
  changed[changed.length - 2] = (changed[changed.length - 2] ?? 0) ^ 1
  await writeFile(join(dist, 'index.js'), changed)
  await writeFile(join(dist, 'old.js'), '')
  await rm(join(dist, 'package.json'))
  await expect(compare(fresh, dist)).resolves.toEqual([
    'different: dist/index.js',
    'extra: dist/old.js',
    'missing: dist/package.json',
  ])
})
