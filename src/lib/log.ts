/** What the core may say while it works; the runner's way of saying it is in github/. */
export interface Log {
  debug(text: string): void
  info(text: string): void
  /** As `info`, for what the run ended in: it is printed however much was printed before. */
  result(text: string): void
  /** From now on the value is masked wherever the runner prints. Called before anything else sees the value. */
  secret(value: string): void
  /** Phases: lines said inside are folded under the title. */
  group<T>(title: string, body: () => Promise<T>): Promise<T>
}
