/** The data planes that azure_ai calls: Azure OpenAI, Language, Translator, and Machine Learning's online and serverless endpoints, found by host. */
import { base64, dimensionsOf, embeddingOf, labelOf, sentimentOf, targets, translateText, wordsOf } from './ai-models.ts'
import { mayActAtService, mayUseData } from './authorization.ts'
import { cognitiveAudience, type Entra, machineLearningAudience, TokenError } from './entra.ts'
import { bearer, failure, type Handler, HttpError, type Reply, type Request, sleep } from './http.ts'
import { sameId } from './provider.ts'
import type { Account, Deployment, OnlineEndpoint, ServerlessEndpoint, World } from './world.ts'

const globalTranslator = 'api.cognitive.microsofttranslator.com'

/** Whether requests for this host are for the AI services. */
export function isServiceHost(host: string): boolean {
  return (
    /\.(openai\.azure\.com|cognitiveservices\.azure\.com|services\.ai\.azure\.com|inference\.ml\.azure\.com|models\.ai\.azure\.com|api\.cognitive\.microsoft\.com|azure-api\.net)$/.test(
      host,
    ) || host === globalTranslator
  )
}

/** Names for the server certificate, so that every host of the services is reachable over TLS. */
export function serviceNames(world: World): string[] {
  const regions = new Set(
    [
      ...world.accounts,
      ...world.workspaces.flatMap(({ onlineEndpoints, serverlessEndpoints = [] }) => [
        ...onlineEndpoints,
        ...serverlessEndpoints,
      ]),
    ].map((one) => one.location),
  )
  return [
    '*.openai.azure.com',
    '*.cognitiveservices.azure.com',
    '*.services.ai.azure.com',
    '*.api.cognitive.microsoft.com',
    '*.azure-api.net',
    globalTranslator,
    ...[...regions].flatMap((region) => [`*.${region}.inference.ml.azure.com`, `*.${region}.models.ai.azure.com`]),
  ]
}

export function createServices(world: World, entra: Entra): Handler {
  return async (request) => {
    if (world.delays.inference > 0) await sleep(world.delays.inference)
    try {
      if (request.host.endsWith('.inference.ml.azure.com')) return await score(world, entra, request)
      if (request.host.endsWith('.models.ai.azure.com')) return await rank(world, entra, request)
      if (request.host.endsWith('.azure-api.net')) throw gatewayRefusal()
      return await cognitive(world, entra, request)
    } catch (error) {
      if (!(error instanceof HttpError) || !world.switches.unfamiliarTexts) throw error
      // Status and caller stay, but the whole text is replaced.
      const strange = { error: { code: 'X-4417', message: 'Request was turned away by an upstream component (ref 9c2e-07).' } }
      return { ...error.reply, body: strange }
    }
  }
}

type Family = 'openai' | 'language' | 'translator'

interface Operation {
  family: Family
  /** Full data action. */
  action: string
  /** Its name in a refusal of the services. */
  name: string
  run(account: Account): Reply
}

async function cognitive(world: World, entra: Entra, request: Request): Promise<Reply> {
  const host = accountByHost(world, request)
  const operation = operationOf(world, request)
  const translator = operation.family === 'translator' ? translatorOf(world, request, host) : undefined
  // The account that the caller must have rights on: the Translator, also when another account's host is used to reach it.
  const account = translator ?? host
  for (const passed of new Set([host, account])) {
    if (passed.publicNetworkAccess === 'Disabled') {
      throw failure(403, '403', 'Public access is disabled. Please configure private endpoint.')
    }
    if (passed.networkAcls?.defaultAction === 'Deny') {
      throw failure(403, '403', 'Access denied due to Virtual Network/Firewall rules.')
    }
  }
  const caller = await authenticateAccount(world, entra, request, host, account, operation)
  const named = caller === undefined ? {} : { caller }
  try {
    if (!serves(account, operation.family)) throw failure(404, '404', 'Resource not found')
    return { ...named, ...operation.run(account) }
  } catch (error) {
    if (error instanceof HttpError) throw new HttpError({ ...named, ...error.reply })
    throw error
  }
}

