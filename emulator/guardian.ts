/**
 * A small process that outlives the one it belongs to, just long enough to clean up after it.
 * It reads from a pipe: whatever ends its parent, SIGKILL included, closes the pipe.
 */
import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

export interface Guard {
  /** Stops the processes of the folder and removes it, now. Resolves when that is done. */
  release(): Promise<void>
}

/**
 * Files in the folder (or one level down) with the pid of a process, leader of its group, that the guardian has to end, and the signal
 * for a clean shutdown, which also frees the shared memory.
 */
export const pidFiles = { initdb: 'initdb.pid', server: 'server.pid' } as const
const endings: [string, NodeJS.Signals][] = [
  [pidFiles.initdb, 'SIGTERM'],
  [pidFiles.server, 'SIGQUIT'],
]

/** From now on, `folder` and the PostgreSQL that runs in it are removed at the latest when this process ends. */
export function guard(folder: string): Guard {
  // A group of its own, so that Ctrl-C in a terminal does not reach it before its work is done.
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), folder], {
    cwd: '/',
    detached: true,
    env: {},
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  const gone = new Promise<void>((resolve) => {
    child.once('exit', () => resolve())
    child.once('error', () => resolve())
  })
  child.unref()
  const pipe = child.stdin as typeof child.stdin & { unref?(): void }
  pipe.unref?.()
  pipe.on('error', () => {})
  return {
    async release() {
      child.ref()
      pipe.end()
      await gone
    },
  }
}

async function clean(folder: string): Promise<void> {
  for (const [name, ending] of endings) {
    for (const file of [folder, ...foldersIn(folder)].map((place) => join(place, name))) {
      const pid = pidIn(file)
      if (!signal(pid, ending) || (await ended(pid, 5_000))) continue
      signal(-pid, 'SIGKILL')
      await ended(pid, 2_000)
    }
  }
  for (let left = 20; left > 0 && existsSync(folder); left--) {
    try {
      rmSync(folder, { recursive: true, force: true })
    } catch {
      // A process that is just ending may still have written a file.
      await sleep(100)
    }
  }
}

function foldersIn(folder: string): string[] {
  try {
    const entries = readdirSync(folder, { withFileTypes: true })
    return entries.filter((entry) => entry.isDirectory()).map((entry) => join(folder, entry.name))
  } catch {
    return []
  }
}

function pidIn(file: string): number {
  try {
    return Number.parseInt(readFileSync(file, 'utf8'), 10) || 0
  } catch {
    return 0
  }
}

function signal(pid: number, name: NodeJS.Signals | 0): boolean {
  // 0 and -1 would address more than one process or group.
  if (pid === 0 || pid === -1) return false
  try {
    return process.kill(pid, name)
  } catch {
    return false
  }
}

async function ended(pid: number, patience: number): Promise<boolean> {
  const until = Date.now() + patience
  while (signal(pid, 0)) {
    if (Date.now() > until) return false
    await sleep(20)
  }
  return true
}

const folder = process.argv[2]
if (process.argv[1] === fileURLToPath(import.meta.url) && folder) {
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => {})
  process.stdin.resume()
  process.stdin.once('close', () => void clean(folder).finally(() => process.exit(0)))
}
