/** What azure_ai passes on of the AI services. */
import { bounded } from '../../lib/bounded.ts'
import { named } from '../az.ts'
import type { Known } from '../message.ts'

export const ai: readonly Known[] = [
  {
    origin: 'ai',
    text: /lacks the required data action|PermissionDenied|Principal does not have access to API|You don't have permission to do the requested action/i,
    reason: 'verification',
    code: 'role-not-effective',
    title: 'The service does not accept the identity (yet)',
    outlook: 'propagating',
    cause: ({ text }) => `The identity got a token, and the service refused it: ${text}`,
    fix: (_, at) =>
      `Role assignments can take 10 minutes and more: raise \`verify-timeout-minutes\`${at.verifyMinutes === undefined ? '' : ` (now ${at.verifyMinutes})`} and run again. To look: az role assignment list --scope "${at.resource ?? 'RESOURCE-ID'}" --include-inherited --output table`,
  },
  {
    origin: 'ai',
    text: /Access token is missing, invalid, audience is incorrect/i,
    reason: 'verification',
    code: 'token-not-accepted',
    title: "The service does not accept the identity's token",
    outlook: 'propagating',
    cause: ({ text }) => text,
    fix: () => 'Run again in a few minutes; if it stays, the resource belongs to another tenant or cloud than the server.',
  },
  {
    origin: 'ai',
    text: /custom subdomain/i,
    reason: 'verification',
    code: 'custom-subdomain',
    title: 'The account has no custom subdomain',
    outlook: 'final',
    cause: ({ text }) => text,
    fix: (_, at) => `az cognitiveservices account update ${named(at.resource)} --custom-domain NAME`,
  },
  {
    origin: 'ai',
    text: /Subdomain does not map to a resource/i,
    reason: 'verification',
    code: 'subdomain-unknown',
    title: 'The endpoint leads to no resource',
    outlook: 'propagating',
    cause: ({ text }) => text,
    fix: () =>
      'A custom subdomain made minutes ago needs a moment: run again. Else compare the endpoint with the resource: Keys and Endpoint in the portal.',
  },
  {
    origin: 'ai',
    text: /AuthenticationTypeDisabled|Key based authentication is disabled/i,
    reason: 'verification',
    code: 'key-login-disabled',
    title: 'The query was answered with a key although key login is off',
    outlook: 'final',
    cause: ({ text }, at) =>
      `${at.byKey === true ? 'The account refuses keys' : 'The extension sent a key, not a token'}: ${text}`,
    fix: (_, at) =>
      at.byKey === true
        ? `az resource update --ids "${at.resource ?? 'RESOURCE-ID'}" --set properties.disableLocalAuth=false   # or stay with the managed identity`
        : "Clear the stored key and run again: SELECT azure_ai.set_setting('KEY-SETTING', '');",
  },
  {
    origin: 'ai',
    text: /Virtual Network\/Firewall rules/i,
    reason: 'verification',
    code: 'ai-firewall',
    title: "The AI resource's firewall keeps the server out",
    outlook: 'final',
    cause: ({ text }) => text,
    fix: (_, at) =>
      `Allow the server's outbound address or its subnet at the AI resource ("trusted Azure services" does not include PostgreSQL): az cognitiveservices account network-rule add ${named(at.resource)} --subnet SUBNET-ID`,
  },
  {
    origin: 'ai',
    text: /Public access is disabled/i,
    reason: 'verification',
    code: 'ai-private',
    title: 'The AI resource is reachable by private endpoint only',
    outlook: 'final',
    cause: ({ text }) => text,
    fix: () =>
      "Give the AI resource a private endpoint in the server's virtual network, with its private DNS zone linked to it; or allow public access from the server.",
  },
  {
    origin: 'ai',
    text: /DeploymentNotFound|API deployment for this resource does not exist/i,
    reason: 'verification',
    code: 'deployment-not-found',
    title: 'The deployment does not exist',
    outlook: 'final',
    cause: ({ text }, at) => `Deployment "${at.deployment ?? ''}": ${text}`,
    fix: (_, at) =>
      `az cognitiveservices account deployment list ${named(at.resource)} --query "[].name"   # then give one as \`embedding-deployment\``,
  },
  {
    origin: 'ai',
    text: /OperationNotSupported|does not work with the specified model/i,
    // The service writes the text, and the extension the status in front of it.
    status: [400],
    reason: 'verification',
    code: 'operation-not-supported',
    title: 'The model does not embed: access is granted',
    outlook: 'proves-access',
    cause: ({ text }) => text,
    fix: () => 'Nothing to do; name an embedding deployment as `embedding-deployment` to see a real embedding.',
  },
  {
    origin: 'ai',
    text: /unsupported_value|Unsupported value: '\w{1,40}'|Unsupported parameter/i,
    // The service reads the parameters of a request only after it has let its caller in.
    status: [400],
    reason: 'verification',
    code: 'parameter-not-supported',
    title: 'The model does not take a parameter that azure_ai sends: access is granted',
    outlook: 'proves-access',
    cause: ({ text }) => text,
    fix: () => 'Nothing to do; name another deployment as `chat-deployment` to see a real reply.',
  },
  {
    origin: 'ai',
    text: /\b(?:has been|is|was) retired\b|OperationRetired|no longer (?:available|supported)/i,
    // The service has moved on, or the address is gone; nothing else of these may be taken for it.
    status: [400, 404, 410],
    reason: 'verification',
    code: 'function-retired',
    title: 'The service has retired the function of the test query',
    outlook: 'retired',
    cause: ({ text }) => text,
    fix: () => 'Update azure_ai (`update-extension: true`), and look at what your own queries call: they meet the same refusal.',
  },
  {
    origin: 'ai',
    text: /invalid subscription key/i,
    reason: 'verification',
    code: 'key-refused',
    title: 'The service refused a key',
    outlook: 'final',
    cause: ({ text }, at) =>
      `${at.byKey === true ? 'The key or the endpoint is wrong' : 'The extension sent a key, not a token'}: ${text}`,
    fix: (_, at) =>
      at.byKey === true
        ? 'Give the right key, or leave the key input out: it is then read from the resource.'
        : 'Clear the stored key and run again (`clear-keys: true` once the identity is verified): the extension prefers it to the identity.',
  },
  {
    origin: 'ai',
    text: /(?:status|code|http)\D{0,12}429\b|too many requests|rate limit/i,
    status: [429],
    wrapped: 429,
    reason: 'verification',
    code: 'throttled',
    title: 'The service is throttling: access is granted, capacity is not',
    outlook: 'throttled',
    cause: ({ text }) => text,
    fix: () => 'Run again later, or raise the capacity of the deployment.',
  },
  {
    origin: 'ai',
    text: /(?:fail|unable|could not|cannot).{0,60}(?:get|acquir|obtain|fetch|request).{0,40}token|identity not found|managed identity.{0,20}not (?:found|available|enabled)|IMDS|169\.254\.169\.254/i,
    reason: 'verification',
    code: 'no-token',
    title: "The server's identity gives no token yet",
    outlook: 'no-token',
    cause: ({ text }) => text,
    fix: (_, at) =>
      `A newly enabled identity needs a restart of the server, then two or three minutes: az postgres flexible-server restart --resource-group ${at.resourceGroup ?? 'GROUP'} --name ${at.server ?? 'SERVER'}${at.mayRestart === true ? '' : '   # or set `allow-restart: true`'}`,
  },
  {
    origin: 'ai',
    text: /(?:status|code|http)\D{0,12}(?:40[013489]|422)\b|\b40[134] (?:unauthorized|forbidden|not found)/i,
    reason: 'verification',
    code: 'service-refused',
    title: 'The AI service refused the request',
    outlook: 'unknown',
    cause: ({ text }) => text,
    fix: () =>
      'The message above is what the service said, word for word. Right after a change it may still be settling: run again in some minutes.',
  },
]

/** The object id that a refusal names as the caller: ``The principal `ID` lacks the required data action``. */
export function principalIn(text: string): string | undefined {
  return /\bprincipal\W{1,3}([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b/i.exec(bounded(text))?.[1]
}
