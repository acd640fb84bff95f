/** Reads the variables of the job's environment. The two entries pass it on: no other part of the action reads a variable. */
import { readFileSync, statSync } from 'node:fs'
import type { AmbientLogin } from './azure/credential.ts'
import { type InputName, inputDefaults } from './core/input-names.ts'
import type { Finding } from './errors/failure.ts'
import type { Place } from './github/rest.ts'
import { idToken } from './github/runner.ts'
import type { Log } from './lib/log.ts'
import type { SignInContext } from './stages/sign-in.ts'

type Environment = Readonly<NodeJS.ProcessEnv>

type Json = Readonly<Record<string, unknown>>

/** Largest file of an event that is read, in bytes: GitHub's payloads have at most 25 MB. */
const longestEvent = 32 * 1024 * 1024

/**
 * The pull request of the event that started the workflow; undefined when another event did. The runner's file lies in a folder
 * that every step of the job can write to, so no more of it is used than has the expected type.
 */
function pullRequestOf(env: Environment): Json | undefined {
  try {
    const path = env['GITHUB_EVENT_PATH'] ?? ''
    const file = statSync(path)
    // A pipe or a device would be read without end.
    if (!file.isFile() || file.size > longestEvent) return undefined
    return objectIn(objectIn({ event: JSON.parse(readFileSync(path, 'utf8')) }, 'event'), 'pull_request')
  } catch {
    // Without this file no pull request is known.
    return undefined
  }
}

/** Number of the pull request of this event; undefined when there is none. */
function pullRequestNumber(env: Environment): number | undefined {
  const number = pullRequestOf(env)?.['number']
  // It becomes part of a path of requests that contain the token.
  return typeof number === 'number' && Number.isSafeInteger(number) && number > 0 ? number : undefined
}

/** Whether a pull request whose head is a fork started the workflow. */
function fromFork(env: Environment): boolean {
  const pull = pullRequestOf(env)
  if (pull === undefined) return false
  const nameOf = (side: string): unknown => objectIn(objectIn(pull, side), 'repo')?.['full_name']
  // The head's repository is null when the fork was deleted.
  return objectIn(pull, 'head')?.['repo'] === null || nameOf('head') !== nameOf('base')
}

function objectIn(value: Json | undefined, name: string): Json | undefined {
  const found = value?.[name]
  return typeof found === 'object' && found !== null ? (found as Json) : undefined
}

/** Where the issue and the comment of this job go. */
export function placeOf(env: Environment, token: string): Place {
  const [owner = '', repository = ''] = (env['GITHUB_REPOSITORY'] ?? '').split('/')
  const serverUrl = env['GITHUB_SERVER_URL'] || 'https://github.com'
  return {
    apiUrl: env['GITHUB_API_URL'] || 'https://api.github.com',
    graphqlUrl: env['GITHUB_GRAPHQL_URL'] || 'https://api.github.com/graphql',
    serverUrl,
    owner,
    repository,
    runUrl: `${serverUrl}/${owner}/${repository}/actions/runs/${env['GITHUB_RUN_ID'] ?? ''}`,
    token,
    pullRequest: pullRequestNumber(env),
    fromFork: fromFork(env),
  }
}

/** With the value 0 Node accepts every certificate. It reads the variable whenever it opens a connection. */
const noVerification = 'NODE_TLS_REJECT_UNAUTHORIZED'

/** The warning when {@link removeUnsafeVariables} finds that certificates would not be verified. */
export const unverifiedTls: Finding = {
  severity: 'warning',
  code: 'tls-variable-ignored',
  title: 'A variable that turns off the verification of certificates has no effect',
  detail: `${noVerification} is 0 in the environment of this step. Tokens would go to whoever answers, so the action removed it.`,
  fix: 'Remove it from the job. For a proxy that re-signs TLS set NODE_EXTRA_CA_CERTS to the PEM file of its root.',
}

/**
 * Removes variables that an earlier step can set for the whole job, and that decide what only inputs and this code may decide:
 * whether certificates are verified, and the user, the options and the driver of a connection to a database. Programs
 * that the action starts inherit what is left.
 *
 * @returns whether certificates would not have been verified
 */
export function removeUnsafeVariables(env: NodeJS.ProcessEnv): boolean {
  const unverified = env[noVerification] === '0'
  delete env[noVerification]
  for (const name of Object.keys(env)) if (/^(PG[A-Z]|NODE_PG_)/i.test(name)) delete env[name]
  return unverified
}

/** Whether GitHub's runner reads what is printed. */
export function inActions(env: Environment): boolean {
  return env['GITHUB_ACTIONS'] === 'true'
}

/**
 * An input of the step. An absent variable means the default of action.yml, also where no runner sets it. Outside GitHub Actions
 * underscores are accepted for hyphens, because a shell cannot export the variables that the runner sets.
 */
export function inputOf(env: Environment, name: InputName): string {
  const variable = `INPUT_${name.toUpperCase()}`
  const set = env[variable] ?? (inActions(env) ? undefined : env[variable.replaceAll('-', '_')])
  return (set ?? inputDefaults[name] ?? '').trim()
}

/** Secrets that the environment contains: they are masked before anything else reads them. */
export function ambientSecrets(env: Environment): string[] {
  return [env['AZURE_CLIENT_SECRET'] ?? '', env['AZURE_CLIENT_CERTIFICATE_PASSWORD'] ?? '']
}

function ambientLogin(env: Environment): AmbientLogin {
  return {
    tenantId: env['AZURE_TENANT_ID'] || undefined,
    clientId: env['AZURE_CLIENT_ID'] || undefined,
    clientSecret: env['AZURE_CLIENT_SECRET'] || undefined,
    clientCertificatePath: env['AZURE_CLIENT_CERTIFICATE_PATH'] || undefined,
    clientCertificatePassword: env['AZURE_CLIENT_CERTIFICATE_PASSWORD'] || undefined,
    federatedTokenFile: env['AZURE_FEDERATED_TOKEN_FILE'] || undefined,
    authorityHost: env['AZURE_AUTHORITY_HOST'] || undefined,
    managedIdentity: Boolean(env['IDENTITY_ENDPOINT'] || env['MSI_ENDPOINT']),
  }
}

/** Host of a URL, without the login that it may contain; undefined for an empty text. */
function hostOf(url: string): string | undefined {
  if (url === '') return undefined
  return URL.canParse(url) ? new URL(url).host : 'the proxy of the job'
}

/** Everything that signing in reads from the job, in the main step and the post step. */
export function signInContext(env: NodeJS.ProcessEnv, log: Log, signal: AbortSignal): SignInContext {
  const { ACTIONS_ID_TOKEN_REQUEST_URL: url = '', ACTIONS_ID_TOKEN_REQUEST_TOKEN: token = '' } = env
  return {
    log,
    signal,
    idToken: (audience) => idToken(audience, { url, token }, log, signal),
    ambient: ambientLogin(env),
    removeVariables: (names) => {
      for (const name of names) delete env[name]
    },
    workflow: {
      event: env['GITHUB_EVENT_NAME'] ?? '',
      actor: env['GITHUB_ACTOR'] ?? '',
      fromFork: fromFork(env),
      proxy: hostOf(env['HTTPS_PROXY'] || env['https_proxy'] || ''),
    },
  }
}
