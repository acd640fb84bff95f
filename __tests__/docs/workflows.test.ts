import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { actionFile } from '../../emulator/runner.ts'
import { parsedByGitHub } from '../support/workflow-file.ts'

const root = join(import.meta.dirname, '..', '..')
const folder = join(root, '.github', 'workflows')
const action = await actionFile()

interface Step {
  id?: string
  if?: string
  name?: string
  uses?: string
  run?: string
  with?: Record<string, unknown>
}

interface Job {
  permissions?: Record<string, string>
  environment?: string
  needs?: string | string[]
  env?: unknown
  'timeout-minutes'?: number
  strategy?: { matrix: Record<string, unknown> }
  steps: Step[]
}

interface Workflow {
  on: unknown
  permissions?: unknown
  concurrency?: { group: string; 'cancel-in-progress': boolean }
  env?: unknown
  defaults?: unknown
  jobs: Record<string, Job>
}

const all = readdirSync(folder).map((file) => {
  const text = readFileSync(join(folder, file), 'utf8')
  return { file, text, workflow: parse(text) as Workflow }
})
const workflowOf = (file: string): Workflow => {
  const found = all.find((each) => each.file === file)
  if (found === undefined) throw new Error(`no ${file}`)
  return found.workflow
}
const stepsOf = (workflow: Workflow): Step[] => Object.values(workflow.jobs).flatMap((job) => job.steps)

/** All that any job may do beyond reading. A new line here is a decision. */
const mayWrite = [
  'codeql.yml analyze security-events',
  'live.yml live id-token',
  'release.yml attest attestations',
  'release.yml attest contents',
  'release.yml attest id-token',
  'release.yml publish contents',
  'scorecard.yml analysis id-token',
  'scorecard.yml analysis security-events',
]

test('the repository has exactly the known workflows', () => {
  expect(all.map(({ file }) => file).sort()).toEqual([
    'ci.yml',
    'codeql.yml',
    'live.yml',
    'release.yml',
    'scorecard.yml',
    'sweep.yml',
  ])
})

test('only the listed jobs have write permissions', () => {
  const found = all.flatMap(({ file, workflow }) =>
    Object.entries(workflow.jobs).flatMap(([name, job]) =>
      Object.entries(job.permissions ?? {}).flatMap(([permission, access]) =>
        access === 'read' || access === 'none' ? [] : [`${file} ${name} ${permission}`],
      ),
    ),
  )
  expect(found.sort()).toEqual(mayWrite)
})

test('a job that may write runs no package, and only the actions of GitHub, of Scorecard and of this repository', () => {
  const mayWriteSomething = ({ permissions = {} }: Job) => Object.values(permissions).includes('write')
  const jobs = all.flatMap(({ file, workflow }) =>
    Object.entries(workflow.jobs).flatMap(([name, job]) =>
      mayWriteSomething(job) ? job.steps.map((step) => ({ at: `${file} ${name}`, step })) : [],
    ),
  )
  expect(jobs.length).toBeGreaterThan(20)
  const known = /^(\.\/|actions\/[\w-]+@.*|github\/codeql-action\/[\w-]+@.*|ossf\/scorecard-action@.*)$/
  for (const { at, step } of jobs) {
    expect([at, step.uses ?? './']).toEqual([at, expect.stringMatching(known)])
    expect([at, step.run ?? '']).toEqual([
      at,
      expect.not.stringMatching(/\b(npm|npx|yarn|pnpm|corepack|bunx?|deno|pip|curl|wget|docker)\b/),
    ])
  }
})

test('one version of each action, everywhere', () => {
  const pins = new Map<string, Set<string>>()
  for (const { text } of all) {
    for (const [, name = '', pin = ''] of text.matchAll(/uses: ([\w-]+\/[\w-]+)[\w/-]*@(.*)$/gm)) {
      pins.set(name, (pins.get(name) ?? new Set()).add(pin))
    }
  }
  expect(pins.size).toBeGreaterThan(5)
  for (const [name, versions] of pins) expect([name, [...versions]]).toEqual([name, [expect.any(String)]])
})

