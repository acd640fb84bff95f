/** What the job's environment says. The two entries pass it on: no other part of the action reads a variable. */
import { readFileSync } from 'node:fs'
import type { AmbientLogin } from './azure/credential.ts'
import { idToken } from './github/runner.ts'
import type { Log } from './log.ts'
import type { SignInContext } from './session.ts'

type Environment = Readonly<NodeJS.ProcessEnv>

interface Event {
  number?: number
  pull_request?: {
    number?: number
    head?: { repo?: { fork?: boolean; full_name?: string } | null }
    base?: { repo?: { full_name?: string } }
  }
}

/** The event that started the workflow, from the runner's file. */
export function eventOf(env: Environment): Event {
  try {
    return JSON.parse(readFileSync(env['GITHUB_EVENT_PATH'] ?? '', 'utf8')) as Event
  } catch {
    // Without the file it is not known to be a pull request.
    return {}
  }
}

/** Whether a pull request whose head is a fork started the workflow. */
export function fromFork(env: Environment): boolean {
  const { pull_request: pull } = eventOf(env)
  if (pull === undefined) return false
  // The head's repository is null when the fork was deleted.
  return pull.head?.repo === null || (pull.head?.repo?.full_name ?? '') !== (pull.base?.repo?.full_name ?? '')
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

/** All that signing in takes from the job, for main and post alike. */
export function signInContext(env: Environment, log: Log, signal: AbortSignal): SignInContext {
  const { ACTIONS_ID_TOKEN_REQUEST_URL: url = '', ACTIONS_ID_TOKEN_REQUEST_TOKEN: token = '' } = env
  return {
    log,
    signal,
    idToken: (audience) => idToken(audience, { url, token }, log, signal),
    ambient: ambientLogin(env),
    workflow: {
      event: env['GITHUB_EVENT_NAME'] ?? '',
      actor: env['GITHUB_ACTOR'] ?? '',
      fromFork: fromFork(env),
      behindProxy: Boolean(env['HTTPS_PROXY'] || env['https_proxy']),
    },
  }
}
