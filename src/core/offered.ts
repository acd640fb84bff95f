/** Whether there is a newer azure_ai, and whether the installed one has what a service needs: not every version has a reranker. Pure. */
import type { Finding } from '../errors/failure.ts'
import { type Inputs, titleOf } from './inputs.ts'
import type { ReadDatabase } from './observed.ts'
import { type Service, type ServiceName, serviceNamed } from './services.ts'

/** Compares versions number by number. */
export function isOlder(version: string, than: string): boolean {
  const numbers = (text: string): number[] => text.split('.').map((part) => Number.parseInt(part, 10) || 0)
  const a = numbers(version)
  const b = numbers(than)
  for (let index = 0; index < Math.max(a.length, b.length); index++) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0)
    if (difference !== 0) return difference < 0
  }
  return false
}

/** The version that the server offers beyond the installed one; undefined when there is none, or nothing is installed. */
export function newerVersion({ installed, available }: ReadDatabase['extension']): string | undefined {
  return installed !== undefined && available !== undefined && isOlder(installed, available) ? available : undefined
}

type Known = Pick<ReadDatabase, 'extension' | 'functions' | 'unknownSettings'>

/** What the installed version lacks for a service, as the end of a sentence; undefined where it has it, or none is installed. */
export function lackedBy({ extension, functions, unknownSettings }: Known, service: Service): string | undefined {
  if (service.mayBeMissing !== true || extension.installed === undefined) return undefined
  const setting = service.settings.find((each) => unknownSettings.has(each.setting))
  if (setting !== undefined) return `azure_ai ${extension.installed} does not know ${setting.setting}`
  const missing = service.queries.find(
    ({ test }) => !functions.some(({ schema, name }) => schema === test.schema && name === test.function),
  )
  return missing && `azure_ai ${extension.installed} has no ${missing.test.schema}.${missing.test.function}`
}

/** Why a setting is not set: every named service that wants it is one that the version lacks. */
export function settingLacked(database: Known, setting: string, named: readonly ServiceName[]): string | undefined {
  const wanted = named.map(serviceNamed).filter(({ settings }) => settings.some((each) => each.setting === setting))
  const reasons = wanted.map((service) => lackedBy(database, service))
  return reasons.includes(undefined) ? undefined : reasons[0]
}

/** Named services that the installed version lacks: the rest of the run goes on without them. */
export function lackedFindings(inputs: Inputs, database: ReadDatabase): Finding[] {
  return inputs.services.flatMap(({ service }): Finding[] => {
    const lacked = lackedBy(database, serviceNamed(service))
    if (lacked === undefined) return []
    const update = inputs.updateExtension
      ? 'Run this action with `mode: apply`: it updates azure_ai.'
      : 'Set `update-extension: true`, and run again.'
    return [
      {
        severity: 'warning',
        code: 'service-not-in-version',
        title: 'The installed azure_ai lacks a service',
        detail: `${titleOf(service)} in "${database.name}": ${lacked}. Its settings and its test query are skipped.`,
        fix:
          newerVersion(database.extension) !== undefined
            ? update
            : `Leave \`${service}\` out for this database until the server offers a version of azure_ai that has it.`,
      },
    ]
  })
}
