/** GitHub's OIDC endpoint for workflow jobs. */
import { randomUUID } from 'node:crypto'
import { type CryptoKey, SignJWT } from 'jose'
import { bearer, type Handler } from './http.ts'
import { signingKey } from './shared.ts'
import type { World } from './world.ts'

export interface GitHub {
  handle: Handler
  /** What Entra trusts for the issuer `world.github.issuer`. */
  publicKey: CryptoKey
}

/** `requestToken` is what the runner gives a job as ACTIONS_ID_TOKEN_REQUEST_TOKEN. */
export async function createGitHub(world: World, requestToken: string): Promise<GitHub> {
  const { publicKey, privateKey } = await signingKey('github')
  const keyId = randomUUID()

  const handle: Handler = async (request) => {
    if (request.method !== 'GET' || request.url.pathname !== '/github/oidc') {
      return { status: 404, body: { message: 'Not Found' } }
    }
    if (bearer(request) !== requestToken) return { status: 401, body: { message: 'Bad credentials' } }
    const { issuer, subject, repository } = world.github
    const owner = repository.split('/')[0] ?? repository
    // The subject may be of any form; the branch is only known when it names one.
    const ref = /:ref:(.+)$/.exec(subject)?.[1] ?? 'refs/heads/main'
    const workflow = `${repository}/.github/workflows/deploy.yml@${ref}`
    const value = await new SignJWT({
      repository,
      repository_owner: owner,
      repository_id: '712345678',
      repository_owner_id: '1234567',
      repository_visibility: 'private',
      ref,
      ref_type: 'branch',
      ref_protected: 'true',
      sha: '7f0c3a1d5be94a2c8e6f01b2d3c4e5f601728394',
      actor: 'octocat',
      actor_id: '583231',
      event_name: 'push',
      workflow: 'Deploy',
      workflow_ref: workflow,
      job_workflow_ref: workflow,
      run_id: '16000000001',
      run_number: '42',
      run_attempt: '1',
      runner_environment: 'github-hosted',
    })
      .setProtectedHeader({ alg: 'RS256', typ: 'JWT', kid: keyId })
      .setIssuer(issuer)
      .setSubject(subject)
      .setAudience(request.url.searchParams.get('audience') ?? `https://github.com/${owner}`)
      .setJti(randomUUID())
      .setIssuedAt()
      .setNotBefore('-10m')
      .setExpirationTime(Math.floor((Date.now() + (world.github.tokenLifetime ?? 300_000)) / 1_000))
      .sign(privateKey)
    return { status: 200, body: { count: value.length, value } }
  }

  return { handle, publicKey }
}
