/** Errors of the AI services, as azure_ai passes them on. */
import { bounded } from '../../lib/bounded.ts'
import { named, serverItself, unlessSet } from '../az.ts'
import type { Circumstances, Known } from '../message.ts'
import { setSettingIn } from '../sql.ts'

export const ai: readonly Known[] = [
  {
    // First, because a 429 in azure_ai's own wrapper (`SCHEMA.FUNCTION: STATUS: text`) decides, whatever the text is.
    text: /^(?:ERROR: {1,3})?azure_[a-z]{1,20}\.[a-z_]{1,60}: 429\b|(?:status|code|http)\D{0,12}429\b|too many requests|rate limit/i,
    status: [429],
    code: 'throttled',
    title: 'The service is throttling: access is granted, capacity is not',
    outlook: 'throttled',
    provesToken: true,
    meetsEveryDatabase: true,
    fix: 'Run again later, or raise the capacity of the deployment.',
  },
  {
    text: /lacks the required data action|PermissionDenied|Principal does not have access to API|You don't have permission to do the requested action/i,
    code: 'role-not-effective',
    title: 'The service does not accept the identity (yet)',
    outlook: 'propagating',
    provesToken: true,
    meetsEveryDatabase: true,
    cause: ({ text }) => `The identity got a token, and the service refused it: ${text}`,
    fix: (_, at) =>
      `Role assignments can take 10 minutes and more: ${at.verifyMinutes === undefined ? 'run again then' : `raise \`verify-timeout-minutes\` (now ${at.verifyMinutes}) and run again`}. To look: az role assignment list --scope "${at.resource ?? 'RESOURCE-ID'}" --include-inherited --output table`,
  },
  {
    text: /Access token is missing, invalid, audience is incorrect/i,
    code: 'token-not-accepted',
    title: "The service does not accept the identity's token",
    outlook: 'propagating',
    provesToken: true,
    meetsEveryDatabase: true,
    fix: 'Run again in a few minutes; if it stays, the resource belongs to another tenant or cloud than the server.',
  },
  {
    text: /custom subdomain/i,
    code: 'custom-subdomain',
    title: 'The account has no custom subdomain',
    outlook: 'final',
    provesToken: true,
    fix: (_, at) => `az cognitiveservices account update ${named(at.resource)} --custom-domain NAME`,
  },
  {
    text: /Subdomain does not map to a resource/i,
    code: 'subdomain-unknown',
    title: 'The endpoint leads to no resource',
    outlook: 'propagating',
    provesToken: true,
    meetsEveryDatabase: true,
    fix: 'A custom subdomain made minutes ago needs a moment: run again. Else compare the endpoint with the resource: Keys and Endpoint in the portal.',
  },
  {
    text: /AuthenticationTypeDisabled|Key based authentication is disabled/i,
    code: 'key-login-disabled',
    title: 'The query was sent with a key although key login is off',
    outlook: 'final',
    blamesKey: true,
    cause: ({ text }, at) =>
      `${at.byKey === true ? 'The account refuses keys' : 'The extension sent a key, not a token'}: ${text}`,
    fix: (_, at) =>
      at.byKey === true
        ? `az resource update --ids "${at.resource ?? 'RESOURCE-ID'}" --set properties.disableLocalAuth=false   # or stay with the managed identity`
        : clearStoredKey(at),
  },
  {
    text: /Virtual Network\/Firewall rules/i,
    code: 'ai-firewall',
    title: "The AI resource's firewall blocks the server",
    outlook: 'final',
    provesToken: true,
    fix: (_, at) =>
      `Allow the server's outbound address or its subnet at the AI resource ("trusted Azure services" does not include PostgreSQL): az cognitiveservices account network-rule add ${named(at.resource)} --subnet SUBNET-ID`,
  },
  {
    text: /Public access is disabled/i,
    code: 'ai-private',
    title: 'The AI resource is reachable by private endpoint only',
    outlook: 'final',
    provesToken: true,
    fix: "Give the AI resource a private endpoint in the server's virtual network, with its private DNS zone linked to it; or allow public access from the server.",
  },
  {
    text: /DeploymentNotFound|API deployment for this resource does not exist/i,
    code: 'deployment-not-found',
    title: 'The deployment does not exist',
    outlook: 'final',
    provesToken: true,
    cause: ({ text }, at) => `Deployment "${at.deployment ?? ''}": ${text}`,
    fix: (_, at) =>
      `az cognitiveservices account deployment list ${named(at.resource)} --query "[].name"   # then set one as \`embedding-deployment\``,
  },
  {
    text: /OperationNotSupported|does not work with the specified model/i,
    // The service writes the text, and the extension the status in front of it.
    status: [400],
    code: 'operation-not-supported',
    title: 'The model does not embed: access is granted',
    outlook: 'proves-access',
    fix: 'Nothing to do; name an embedding deployment as `embedding-deployment` to see a real embedding.',
  },
  {
    text: /unsupported_value|Unsupported value: '\w{1,40}'|Unsupported parameter/i,
    // The service reads the parameters of a request only after it has accepted the caller.
    status: [400],
    code: 'parameter-not-supported',
    title: 'The model does not take a parameter that azure_ai sends: access is granted',
    outlook: 'proves-access',
    fix: 'Nothing to do; name another deployment as `chat-deployment` to see a real reply.',
  },
  {
    text: /\b(?:has been|is|was) retired\b|OperationRetired|no longer (?:available|supported)/i,
    // A retired function answers with one of these; any other status has another cause.
    status: [400, 404, 410],
    code: 'function-retired',
    title: 'The service has retired the function of the test query',
    outlook: 'retired',
    fix: (_, at) =>
      `Update azure_ai${unlessSet(at, 'update-extension', ' (`update-extension: true`)')}, and look at what your own queries call: they meet the same refusal.`,
  },
  {
    text: /invalid subscription key/i,
    code: 'key-refused',
    title: 'The service refused a key',
    outlook: 'final',
    blamesKey: true,
    cause: ({ text }, at) =>
      `${at.byKey === true ? 'The key or the endpoint is wrong' : 'The extension sent a key, not a token'}: ${text}`,
    fix: (_, at) =>
      at.byKey === true
        ? 'Set the right key, or leave the key input out: it is then read from the resource.'
        : clearStoredKey(at),
  },
  {
    text: /(?:fail|unable|could not|cannot).{0,60}(?:get|acquir|obtain|fetch|request).{0,40}token|identity not found|managed identity.{0,20}not (?:found|available|enabled)|IMDS|169\.254\.169\.254/i,
    code: 'no-token',
    title: "The server's managed identity cannot get a token yet",
    outlook: 'no-token',
    meetsEveryDatabase: true,
    fix: (_, at) =>
      `A newly enabled identity needs a restart of the server, then two or three minutes: az postgres flexible-server restart ${serverItself(at)}${unlessSet(at, 'allow-restart', '   # or set `allow-restart: true`')}`,
  },
  {
    text: /(?:status|code|http)\D{0,12}(?:40[013489]|422)\b|\b40[134] (?:unauthorized|forbidden|not found)/i,
    code: 'service-refused',
    title: 'The AI service refused the request',
    outlook: 'unknown',
    fix: 'The message above is the response of the service, word for word. Right after a change it may still be settling: run again in some minutes.',
  },
]

/** The fix for a stored key that the extension prefers to the identity, and that the service refuses. */
export function clearStoredKey(at: Circumstances): string {
  const command = setSettingIn(at.database ?? 'DATABASE', at.keySetting ?? 'KEY-SETTING', '')
  return `${unlessSet(at, 'clear-keys', 'Run `mode: apply` with `clear-keys: true`, which keeps the key unless the queries pass without it. ')}To clear it by hand: ${command}`
}

/** The object id that a refusal names as the caller: ``The principal `ID` lacks the required data action``. */
export function principalIn(text: string): string | undefined {
  return /\bprincipal\W{1,3}([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b/i.exec(bounded(text))?.[1]
}