function accountByHost(world: World, request: Request): Account {
  const [subdomain = '', ...rest] = request.host.split('.')
  const domain = rest.join('.')
  const shared = domain === 'api.cognitive.microsoft.com' || request.host === globalTranslator
  if (shared) {
    if (bearer(request) !== undefined) {
      throw failure(
        400,
        'BadRequest',
        'Please provide a custom subdomain for token authentication, otherwise API key is required.',
      )
    }
    const key = keyOf(request)
    const region = request.host === globalTranslator ? String(request.headers['ocp-apim-subscription-region'] ?? '') : subdomain
    const found = world.accounts.find(
      (account) => key !== undefined && Object.values(account.keys).includes(key) && sameId(account.location, region),
    )
    if (!found) throw wrongKey()
    return found
  }
  const kinds: Record<string, string[] | undefined> = {
    'openai.azure.com': ['OpenAI', 'AIServices'],
    'services.ai.azure.com': ['AIServices'],
  }
  const found = world.accounts.find(
    (account) =>
      account.customSubDomainName !== undefined &&
      sameId(account.customSubDomainName, subdomain) &&
      (kinds[domain]?.includes(account.kind) ?? true),
  )
  if (!found) throw failure(404, 'ResourceNotFound', 'Subdomain does not map to a resource.')
  return found
}

/** The Translator that a request means: named in a header, or the host itself. */
function translatorOf(world: World, request: Request, host: Account): Account | undefined {
  const named = request.headers['ocp-apim-resourceid']
  // A key belongs to the account that it is sent to.
  if (typeof named !== 'string' || named === '' || keyOf(request) !== undefined) return undefined
  const found = world.accounts.find((account) => sameId(account.id, named))
  if (!found || !serves(found, 'translator')) {
    throw translatorFailure(401, 401000, 'The request is not authorized because credentials are missing or invalid.')
  }
  if (found !== host && world.switches.translateOwnEndpoint) throw failure(404, '404', 'Resource not found')
  return found
}

function serves(account: Account, family: Family): boolean {
  const kinds: Record<Family, string[]> = {
    openai: ['OpenAI', 'AIServices'],
    language: ['TextAnalytics', 'CognitiveServices', 'AIServices'],
    translator: ['TextTranslation', 'CognitiveServices', 'AIServices'],
  }
  return kinds[family].includes(account.kind)
}

/** Object id of the caller when it came with a token. Throws the error of the services when the caller may not. */
async function authenticateAccount(
  world: World,
  entra: Entra,
  request: Request,
  host: Account,
  account: Account,
  operation: Operation,
): Promise<string | undefined> {
  const key = keyOf(request)
  if (key !== undefined) {
    if (host.disableLocalAuth) {
      throw failure(403, 'AuthenticationTypeDisabled', 'Key based authentication is disabled for this resource.')
    }
    if (!Object.values(host.keys).includes(key)) throw wrongKey()
    if (
      operation.family === 'translator' &&
      !sameId(String(request.headers['ocp-apim-subscription-region'] ?? ''), host.location)
    ) {
      throw translatorFailure(401, 401000, 'The request is not authorized because credentials are missing or invalid.')
    }
    return undefined
  }
  let objectId: string
  try {
    objectId = (await entra.verify(bearer(request), [cognitiveAudience])).oid
  } catch (error) {
    if (!(error instanceof TokenError)) throw error
    throw failure(
      401,
      '401',
      'Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or have expired.',
    )
  }
  if (!mayUseData(world, objectId, operation.action, account.id)) {
    const text =
      operation.family === 'openai'
        ? `The principal \`${objectId}\` lacks the required data action \`${operation.action}\` to perform \`${operation.name}\` operation.`
        : 'Principal does not have access to API/Operation.'
    throw new HttpError({ status: 401, caller: objectId, body: { error: { code: 'PermissionDenied', message: text } } })
  }
  return objectId
}

