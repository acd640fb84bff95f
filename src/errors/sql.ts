/** The SQL that fixes show: ready to paste, with names and values quoted. It is text for readers and is never run. */
import { onOneLine } from '../lib/unicode.ts'

const quoted = (text: string): string => `'${text.replaceAll("'", "''")}'`
export const identifier = (name: string): string => `"${name.replaceAll('"', '""')}"`

/** Names the database as a comment behind a statement. */
const inDatabase = (database: string): string => `   -- in "${onOneLine(database)}"`

export const setSetting = (setting: string, value: string): string =>
  `SELECT azure_ai.set_setting(${quoted(setting)}, ${quoted(value)});`

export const setSettingIn = (database: string, setting: string, value: string): string =>
  `${setSetting(setting, value)}${inDatabase(database)}`

/** The right to keep a key in a temporary table. */
export const grantTemporary = ({ name, user }: { readonly name: string; readonly user: string }): string =>
  `GRANT TEMPORARY ON DATABASE ${identifier(name)} TO ${identifier(user)};`
