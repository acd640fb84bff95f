/** docs/troubleshooting.md, from the table of errors and scripts/code-texts.ts; its beginning is written there by hand. */

import { known } from '../src/errors/explain.ts'
import type { Circumstances, Origin } from '../src/errors/message.ts'
import { causes } from './code-texts.ts'

const groups: Readonly<Record<Origin, string>> = {
  azure: 'Errors of Resource Manager',
  entra: 'Errors of Entra at sign-in',
  postgres: 'Errors of PostgreSQL and of the connection to it',
  ai: 'Errors of the AI services, as azure_ai passes them on',
}

/** Placeholders for the reader's own names. */
const placeholders: Circumstances = {
  doing: 'DOING',
  server: 'SERVER',
  resourceGroup: 'GROUP',
  database: 'DATABASE',
  user: 'USER',
  host: 'HOST',
  port: 5432,
  resource: '/subscriptions/SUBSCRIPTION-ID/resourceGroups/GROUP/providers/Microsoft.CognitiveServices/accounts/NAME',
  deployment: 'DEPLOYMENT',
  clientId: 'CLIENT-ID',
  assertion: { issuer: 'ISSUER', subject: 'SUBJECT', audience: 'AUDIENCE' },
}
/** An answer of the outside that names an action and a scope, as Resource Manager's refusals do. */
const answer =
  "The client 'CLIENT-ID' with object id 'OBJECT-ID' does not have authorization to perform action 'ACTION' over scope 'SCOPE'"

/** The page brought up to date: its beginning as it is, and one section for each row of the table. */
export function troubleshooting(page: string): string {
  const [beginning = ''] = page.split(/^## /m)
  const origins = Object.keys(groups) as Origin[]
  const parts = origins.map((origin) => {
    const rows = known.filter((row) => row.origin === origin)
    const sections = rows.map(({ codes = [], text, code, title, reason, fix }) => {
      const seen = [
        ...(codes.length === 0 ? [] : [codes.map((each) => `\`${each}\``).join(', ')]),
        ...(text === undefined ? [] : [`a text like \`${text.source}\``]),
      ].join(', with ')
      const message = { origin, code: codes[0] ?? '', text: answer }
      return `### \`${code}\`

**${title}** (\`failure-reason\`: \`${reason}\`)

Seen as: ${seen}

Cause: ${causes[code]}

Fix:

\`\`\`text
${typeof fix === 'string' ? fix : fix(message, placeholders)}
\`\`\`
`
    })
    return `## ${groups[origin]}\n\n${sections.join('\n')}`
  })
  return `${beginning.trimEnd()}\n\n${parts.join('\n')}`
}
