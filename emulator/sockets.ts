/** What the emulator does with connections beyond Node's own calls. */
import type { Socket } from 'node:net'

/** Resets a connection, or only ends it when it is being shut down already. */
export function reset(socket: Socket): void {
  // Node cannot reset a socket that is shutting down: it keeps the handle for ever, and the process then never exits.
  if (socket.writableEnded) socket.destroy()
  else socket.resetAndDestroy()
}
