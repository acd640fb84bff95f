/** The job summary as a web page that needs nothing else: GitHub's style sheet inside, the Mermaid picture drawn as SVG. */
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { marked } from 'marked'

const require = createRequire(import.meta.url)

/** @param markdown what the action appended to the job summary */
export async function summaryPage(markdown: string, title: string): Promise<string> {
  const css = await readFile(require.resolve('github-markdown-css/github-markdown.css'), 'utf8')
  const body = (await marked.parse(markdown, { gfm: true })).replace(
    /<pre><code class="language-mermaid">([\s\S]*?)<\/code><\/pre>/g,
    (block, source: string) => drawn(source) ?? block,
  )
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${title}</title>
<style>
${css}
body { margin: 0 auto; max-width: 920px; padding: 24px; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body class="markdown-body">
${body}
</body>
</html>
`
}

interface Box {
  readonly id: string
  readonly lines: readonly string[]
  readonly fill: string
  readonly ink: string
}

const [width, rowHeight] = [872, 64]

/**
 * The flow chart of the summary: server, identity, and a resource in each row. Takes the HTML-escaped source; undefined
 * when it is not of that form.
 */
function drawn(source: string): string | undefined {
  const fills: Record<string, string> = {}
  for (const [, name = '', fill = ''] of source.matchAll(/classDef (\w+) fill:(#\w+)/g)) fills[name] = fill
  const boxes: Box[] = []
  for (const [, id = '', text = '', style = ''] of source.matchAll(/(\w+)[[({]+&quot;(.*?)&quot;[\])}]+(?::::(\w+))?/g)) {
    const fill = fills[style]
    boxes.push({ id, lines: text.split('&lt;br/&gt;'), fill: fill ?? 'none', ink: fill === undefined ? 'currentColor' : '#fff' })
  }
  const [server, identity, ...resources] = boxes
  if (server === undefined || identity === undefined || resources.length === 0) return undefined
  const height = resources.length * rowHeight + 16
  const middle = height / 2
  const parts = [
    box(server, 0, middle, 150),
    line(150, middle, 210, middle, source.includes('-.-&gt; id') ? 'dashed' : 'solid'),
    box(identity, 210, middle, 160),
  ]
  for (const [row, resource] of resources.entries()) {
    const y = row * rowHeight + rowHeight / 2 + 8
    const arrows = [...source.matchAll(new RegExp(`id (--|-\\.) &quot;(.*?)&quot; [-.]+&gt; ${resource.id}\\b`, 'g'))]
    const labels = arrows.map((arrow) => arrow[2] ?? '')
    parts.push(`<path d="M370 ${middle} C 400 ${middle} 400 ${y} 430 ${y}" fill="none" stroke="currentColor"/>`)
    parts.push(line(430, y, 692, y, arrows.every((arrow) => arrow[1] === '--') ? 'solid' : 'dashed'))
    parts.push(`<text x="555" y="${y - 7}" text-anchor="middle">${labels.join(' + ')}</text>`, box(resource, 692, y, 180))
  }
  const head = `<svg viewBox="-1 0 ${width + 2} ${height}" width="${width}" role="img" font-size="13" font-family="sans-serif" fill="currentColor">`
  const tip =
    '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker></defs>'
  return `<p>${head}${tip}${parts.join('')}</svg></p>`
}

function box({ lines, fill, ink }: Box, x: number, y: number, across: number): string {
  const rect = `<rect x="${x}" y="${y - 26}" width="${across}" height="52" rx="6" fill="${fill}" stroke="${fill === 'none' ? 'currentColor' : fill}"/>`
  const first = y + 5 - ((lines.length - 1) * 17) / 2
  const text = lines.map(
    (each, index) => `<text x="${x + across / 2}" y="${first + index * 17}" text-anchor="middle" fill="${ink}">${each}</text>`,
  )
  return rect + text.join('')
}

function line(x1: number, y1: number, x2: number, y2: number, style: 'solid' | 'dashed'): string {
  const dashes = style === 'dashed' ? ' stroke-dasharray="5 4"' : ''
  return `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="currentColor" marker-end="url(#tip)"${dashes}/>`
}
