/** The picture of a summary: server, identity, roles and resources, as a Mermaid diagram. Pure. */
import type { Report, ReportStep } from '../core/report.ts'
import { serviceNamed } from '../core/services.ts'
import { differs } from '../core/steps.ts'
import { canonicalId, nameIn, sameId } from '../lib/resource-id.ts'

/** Server, identity, roles and resources. Labels have letters, digits and a few signs only. */
export function picture(report: Report): string {
  const roles = report.steps.filter((step) => step.kind === 'role')
  if (report.server.name === '' || roles.length === 0) return ''
  const label = (value: string): string => value.replaceAll(/[^\p{L}\p{N} ._:-]/gu, '·').slice(0, 60)
  const identity = report.steps.find((step) => step.kind === 'identity')
  const good = (step: ReportStep): boolean => !differs(step) && step.status !== 'skipped'
  const on = identity === undefined || good(identity) || report.server.principalId !== ''
  const lines = [
    '%%{init: {"flowchart": {"nodeSpacing": 16, "rankSpacing": 40}}}%%',
    'flowchart LR',
    `  db[("${label(report.server.name)}<br/>azure_ai")] ${on ? '-->' : '-.->'} id{{"managed identity"}}${on ? '' : ':::bad'}`,
  ]
  // One account may serve several services: one box, an arrow for each role.
  const resources = [...new Set(roles.map((step) => canonicalId(step.target)))]
  for (const [index, resource] of resources.entries()) {
    const own = roles.filter((step) => sameId(step.target, resource))
    const titles = own.map((step) => label(serviceOf(step).title)).join('<br/>')
    const name = label(nameIn(own[0]?.target ?? ''))
    const answered = report.queries.filter((query) => own.some((step) => serviceOf(step).name === query.service))
    const isBad = answered.some((query) => query.status === 'failed') || own.some(differs)
    const isVerified = answered.length > 0 && answered.every((query) => query.status === 'passed')
    const goodState = isVerified ? 'verified' : 'plain'
    const state = isBad ? 'bad' : goodState
    for (const [nth, step] of own.entries()) {
      const [start, end] = good(step) ? ['--', '-->'] : ['-.', '.->']
      lines.push(
        `  id ${start} "${label(step.desired)}" ${end} r${index}${nth === 0 ? `["${titles}<br/>${name}"]:::${state}` : ''}`,
      )
    }
  }
  lines.push(
    '  classDef verified fill:#1f883d,stroke:#1a7f37,color:#fff',
    '  classDef bad fill:#cf222e,stroke:#a40e26,color:#fff',
    '  classDef plain fill:#59636e,stroke:#454c54,color:#fff',
  )
  return `\n\`\`\`mermaid\n${lines.join('\n')}\n\`\`\`\n`
}

export const serviceOf = (step: ReportStep) => serviceNamed(step.service ?? 'openai')
