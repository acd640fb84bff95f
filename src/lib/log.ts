/** What every part of a run may log; how the runner prints it is in github/. */
export interface Log {
  debug(text: string): void
  info(text: string): void
  /** As `info`, for the result of the run: it is printed however much was printed before. */
  result(text: string): void
  /** From now on the runner masks the value. To be called before anything else sees the value. */
  secret(value: string): void
  /** Lines that `body` logs are folded under the title. */
  group<T>(title: string, body: () => Promise<T>): Promise<T>
}
