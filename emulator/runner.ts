/**
 * Runs the built action as GitHub's runner does: a child process with a scrubbed environment, the runner's own files, the
 * defaults of action.yml, and the post step afterwards.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { EOL, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/** The parts of action.yml that the runner reads. */
export interface ActionFile {
  inputs: Record<string, { description: string; default?: string; required?: boolean }>
  outputs: Record<string, { description: string }>
  runs: { using: string; main: string; post: string }
}

export async function actionFile(): Promise<ActionFile> {
  return parse(await readFile(join(root, 'action.yml'), 'utf8')) as ActionFile
}

export interface JobOptions {
  /** Inputs of the step; the defaults of action.yml fill the rest. */
  readonly inputs: Readonly<Record<string, string>>
  /** In addition to the variables that the runner always sets. */
  readonly env?: Readonly<Record<string, string>>
  /** What earlier steps wrote into GITHUB_ENV: the runner's own variables, inputs and states win over it. */
  readonly exported?: Readonly<Record<string, string>>
  /** Called with each line of the log, without mask commands. */
  readonly onLine?: (line: string) => void
}

export interface JobResult {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  /** Standard output and error as the runner gets them, including workflow commands. */
  readonly raw: string
  /** What a person sees: without mask commands, masked values as `***`. */
  readonly log: string
  readonly outputs: Readonly<Record<string, string>>
  /** Markdown. */
  readonly summary: string
  /** The JSON report; undefined when there is none. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it by path
  readonly report: any
  /** RUNNER_TEMP of the job, with the runner's files; removed by `remove()`. */
  readonly folder: string
  /** Values that the runner masks at the action's request. */
  readonly masked: readonly string[]
  /** When the process was started and when it had ended, by `performance.now()`. */
  readonly startedAt: number
  readonly endedAt: number
  /**
   * Runs the post step, as the runner does after every result of the main step; returns its exit code and log. A post step that
   * takes longer than the limit is killed, and has a signal instead.
   */
  post(options?: PostOptions): Promise<PostResult>
  remove(): Promise<void>
}

export type PostResult = Pick<JobResult, 'code' | 'signal' | 'raw'>

export interface PostOptions {
  /** Inputs as they evaluate when the post step runs; `none` as inside nested composite actions. Those of the main step when absent. */
  readonly inputs?: Readonly<Record<string, string>> | 'none'
  /** What other steps wrote into GITHUB_ENV before the post step. The states that the main step saved win over it. */
  readonly exported?: Readonly<Record<string, string>>
  /** In milliseconds; none when absent. */
  readonly limitMs?: number
  /** Called with the process as soon as it runs. */
  readonly onStart?: (child: ChildProcess) => void
}

/** A running step. */
export interface Job {
  readonly child: ChildProcess
  readonly folder: string
  readonly done: Promise<JobResult>
}

export async function runJob(options: JobOptions): Promise<JobResult> {
  return (await startJob(options)).done
}

export async function startJob(options: JobOptions): Promise<Job> {
  const action = await actionFile()
  const { folder, files, variables } = await prepareJob(options)
  const inputs = inputVariables(action, options.inputs)
  const own = { ...variables, ...inputs }
  const main = launch(join(root, action.runs.main), withExported(own, options.exported), options.onLine)
  const done = (async (): Promise<JobResult> => {
    const { code, signal, raw, endedAt } = await main.done
    const outputs = keyValues(await readFile(files.GITHUB_OUTPUT, 'utf8'))
    const masked = maskedIn(raw)
    const path = outputs['report-path'] ?? ''
    return {
      code,
      signal,
      raw,
      log: hide(raw, masked),
      outputs,
      summary: await readFile(files.GITHUB_STEP_SUMMARY, 'utf8'),
      report: existsSync(path) ? JSON.parse(await readFile(path, 'utf8')) : undefined,
      folder,
      masked,
      startedAt: main.startedAt,
      endedAt,
      post: async (post = {}) => {
        const then = post.inputs === 'none' ? {} : post.inputs === undefined ? inputs : inputVariables(action, post.inputs)
        const state = stateVariables(keyValues(await readFile(files.GITHUB_STATE, 'utf8')))
        const env = withExported({ ...variables, ...then, ...state }, { ...options.exported, ...post.exported })
        return launchPost(action, env, post, options.onLine)
      },
      remove: () => rm(folder, { recursive: true, force: true }),
    }
  })()
  return { child: main.child, folder, done }
}

/** A post step alone, with a state that no main step of this process saved, as after a main step that was killed immediately. */
export async function runPost(
  state: Readonly<Record<string, string>>,
  options: Partial<JobOptions> & PostOptions = {},
): Promise<PostResult & Pick<JobResult, 'summary' | 'remove'>> {
  const { inputs = 'none' } = options
  const action = await actionFile()
  const { folder, files, variables } = await prepareJob(options)
  const ownVariables = inputs === 'none' ? {} : inputVariables(action, inputs)
  const env = withExported({ ...variables, ...ownVariables, ...stateVariables(state) }, options.exported)
  const ended = await launchPost(action, env, options, options.onLine)
  const summary = await readFile(files.GITHUB_STEP_SUMMARY, 'utf8')
  return { ...ended, summary, remove: () => rm(folder, { recursive: true, force: true }) }
}

