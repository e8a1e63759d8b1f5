/**
 * Finds likely personal data in a text: a pattern, and where the number has one, its check digits. Made to be quiet rather than
 * complete: names and addresses are not looked for, and a number without check digits must have the form or the word that tells what it is.
 * All patterns take time linear in the text. Nothing here keeps or reports the text itself.
 */
import { isIPv4, isIPv6 } from 'node:net';
import * as check from './check-digits.js';
import type { FindingCode } from './finding-codes.js';

export interface PersonalData {
  readonly code: PersonalCode;
  /** UTF-16 positions; end is exclusive. */
  readonly start: number;
  readonly end: number;
}

/** What stands for it in a redacted copy. */
export const PLACEHOLDERS = {
  EMAIL_ADDRESS: '[EMAIL]',
  PHONE_NUMBER: '[PHONE]',
  IBAN: '[IBAN]',
  PAYMENT_CARD: '[CARD]',
  SOCIAL_SECURITY_NUMBER: '[SSN]',
  IP_ADDRESS: '[IP]',
  MEDICAL_RECORD_NUMBER: '[MRN]',
  NATIONAL_ID: '[NATIONAL_ID]',
} as const satisfies Partial<Record<FindingCode, string>>;

export type PersonalCode = keyof typeof PLACEHOLDERS;

/** For messages. */
export const PERSONAL_NAMES: Readonly<Record<PersonalCode, string>> = {
  EMAIL_ADDRESS: 'an e-mail address',
  PHONE_NUMBER: 'a telephone number',
  IBAN: 'an IBAN',
  PAYMENT_CARD: 'a payment card number',
  SOCIAL_SECURITY_NUMBER: 'a social security number',
  IP_ADDRESS: 'an IP address',
  MEDICAL_RECORD_NUMBER: 'a medical record number',
  NATIONAL_ID: 'a national identity number',
};

interface Rule {
  readonly code: PersonalCode;
  /** Digits that it has at least: texts with fewer are not searched for it. */
  readonly digits: number;
  /** The number is the group `n` where there is one, else the whole match. */
  readonly pattern: RegExp;
  /** Whether it is one; a number of characters says that only so many of the match belong to it. */
  readonly accept?: (found: string, before: string) => boolean | number;
}

const plain = (text: string): string => text.replace(/[^0-9A-Za-z]/g, '');
const onPlain =
  (holds: (number: string) => boolean) =>
  (found: string): boolean =>
    holds(plain(found));