/** API Management in front of a service requires a key of its own, which is not emulated. */
function gatewayRefusal(): HttpError {
  const message =
    'Access denied due to missing subscription key. Make sure to include subscription key when making requests to an API.'
  return new HttpError({ status: 401, body: { statusCode: 401, message } })
}

function keyOf(request: Request): string | undefined {
  const key = request.headers['api-key'] ?? request.headers['ocp-apim-subscription-key']
  return typeof key === 'string' && key !== '' ? key : undefined
}

function wrongKey(): HttpError {
  return failure(
    401,
    '401',
    'Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource.',
  )
}

/** Translator numbers its errors. */
function translatorFailure(status: number, code: number, message: string): HttpError {
  return new HttpError({ status, body: { error: { code, message } } })
}

function operationOf(world: World, request: Request): Operation {
  const path = request.url.pathname
  const embeddings = /^\/openai\/deployments\/([^/]+)\/embeddings$/.exec(path)?.[1]
  if (embeddings !== undefined) {
    return {
      family: 'openai',
      action: 'Microsoft.CognitiveServices/accounts/OpenAI/deployments/embeddings/action',
      name: 'POST /openai/deployments/{deployment-id}/embeddings',
      run: (account) => embed(world, account, decodeURIComponent(embeddings), request),
    }
  }
  const chat = /^\/openai\/deployments\/([^/]+)\/chat\/completions$/.exec(path)?.[1]
  if (chat !== undefined) {
    return {
      family: 'openai',
      action: 'Microsoft.CognitiveServices/accounts/OpenAI/deployments/chat/completions/action',
      name: 'POST /openai/deployments/{deployment-id}/chat/completions',
      run: (account) => complete(deployed(world, account, decodeURIComponent(chat)), request),
    }
  }
  if (path === '/language/:analyze-text') {
    return {
      family: 'language',
      action: 'Microsoft.CognitiveServices/accounts/Language/analyze-text/action',
      name: 'POST /language/:analyze-text',
      run: () => analyze(world, request),
    }
  }
  if (path === '/translator/text/v3.0/translate' || (request.host === globalTranslator && path === '/translate')) {
    return {
      family: 'translator',
      action: 'Microsoft.CognitiveServices/accounts/TextTranslation/translate/action',
      name: 'POST /translate',
      run: () => translate(request),
    }
  }
  throw failure(404, '404', 'Resource not found')
}

// Azure OpenAI

function deployed(world: World, account: Account, deploymentName: string): Deployment {
  const deployment = account.deployments.find(({ name }) => sameId(name, deploymentName))
  if (!deployment || Date.now() - (deployment.createdAt ?? 0) < world.delays.deploymentPropagation) {
    throw failure(
      404,
      'DeploymentNotFound',
      'The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again.',
    )
  }
  return deployment
}

/** A model that is not for chat is refused; gpt-5 accepts only its default temperature. */
function complete(deployment: Deployment, request: Request): Reply {
  const model = deployment.model.name
  const isChat = /^(?:gpt|o\d)/.test(model)
  if (!isChat) {
    throw failure(
      400,
      'OperationNotSupported',
      `The chatCompletion operation does not work with the specified model, ${model}. Please choose different model and try again. You can learn more about which models can be used with each operation here: https://go.microsoft.com/fwlink/?linkid=2197993.`,
    )
  }
  const { messages, temperature, response_format: format } = objectOf(request.body)
  if (!Array.isArray(messages) || messages.length === 0) throw failure(400, 'BadRequest', "[] is too short - 'messages'")
  if (/^gpt-5/.test(model) && temperature !== undefined && temperature !== 1) {
    throw failure(
      400,
      'unsupported_value',
      `Unsupported value: 'temperature' does not support ${String(temperature)} with this model. Only the default (1) value is supported.`,
    )
  }
  const prompt = String(objectOf(messages.at(-1)).content ?? '')
  const content = format === undefined ? 'Hello' : JSON.stringify(madeUp(objectOf(objectOf(format).json_schema).schema))
  const tokens = { prompt_tokens: wordsOf(prompt).length, completion_tokens: 1, total_tokens: wordsOf(prompt).length + 1 }
  const choice = { index: 0, finish_reason: 'stop', message: { role: 'assistant', content } }
  return { status: 200, body: { object: 'chat.completion', model, choices: [choice], usage: tokens } }
}

