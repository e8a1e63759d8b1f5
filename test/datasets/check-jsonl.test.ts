import { describe, expect, test } from '@jest/globals';
import { JsonlCheck, readJsonl } from '../../src/datasets/check-jsonl.js';
import { MAX_FINDINGS, MAX_LINE_BYTES, type Report } from '../../src/datasets/index.js';
import { chunksOf, collect } from '../storage/temporary.js';

/** Checks a file given in pieces of `size` bytes: its findings as text, and the report. */
async function check(file: string | Uint8Array, size = 1 << 20): Promise<{ findings: string[]; report: Report }> {
  const checker = new JsonlCheck();
  const lines = await collect(readJsonl(chunksOf(typeof file === 'string' ? Buffer.from(file) : file, size), checker));
  const findings = lines.flatMap((checked) => checked.findings.map(({ code, line, path, message }) => `${code} ${line} ${path}: ${message}`));
  return { findings, report: checker.report() };
}

const lines = (...rows: unknown[]): string => rows.map((row) => `${typeof row === 'string' ? row : JSON.stringify(row)}\n`).join('');

describe('valid files', () => {
  test.each([
    ['completion', { prompt: 'p', completion: 'c' }],
    [
      'messages',
      {
        messages: [
          { role: 'user', content: 'hi' },
          { role: 'assistant', content: 'ho' },
        ],
      },
    ],
    ['text', { text: 't' }],
    ['label', { text: 't', label: 'l' }],
    ['preference', { prompt: 'p', chosen: 'c', rejected: 'r' }],
  ])('a %s row', async (kind, row) => {
    const { findings, report } = await check(lines(row));
    expect([findings, report.kind, report.errorCount, report.statistics.rows]).toEqual([[], kind, 0, 1]);
  });

  test('statistics and digest', async () => {
    const file = lines({ text: 'größe 😀', label: 'a' }, { text: 'x', label: 'b' }, { text: 'y', label: 'a' });
    const { report } = await check(file);
    expect(report).toEqual({
      kind: 'label',
      // sha256sum and wc -c of the same bytes.
      sha256: 'd090e037603517393d0e985e7c2e9e1cf1dccc217ead870c8dbc259aa9783652',
      statistics: { rows: 3, bytes: 86, characters: 12, longestRowCharacters: 8, duplicateRows: 0, labels: { a: 2, b: 1 } },
      errorCount: 0,
      warningCount: 0,
      findings: [],
    });
  });

  test.each([1, 2, 3, 7, 64])('cut anywhere (pieces of %i bytes) a file reads the same', async (size) => {
    const file = `\ufeff${lines({ text: 'größe 😀' }, { text: 'zwei' })}\r\n\n${JSON.stringify({ text: 'last, without a newline' })}`;
    expect(await check(file, size)).toEqual(await check(file));
    expect((await check(file, size)).report.statistics).toMatchObject({ rows: 3, bytes: Buffer.byteLength(file) });
  });
});

describe('warnings', () => {
  test('a byte order mark, CR LF, blank lines and repeated rows', async () => {
    const { findings, report } = await check('\ufeff{"text":"a"}\r\n\r\n  \n{"text": "b"}\n{ "text" : "a" }\n');
    expect(findings).toEqual([
      'CARRIAGE_RETURNS 1 $: lines end with CR LF; the CR is ignored',
      'BYTE_ORDER_MARK 1 $: the file begins with a byte order mark, which is ignored',
      'BLANK_LINE 2 $: is blank and ignored',
      'BLANK_LINE 3 $: is blank and ignored',
      'DUPLICATE_ROW 5 $: repeats line 1',
    ]);
    expect(report).toMatchObject({ errorCount: 0, warningCount: 5, statistics: { rows: 3, duplicateRows: 1 } });
  });

  test('rows that differ only in where the text is are not repeated', async () => {
    expect((await check(lines({ prompt: 'a', completion: 'bc' }, { prompt: 'ab', completion: 'c' }))).findings).toEqual([]);
  });
});

