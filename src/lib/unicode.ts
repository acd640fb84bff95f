/**
 * Signs that an eye cannot see, or that move, join or hide the signs around them: control and format characters (direction
 * overrides, zero widths, tags), line and paragraph separators, blanks that count as letters, lone variation selectors.
 */
const unseen =
  /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\u115f\u1160\u2800\u3164\uffa0]|\u034f|\u17b4|\u17b5|(?<!\p{Emoji})(?:[\ufe00-\ufe0f]|[\u{e0100}-\u{e01ef}])/gu

/** A text of others with what cannot be seen spelled out (`\u202e`); line breaks (`\n`) and tabs stay. */
export function visible(text: string): string {
  return text
    .toWellFormed()
    .replaceAll('\r\n', '\n')
    .replaceAll(unseen, (sign) => (sign === '\n' || sign === '\t' ? sign : spelled(sign)))
}

/** As {@link visible}, on one line: for a comment in a command that is meant to be pasted, which a line break would end. */
export function onOneLine(text: string): string {
  return visible(text).replaceAll('\n', '\\n').replaceAll('\t', '\\t')
}

function spelled(sign: string): string {
  const hex = (sign.codePointAt(0) ?? 0).toString(16)
  return hex.length > 4 ? `\\u{${hex}}` : `\\u${hex.padStart(4, '0')}`
}
