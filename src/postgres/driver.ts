/** The driver, in a module of its own so that it is loaded only when a database is connected to; it is CommonJS. */
import pg from 'pg'
import { from } from 'pg-copy-streams'

export const Client = pg.Client
/** A stream that takes the data of `COPY .. FROM STDIN`. */
export const copyFrom = from