describe.each(all)('$file', ({ text, workflow }) => {
  test("is a workflow by GitHub's own parser", async () => {
    expect(await parsedByGitHub(text)).toEqual({ errors: [], jobs: Object.keys(workflow.jobs).sort() })
  })

  test('pins every action by a full commit, with the version beside it', () => {
    const lines = text.split('\n').filter((line) => /^\s*(- )?uses:/.test(line))
    expect(lines.length).toBeGreaterThan(0)
    for (const line of lines) expect(line).toMatch(/uses: (\.\/|[\w-]+\/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+)$/)
  })

  test('gives the workflow no permission, and each job its own', () => {
    expect(workflow.permissions).toEqual({})
    for (const [name, job] of Object.entries(workflow.jobs)) expect([name, job.permissions]).toEqual([name, expect.any(Object)])
  })

  test('has a time limit and a concurrency group', () => {
    for (const [name, job] of Object.entries(workflow.jobs)) expect(job['timeout-minutes'], name).toBeGreaterThan(0)
    expect(workflow.concurrency?.group).toContain('github.workflow')
    expect(workflow.concurrency?.['cancel-in-progress']).toEqual(expect.any(Boolean))
  })

  test('leaves no token after a checkout, and puts no expression into a script', () => {
    for (const step of stepsOf(workflow)) {
      if (step.uses?.startsWith('actions/checkout@')) expect(step.with?.['persist-credentials']).toBe(false)
      expect(step.run ?? '').not.toContain('${{')
    }
  })

  test('runs no code of strangers with the permissions of this repository', () => {
    expect(JSON.stringify(workflow.on)).not.toMatch(/pull_request_target|workflow_run|issue_comment/)
    expect(text).not.toMatch(/\bsecrets\./)
  })

  test('gives this action inputs that it has', () => {
    for (const step of stepsOf(workflow).filter(({ uses }) => uses === './')) {
      expect(Object.keys(action.inputs)).toEqual(expect.arrayContaining(Object.keys(step.with ?? {})))
    }
  })
})

test('CI runs the two commands on Linux and macOS under each Node, and the bundle on Windows as well', () => {
  const { test: job, bundle, dist } = workflowOf('ci.yml').jobs
  expect(job?.strategy?.matrix).toMatchObject({ os: ['ubuntu-latest', 'macos-latest'], node: [20, 22, 24] })
  expect(job?.steps.map(({ run }) => run).filter(Boolean)).toEqual(['npm test', 'npm run demo'])
  expect(bundle?.strategy?.matrix['os']).toContain('windows-latest')
  expect(bundle?.steps.some(({ uses }) => uses === './')).toBe(true)
  expect(dist?.permissions).toEqual({ contents: 'read' })
})