async function launchPost(
  action: ActionFile,
  env: Record<string, string>,
  { limitMs, onStart }: PostOptions,
  onLine?: (line: string) => void,
): Promise<PostResult> {
  const post = launch(join(root, action.runs.post), env, onLine)
  onStart?.(post.child)
  const limit = limitMs === undefined ? undefined : setTimeout(() => post.child.kill('SIGKILL'), limitMs)
  const ended = await post.done
  clearTimeout(limit)
  return ended
}

/** The folder and the files of a job, and the variables that every step of it has. */
async function prepareJob({ env }: Pick<JobOptions, 'env'>) {
  const folder = await mkdtemp(join(tmpdir(), 'aipg-job-'))
  const file = (name: string): string => join(folder, name)
  const files = {
    GITHUB_OUTPUT: file('output'),
    GITHUB_STATE: file('state'),
    GITHUB_STEP_SUMMARY: file('summary.md'),
    GITHUB_ENV: file('env'),
  }
  for (const path of Object.values(files)) await writeFile(path, '')
  const variables: Record<string, string> = {
    PATH: process.env.PATH ?? '',
    HOME: folder,
    CI: 'true',
    GITHUB_ACTIONS: 'true',
    GITHUB_REPOSITORY: 'contoso/shop',
    GITHUB_RUN_ID: '4711',
    GITHUB_SERVER_URL: 'https://github.com',
    GITHUB_WORKSPACE: folder,
    RUNNER_TEMP: folder,
    RUNNER_OS: { win32: 'Windows', darwin: 'macOS' }[process.platform as string] ?? 'Linux',
    ...files,
    ...env,
  }
  return { folder, files, variables }
}

/** The INPUT_ variables: the inputs that are set, and the defaults of action.yml for the others. */
function inputVariables(action: ActionFile, inputs: Readonly<Record<string, string>>): Record<string, string> {
  for (const name of Object.keys(inputs)) {
    if (action.inputs[name] === undefined) throw new Error(`action.yml has no input ${name}`)
  }
  return Object.fromEntries(
    Object.entries(action.inputs).map(([name, input]) => {
      const fallback = String(input.default ?? '')
      return [variable(name), inputs[name] ?? (fallback.startsWith('${{') ? '' : fallback)]
    }),
  )
}

/** The runner sets what the main step saved itself, after everything else, so it wins over GITHUB_ENV. */
const stateVariables = (state: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(state).map(([name, value]) => [`STATE_${name}`, value]))

/** Variables of GITHUB_ENV below the runner's own. The runner takes neither NODE_OPTIONS nor its own names from that file. */
function withExported(own: Record<string, string>, exported: Readonly<Record<string, string>> = {}): Record<string, string> {
  const taken = Object.entries(exported).filter(([name]) => !/^(NODE_OPTIONS$|GITHUB_|RUNNER_)/i.test(name))
  return { ...Object.fromEntries(taken), ...own }
}

function launch(script: string, env: Record<string, string>, onLine?: (line: string) => void) {
  const startedAt = performance.now()
  const child = spawn(process.execPath, [script], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  let raw = ''
  let rest = ''
  const masked = new Set<string>()
  const take = (chunk: string): void => {
    raw += chunk
    if (onLine === undefined) return
    const lines = (rest + chunk).split(/\r?\n/)
    rest = lines.pop() ?? ''
    for (const line of lines) {
      for (const value of maskedIn(line)) masked.add(value)
      if (!line.startsWith('::add-mask::')) onLine(hide(line, [...masked]))
    }
  }
  child.stdout.setEncoding('utf8').on('data', take)
  child.stderr.setEncoding('utf8').on('data', take)
  let endedAt = 0
  child.on('exit', () => {
    endedAt = performance.now()
  })
  const done = new Promise<{ code: number | null; signal: NodeJS.Signals | null; raw: string; endedAt: number }>(
    (resolve, reject) => {
      child.on('error', reject)
      child.on('close', (code, signal) => resolve({ code, signal, raw, endedAt }))
    },
  )
  return { child, done, startedAt }
}

const variable = (input: string): string => `INPUT_${input.replaceAll(' ', '_').toUpperCase()}`

function maskedIn(raw: string): string[] {
  return [...raw.matchAll(/^::add-mask::(.*)$/gm)].map((match) =>
    (match[1] ?? '').replaceAll('%0A', '\n').replaceAll('%0D', '\r').replaceAll('%25', '%'),
  )
}

function hide(raw: string, masked: readonly string[]): string {
  const lines = raw
    .split('\n')
    .filter((line) => !line.startsWith('::add-mask::'))
    .join('\n')
  return masked.reduce((text, value) => (value === '' ? text : text.replaceAll(value, '***')), lines)
}

/** Reads the runner's key-value files, with the line ends of the system: `name=value`, or `name<<DELIMITER` up to the delimiter. The last one wins. */
export function keyValues(text: string): Record<string, string> {
  const found: Record<string, string> = {}
  const lines = text.split(EOL)
  for (let index = 0; index < lines.length; index++) {
    const line = lines[index] ?? ''
    const block = /^([^=]+?)<<(.+)$/.exec(line)
    if (block !== null) {
      const value: string[] = []
      while (++index < lines.length && lines[index] !== block[2]) value.push(lines[index] ?? '')
      found[block[1] ?? ''] = value.join('\n')
    } else if (line.includes('=')) found[line.slice(0, line.indexOf('='))] = line.slice(line.indexOf('=') + 1)
  }
  return found
}
