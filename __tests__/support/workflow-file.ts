/** Workflows as GitHub's own parser takes them, for the tests of those in README and documents and of the repository's own. */
import { registerHooks } from 'node:module'

// The parser imports JSON as bundlers take it, without the attribute that Node wants.
const hooks = registerHooks({
  load: (url, context, next) => next(url, url.endsWith('.json') ? { ...context, importAttributes: { type: 'json' } } : context),
})
const { convertWorkflowTemplate, NoOperationTraceWriter, parseWorkflow } = await import('@actions/workflow-parser')
hooks.deregister()

/** What the parser has against a workflow, and the ids of the jobs that it found. */
export async function parsedByGitHub(text: string): Promise<{ errors: string[]; jobs: string[] }> {
  const result = parseWorkflow({ name: 'workflow.yml', content: text }, new NoOperationTraceWriter())
  const errors = result.context.errors.getErrors().map(({ message }) => message)
  if (result.value === undefined) return { errors: [...errors, 'no workflow'], jobs: [] }
  const template = await convertWorkflowTemplate(result.context, result.value)
  return {
    errors: [...errors, ...(template.errors ?? []).map(({ Message }) => Message)],
    jobs: template.jobs.map((job) => job.id.value).sort(),
  }
}
