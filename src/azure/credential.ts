/** Signing in: the workflow's OIDC token, or the login that is there already; one credential, one token for each scope. */
import { exec, execFile } from 'node:child_process'
import { connect } from 'node:net'
import { dirname } from 'node:path'
import type { AccessToken, TokenCredential } from '@azure/core-auth'
import { type Cloud, isSameOrigin } from '../core/clouds.ts'
import { explain } from '../errors/explain.ts'
import { Failure } from '../errors/failure.ts'
import type { Circumstances } from '../errors/message.ts'
import { describe } from '../lib/bounded.ts'
import type { Log } from '../lib/log.ts'
import { orAborted } from '../lib/timeout.ts'
import type { ReadyAgent } from './agent.ts'
import type { Tokens } from './tokens.ts'

/** The variables of the environment that name a login, as the entry found them. */
export interface AmbientLogin {
  readonly tenantId: string | undefined
  readonly clientId: string | undefined
  readonly clientSecret: string | undefined
  readonly clientCertificatePath: string | undefined
  readonly clientCertificatePassword: string | undefined
  readonly federatedTokenFile: string | undefined
  /** URL of the sign-in host that the variables are meant for (AZURE_AUTHORITY_HOST). */
  readonly authorityHost: string | undefined
  /** Whether a managed identity endpoint is named (IDENTITY_ENDPOINT or MSI_ENDPOINT). */
  readonly managedIdentity: boolean
}

interface SignInOptions {
  readonly cloud: Cloud
  readonly oidc: { readonly tenantId: string; readonly clientId: string } | undefined
  /** Gives the workflow's OIDC token. */
  readonly idToken: () => Promise<string>
  readonly ambient: AmbientLogin
  /** Removes variables of this process, which the SDK would read. */
  readonly removeVariables: (names: readonly string[]) => void
  readonly log: Log
  readonly signal: AbortSignal
  readonly agent?: ReadyAgent | undefined
  /** Host of the job's proxy; undefined without one. */
  readonly proxy?: string | undefined
}

/** Longest time that one token may take in all, in milliseconds: as long as Entra may throttle. */
export const tokenLimitMs = 300_000
/** The same for az and the metadata service, which are on the runner. The SDK calls the metadata service up to five times (404, 410). */
export const localTokenLimitMs = 90_000
/** How long an assertion is used again; it lives five minutes. */
const assertionReuseMs = 3 * 60_000
/** A token that expires sooner is replaced. */
const renewBeforeMs = 5 * 60_000

/**
 * Variables with which the SDK signs in at another host than the cloud's. An earlier step can set them for the whole job, so
 * they are removed: the cloud decides where a sign-in goes.
 */
const regionVariables = ['AZURE_REGIONAL_AUTHORITY_NAME', 'MSAL_FORCE_REGION']

/** Prepares signing in. The OIDC token is requested at once; nothing else is sent before a caller needs a token. */
export function signIn(options: SignInOptions): Tokens {
  const { log, signal } = options
  options.removeVariables(regionVariables)
  const remember = options.oidc === undefined ? undefined : remembered(options.idToken)
  let presenting: Promise<string> | undefined
  const assertion =
    remember &&
    (() => {
      presenting = remember()
      return presenting
    })
  // Requested before the SDK is loaded, so that both happen at the same time; a failure is reported where it is awaited.
  assertion?.().catch(() => undefined)
  let chosen: Promise<Way> | undefined
  // The SDK wraps an error of the assertion into one of its own, which drops the reason.
  let ended: Failure | undefined
  let isLogged = false
  const pending = new Map<string, Promise<AccessToken>>()

  const requestToken = async (scope: string): Promise<AccessToken> => {
    ended = undefined
    chosen ??= choose(options, assertion, (failure) => {
      ended = failure
    })
    const { credential, way: by, local, isAz } = await chosen
    try {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(local === true ? localTokenLimitMs : tokenLimitMs)])
      const token = await orAborted(credential.getToken(scope, { abortSignal: limit }), limit)
      if (token === null) throw new Error('the login gave no token')
      log.secret(token.token)
      if (!isLogged) {
        isLogged = true
        log.info(`Signed in as ${nameOf(token.token)} by ${by}`)
      }
      return token
    } catch (error) {
      if (signal.aborted) throw signal.reason
      // What kept the assertion away is the reason, whatever the SDK makes of it.
      const presented = presenting === undefined ? undefined : claimsOf(await presenting)
      const reason = ended ?? (await reasonOf(error, options))
      if (isAz === true && !isUnreachable(reason)) throw azSessionTooOld(scope, reason)
      throw credentialFailure(reason, {
        doing: `signing in by ${by} for ${scope}`,
        clientId: options.oidc?.clientId ?? options.ambient.clientId,
        assertion:
          presented === undefined
            ? undefined
            : { issuer: String(presented.iss), subject: String(presented.sub), audience: String(presented.aud) },
      })
    }
  }

  return {
    async get(scope) {
      const known = pending.get(scope)
      if (known !== undefined) {
        const token = await known
        if (token.expiresOnTimestamp - Date.now() > renewBeforeMs) return token.token
        if (pending.get(scope) === known) pending.delete(scope)
      }
      let request = pending.get(scope)
      if (request === undefined) {
        request = requestToken(scope)
        pending.set(scope, request)
        request.catch(() => pending.delete(scope))
      }
      return (await request).token
    },
    forget(scope) {
      pending.delete(scope)
      // The SDK's credential remembers its tokens as well, so the next token needs a new credential.
      chosen = undefined
    },
  }
}

