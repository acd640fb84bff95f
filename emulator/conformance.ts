/** Whether the emulated Resource Manager speaks as Microsoft's OpenAPI files say. */
import { existsSync, readdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { LiveValidator } from 'oav'
import type { Exchange } from './world.ts'

/** Where the OpenAPI files are (a folder laid out like Azure/azure-rest-api-specs), or `undefined`: the check cannot run. */
export function specificationsFolder(): string | undefined {
  const folder = process.env['AZURE_SPECS'] ?? fileURLToPath(new URL('../../shared/specs', import.meta.url))
  return existsSync(folder) ? resolve(folder) : undefined
}

export interface Problem {
  exchange: Exchange
  /** `unknown-operation`, or a code of oav. */
  code: string
  message: string
}

export interface Conformance {
  /** Operation ids of the OpenAPI files that were met, with how often. */
  operations: Record<string, number>
  problems: Problem[]
}

/** Files of what Microsoft documents without one that is at hand. */
const ownFiles = fileURLToPath(new URL('openapi', import.meta.url))

/** Polling and the cloud's description are not in the OpenAPI files: they are conventions of Resource Manager itself. */
const outside = [/\/providers\/[^/]+\/locations\/[^/]+\/(azureAsyncOperation|operationResults)\//i, /^\/+metadata\/endpoints/i]

/**
 * Validates requests and answers of the Resource Manager plane with oav. Answers that `world.fault` produced are left out.
 * The record contains `(hidden)` for secrets, which is a valid string.
 */
export async function checkConformance(exchanges: Exchange[], folder?: string): Promise<Conformance> {
  // Some operations are in files of both kinds, and oav accepts no operation twice: each kind has a validator, and all must agree.
  const roots = folder === undefined ? [] : ['specification', 'generated'].map((kind) => join(folder, kind))
  const all = await Promise.all([ownFiles, ...roots].map(validatorOf))
  const operations: Record<string, number> = {}
  const problems: Problem[] = []
  for (const exchange of exchanges) {
    if (exchange.plane !== 'resource-manager' || exchange.status === 0) continue
    if (outside.some((pattern) => pattern.test(exchange.url))) continue
    // The double slash that some SDKs send is accepted by Resource Manager and unknown to oav.
    const url = new URL(exchange.url.replace(/^\/+/, '/'), 'https://management.azure.com')
    let known = false
    for (const validator of all) {
      const { requestValidationResult, responseValidationResult } = await validator.validateLiveRequestResponse({
        liveRequest: {
          method: exchange.method,
          url: url.href,
          headers: exchange.requestBody === undefined ? {} : { 'content-type': 'application/json' },
          query: Object.fromEntries(url.searchParams),
          body: structuredClone(exchange.requestBody) as Record<string, unknown>,
        },
        liveResponse: {
          statusCode: String(exchange.status),
          headers: { ...exchange.responseHeaders },
          body: structuredClone(exchange.responseBody) as Record<string, unknown>,
        },
      })
      if (requestValidationResult.runtimeException?.code.startsWith('OPERATION_NOT_FOUND')) continue
      if (!known) {
        const operation = requestValidationResult.operationInfo.operationId
        operations[operation] = (operations[operation] ?? 0) + 1
      }
      known = true
      for (const part of [requestValidationResult, responseValidationResult]) {
        if (part.runtimeException) problems.push({ exchange, ...part.runtimeException })
        for (const { code, message, pathsInPayload } of part.errors) {
          problems.push({ exchange, code, message: `${message} (${pathsInPayload.join(', ')})` })
        }
      }
    }
    if (!known) problems.push({ exchange, code: 'unknown-operation', message: 'No OpenAPI file has this operation.' })
  }
  return { operations, problems }
}

/** Reading the files takes seconds. */
const validators = new Map<string, Promise<LiveValidator>>()

function validatorOf(root: string): Promise<LiveValidator> {
  const known = validators.get(root) ?? makeValidator(root)
  validators.set(root, known)
  return known
}

async function makeValidator(root: string): Promise<LiveValidator> {
  const oav = await import('oav')
  const validator = new oav.LiveValidator(
    {
      fileRoot: root,
      directory: root,
      swaggerPaths: openApiFiles(root),
      swaggerPathsPattern: [],
      git: { shouldClone: false },
      isPathCaseSensitive: false,
      loadValidatorInBackground: false,
      loadValidatorInInitialize: false,
    },
    () => {},
  )
  await validator.initialize()
  return validator
}

/** Every file of an api-version; examples and shared types are read through them. */
function openApiFiles(root: string): string[] {
  if (!existsSync(root)) return []
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter(
      (entry) => entry.isFile() && entry.name.endsWith('.json') && /[\\/](stable|preview)[\\/][^\\/]+$/.test(entry.parentPath),
    )
    .map((entry) => join(entry.parentPath, entry.name))
}
