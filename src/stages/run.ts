/** What all stages of a run share. */
import type { Inputs } from '../core/inputs.ts'
import type { Journal } from '../core/journal.ts'
import type { Scope } from '../core/scope.ts'
import type { Outside } from './sign-in.ts'

export interface Run extends Outside {
  readonly inputs: Inputs
  readonly scope: Scope
  readonly journal: Journal
}