describe('errors, all of them, with line and path', () => {
  test.each([
    ['{"text": "a"', 'INVALID_JSON 1 $: not valid JSON'],
    ['[1]', 'NOT_AN_OBJECT 1 $: a row is a JSON object, this is a list'],
    ['null', 'NOT_AN_OBJECT 1 $: a row is a JSON object, this is null'],
    ['3', 'NOT_AN_OBJECT 1 $: a row is a JSON object, this is a number'],
    ['{}', 'UNKNOWN_KIND 1 $: has no fields: a row has prompt and completion, messages, text, text and label, or prompt, chosen and rejected'],
    ['{"prompt":"a","chosen":"b","rejected":"b"}', 'EQUAL_ANSWERS 1 $.rejected: is the chosen answer: nothing is preferred'],
    ['{"prompt":"a","chosen":"b"}', 'MISSING_FIELD 1 $.rejected: is missing'],
    ['{"input": 1, "output": 2}', 'UNKNOWN_KIND 1 $: has the fields input, output'],
    ['{"prompt": "p"}', 'MISSING_FIELD 1 $.completion: is missing'],
    ['{"prompt": "p", "completion": 3}', 'WRONG_TYPE 1 $.completion: must be a string, this is a number'],
    ['{"prompt": "p", "completion": ""}', 'EMPTY_VALUE 1 $.completion: must not be empty'],
    ['{"text": null}', 'WRONG_TYPE 1 $.text: must be a string, this is null'],
    ['{"text": "t", "lable": "l"}', 'UNKNOWN_FIELD 1 $.lable: unknown field in a row with text'],
    ['{"text": "t", "a b": "l"}', 'UNKNOWN_FIELD 1 $["a b"]: unknown field'],
    ['{"label": "l"}', 'MISSING_FIELD 1 $.text: is missing'],
    ['{"text": "\\ud800"}', 'LONE_SURROGATE 1 $.text: holds half of a surrogate pair'],
    ['{"messages": {}}', 'WRONG_TYPE 1 $.messages: must be a list, this is an object'],
    ['{"messages": []}', 'EMPTY_VALUE 1 $.messages: must not be empty'],
    ['{"messages": ["x"]}', 'WRONG_TYPE 1 $.messages[0]: must be an object, this is a string'],
    ['{"messages": [{"role": "user", "content": "x"}, {"role": "user"}]}', 'MISSING_FIELD 1 $.messages[1].content: is missing'],
    ['{"messages": [{"role": "user", "content": "x", "name": "n"}]}', 'UNKNOWN_FIELD 1 $.messages[0].name: unknown field'],
  ])('%s', async (row, expected) => {
    const { findings, report } = await check(lines(row));
    expect(findings).toHaveLength(1);
    expect(findings[0]).toContain(expected);
    expect(report).toMatchObject({ errorCount: 1, statistics: { rows: 0 } });
  });

  test('several in one row and in many rows', async () => {
    const { findings } = await check(lines({ text: 'fine' }, { text: 1, extra: 2 }, 'no json', { prompt: 'p', completion: 'c' }));
    expect(findings).toEqual([
      'UNKNOWN_FIELD 2 $.extra: unknown field in a row with text',
      'WRONG_TYPE 2 $.text: must be a string, this is a number',
      expect.stringMatching(/^INVALID_JSON 3 \$: not valid JSON: /),
      'MIXED_KINDS 4 $: is a completion row, line 1 is a text row: a dataset has one kind',
    ]);
  });

  test('the text of a row is never quoted', async () => {
    const { findings } = await check('{"text": "my secret diagnosis" oops}\nmy secret diagnosis\n');
    expect(findings).toHaveLength(2);
    expect(findings.join()).not.toMatch(/secret|diagnosis/);
  });

  test('bytes that are not UTF-8', async () => {
    const file = Buffer.concat([
      Buffer.from(lines({ text: 'a' })),
      Buffer.from([0x7b, 0xff, 0x7d, 0x0a]),
      Buffer.from(lines({ text: 'b' })),
    ]);
    const { findings, report } = await check(file);
    expect([findings, report.statistics.rows]).toEqual([['INVALID_UTF8 2 $: is not valid UTF-8'], 2]);
  });

  test('a line beyond the limit, without ever holding it whole', async () => {
    const fits = JSON.stringify({ text: 'x'.repeat(MAX_LINE_BYTES - 11) });
    expect(Buffer.byteLength(fits)).toBe(MAX_LINE_BYTES);
    const { findings, report } = await check(
      `${fits}\n${fits.replace('x', 'xx')}\n{"text":"after"}\n${'y'.repeat(3 * MAX_LINE_BYTES)}`,
      100_000,
    );
    expect(findings).toEqual([2, 4].map((line) => `LINE_TOO_LONG ${line} $: is longer than ${MAX_LINE_BYTES} bytes`));
    expect(report.statistics.rows).toBe(2);
  });

  test.each(['', '\n\n', '\ufeff'])('a file without rows (%j)', async (file) => {
    const { findings, report } = await check(file);
    expect(findings.at(-1)).toBe('NO_ROWS 0 $: the file has no rows');
    expect([report.errorCount, report.kind]).toEqual([1, undefined]);
  });

  test('many are all counted; the report keeps the first ones of each severity', async () => {
    const { findings, report } = await check(`${'{"text":"same"}\n'.repeat(300)}${'oops\n'.repeat(1000)}`);
    expect(findings).toHaveLength(1299);
    expect(report).toMatchObject({ errorCount: 1000, warningCount: 299 });
    expect(report.findings.filter((finding) => finding.severity === 'error')).toHaveLength(MAX_FINDINGS);
    expect(report.findings).toHaveLength(2 * MAX_FINDINGS);
  });
});
