import { describe, expect, test } from '@jest/globals';
import { findPersonalData, redact } from '../../src/datasets/personal-data.js';

/** What is found, as code and text. */
const found = (text: string): string[] => findPersonalData(text).map(({ code, start, end }) => `${code} ${text.slice(start, end)}`);

/** Numbers that the issuers publish as examples, or with check digits worked out by hand. */
describe('found', () => {
  test.each([
    ['write to jane.doe+x@mail.example.co.uk, please', 'EMAIL_ADDRESS jane.doe+x@mail.example.co.uk'],
    ['<a@b.io>', 'EMAIL_ADDRESS a@b.io'],
    ['pay to DE89 3704 0044 0532 0130 00 AND soon', 'IBAN DE89 3704 0044 0532 0130 00'],
    ['GB82WEST12345698765432.', 'IBAN GB82WEST12345698765432'],
    ['NO9386011117947', 'IBAN NO9386011117947'],
    ['card 4111 1111 1111 1111, thanks', 'PAYMENT_CARD 4111 1111 1111 1111'],
    ['5555555555554444', 'PAYMENT_CARD 5555555555554444'],
    ['3782-822463-10005', 'PAYMENT_CARD 3782-822463-10005'],
    ['6011000990139424', 'PAYMENT_CARD 6011000990139424'],
    ['30569309025904', 'PAYMENT_CARD 30569309025904'],
    ['her number is 123-45-6789', 'SOCIAL_SECURITY_NUMBER 123-45-6789'],
    ['SSN: 123456789', 'SOCIAL_SECURITY_NUMBER 123456789'],
    ['from 203.0.113.77:443', 'IP_ADDRESS 203.0.113.77'],
    ['at 2001:db8::8a2e:370:7334 now', 'IP_ADDRESS 2001:db8::8a2e:370:7334'],
    ['call +49 30 901820-15', 'PHONE_NUMBER +49 30 901820-15'],
    ['+14155552671', 'PHONE_NUMBER +14155552671'],
    ['(415) 555-2671', 'PHONE_NUMBER (415) 555-2671'],
    ['415-555-2671 or so', 'PHONE_NUMBER 415-555-2671'],
    ['Tel.: 030 901820', 'PHONE_NUMBER 030 901820'],
    ['MRN: 00123456', 'MEDICAL_RECORD_NUMBER 00123456'],
    ['medical record number is A123456', 'MEDICAL_RECORD_NUMBER A123456'],
    ['943 476 5919', 'MEDICAL_RECORD_NUMBER 943 476 5919'],
    ['NHS number 9434765919', 'MEDICAL_RECORD_NUMBER 9434765919'],
    ['NPI 1234567893', 'MEDICAL_RECORD_NUMBER 1234567893'],
    ['CPF 111.444.777-35', 'NATIONAL_ID 111.444.777-35'],
    ['11010519491231002X', 'NATIONAL_ID 11010519491231002X'],
    ['2 55 08 14 168 025 38', 'NATIONAL_ID 2 55 08 14 168 025 38'],
    ['RSSMRA85T10A562S', 'NATIONAL_ID RSSMRA85T10A562S'],
    ['DNI 12345678Z', 'NATIONAL_ID 12345678Z'],
    ['X1234567L', 'NATIONAL_ID X1234567L'],
    ['2341 2341 2346', 'NATIONAL_ID 2341 2341 2346'],
  ])('%s', (text, expected) => {
    expect(found(text)).toEqual([expected]);
  });

  test('several in one text, in order, none twice', () => {
    const ibans = 'DE89370400440532013000 GB82 WEST 1234 5698 7654 32 a@b.io';
    expect(found(ibans)).toEqual(['IBAN DE89370400440532013000', 'IBAN GB82 WEST 1234 5698 7654 32', 'EMAIL_ADDRESS a@b.io']);
  });
});

describe('near misses', () => {
  test.each([
    'no digits at all: user@localhost, @handle, a@b',
    'icon@2x.png',
    'DE89 3704 0044 0532 0130 01',
    'DE893704004405320130001',
    'ZZ89370400440532013000',
    '4111 1111 1111 1112',
    '4111-1111 1111-1111',
    '1234567890123452',
    '0000000000000000',
    'order 41111111111111111111111',
    '000-12-3456 and 666-12-3456 and 912-12-3456',
    '123-00-4567, 123-45-0000, 123-45-67890',
    'SSN 12345678',
    '127.0.0.1 0.0.0.0 255.255.255.0',
    'version 1.2.3.4, v1.2.3.4, 1.2.3.4.5, 1.2.3',
    '300.1.2.3',
    'at 12:30:45, std::string, ::1, aa:bb',
    'f(x) = a +12 and 1+1234567890',
    '+1 234 56',
    '800-555-2671 is toll-free',
    '911-555-2671, 415-911-2671, 115-555-2671',
    '2021-10-11 and 415-555-26711',
    'phone number 7',
    'MRN 1234',
    '943 476 5918',
    'NHS number 9434765918',
    'NPI 1234567890',
    '111.444.777-36 and 111.111.111-11',
    '110105194912310021',
    '2 55 08 14 168 025 39',
    'RSSMRA85T10A562T',
    '12345678A',
    'X1234567M',
    '2341 2341 2347',
    '3.14159265358979, 1,000,000,000 and 2^63 = 9223372036854775808',
    'In 1984, 451 people paid 19.99 for 24 items (60% off) at 10:30.',
  ])('%s', (text) => {
    expect(found(text)).toEqual([]);
  });

  test.each(['a', '1', '1 ', '1-', '.', 'a.', '+1', ':', 'A1', '(1', 'a@', 'DE89'])('200,000 characters of %j come to an end', (piece) => {
    expect(() => findPersonalData(piece.repeat(200_000 / piece.length))).not.toThrow();
  });
});

test('a redacted text keeps the rest to the character and holds nothing that is found again', () => {
  const counts = new Map<string, number>();
  const text = 'é jane@example.com\t(415) 555-2671;DE89 3704 0044 0532 0130 00 4111111111111111 123-45-6789 203.0.113.7 MRN: 123456 12345678Z jane@example.com 😀';
  const redacted = redact(text, (code) => counts.set(code, (counts.get(code) ?? 0) + 1));
  expect(redacted).toBe('é [EMAIL]\t[PHONE];[IBAN] [CARD] [SSN] [IP] MRN: [MRN] [NATIONAL_ID] [EMAIL] 😀');
  expect(Object.fromEntries(counts)).toEqual({
    EMAIL_ADDRESS: 2, PHONE_NUMBER: 1, IBAN: 1, PAYMENT_CARD: 1, SOCIAL_SECURITY_NUMBER: 1, IP_ADDRESS: 1, MEDICAL_RECORD_NUMBER: 1, NATIONAL_ID: 1,
  });
  expect(findPersonalData(redacted)).toEqual([]);
});