/** A value of a JSON schema. */
function madeUp(schema: unknown): unknown {
  const { type, properties } = objectOf(schema)
  if (type === 'object')
    return Object.fromEntries(Object.entries(objectOf(properties)).map(([name, part]) => [name, madeUp(part)]))
  if (type === 'array') return []
  if (type === 'boolean') return true
  return type === 'number' || type === 'integer' ? 1 : 'Hello'
}

function embed(world: World, account: Account, deploymentName: string, request: Request): Reply {
  const deployment = deployed(world, account, deploymentName)
  const model = deployment.model.name
  const full = dimensionsOf[model]
  if (full === undefined) {
    throw failure(
      400,
      'OperationNotSupported',
      `The embeddings operation does not work with the specified model, ${model}. Please choose different model and try again. You can learn more about which models can be used with each operation here: https://go.microsoft.com/fwlink/?linkid=2197993.`,
    )
  }
  const body = objectOf(request.body)
  const inputs = [body.input].flat()
  if (inputs.length === 0 || !inputs.every((input) => typeof input === 'string' && input !== '')) {
    throw failure(
      400,
      'BadRequest',
      "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference.",
    )
  }
  const wanted = body.dimensions
  if (wanted !== undefined && model === 'text-embedding-ada-002') {
    throw failure(400, 'BadRequest', 'This model does not support specifying dimensions.')
  }
  if (wanted !== undefined && !(Number.isInteger(wanted) && Number(wanted) >= 1 && Number(wanted) <= full)) {
    throw failure(400, 'BadRequest', `Invalid value for 'dimensions' = ${String(wanted)}. Must be between 1 and ${full}.`)
  }
  const length = wanted === undefined ? full : Number(wanted)
  const texts = inputs as string[]
  const tokens = texts.reduce((sum, text) => sum + wordsOf(text).length, 0)
  return {
    status: 200,
    body: {
      object: 'list',
      data: texts.map((text, index) => ({
        object: 'embedding',
        index,
        embedding: body.encoding_format === 'base64' ? base64(embeddingOf(text, length)) : embeddingOf(text, length),
      })),
      model,
      usage: { prompt_tokens: tokens, total_tokens: tokens },
    },
  }
}

// Language

function analyze(world: World, request: Request): Reply {
  const body = objectOf(request.body)
  const documents = objectOf(body.analysisInput).documents
  const known = ['SentimentAnalysis', 'LanguageDetection'].includes(String(body.kind))
  if (!known || !Array.isArray(documents) || documents.length === 0) {
    throw failure(400, 'InvalidRequest', 'Invalid Request.')
  }
  if (body.kind === 'LanguageDetection') return detect(documents.map(objectOf))
  if (world.switches.sentimentRetired) {
    throw failure(410, 'OperationRetired', 'The operation SentimentAnalysis has been retired and is no longer available.')
  }
  const errors: unknown[] = []
  const results: unknown[] = []
  for (const item of documents.map(objectOf)) {
    const text = typeof item.text === 'string' ? item.text : ''
    if (text.trim() === '') {
      const innererror = { code: 'InvalidDocument', message: 'Document text is empty.' }
      errors.push({ id: item.id, error: { code: 'InvalidArgument', message: 'Invalid document in request.', innererror } })
      continue
    }
    const sentences = text.match(/[^.!?]+[.!?]*\s*/g) ?? [text]
    let offset = 0
    const scored = sentences.map((sentence) => {
      const scores = sentimentOf(sentence)
      const result = {
        sentiment: labelOf(scores),
        confidenceScores: scores,
        offset,
        length: sentence.trimEnd().length,
        text: sentence.trim(),
      }
      offset += sentence.length
      return result
    })
    const labels = new Set(scored.map(({ sentiment }) => sentiment))
    const overall = sentimentOf(text)
    results.push({
      id: item.id,
      sentiment: labels.has('positive') && labels.has('negative') ? 'mixed' : labelOf(overall),
      confidenceScores: overall,
      sentences: scored,
      warnings: [],
    })
  }
  return {
    status: 200,
    body: { kind: 'SentimentAnalysisResults', results: { documents: results, errors, modelVersion: '2022-11-01' } },
  }
}