/** The claims of a token. It comes from its issuer: the signature is not ours to check. */
export function claimsOf(token: string): Readonly<Record<string, unknown>> {
  try {
    return JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as Record<string, unknown>
  } catch {
    return {}
  }
}

/** Who a token says we are. */
function nameOf(token: string): string {
  const { upn, app_displayname: appName, appid, oid } = claimsOf(token)
  const name = upn ?? appName ?? (appid === undefined ? undefined : `app ${String(appid)}`) ?? 'an unnamed principal'
  return `${String(name)}${oid === undefined ? '' : ` (object id ${String(oid)})`}`
}

/** The SDK requests the assertion twice for each token: remember it while it is surely good. */
function remembered(idToken: () => Promise<string>): () => Promise<string> {
  let last: { at: number; token: Promise<string> } | undefined
  return () => {
    if (last === undefined || Date.now() - last.at > assertionReuseMs) {
      const fresh = { at: Date.now(), token: idToken() }
      last = fresh
      fresh.token.catch(() => {
        if (last === fresh) last = undefined
      })
    }
    return last.token
  }
}

interface Way {
  readonly credential: TokenCredential
  /** As in `signed in by ..`. */
  readonly way: string
  /** Answered on the runner, not by Entra. */
  readonly local?: true
  readonly isAz?: true
}

