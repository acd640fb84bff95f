/** What `npm run emulator` prints is a command: it runs as printed, by the machine's own Node, and leaves nothing in the checkout. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

const root = join(import.meta.dirname, '..', '..')
let emulator: ChildProcess
let command = ''

beforeAll(async () => {
  emulator = spawn(process.execPath, [join(root, 'emulator', 'index.ts')], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  for await (const chunk of emulator.stdout as NodeJS.ReadableStream) {
    text += String(chunk)
    const found = /^env [\s\S]*?node dist\/index\.js$/m.exec(text)
    if (found === null) continue
    command = found[0]
    break
  }
}, 120_000)

afterAll(async () => {
  const ended = new Promise((resolve) => emulator.once('exit', resolve))
  emulator.kill('SIGTERM')
  await ended
})

function run(script: string): Promise<{ code: number | null; output: string }> {
  // Neither GitHub's variables nor the harness's: only what a shell on a laptop has.
  const { PATH = '', HOME = '', TMPDIR = '' } = process.env
  const child = spawn('sh', ['-c', script], { cwd: root, env: { PATH, HOME, ...(TMPDIR === '' ? {} : { TMPDIR }) } })
  let output = ''
  child.stdout.on('data', (chunk) => (output += String(chunk)))
  child.stderr.on('data', (chunk) => (output += String(chunk)))
  return new Promise((resolve) => child.once('close', (code) => resolve({ code, output })))
}

test('it sets the server up, prints its outputs, and leaves nothing in the checkout', async () => {
  const before = readdirSync(root)
  const { code, output } = await run(command)
  expect(code, output).toBe(0)
  expect(output).toMatch(/^result=changed$/m)
  expect(output).toMatch(/^verified=true$/m)
  expect(output).toMatch(/^stored-keys=0$/m)
  // Secrets that a runner would mask are not printed without a runner.
  expect(output).not.toMatch(/add-mask|set-output|save-state/)
  expect(readdirSync(root)).toEqual(before)
}, 120_000)

test('a variable with underscores is the input with hyphens; a firewall rule that nothing would remove is refused', async () => {
  const shell = command.replaceAll(/INPUT_[A-Z-]+(?==)/g, (name) => name.replaceAll('-', '_'))
  expect(shell).not.toBe(command)
  const again = await run(shell.replace(/^env /, 'env INPUT_CLEAR_KEYS=true '))
  expect(again.output).toMatch(/^result=in-sync$/m)
  const opening = await run(command.replace(/^env /, 'env INPUT_TEMPORARY_FIREWALL_RULE=true '))
  expect([opening.code, opening.output]).toEqual([1, expect.stringMatching(/^failure-reason=input$/m)])
}, 120_000)
