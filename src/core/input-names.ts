/** The names of the inputs, which of them are secrets, and their defaults. */

/** Every input of action.yml. A test holds this list against the file. */
export const inputNames = [
  'mode',
  'part',
  'scope',
  'server',
  'databases',
  'openai',
  'cognitive',
  'translator',
  'machine-learning',
  'openai-role',
  'cognitive-role',
  'translator-role',
  'machine-learning-role',
  'auth-type',
  'openai-key',
  'cognitive-key',
  'machine-learning-key',
  'clear-keys',
  'allow-restart',
  'allow-unproven',
  'update-extension',
  'test-queries',
  'embedding-deployment',
  'machine-learning-input',
  'machine-learning-deployment',
  'verify-timeout-minutes',
  'plan-id',
  'environment',
  'tenant-id',
  'client-id',
  'audience',
  'database-user',
  'database-password',
  'database-host',
  'database-port',
  'temporary-firewall-rule',
  'runner-ip',
  'fail-on-drift',
  'drift-issue',
  'pull-request-comment',
  'github-token',
] as const

export type InputName = (typeof inputNames)[number]

/** Inputs whose values are masked before anything else sees them. */
export const secretInputs: readonly InputName[] = [
  'openai-key',
  'cognitive-key',
  'machine-learning-key',
  'database-password',
  'github-token',
]

/** The defaults of action.yml, for an input whose variable is absent. A test compares them with the file. */
export const inputDefaults: Readonly<Partial<Record<InputName, string>>> = {
  mode: 'apply',
  part: 'all',
  'auth-type': 'managed-identity',
  'clear-keys': 'false',
  'allow-restart': 'false',
  'allow-unproven': 'false',
  'update-extension': 'false',
  'test-queries': 'true',
  'verify-timeout-minutes': '10',
  environment: 'AzureCloud',
  'database-port': '5432',
  'temporary-firewall-rule': 'false',
  'fail-on-drift': 'true',
  'drift-issue': 'false',
  'pull-request-comment': 'false',
}
