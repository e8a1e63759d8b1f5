import { describe, expect, test } from '@jest/globals';
import { bar, createScreen, sparkline, table } from '../../../src/cli/quickstart/display.js';

describe('display', () => {
  test('sparkline spans its range and averages what does not fit', () => {
    expect(sparkline([0, 1, 2, 3, 4, 5, 6, 7])).toBe('▁▂▃▄▅▆▇█');
    expect(sparkline([5, 5, 5])).toBe('▁▁▁');
    expect(sparkline([8, 8, 0, 0], 2)).toBe('█▁');
    expect(sparkline([Number.NaN])).toBe('');
  });

  test('bar', () => {
    expect(bar(1, 2, 4)).toBe('[██··]');
    expect(bar(0, 0, 4)).toBe('[····]');
    expect(bar(9, 3, 4)).toBe('[████]');
  });

  test('table sets numbers right and words left', () => {
    expect(table([['what', 'value'], ['accuracy', '0.91'], ['rows', '1186']])).toMatchInlineSnapshot(`
"what      value
────────  ─────
accuracy   0.91
rows       1186"
`);
  });

  test('without a terminal, progress is a line every tenth and the last one is kept', () => {
    const written: string[] = [];
    const screen = createScreen({ isTTY: false, write: (text: string) => written.push(text) > 0 } as unknown as NodeJS.WriteStream);
    for (let i = 0; i <= 95; i++) screen.progress(i / 100, `${i}`);
    screen.endProgress();
    expect(written).toEqual([0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95].map((n) => `  ${n}\n`));
  });
});
