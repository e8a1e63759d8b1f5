/**
 * Check digits of numbers that name persons. Each function takes the number without separators and says whether its check holds; none
 * looks at anything but the digits.
 */
const digitsOf = (text: string): number[] => Array.from(text, Number);
const weighted = (digits: readonly number[], weights: readonly number[]): number =>
  weights.reduce((sum, weight, i) => sum + weight * digits[i]!, 0);

/** ISO/IEC 7812-1, annex B: payment cards; National Provider Identifiers with the prefix 80840. */
export function luhn(number: string): boolean {
  const sum = digitsOf(number)
    .reverse()
    .reduce((total, digit, i) => total + (i % 2 === 0 ? digit : digit > 4 ? 2 * digit - 9 : 2 * digit), 0);
  return sum % 10 === 0;
}

/** ISO 7064 MOD 97-10 of an IBAN (ISO 13616): the first four characters moved to the end, letters as 10 to 35, remainder 1. */
export function iban(number: string): boolean {
  let remainder = 0;
  for (const character of number.slice(4) + number.slice(0, 4)) {
    const value = parseInt(character, 36);
    remainder = (remainder * (value > 9 ? 100 : 10) + value) % 97;
  }
  return remainder === 1;
}

/** NHS number (England): weights 10 to 2, modulus 11. */
export function nhsNumber(number: string): boolean {
  const digits = digitsOf(number);
  const check = 11 - (weighted(digits, [10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11);
  return (check === 11 ? 0 : check) === digits[9];
}

/** CPF (Brazil): two digits modulo 11; eleven equal digits pass the sum and are none. */
export function cpf(number: string): boolean {
  const digits = digitsOf(number);
  if (new Set(digits).size === 1) return false;
  const check = (weights: readonly number[]): number => ((weighted(digits, weights) * 10) % 11) % 10;
  return check([10, 9, 8, 7, 6, 5, 4, 3, 2]) === digits[9] && check([11, 10, 9, 8, 7, 6, 5, 4, 3, 2]) === digits[10];
}

/** Resident identity number (China, GB 11643-1999): ISO 7064 MOD 11-2, X for 10. */
export function chineseResident(number: string): boolean {
  const sum = weighted(digitsOf(number.slice(0, 17)), [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]);
  return '10X98765432'[sum % 11] === number[17]!.toUpperCase();
}

/** NIR (France): 97 minus the remainder of the first 13 places by 97; Corsica's 2A and 2B count as 19 and 18. */
export function nir(number: string): boolean {
  const body = number.slice(0, 13).replace('2A', '19').replace('2B', '18');
  return 97 - (Number(body) % 97) === Number(number.slice(13));
}

const MULTIPLY = [
  '0123456789', '1234067895', '2340178956', '3401289567', '4012395678', '5987604321', '6598710432', '7659821043', '8765932104', '9876543210',
].map(digitsOf);
const PERMUTE = ['0123456789', '1576283094', '5803796142', '8916043527', '9453126870', '4286573901', '2793806415', '7046913258'].map(digitsOf);

/** Verhoeff's scheme over the dihedral group D5: Aadhaar (India). */
export function verhoeff(number: string): boolean {
  return digitsOf(number).reverse().reduce((check, digit, i) => MULTIPLY[check]![PERMUTE[i % 8]![digit]!]!, 0) === 0;
}

/** DNI and NIE (Spain): a letter for the remainder by 23; X, Y, Z of an NIE count as 0, 1, 2. */
export function spanishId(number: string): boolean {
  const digits = number.slice(0, -1).replace(/^[XYZ]/, (letter) => String('XYZ'.indexOf(letter)));
  return 'TRWAGMYFPDXBNJZSQVHLCKE'[Number(digits) % 23] === number.at(-1);
}

const ODD_PLACES = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];

/** Codice fiscale (Italy, D.M. 23/12/1976): odd places by a table, even ones by value, modulo 26. */
export function codiceFiscale(number: string): boolean {
  const value = (character: string): number => (character < 'A' ? Number(character) : character.charCodeAt(0) - 65);
  const sum = Array.from(number.slice(0, 15)).reduce((total, c, i) => total + (i % 2 === 0 ? ODD_PLACES[value(c)]! : value(c)), 0);
  return String.fromCharCode(65 + (sum % 26)) === number[15];
}
