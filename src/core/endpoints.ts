/** Endpoints that are found in databases and that a token is not known to work with, named for what they are. Pure. */

/** What an endpoint is, as the end of a sentence; undefined for one of the known form. */
export function endpointKind(endpoint: string): string | undefined {
  if (!URL.canParse(endpoint)) return undefined
  const { hostname, pathname } = new URL(endpoint)
  if (/\.azure-api\.(?:net|us|cn)$/.test(hostname)) return 'the address of an API gateway'
  if (/^\/api\/projects\//.test(pathname)) return 'the endpoint of a Foundry project'
  if (/^\/models\/?$/.test(pathname)) return 'the model inference endpoint of a Foundry resource'
  if (/^\/openai\/?/.test(pathname)) return 'an endpoint with the path /openai/'
  if (/\.api\.cognitive\.(?:microsoft|azure)\.[a-z]+$/.test(hostname)) return 'a regional endpoint, which accepts keys only'
  if (/\.services\.ai\.azure\.[a-z]+$/.test(hostname)) return 'the endpoint of a Foundry resource'
  return undefined
}
