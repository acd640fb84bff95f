/** What Entra says at sign-in. */
import type { Known } from '../message.ts'

export const entra: readonly Known[] = [
  {
    origin: 'entra',
    codes: ['AADSTS700211', 'AADSTS700212', 'AADSTS700213', 'AADSTS7002138', 'AADSTS70021', 'AADSTS70025'],
    reason: 'credentials',
    code: 'federation-mismatch',
    title: 'No federated credential of the app matches this workflow',
    cause: ({ text, code }, at) => {
      const [issuer, subject, audience] = [at.assertion?.issuer, at.assertion?.subject, at.assertion?.audience]
      const part =
        {
          AADSTS700211: 'the issuer',
          AADSTS700212: 'the audience',
          AADSTS700213: 'the subject',
          AADSTS7002138: 'the case of the letters',
        }[code] ?? 'something'
      return `The workflow presented issuer "${issuer}", subject "${subject}" and audience "${audience}"; ${part} is not what the app's federated credentials expect. ${text}`
    },
    fix: (_, at) => {
      const parameters = JSON.stringify({
        name: `github-${(at.assertion?.subject ?? 'workflow').replaceAll(/[^A-Za-z0-9-]+/g, '-').slice(0, 100)}`,
        issuer: at.assertion?.issuer ?? 'https://token.actions.githubusercontent.com',
        subject: at.assertion?.subject ?? 'SUBJECT',
        audiences: [at.assertion?.audience ?? 'api://AzureADTokenExchange'],
      })
      return `az ad app federated-credential create --id ${at.clientId ?? 'CLIENT-ID'} --parameters '${parameters.replaceAll("'", "'\\''")}'`
    },
  },
  {
    origin: 'entra',
    codes: ['AADSTS700016', 'AADSTS7000229'],
    reason: 'credentials',
    code: 'app-unknown',
    title: 'The tenant does not know the app',
    cause: ({ text }) => text,
    fix: (_, at) =>
      `Check \`client-id\` (Application (client) ID, not the object id) and \`tenant-id\`: az ad app show --id ${at.clientId ?? 'CLIENT-ID'} --query appId   # an app of the tenant without a service principal gets one: az ad sp create --id ${at.clientId ?? 'CLIENT-ID'}`,
  },
  {
    origin: 'entra',
    codes: ['AADSTS90002', 'AADSTS900021', 'AADSTS900023'],
    reason: 'credentials',
    code: 'tenant-unknown',
    title: 'The tenant does not exist in this cloud',
    cause: ({ text }) => text,
    fix: () => 'az account show --query tenantId --output tsv   # and check that `environment` names the right cloud',
  },
  {
    origin: 'entra',
    codes: ['AADSTS700024'],
    reason: 'credentials',
    code: 'assertion-expired',
    title: "The workflow's OIDC token had expired",
    cause: ({ text }) => text,
    fix: () => 'Run the job again; on a self-hosted runner check its clock (timedatectl).',
  },
  {
    origin: 'entra',
    codes: ['AADSTS7000215', 'AADSTS7000222'],
    reason: 'credentials',
    code: 'client-secret-refused',
    title: 'The client secret is wrong or expired',
    cause: ({ text }) => text,
    fix: (_, at) =>
      `Sign in without a secret: give \`tenant-id\` and \`client-id\` and a federated credential; or make a new secret: az ad app credential reset --id ${at.clientId ?? 'CLIENT-ID'}`,
  },
]