describe('a release', () => {
  const { test: tested, build, attest, publish } = workflowOf('release.yml').jobs
  const runsOf = (job: Job | undefined): string[] => job?.steps.flatMap(({ run }) => run ?? []) ?? []

  test('is tested and built by jobs that may only read, attested and drafted by one other, and published by a reviewer', () => {
    expect(Object.keys(workflowOf('release.yml').jobs)).toEqual(['test', 'build', 'attest', 'publish'])
    for (const job of [tested, build]) expect(job?.permissions).toEqual({ contents: 'read' })
    expect(runsOf(tested)).toEqual(expect.arrayContaining(['npm test', 'npm run demo', 'npm run lint']))
    expect(runsOf(build)).toEqual(expect.arrayContaining(['npm run check-dist']))
    expect([attest?.needs, publish?.needs]).toEqual([['test', 'build'], 'attest'])
    expect(publish?.environment).toBe('release')
    const scripts = [...runsOf(attest), ...runsOf(publish)].join('\n')
    expect(scripts).toContain('--draft --verify-tag')
    expect(scripts.indexOf('--draft=false')).toBeGreaterThan(scripts.indexOf('--draft --verify-tag'))
    expect(scripts.indexOf('git/refs/tags/$major')).toBeGreaterThan(scripts.indexOf('.immutable'))
  })

  test('is attested without code of others: no Node, no artifact or cache of another job, only git and the actions of GitHub', () => {
    for (const job of [attest, publish]) {
      for (const run of runsOf(job)) expect(run).not.toMatch(/\b(npm|npx|node|\.\/|source|eval)(?=\s|$)/)
      for (const { uses } of job?.steps ?? []) expect(uses ?? 'actions/attest@').toMatch(/^actions\/(checkout|attest)@/)
    }
    // The job with the permissions reads only one hash from the others, and compares it.
    const texts = JSON.stringify([attest, publish])
    expect([...texts.matchAll(/\bneeds\.[\w.-]+/g)].map(([name]) => name)).toEqual(['needs.build.outputs.archive'])
    // The build takes that hash before it installs anything.
    const steps = build?.steps ?? []
    expect(steps.findIndex(({ id }) => id === 'archive')).toBeLessThan(
      steps.findIndex(({ run }) => run?.includes('npm') === true),
    )
    expect(workflowOf('release.yml').defaults).toEqual({ run: { shell: 'bash' } })
  })

  test('contains the committed files of the tag, and is refused when the build used others', () => {
    const repository = mkdtempSync(join(tmpdir(), 'release-'))
    const git = (...args: string[]): string => {
      const identity = ['-c', 'user.name=a', '-c', 'user.email=a@example.com', '-c', 'commit.gpgsign=false']
      const { status, stdout, stderr } = spawnSync('git', [...identity, ...args], { cwd: repository, encoding: 'utf8' })
      if (status !== 0) throw new Error(stderr)
      return stdout.trim()
    }
    const tools = join(repository, '.git', 'tools')
    const run = (script: string, env: Record<string, string>) =>
      spawnSync('bash', ['--noprofile', '--norc', '-eo', 'pipefail', '-c', script], {
        cwd: repository,
        encoding: 'utf8',
        env: {
          PATH: [tools, process.env['PATH']].join(delimiter),
          GITHUB_SHA: git('rev-parse', 'HEAD'),
          GITHUB_REF_NAME: 'v1.2.3',
          ...env,
        },
      })
    try {
      const output = join(repository, '.git', 'output')
      mkdirSync(join(repository, 'dist'))
      for (const file of ['action.yml', 'action-types.yml', 'LICENSE', 'README.md', 'dist/index.js', 'not-released'])
        writeFileSync(join(repository, file), `the ${file}\n`)
      git('init', '--quiet')
      // The workflow runs on Linux; elsewhere the command has another name.
      mkdirSync(tools)
      if (process.platform !== 'linux')
        writeFileSync(join(tools, 'sha256sum'), '#!/bin/sh\nexec shasum -a 256 "$@"\n', { mode: 0o755 })
      git('add', '--all')
      git('commit', '--quiet', '--message', 'first')
      const hash = build?.steps.find(({ id }) => id === 'archive')?.run ?? ''
      expect(run(hash, { GITHUB_OUTPUT: output }).status).toBe(0)
      const [, built = ''] = /^sha256=([0-9a-f]{64})$/m.exec(readFileSync(output, 'utf8')) ?? []

      const [pack = ''] = runsOf(attest)
      const other = run(pack, { BUILT: '0'.repeat(64) })
      expect([other.status, other.stdout]).toEqual([1, expect.stringContaining('::error title=Not the files that were built::')])
      expect(existsSync(join(repository, 'release'))).toBe(false)

      const packed = run(pack, { BUILT: built })
      expect([packed.status, packed.stderr]).toEqual([0, ''])
      const list = run('tar -tzf release/*.tar.gz', {}).stdout.trim().split('\n')
      expect(list.filter((name) => !name.endsWith('/')).sort()).toEqual(
        ['LICENSE', 'README.md', 'action-types.yml', 'action.yml', 'dist/index.js'].map(
          (name) => `azure-ai-postgres-identity-v1.2.3/${name}`,
        ),
      )
      expect(run('sha256sum -c release/SHA256SUMS', {}).status).toBe(0)
    } finally {
      rmSync(repository, { recursive: true, force: true })
    }
  })
})

test('CODEOWNERS names an owner for what users run and for what decides about it', () => {
  const lines = readFileSync(join(root, '.github', 'CODEOWNERS'), 'utf8')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split(/\s+/))
  for (const line of lines) expect(line).toEqual([expect.any(String), '@OWNER'])
  const patterns = lines.map(([pattern = '']) => pattern)
  expect(patterns).toEqual(
    expect.arrayContaining([
      '*',
      '/dist/',
      '/.github/',
      '/action.yml',
      '/src/',
      '/scripts/',
      '/package.json',
      '/package-lock.json',
    ]),
  )
  for (const pattern of patterns.filter((each) => each !== '*')) {
    expect([pattern, existsSync(join(root, pattern))]).toEqual([pattern, true])
    expect([pattern, statSync(join(root, pattern)).isDirectory()]).toEqual([pattern, pattern.endsWith('/')])
  }
  expect(readFileSync(join(root, 'CONTRIBUTING.md'), 'utf8')).toContain('CODEOWNERS')
})

