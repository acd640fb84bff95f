/** The results of the emulated services for a text: vectors, sentiments, translations. Invented, and the same each time. */
import { createHash } from 'node:crypto'

// Azure OpenAI

export const dimensionsOf: Record<string, number> = {
  'text-embedding-ada-002': 1536,
  'text-embedding-3-small': 1536,
  'text-embedding-3-large': 3072,
}

/** A unit vector: each word and each trigram of letters adds hashed coordinates, so texts that share words are near each other. */
export function embeddingOf(text: string, length: number): number[] {
  const vector = new Array<number>(length).fill(0)
  const lower = ` ${text.toLowerCase()} `
  const features = wordsOf(text).map((word) => `w:${word}`)
  for (let at = 0; at + 3 <= lower.length; at++) features.push(`t:${lower.slice(at, at + 3)}`)
  for (const feature of features) {
    const hash = createHash('sha512').update(feature).digest()
    for (let at = 0; at + 4 <= hash.length; at += 4) {
      const index = hash.readUInt32LE(at) % length
      vector[index] = (vector[index] ?? 0) + hash.readInt16LE(at + 2) / 32768 + (feature.startsWith('w:') ? 0.5 : 0)
    }
  }
  const size = Math.hypot(...vector) || 1
  return vector.map((value) => value / size)
}

export function base64(vector: number[]): string {
  return Buffer.from(Float32Array.from(vector).buffer).toString('base64')
}

// Language

const sentimentWords: Record<string, number> = {}
const praise =
  'good great excellent love loved lovely wonderful amazing happy best fantastic perfect nice awesome helpful friendly fast easy delightful recommend pleased pleasant brilliant works bueno excelente gut toll wunderbar bon excellent'
const blame =
  'bad terrible awful hate hated horrible poor worst sad slow broken disappointing disappointed useless rude dirty wrong fails failed failure angry annoying never malo schlecht furchtbar mauvais'
for (const word of praise.split(' ')) sentimentWords[word] = 1
for (const word of blame.split(' ')) sentimentWords[word] = -1
const negations = new Set(['not', 'no', "isn't", "wasn't", "don't", "doesn't", 'hardly', 'nicht', 'kein', 'pas'])
const intensifiers = new Set(['very', 'really', 'absolutely', 'so', 'extremely', 'sehr', 'muy'])

interface Scores {
  positive: number
  neutral: number
  negative: number
}

/** Shares of one, to two places, from the words found. */
export function sentimentOf(text: string): Scores {
  let positive = 0
  let negative = 0
  let negated = false
  let weight = 1
  for (const word of wordsOf(text)) {
    const found = sentimentWords[word]
    if (found !== undefined) {
      if (found > 0 !== negated) positive += weight
      else negative += weight
      negated = false
      weight = 1
    } else if (negations.has(word)) negated = true
    else if (intensifiers.has(word)) weight = 2
  }
  const total = Math.exp(2 * positive) + Math.exp(2 * negative) + Math.exp(0.9)
  const rounded = {
    positive: Math.round((100 * Math.exp(2 * positive)) / total),
    negative: Math.round((100 * Math.exp(2 * negative)) / total),
  }
  return {
    positive: rounded.positive / 100,
    neutral: (100 - rounded.positive - rounded.negative) / 100,
    negative: rounded.negative / 100,
  }
}

export function labelOf({ positive, neutral, negative }: Scores): 'positive' | 'neutral' | 'negative' {
  if (positive > neutral && positive > negative) return 'positive'
  return negative > neutral ? 'negative' : 'neutral'
}

// Translator

export const targets = ['es', 'fr', 'de', 'it']
/** English, then the languages of `targets` in that order. */
const dictionary = `
hello hola bonjour hallo ciao|world mundo monde Welt mondo|good bueno bon gut buono|morning mañana matin Morgen mattino
day día jour Tag giorno|thank gracias merci danke grazie|thanks gracias merci danke grazie|you tú vous Sie voi|please por_favor s'il_vous_plaît bitte per_favore
the el le der il|a un un ein un|is es est ist è|are son sont sind sono|and y et und e|or o ou oder o|not no pas nicht non|with con avec mit con
this esto ceci dies questo|that eso cela das quello|my mi mon mein mio|your su votre Ihr vostro|we nosotros nous wir noi|i yo je ich io
product producto produit Produkt prodotto|order pedido commande Bestellung ordine|customer cliente client Kunde cliente|service servicio service Dienst servizio
database base_de_datos base_de_données Datenbank banca_dati|server servidor serveur Server server|key clave clé Schlüssel chiave|identity identidad identité Identität identità
water agua eau Wasser acqua|house casa maison Haus casa|book libro livre Buch libro|friend amigo ami Freund amico|time tiempo temps Zeit tempo
great estupendo formidable großartig ottimo|red rojo rouge rot rosso|green verde vert grün verde|test prueba test Test prova|works funciona fonctionne funktioniert funziona
`
const translations = new Map(
  dictionary
    .trim()
    .split(/[|\n]/)
    .map((line) => line.split(' ').map((word) => word.replaceAll('_', ' ')))
    .map(([english = '', ...others]) => [english, others]),
)

/** The greeting as a whole, the rest word by word; what the dictionary lacks stays as it is. Capitals at the start of a word are kept. */
export function translateText(text: string, to: string): string {
  const column = targets.indexOf(to)
  const greeting = ['buenos días', 'bonjour', 'guten Morgen', 'buongiorno'][column]
  const greeted =
    greeting === undefined
      ? text
      : text.replaceAll(/\b(g)ood morning\b/gi, (_, first: string) => (first === 'G' ? capital(greeting) : greeting))
  return greeted.replace(/[\p{L}']+/gu, (word) => {
    const found = translations.get(word.toLowerCase())?.[column]
    if (found === undefined) return word
    return /^\p{Lu}/u.test(word) && word !== 'I' ? capital(found) : found
  })
}

const capital = (word: string): string => word.charAt(0).toUpperCase() + word.slice(1)

export function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}']+/gu) ?? []
}
