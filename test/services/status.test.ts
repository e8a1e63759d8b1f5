import { describe, expect, test } from '@jest/globals';
import { status as Code } from '@grpc/grpc-js';
import { type LoricaCallError, toCallError } from '../../src/client/call-error.js';
import { invalidFields, LoricaError } from '../../src/common/errors.js';
import { CODES, DETAILS_KEY, presentable, toStatus } from '../../src/services/status.js';

/** What a client makes of the status: the two ends hold each other to one meaning. */
function received(error: LoricaError): LoricaCallError {
  const status = toStatus(error, 'request-1');
  return toCallError(Object.assign(new Error('grpc'), status)) as LoricaCallError;
}

/** Bytes of the trailers on the wire, roughly: names, values, base64 for -bin, percent-encoding for the message. */
function trailerBytes(error: LoricaError): number {
  const { details, metadata } = toStatus(error, 'request-1');
  const packed = metadata.get(DETAILS_KEY)[0] as Buffer;
  return encodeURI(details).length + Math.ceil(packed.length / 3) * 4 + 200;
}

describe('toStatus', () => {
  test('carries code, reason, violations, hint, delay and request id', () => {
    const error = new LoricaError('FAILED_PRECONDITION', 'ADAPTER_INCOMPATIBLE', 'does not fit', {
      violations: [{ field: 'a.b', description: 'is odd' }],
      hint: 'Try c.',
      retryAfterMs: 1500,
    });
    expect(received(error)).toMatchObject({
      code: 'FAILED_PRECONDITION',
      reason: 'ADAPTER_INCOMPATIBLE',
      message: 'does not fit',
      violations: [{ field: 'a.b', description: 'is odd' }],
      hint: 'Try c.',
      retryAfterMs: 1500,
      requestId: 'request-1',
    });
  });

  test('every code of the project is the canonical one', () => {
    for (const [name, code] of Object.entries(CODES)) expect(Code[code]).toBe(name);
  });

  test('trailers stay under 8 KiB, and what did not fit is counted', () => {
    const many = Array.from({ length: 5000 }, (_, i) => ({ field: `line ${i}: $.ключ`, description: 'ist 文字 '.repeat(50) }));
    const error = invalidFields(many, 'h'.repeat(9000));
    expect(trailerBytes(error)).toBeLessThan(8192);
    const { violations } = received(error);
    expect(violations.at(-1)!.description).toBe(`and ${5000 - (violations.length - 1)} more`);
  });

  test('a message with half a character can be sent', () => {
    expect(received(new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', 'bad \ud800 text')).message).toBe('bad \ufffd text');
  });
});

describe('presentable', () => {
  test('a defect loses its text, a full disk is recognized however deep', () => {
    const shown = presentable(new Error('secret path /etc'));
    expect(shown).toMatchObject({ code: 'INTERNAL', reason: 'INTERNAL' });
    expect(shown.message).not.toContain('secret');
    const full = new Error('write failed', { cause: Object.assign(new Error('no space'), { code: 'ENOSPC' }) });
    expect(presentable(full)).toMatchObject({ code: 'RESOURCE_EXHAUSTED', reason: 'STORAGE_FULL' });
  });
});
