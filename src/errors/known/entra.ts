/** Errors of Entra at sign-in. */
import { quotedForShell } from '../az.ts'
import type { Known } from '../message.ts'

export const entra: readonly Known[] = [
  {
    codes: ['AADSTS700211', 'AADSTS700212', 'AADSTS700213', 'AADSTS7002138', 'AADSTS70021', 'AADSTS70025'],
    code: 'federation-mismatch',
    title: 'No federated credential of the app matches this workflow',
    cause: ({ text, code }, at) => {
      const { issuer, subject, audience } = at.assertion ?? {}
      const part =
        {
          AADSTS700211: 'the issuer',
          AADSTS700212: 'the audience',
          AADSTS700213: 'the subject',
          AADSTS7002138: 'the case of the letters',
        }[code] ?? 'something'
      return `The workflow presented issuer "${issuer}", subject "${subject}" and audience "${audience}"; ${part} is not what the app's federated credentials expect. ${text}`
    },
    fix: (_, { assertion, clientId = 'CLIENT-ID' }) => {
      const parameters = JSON.stringify({
        name: `github-${(assertion?.subject ?? 'workflow').replaceAll(/[^A-Za-z0-9-]+/g, '-').slice(0, 100)}`,
        issuer: assertion?.issuer ?? 'https://token.actions.githubusercontent.com',
        subject: assertion?.subject ?? 'SUBJECT',
        audiences: [assertion?.audience ?? 'api://AzureADTokenExchange'],
      })
      return `az ad app federated-credential create --id ${clientId} --parameters ${quotedForShell(parameters)}`
    },
  },
  {
    codes: ['AADSTS700016', 'AADSTS7000229'],
    code: 'app-unknown',
    title: 'The tenant does not know the app',
    fix: (_, { clientId = 'CLIENT-ID' }) =>
      `Check \`client-id\` (Application (client) ID, not the object id) and \`tenant-id\`: az ad app show --id ${clientId} --query appId   # an app of the tenant without a service principal gets one: az ad sp create --id ${clientId}`,
  },
  {
    codes: ['AADSTS90002', 'AADSTS900021', 'AADSTS900023'],
    code: 'tenant-unknown',
    title: 'The tenant does not exist in this cloud',
    fix: 'az account show --query tenantId --output tsv   # and check that `environment` names the right cloud',
  },
  {
    codes: ['AADSTS700024'],
    code: 'assertion-expired',
    title: "The workflow's OIDC token had expired",
    fix: 'Run the job again; on a self-hosted runner check its clock (timedatectl).',
  },
  {
    codes: ['AADSTS7000215', 'AADSTS7000222'],
    code: 'client-secret-refused',
    title: 'The client secret is wrong or expired',
    fix: (_, { clientId = 'CLIENT-ID' }) =>
      `Sign in without a secret: set \`tenant-id\` and \`client-id\` and make a federated credential; or make a new secret: az ad app credential reset --id ${clientId}`,
  },
]
