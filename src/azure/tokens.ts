/** Tokens by scope. Callers that come at the same time share one request. */
export interface Tokens {
  /** @throws {Failure} `credentials` or `network` */
  get(scope: string): Promise<string>
  /** The token of this scope was refused: request a new one next time. */
  forget(scope: string): void
}