/** Chooses one way, in a fixed order, by what is there; no chain that tries them all. */
async function choose(
  options: SignInOptions,
  assertion: (() => Promise<string>) | undefined,
  ended: (failure: Failure) => void,
): Promise<Way> {
  const { cloud, oidc, ambient, signal, log, agent, proxy } = options
  const { agentPolicy, authorityPolicy, localClient, retryPolicy } = await import('./pipeline.ts')
  const policies = [
    // The SDK knows the hosts of Azure's own clouds by itself.
    ...(cloud.wellKnown ? [] : [authorityPolicy(cloud.authority, ended)]),
    retryPolicy({ from: 'Entra', signal, log, ended, proxy }),
    ...(agent === undefined ? [] : [agentPolicy(agent)]),
  ]
  const common = {
    authorityHost: cloud.authority,
    disableInstanceDiscovery: !cloud.wellKnown,
    // There is one policy, ours: around the SDK's own, which is left with nothing to do.
    retryOptions: { maxRetries: 0 },
    // A redirect would take the assertion along.
    redirectOptions: { maxRetries: 0 },
    additionalPolicies: policies.map((policy) => ({ policy, position: 'perCall' as const })),
  }
  if (oidc !== undefined && assertion !== undefined) {
    const { ClientAssertionCredential } = await import('@azure/identity')
    return {
      credential: new ClientAssertionCredential(oidc.tenantId, oidc.clientId, assertion, common),
      way: `the workflow's OIDC token, in tenant ${oidc.tenantId}`,
    }
  }
  const { tenantId, clientId, clientSecret, clientCertificatePath, federatedTokenFile } = ambient
  if (tenantId !== undefined && clientId !== undefined) {
    checkAuthority(cloud, ambient)
    const app = `in tenant ${tenantId}`
    if (clientSecret !== undefined) {
      options.log.secret(clientSecret)
      const { ClientSecretCredential } = await import('@azure/identity')
      return {
        credential: new ClientSecretCredential(tenantId, clientId, clientSecret, common),
        way: `AZURE_CLIENT_SECRET, ${app}`,
      }
    }
    if (clientCertificatePath !== undefined) {
      const { ClientCertificateCredential } = await import('@azure/identity')
      const certificate =
        ambient.clientCertificatePassword === undefined
          ? { certificatePath: clientCertificatePath }
          : { certificatePath: clientCertificatePath, certificatePassword: ambient.clientCertificatePassword }
      return {
        credential: new ClientCertificateCredential(tenantId, clientId, certificate, common),
        way: `AZURE_CLIENT_CERTIFICATE_PATH, ${app}`,
      }
    }
    if (federatedTokenFile !== undefined) {
      const { WorkloadIdentityCredential } = await import('@azure/identity')
      return {
        credential: new WorkloadIdentityCredential({ tenantId, clientId, tokenFilePath: federatedTokenFile, ...common }),
        way: `workload identity (AZURE_FEDERATED_TOKEN_FILE), ${app}`,
      }
    }
  }
  if (await azIsSignedIn(options.signal)) {
    const { AzureCliCredential } = await import('@azure/identity')
    return {
      credential: new AzureCliCredential({ processTimeoutInMs: 30_000 }),
      way: "az's session (azure/login)",
      local: true,
      isAz: true,
    }
  }
  if (ambient.managedIdentity || (await metadataServiceAnswers())) {
    const { ManagedIdentityCredential } = await import('@azure/identity')
    const direct = { httpClient: localClient() }
    return {
      credential: new ManagedIdentityCredential(clientId === undefined ? direct : { clientId, ...direct }),
      way: "the runner's managed identity",
      local: true,
    }
  }
  throw noLogin()
}

/**
 * A cloud that describes itself also names the host that a secret would be sent to. The environment has to name the same
 * host: otherwise the secret may be meant for a known cloud.
 * @throws {Failure} `credentials`
 */
function checkAuthority(cloud: Cloud, ambient: AmbientLogin): void {
  const { clientSecret, clientCertificatePath, federatedTokenFile, authorityHost } = ambient
  const logins = [
    [clientSecret, 'AZURE_CLIENT_SECRET'],
    [clientCertificatePath, 'AZURE_CLIENT_CERTIFICATE_PATH'],
    [federatedTokenFile, 'AZURE_FEDERATED_TOKEN_FILE'],
  ] as const
  const variable = logins.find(([value]) => value !== undefined)?.[1]
  if (variable === undefined || cloud.wellKnown || isSameOrigin(authorityHost, cloud.authority)) return
  throw new Failure({
    reason: 'credentials',
    code: 'login-of-another-cloud',
    title: 'The login in the environment is not meant for this cloud',
    detail: `\`environment\` is a URL, and that host names ${cloud.authority} for signing in. AZURE_AUTHORITY_HOST ${authorityHost === undefined ? 'is not set' : 'names another host'}, so ${variable} may belong to another cloud and was not used.`,
    fix: `If ${variable} belongs to the cloud of \`environment\`, set AZURE_AUTHORITY_HOST=${cloud.authority} on the job; otherwise correct \`environment\`.`,
  })
}

function noLogin(cause?: unknown): Failure {
  return new Failure(
    {
      reason: 'credentials',
      code: 'no-login',
      title: 'There is no login to use',
      detail:
        'Neither `tenant-id` and `client-id` are set, nor a service principal in the environment, nor is there a session of az or a managed identity of the runner.',
      fix: 'Set `tenant-id` and `client-id` and let the job have `permissions: id-token: write`; or run azure/login before this step; or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET.',
    },
    cause,
  )
}