/** Every text is English here, as it is in the service's own examples. */
function detect(documents: Record<string, unknown>[]): Reply {
  const detectedLanguage = { name: 'English', iso6391Name: 'en', confidenceScore: 0.99 }
  const found = documents.map(({ id }) => ({ id, detectedLanguage, warnings: [] }))
  return {
    status: 200,
    body: { kind: 'LanguageDetectionResults', results: { documents: found, errors: [], modelVersion: '2023-12-01' } },
  }
}

// Translator

function translate(request: Request): Reply {
  const query = request.url.searchParams
  if (query.get('api-version') !== '3.0') {
    throw translatorFailure(400, 400021, 'The API version parameter is missing or invalid.')
  }
  const languages = query.getAll('to').flatMap((to) => to.split(','))
  if (languages.length === 0 || languages.includes('')) {
    throw translatorFailure(400, 400036, 'The target language is not valid.')
  }
  for (const language of languages) {
    if (language !== 'en' && !targets.includes(language)) {
      throw translatorFailure(400, 400036, 'The target language is not valid.')
    }
  }
  if (!Array.isArray(request.body) || request.body.length === 0) {
    throw translatorFailure(400, 400074, 'The body of the request is not valid JSON.')
  }
  const from = query.get('from')
  const results = request.body.map((item) => {
    const entry = objectOf(item)
    const text = String(entry.Text ?? entry.text ?? '')
    return {
      ...(from === null ? { detectedLanguage: { language: 'en', score: 1 } } : {}),
      translations: languages.map((to) => ({ text: translateText(text, to), to })),
    }
  })
  return { status: 200, body: results }
}

// Machine Learning

async function score(world: World, entra: Entra, request: Request): Promise<Reply> {
  const endpoint = world.workspaces
    .flatMap(({ onlineEndpoints }) => onlineEndpoints)
    .find(({ scoringUri }) => new URL(scoringUri).host.toLowerCase() === request.host)
  if (!endpoint || request.url.pathname !== new URL(endpoint.scoringUri).pathname) {
    throw failure(404, 'NotFound', 'The endpoint was not found.')
  }
  const caller = await authenticateEndpoint(world, entra, request, endpoint)
  const named = caller === undefined ? {} : { caller }
  const deployment = request.headers['azureml-model-deployment']
  const unknown = typeof deployment === 'string' && !(deployment in endpoint.traffic)
  const share = Object.values(endpoint.traffic).reduce((sum, part) => sum + part, 0)
  if (unknown || (deployment === undefined && share === 0)) {
    throw failure(
      404,
      'NotFound',
      'Specified deployment could not be found, or the endpoint has no valid deployment with a positive traffic weight.',
    )
  }
  const rows = rowsOf(request.body)
  if (rows === undefined) {
    return {
      ...named,
      status: 424,
      body: { error: { code: 'ModelError', message: 'The input has no rows of numbers ("data").' } },
    }
  }
  return { ...named, status: 200, body: rows.map((row) => Math.round(row.reduce((sum, value) => sum + value, 0) * 1e6) / 1e6) }
}

