/** The files of a new PostgreSQL server: made by initdb and set up like a new flexible server, or copied from one that was. */
import { type SpawnOptions, spawn } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pidFiles } from './guardian.ts'
import { sharedFolder } from './shared.ts'

export interface Cluster {
  /** Where to make it; must not exist. */
  data: string
  /** The server's own folder, in which the guardian looks for processes. */
  home: string
  /** PostgreSQL's folder with `bin`. */
  binaries: string
  superuser: string
  /** Environment and account of the server. */
  options: SpawnOptions
  /** What a new server has, as SQL for each database, run in this order. Each text is one command: no other may follow CREATE DATABASE. */
  setup: readonly (readonly [database: string, sql: string])[]
}

/** Makes the cluster. Emulators that share set one up, and copy it. */
export async function makeCluster(cluster: Cluster): Promise<void> {
  const { data, home } = cluster
  let made = false
  const shared = await sharedFolder('cluster', async (path) => {
    await setUp(cluster)
    made = true
    await copy(data, path, home)
  })
  if (made) return
  if (shared === undefined) await setUp(cluster)
  else await copy(shared, data, home)
}

/** `-a`: owner and rights stay, which PostgreSQL insists on. */
function copy(from: string, to: string, home: string): Promise<void> {
  return run('cp', ['-a', from, to], { cwd: '/' }, home)
}

async function setUp({ data, home, binaries, superuser, options, setup }: Cluster): Promise<void> {
  await run(
    join(binaries, 'bin', 'initdb'),
    ['--pgdata', data, '--username', superuser, '--auth', 'trust', '--encoding', 'UTF8', '--locale', 'C']
      // Nothing here has to survive a power cut.
      .concat(['--no-sync', '--no-instructions', '--no-data-checksums', '--wal-segsize', '1']),
    options,
    home,
  )
  for (const [database, sql] of setup) {
    // Without a server. An error ends it with an exit code, and -j lets a command have many lines: it ends at an empty one.
    const settings = ['fsync=off', 'exit_on_error=on', 'autovacuum=off'].flatMap((setting) => ['-c', setting])
    const command = `${sql
      .trim()
      .replaceAll(/\n{2,}/g, '\n')
      .replace(/;?$/, ';')}\n\n`
    await run(join(binaries, 'bin', 'postgres'), ['--single', '-j', '-D', data, ...settings, database], options, home, command)
  }
}

/** Runs a program to its end. The guardian ends it when this process is killed. */
async function run(file: string, args: string[], options: SpawnOptions, home: string, input = ''): Promise<void> {
  const child = spawn(file, args, { ...options, detached: true, stdio: ['pipe', 'pipe', 'pipe'] })
  const pidFile = join(home, pidFiles.initdb)
  if (child.pid) writeFileSync(pidFile, String(child.pid))
  const output: Buffer[] = []
  child.stdout?.on('data', (chunk) => output.push(chunk))
  child.stderr?.on('data', (chunk) => output.push(chunk))
  // A program that does not read closes the pipe.
  child.stdin?.on('error', () => undefined).end(input)
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (exit, signal) => resolve(exit ?? signal))
  })
  rmSync(pidFile, { force: true })
  if (code !== 0) throw new Error(`${file} ended with ${code}:\n${Buffer.concat(output)}`)
}