/** Whether this machine has Azure's metadata service. A bare connection is tried, so its absence costs half a second at most. */
function metadataServiceAnswers(): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '169.254.169.254', port: 80, timeout: 500 })
    const settle = (answer: boolean) => (): void => {
      socket.destroy()
      resolve(answer)
    }
    socket.once('connect', settle(true)).once('timeout', settle(false)).once('error', settle(false))
  })
}

/** Whether az is installed and has a session. az reads that from its own files. */
function azIsSignedIn(signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const options = { timeout: 20_000, signal, windowsHide: true }
    const settle = (error: Error | null): void => resolve(error === null)
    if (process.platform !== 'win32') execFile('az', ['account', 'show', '--output', 'json'], options, settle)
    // There az is a batch file, which takes a shell, and the shell looks into the working folder first: not into that of the job.
    else exec('az account show --output json', { ...options, cwd: dirname(process.execPath) }, settle)
  })
}

/**
 * The SDK says no more than `endpoints_resolution_error` when the tenant is unknown or TLS is not trusted: the sign-in
 * host's configuration is requested again, and its response to that is the reason.
 */
async function reasonOf(error: unknown, { cloud, oidc, ambient, log, signal }: SignInOptions): Promise<unknown> {
  const tenantId = oidc?.tenantId ?? ambient.tenantId
  if (tenantId === undefined || !/endpoints_resolution_error/.test(describe(error))) return error
  const { createHttp, createPipeline } = await import('./pipeline.ts')
  const limit = AbortSignal.any([signal, AbortSignal.timeout(10_000)])
  const host = new URL(cloud.authority).host
  try {
    const http = createHttp(
      createPipeline({ tokens: undefined, scope: '', host, signal: limit, log, agent: undefined, proxy: undefined }),
    )
    await http.get(`${cloud.authority}/${tenantId}/v2.0/.well-known/openid-configuration`, "reading Entra's configuration", limit)
    return error
  } catch (reason) {
    if (!(reason instanceof Failure)) return error
    const said = /"error_description":"(AADSTS[^"]+)/.exec(reason.detail)?.[1]
    if (said !== undefined) return new Error(said, { cause: error })
    return reason.reason === 'network' ? reason : error
  }
}

const entraCode = (text: string): string => /AADSTS\d+/.exec(text)?.[0] ?? ''

/** Whether there was no response of Entra. */
function isUnreachable(error: unknown): boolean {
  const text = describe(error)
  return (
    entraCode(text) === '' &&
    /ECONN|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|network_error|endpoints_resolution_error|aborted|timed? ?out/i.test(text)
  )
}

/** az has a session, and cannot get a token for this scope: the OIDC token that azure/login signed in with lives minutes only. */
function azSessionTooOld(scope: string, error: unknown): Failure {
  return new Failure(
    {
      reason: 'credentials',
      code: 'az-session-too-old',
      title: "az's session cannot get a token for another scope any more",
      detail: `az is signed in and cannot get a token for ${scope}. A session that azure/login made by OIDC can do that for five to ten minutes only. ${describe(error)}`,
      fix: 'Set `tenant-id` and `client-id`, so that this action signs in by itself; or run azure/login right before it.',
    },
    error,
  )
}

function credentialFailure(error: unknown, at: Circumstances): Failure {
  if (error instanceof Failure) return error
  const text = describe(error)
  // A machine of Azure without an identity (GitHub's own runners are such machines) is no login at all.
  if (
    /ManagedIdentityCredential/i.test(text)
      ? /unavailable|not available|No response|Identity not found/i.test(text)
      : /Identity not found/i.test(text)
  )
    return noLogin(error)
  const code = entraCode(text)
  if (isUnreachable(error)) {
    return new Failure(
      {
        reason: 'network',
        code: 'entra-unreachable',
        title: 'Entra cannot be reached',
        detail: text,
        fix: 'Check the way from the runner to the sign-in host of the cloud: DNS, proxy (HTTPS_PROXY), and TLS roots (NODE_EXTRA_CA_CERTS).',
      },
      error,
    )
  }
  return explain({ origin: 'entra', code, text: firstLines(text) }, at, error)
}

const firstLines = (text: string): string => text.split('\n').slice(0, 4).join(' ').trim()