/** Ranks by the words that a document shares with the query. */
async function rank(world: World, entra: Entra, request: Request): Promise<Reply> {
  const endpoint = world.workspaces
    .flatMap(({ serverlessEndpoints = [] }) => serverlessEndpoints)
    .find(({ uri }) => new URL(uri).host.toLowerCase() === request.host)
  if (!endpoint) throw failure(404, 'NotFound', 'The endpoint was not found.')
  const caller = await authenticateServerless(world, entra, request, endpoint)
  const named = caller === undefined ? {} : { caller }
  if (!(endpoint.paths ?? ['/v1/rerank', '/v2/rerank']).includes(request.url.pathname))
    throw new HttpError({ ...named, status: 404, body: { error: { code: 'NotFound', message: 'Not Found' } } })
  const { query, documents } = objectOf(request.body)
  if (typeof query !== 'string' || !Array.isArray(documents) || documents.length === 0)
    return { ...named, status: 400, body: { message: 'invalid request: query and documents are required' } }
  const wanted = new Set(wordsOf(query))
  const results = documents
    .map((document, index) => {
      const words = wordsOf(String(document))
      const shared = words.filter((word) => wanted.has(word)).length
      return { index, relevance_score: Math.round((1e3 * (shared + 0.01)) / (words.length + 1)) / 1e3 }
    })
    .sort((a, b) => b.relevance_score - a.relevance_score || a.index - b.index)
  return { ...named, status: 200, body: { id: 'rerank', results, meta: { api_version: { version: '2' } } } }
}

/** Accepts its key, a token, or either, depending on its mode. */
async function authenticateServerless(
  world: World,
  entra: Entra,
  request: Request,
  endpoint: ServerlessEndpoint,
): Promise<string | undefined> {
  const denied = (): HttpError =>
    failure(401, 'Unauthorized', 'Access denied due to invalid credentials. Provide a valid key or token for this endpoint.')
  const isKey = Object.values(endpoint.keys).includes(bearer(request) ?? '')
  if (isKey && endpoint.authMode !== 'AAD') return undefined
  if (endpoint.authMode === 'Key') throw denied()
  // The action that the service requires is not documented; the role that is documented for it has all of them.
  const action = 'Microsoft.MachineLearningServices/workspaces/serverlessEndpoints/invoke/action'
  return byToken(world, entra, request, { endpoint: endpoint.id, action, denied })
}

async function authenticateEndpoint(
  world: World,
  entra: Entra,
  request: Request,
  endpoint: OnlineEndpoint,
): Promise<string | undefined> {
  const denied = (): HttpError =>
    failure(
      401,
      'Unauthorized',
      "You don't have permission to do the requested action, such as score, or your token is expired or in the wrong format.",
    )
  if (endpoint.authMode === 'Key') {
    if (!Object.values(endpoint.keys).includes(bearer(request) ?? '')) throw denied()
    return undefined
  }
  // The emulator issues no tokens of the endpoint's own (AMLToken).
  if (endpoint.authMode === 'AMLToken') throw denied()
  const action = 'Microsoft.MachineLearningServices/workspaces/onlineEndpoints/score/action'
  return byToken(world, entra, request, { endpoint: endpoint.id, action, denied })
}

interface RequiredAction {
  readonly endpoint: string
  readonly action: string
  readonly denied: () => HttpError
}

/** The object id of a caller whose token and role let it act at an endpoint of Machine Learning. */
async function byToken(
  world: World,
  entra: Entra,
  request: Request,
  { endpoint, action, denied }: RequiredAction,
): Promise<string> {
  let objectId: string
  try {
    objectId = (await entra.verify(bearer(request), [machineLearningAudience])).oid
  } catch (error) {
    if (error instanceof TokenError) throw denied()
    throw error
  }
  if (!mayActAtService(world, objectId, action, endpoint)) throw new HttpError({ ...denied().reply, caller: objectId })
  return objectId
}

/** The model's rows, from any of the usual shapes: `{input_data: {data: [[..]]}}`, `{data: [[..]]}`, `[[..]]`. */
function rowsOf(body: unknown): number[][] | undefined {
  if (Array.isArray(body)) {
    const rows = body.every((item) => typeof item === 'number') ? [body] : body
    const good = rows.length > 0 && rows.every((row) => Array.isArray(row) && row.every((value) => Number.isFinite(value)))
    return good ? (rows as number[][]) : undefined
  }
  const fields = objectOf(body)
  for (const name of ['input_data', 'data', 'inputs']) if (name in fields) return rowsOf(fields[name])
  return undefined
}

function objectOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
}