/** Earlier rules win where two overlap. */
const RULES: readonly Rule[] = [
  {
    code: 'EMAIL_ADDRESS', digits: 0,
    pattern: /(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![\w-])/dg,
    // Pictures for dense screens are named so: icon@2x.png.
    accept: (found) => !/@\dx\.\w+$/.test(found),
  },
  {
    code: 'IBAN', digits: 2,
    // Only the first four characters are consumed: what follows may be the next number.
    pattern: /(?<![A-Za-z0-9])(?=(?<n>[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}))[A-Z]{2}\d{2}/dg,
    accept: ibanLength,
  },
  {
    code: 'PAYMENT_CARD', digits: 12,
    pattern: /(?<![\w.+-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|3\d{3}([ -])\d{6}\2\d{4,5})(?![\w-])/dg,
    accept: onPlain((number) => isCardNumber(number) && check.luhn(number)),
  },
  { code: 'NATIONAL_ID', digits: 11, pattern: /(?<![\d.])\d{3}\.\d{3}\.\d{3}-\d{2}(?!\d)/dg, accept: onPlain(check.cpf) },
  {
    code: 'NATIONAL_ID', digits: 17,
    pattern: /(?<!\w)[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?!\w)/dg,
    accept: check.chineseResident,
  },
  {
    code: 'NATIONAL_ID', digits: 13,
    pattern: /(?<!\w)[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}(?!\w)/dg,
    accept: onPlain(check.nir),
  },
  { code: 'NATIONAL_ID', digits: 12, pattern: /(?<!\w)(?<!\d )[2-9]\d{3} \d{4} \d{4}(?! ?\w)/dg, accept: onPlain(check.verhoeff) },
  { code: 'NATIONAL_ID', digits: 7, pattern: /(?<!\w)[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z](?!\w)/dg, accept: check.codiceFiscale },
  { code: 'NATIONAL_ID', digits: 7, pattern: /(?<![\w-])(?:\d{8}|[XYZ]-?\d{7})-?[A-HJ-NP-TV-Z](?!\w)/dg, accept: onPlain(check.spanishId) },
  {
    code: 'SOCIAL_SECURITY_NUMBER', digits: 9,
    // Areas 000, 666 and 900 to 999, group 00 and serial 0000 are never given out.
    pattern: /(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])/dg,
  },
  { code: 'SOCIAL_SECURITY_NUMBER', digits: 9, pattern: /\b(?:SSN|social security (?:number|no\.?))[:# ]{0,3}(?<n>(?!000|666|9)\d{3} ?\d{2} ?\d{4})(?!\w)/dgi },
  {
    code: 'MEDICAL_RECORD_NUMBER', digits: 5,
    pattern: /\b(?:MRN|medical record (?:number|no\.?|#)|patient (?:id|number|no\.?))(?: is)?[:# ]{1,3}(?<n>[A-Z]{0,3}-?\d{5,10})(?!\w)/dgi,
  },
  { code: 'MEDICAL_RECORD_NUMBER', digits: 10, pattern: /(?<![\w-])(?<!\d )\d{3} \d{3} \d{4}(?![\w-]| \d)/dg, accept: onPlain(check.nhsNumber) },
  { code: 'MEDICAL_RECORD_NUMBER', digits: 10, pattern: /\bNHS(?: number| no\.?)?[:# ]{1,3}(?<n>\d{10})(?!\w)/dgi, accept: check.nhsNumber },
  { code: 'MEDICAL_RECORD_NUMBER', digits: 10, pattern: /\bNPI[:# ]{1,3}(?<n>\d{10})(?!\w)/dgi, accept: (found) => check.luhn(`80840${found}`) },
  { code: 'IP_ADDRESS', digits: 4, pattern: /(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)/dg, accept: isForeignAddress },
  {
    code: 'IP_ADDRESS', digits: 1,
    pattern: /(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])/dg,
    accept: (found) => isIPv6(found) && /\d/.test(found) && !['::', '::1'].includes(found) && found.split(':').filter((group) => group !== '').length > 1,
  },
  {
    code: 'PHONE_NUMBER', digits: 8,
    pattern: /(?<![\w+])\+[1-9](?:[ .()/-]{0,2}\d){7,14}(?!\w)/dg,
  },
  {
    code: 'PHONE_NUMBER', digits: 10,
    pattern: /(?<![\w.+-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?[2-9]\d{2}[ .-]\d{4}|[2-9]\d{2}([.-])[2-9]\d{2}\1\d{4})(?![\w-]|\.\d)/dg,
    accept: onPlain((number) => isNorthAmerican(number.slice(-10))),
  },
  {
    code: 'PHONE_NUMBER', digits: 8,
    pattern: /\b(?:tel|phone|telephone|mobile|cell|telefon|handy)\b\.?(?: (?:no\.?|number))?(?: is)?[:# ]{1,3}(?<n>\(?0\d(?:[ ./()-]{0,2}\d){6,12})(?!\w)/dgi,
  },
];

/** In the order of the text, none overlapping another. */
export function findPersonalData(text: string): PersonalData[] {
  const count = text.match(/\d/g)?.length ?? 0;
  if (count === 0 && !text.includes('@')) return [];
  const found: PersonalData[] = [];
  for (const { code, digits, pattern, accept } of RULES) {
    if (count < digits) continue;
    for (const match of text.matchAll(pattern)) {
      const [start, whole] = match.indices?.groups?.['n'] ?? match.indices![0]!;
      const verdict = accept?.(text.slice(start, whole), text.slice(Math.max(0, start - 16), start)) ?? true;
      if (verdict === false) continue;
      const end = verdict === true ? whole : start + verdict;
      if (found.every((other) => end <= other.start || start >= other.end)) found.push({ code, start, end });
    }
  }
  return found.sort((a, b) => a.start - b.start);
}

/** The text with placeholders for what was found in it; `count` is told of each. */
export function redact(text: string, count: (code: PersonalCode) => void): string {
  let [redacted, from] = ['', 0];
  for (const { code, start, end } of findPersonalData(text)) {
    count(code);
    redacted += text.slice(from, start) + PLACEHOLDERS[code];
    from = end;
  }
  return redacted + text.slice(from);
}

/** Characters by country (SWIFT's IBAN registry). */
const IBAN_LENGTHS = new Map(
  Object.entries({
    15: 'NO', 16: 'BE', 18: 'DK FI FO GL NL SD', 19: 'MK SI', 20: 'AT BA EE KZ LT LU MN XK', 21: 'CH HR LI LV', 22: 'BG BH CR DE GB GE IE ME RS VA',
    23: 'AE GI IL IQ OM SO TL', 24: 'AD CZ ES MD PK RO SA SE SK TN VG', 25: 'LY PT ST', 26: 'IS TR', 27: 'BI DJ FR GR IT MC MR SM',
    28: 'AL AZ BY CY DO GT HU LB NI PL SV', 29: 'BR EG PS QA UA', 30: 'JO KW MU YE', 31: 'MT SC', 32: 'LC', 33: 'RU',
  }).flatMap(([length, countries]) => countries.split(' ').map((country) => [country, Number(length)] as const)),
);

/** The characters that an IBAN at the beginning of `found` takes, separators included; false when there is none. */
function ibanLength(found: string): number | false {
  const length = IBAN_LENGTHS.get(found.slice(0, 2)) ?? Infinity;
  let [taken, end] = ['', 0];
  while (taken.length < length && end < found.length) {
    if (found[end] !== ' ') taken += found[end]!;
    end += 1;
  }
  const stops = !/[A-Za-z0-9]/.test(found[end] ?? ' ');
  return taken.length === length && stops && check.iban(taken) ? end : false;
}

/** Issuer and length as the networks give them out: Visa, Mastercard, American Express, Discover, JCB, Diners Club, UnionPay. */
function isCardNumber(number: string): boolean {
  return /^(?:4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|6(?:011|5\d\d|4[4-9]\d)\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}|3(?:0[0-5]|[689]\d)\d{11}|62\d{14,17})$/.test(
    number,
  );
}

/** Addresses of nobody in particular (0/8, 127/8, 255/8) and version numbers are left out. */
function isForeignAddress(found: string, before: string): boolean {
  return isIPv4(found) && !/^(?:0|127|255)\./.test(found) && !/(?:\bv|version|ver\.|release|section|§|chapter)\s*$/i.test(before);
}

/** Area code and exchange of the North American plan: neither ends in 11; toll-free and premium numbers are no person's. */
function isNorthAmerican(number: string): boolean {
  return !/^(?:.11|8(?:00|33|44|55|66|77|88)|900)/.test(number) && !/^...[2-9]11/.test(number);
}
