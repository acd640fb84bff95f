/**
 * `npm run screenshot`: pictures for README.md of the job summary that the last `npm run demo` wrote, light and dark, taken
 * with Chromium or Chrome (the one on PATH, or the one that CHROME names).
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const root = dirname(import.meta.dirname)
const page = join(root, 'build', 'demo', 'summary.html')
const width = 920
const limitMs = 30_000

/** A part of the page from its top to just above the first heading of this text. */
const pictures = [
  { name: 'summary', before: 'Steps', scale: 1.5 },
  { name: 'summary-whole', before: 'Findings', scale: 1 },
] as const

function onPath(...names: readonly string[]): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(delimiter)
  return names.flatMap((name) => folders.map((folder) => join(folder, name))).find((path) => existsSync(path))
}

interface Browser {
  /** Sends a command of the DevTools protocol; gives its result. Throws what the browser refuses. */
  send(method: string, params: object): Promise<Record<string, unknown>>
  close(): Promise<void>
}

async function startBrowser(path: string): Promise<Browser> {
  const profile = await mkdtemp(join(tmpdir(), 'summary-screenshot-'))
  // A container has no user namespaces for the sandbox; the page is our own and runs no script.
  const child = spawn(
    path,
    ['--headless=new', '--no-sandbox', '--hide-scrollbars', '--remote-debugging-port=0', `--user-data-dir=${profile}`],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  )
  const close = async (): Promise<void> => {
    const ended = new Promise((resolve) => child.once('close', resolve))
    if (child.kill()) await ended
    await rm(profile, { recursive: true, force: true })
  }
  const patience = setTimeout(() => child.kill('SIGKILL'), limitMs)
  try {
    let port: string | undefined
    for await (const line of createInterface({ input: child.stderr })) {
      port = /DevTools listening on ws:\/\/127\.0\.0\.1:(\d+)\//.exec(line)?.[1]
      if (port !== undefined) break
    }
    if (port === undefined) throw new Error(`${path} ended, or did not listen within ${limitMs / 1_000} s`)
    child.stderr.resume()
    const targets = (await (await fetch(`http://127.0.0.1:${port}/json`)).json()) as {
      type: string
      webSocketDebuggerUrl: string
    }[]
    const target = targets.find(({ type }) => type === 'page')
    if (target === undefined) throw new Error(`${path} shows no page`)
    const socket = new WebSocket(target.webSocketDebuggerUrl)
    await new Promise((resolve, reject) => {
      socket.addEventListener('open', resolve, { once: true })
      socket.addEventListener('error', () => reject(new Error('no connection to the browser')), { once: true })
    })
    const waiting = new Map<number, PromiseWithResolvers<Record<string, unknown>>>()
    socket.addEventListener('message', ({ data }) => {
      const { id, result, error } = JSON.parse(String(data))
      if (error !== undefined) waiting.get(id)?.reject(new Error(error.message))
      else waiting.get(id)?.resolve(result)
    })
    socket.addEventListener('close', () => {
      for (const each of waiting.values()) each.reject(new Error('the browser ended'))
    })
    let last = 0
    const send: Browser['send'] = (method, params) => {
      last += 1
      const answer = Promise.withResolvers<Record<string, unknown>>()
      waiting.set(last, answer)
      socket.send(JSON.stringify({ id: last, method, params }))
      return answer.promise
    }
    return { send, close: () => close().finally(() => clearTimeout(patience)) }
  } catch (error) {
    clearTimeout(patience)
    await close()
    throw error
  }
}

async function main(): Promise<void> {
  if (!existsSync(page)) throw new Error(`${page} is missing: npm run demo`)
  const path = process.env['CHROME'] ?? onPath('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
  if (path === undefined) throw new Error('No Chromium or Chrome on PATH: set CHROME to the path of one')
  const quantizer = onPath('pngquant')
  const browser = await startBrowser(path)
  try {
    const evaluate = async (expression: string): Promise<unknown> => {
      const { result } = (await browser.send('Runtime.evaluate', { expression, awaitPromise: true })) as {
        result: { value?: unknown }
      }
      return result.value
    }
    await browser.send('Emulation.setDeviceMetricsOverride', { width, height: 1_000, deviceScaleFactor: 1, mobile: false })
    await browser.send('Page.navigate', { url: pathToFileURL(page).href })
    while ((await evaluate(`document.readyState + location.protocol`)) !== 'completefile:')
      await new Promise((resolve) => setTimeout(resolve, 50))
    for (const scheme of ['light', 'dark']) {
      await browser.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] })
      for (const { name, before, scale } of pictures) {
        const height = await evaluate(
          `[...document.querySelectorAll('h3')].find((each) => each.textContent === '${before}')?.getBoundingClientRect().top + scrollY`,
        )
        if (typeof height !== 'number' || Number.isNaN(height)) throw new Error(`the summary has no heading ${before}`)
        const { data } = await browser.send('Page.captureScreenshot', {
          format: 'png',
          captureBeyondViewport: true,
          clip: { x: 0, y: 0, width, height: Math.floor(height), scale },
        })
        let png = Buffer.from(String(data), 'base64')
        if (quantizer !== undefined) {
          const { status, stdout } = spawnSync(quantizer, ['--quality=80-100', '--speed=1', '--strip', '-'], {
            input: png,
            maxBuffer: 1e8,
          })
          if (status === 0) png = stdout
        }
        const file = join('docs', 'images', `${name}-${scheme}.png`)
        await writeFile(join(root, file), png)
        console.log(`${file}: ${width * scale} x ${Math.floor(height) * scale}, ${(png.length / 1_024).toFixed(0)} KiB`)
      }
    }
    if (quantizer === undefined) console.log('With pngquant on PATH they would be about a third of that.')
  } finally {
    await browser.close()
  }
}

await main()