test.each([
  ['the first of its major version', { MAJOR: '1' }, ['create v1 at', '--latest=true']],
  ['the newest', {}, ['move v1 to', '--latest=true']],
  ['a fix of an older one', { STATUS_IS: 'diverged' }, ['--latest=false']],
  ['one that can still be changed', { IMMUTABLE: 'false' }, ['--latest=true', 'failed']],
])('the major tag moves with %s only where it should', (_, github, expected) => {
  const folder = mkdtempSync(join(tmpdir(), 'release-'))
  try {
    const log = join(folder, 'log')
    const output = join(folder, 'output')
    for (const file of [log, output]) writeFileSync(file, '')
    // A stub that records the calls of GitHub's command line; the rest of the scripts runs unchanged.
    writeFileSync(
      join(folder, 'gh'),
      `#!/bin/sh
echo "$*" >>"${log}"
case "$*" in
  *git/ref/tags/*) exit "\${MAJOR:-0}" ;;
  *compare*) echo "\${STATUS_IS:-ahead}" ;;
  *releases/tags/*) echo "\${IMMUTABLE:-true}" ;;
esac
`,
    )
    chmodSync(join(folder, 'gh'), 0o755)
    const found: string[] = []
    for (const { run = '', if: condition } of workflowOf('release.yml').jobs['publish']?.steps ?? []) {
      const outputs = Object.fromEntries(
        readFileSync(output, 'utf8')
          .split('\n')
          .map((line) => line.split('=')),
      )
      if (condition !== undefined) {
        expect(condition).toBe("steps.newest.outputs.newest == 'true'")
        if (outputs['newest'] !== 'true') continue
      }
      const ended = spawnSync('bash', ['--noprofile', '--norc', '-e', '-o', 'pipefail', '-c', run], {
        encoding: 'utf8',
        env: {
          PATH: [folder, process.env['PATH']].join(delimiter),
          ...{ GITHUB_OUTPUT: output, GITHUB_REF_NAME: 'v1.2.3', GITHUB_SHA: 'a'.repeat(40), GITHUB_REPOSITORY: 'o/r' },
          ...{ NEWEST: outputs['newest'] ?? '', STATUS: outputs['status'] ?? '' },
          ...github,
        },
      })
      if (ended.status !== 0) {
        found.push('failed')
        break
      }
    }
    const calls = readFileSync(log, 'utf8')
    if (/PATCH repos\/o\/r\/git\/refs\/tags\/v1 -f sha=a{40} -F force=true/.test(calls)) found.push('move v1 to')
    if (/git\/refs -f ref=refs\/tags\/v1 -f sha=a{40}/.test(calls)) found.push('create v1 at')
    const latest = /release edit v1\.2\.3 --draft=false (--latest=\w+)/.exec(calls)?.[1]
    expect([...found, latest].sort()).toEqual([...expected].sort())
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

test('the Scorecard job meets the rules of its service', () => {
  const workflow = workflowOf('scorecard.yml')
  expect([workflow.env, workflow.defaults]).toEqual([undefined, undefined])
  const jobs = Object.values(workflow.jobs)
  expect(jobs.map((job) => job.env)).toEqual([undefined])
  const allowed = /^(actions\/checkout|actions\/upload-artifact|github\/codeql-action\/upload-sarif|ossf\/scorecard-action)@/
  for (const step of jobs.flatMap((job) => job.steps)) expect(step.uses).toMatch(allowed)
})

test('dependabot waits before it takes a new version, of packages and of actions', () => {
  const { updates } = parse(readFileSync(join(root, '.github', 'dependabot.yml'), 'utf8')) as {
    updates: { 'package-ecosystem': string; cooldown: Record<string, number>; groups: object }[]
  }
  expect(updates.map((each) => each['package-ecosystem'])).toEqual(['npm', 'github-actions'])
  for (const { cooldown, groups } of updates) {
    expect(cooldown['default-days']).toBeGreaterThanOrEqual(7)
    expect(Object.keys(groups).length).toBeGreaterThan(0)
  }
})

test('the forms for issues ask for the report and the version, and warn of secrets', () => {
  const forms = join(root, '.github', 'ISSUE_TEMPLATE')
  interface Form {
    name: string
    description: string
    body: {
      type: string
      id?: string
      attributes: { value?: string; description?: string }
      validations?: { required: boolean }
    }[]
  }
  for (const file of readdirSync(forms).filter((name) => name !== 'config.yml')) {
    const form = parse(readFileSync(join(forms, file), 'utf8')) as Form
    expect([form.name, form.description, form.body.length > 0]).toEqual([expect.any(String), expect.any(String), true])
    const ids = form.body.flatMap(({ id }) => id ?? [])
    expect(new Set(ids).size).toBe(ids.length)
    for (const { type } of form.body) expect(['markdown', 'input', 'textarea', 'dropdown', 'checkboxes']).toContain(type)
  }
  const { body } = parse(readFileSync(join(forms, 'problem.yml'), 'utf8')) as Form
  const field = (id: string) => body.find((each) => each.id === id)
  expect(field('version')?.validations?.required).toBe(true)
  expect(field('report')?.validations?.required).toBe(true)
  expect(field('report')?.attributes.description).toContain('report-path')
  expect(body[0]?.attributes.value).toContain('Paste no secret')
  const { contact_links: links } = parse(readFileSync(join(forms, 'config.yml'), 'utf8')) as {
    contact_links: { name: string; url: string; about: string }[]
  }
  for (const { name, url, about } of links) expect([name, about, new URL(url).protocol]).toEqual([name, about, 'https:'])
})
