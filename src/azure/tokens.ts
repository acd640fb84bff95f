/** Tokens by scope. Callers that ask at the same time share one request. */
export interface Tokens {
  /** @throws {Failure} `credentials` or `network` */
  get(scope: string): Promise<string>
  /** The token of this scope was refused: ask for a new one next time. */
  forget(scope: string): void
}
