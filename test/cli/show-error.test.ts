import { expect, test } from '@jest/globals';
import { errorLines } from '../../src/cli/show-error.js';
import { invalidFields, LoricaError } from '../../src/common/errors.js';

test('one line, then violations, then the hint', () => {
  expect(errorLines(new LoricaError('NOT_FOUND', 'MODEL_NOT_FOUND', 'models/x does not exist', { hint: 'Models here: m.' }))).toEqual([
    'error: NOT_FOUND MODEL_NOT_FOUND: models/x does not exist',
    'hint: Models here: m.',
  ]);
  expect(
    errorLines(
      invalidFields([
        { field: 'a', description: 'is odd' },
        { field: 'b', description: 'too' },
      ]),
    ),
  ).toEqual(['error: INVALID_ARGUMENT INVALID_FIELD: 2 invalid fields', '  a: is odd', '  b: too']);
  expect(errorLines(new TypeError('boom'))[0]).toContain('boom');
});
