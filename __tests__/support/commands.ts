/** Runs the shell commands of documents and examples with stubs of az, gh and psql, and shows what they would have done. */
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'

/** A call of one of the tools. `input` is what psql read from its standard input. */
export interface ToolCall {
  tool: 'az' | 'gh' | 'psql'
  args: string[]
  input: string
  env: Record<string, string>
}

/** What a tool prints where all these words are among its arguments; the first that fits. A code other than 0 fails the call. */
export interface Answer {
  words: string[]
  prints?: string
  code?: number
}

export interface RoleDefinitionFile {
  Name: string
  Actions: string[]
  DataActions?: string[]
  AssignableScopes: string[]
}

const stub = `
const { appendFileSync, readFileSync } = require('node:fs')
const [tool, ...args] = process.argv.slice(2)
const answers = JSON.parse(readFileSync(process.env.STUB_ANSWERS, 'utf8'))
const input = tool === 'psql' ? readFileSync(0, 'utf8') : ''
const { STUB_ANSWERS, STUB_LOG, PATH, ...env } = process.env
appendFileSync(STUB_LOG, JSON.stringify({ tool, args, input, env }) + '\\n')
const line = [tool, ...args].join(' ')
const found = answers.find(({ words }) => words.every((word) => line.includes(word)))
if (found?.prints !== undefined) console.log(found.prints)
process.exitCode = found?.code ?? 0
`

/** Runs a script in a folder. Throws with its output when it fails or writes to standard error. */
export function runCommands(script: string, cwd: string, answers: Answer[]): { calls: ToolCall[]; printed: string } {
  const folder = mkdtempSync(join(tmpdir(), 'commands-'))
  try {
    const files = { answers: join(folder, 'answers.json'), log: join(folder, 'log'), stub: join(folder, 'stub.cjs') }
    writeFileSync(files.answers, JSON.stringify(answers))
    writeFileSync(files.log, '')
    writeFileSync(files.stub, stub)
    for (const tool of ['az', 'gh', 'psql']) {
      writeFileSync(join(folder, tool), `#!/bin/sh\nexec "${process.execPath}" "${files.stub}" ${tool} "$@"\n`)
      chmodSync(join(folder, tool), 0o755)
    }
    const { status, stdout, stderr } = spawnSync('bash', ['--noprofile', '--norc', '-c', script], {
      cwd,
      encoding: 'utf8',
      env: {
        PATH: [folder, join(process.execPath, '..'), process.env['PATH']].join(delimiter),
        STUB_ANSWERS: files.answers,
        STUB_LOG: files.log,
      },
    })
    if (status !== 0 || stderr !== '') throw new Error(`The commands ended with ${status}:\n${stdout}\n${stderr}`)
    const lines = readFileSync(files.log, 'utf8').split('\n').filter(Boolean)
    return { calls: lines.map((line) => JSON.parse(line) as ToolCall), printed: stdout }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The calls of az that begin with these words, each as its options by name. */
export function optionsOf(calls: ToolCall[], ...command: string[]): Record<string, string>[] {
  return calls
    .filter(({ tool, args }) => tool === 'az' && command.every((word, index) => args[index] === word))
    .map(({ args }) => {
      const options: Record<string, string> = {}
      for (const [index, arg] of args.entries()) if (arg.startsWith('--')) options[arg.slice(2)] = args[index + 1] ?? ''
      return options
    })
}

/** The roles that the calls create. */
export function rolesOf(calls: ToolCall[]): RoleDefinitionFile[] {
  return optionsOf(calls, 'role', 'definition', 'create').map(
    (options) => JSON.parse(options['role-definition'] ?? '') as RoleDefinitionFile,
  )
}
