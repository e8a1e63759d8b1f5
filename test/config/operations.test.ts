import { expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { SETTINGS } from '../../src/config/config.js';

test('docs/operations.md lists every setting as the code has it, and no other', () => {
  const written = [...readFileSync('docs/operations.md', 'utf8').matchAll(/^\| `(--[^`]+)` \| `(LORICA_\w+)` \| (.+?) \| (.+) \|$/gm)].map(
    ([, flag, variable, fallback, text]) => ({
      flag: flag!.replaceAll('\\|', '|'),
      variable,
      fallback: fallback === '–' ? '' : fallback!.replaceAll('`', ''),
      text,
    }),
  );
  expect(written).toEqual(SETTINGS.map(({ flag, variable, fallback, text }) => ({ flag, variable, fallback, text })));
});
