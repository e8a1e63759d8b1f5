/**
 * Everything that can be said of a dataset before it is tuned on: what reading it says (check-jsonl), and per row repetitions but for form,
 * rows of other datasets, personal data and, with a meter, what tuning will make of it. Findings come in the order of lines, those of the
 * whole file last, then one report. Of each code the first MAX_STREAMED are given; all are counted. Stores nothing.
 */
import { JsonlCheck, type CheckedLine } from './check-jsonl.js';
import type { Example, Finding, Report } from './dataset.js';
import { finding } from './finding.js';
import { FINDING_CODES, type FindingCode } from './finding-codes.js';
import { balanceFindings, labelBalance, type LabelBalance } from './label-balance.js';
import { findPersonalData, PERSONAL_NAMES, type PersonalCode } from './personal-data.js';
import { MAX_REMEMBERED_ROWS, normalized, normalizedIdentity } from './row-identity.js';
import { TokenTally, type RowMeter, type TokenStatistics } from './row-meter.js';
import { rowTexts } from './row-texts.js';

/** Findings of one code that a validation gives. */
export const MAX_STREAMED = 1_000;
/** Pieces of the file whose rows are with the meter while the next is read. */
const PIECES_IN_FLIGHT = 4;

/** The rows of another dataset, by normalized identity. */
export interface KnownRows {
  /** Full name of the dataset. */
  readonly dataset: string;
  readonly lines: ReadonlyMap<string, number>;
}

export interface ValidationOptions {
  readonly meter?: RowMeter;
  readonly compareWith?: readonly KnownRows[];
  readonly signal?: AbortSignal;
}

export interface CodeCount {
  readonly code: FindingCode;
  readonly count: number;
}

export interface ValidationReport extends Report {
  /** In the order of the codes; absent codes were not found. */
  readonly findingCounts: readonly CodeCount[];
  readonly overlapRows: number;
  readonly labelBalance?: LabelBalance;
  readonly tokens?: TokenStatistics;
}

export async function* validateJsonl(chunks: AsyncIterable<Uint8Array>, options: ValidationOptions = {}): AsyncGenerator<Finding | ValidationReport> {
  const check = new JsonlCheck();
  const rows = new RowChecks(options);
  const tally = new CodeTally();
  const pending: Promise<Finding[]>[] = [];
  const start = (lines: readonly CheckedLine[]): void => {
    const findings = rows.of(lines);
    // A failure is thrown where its piece's turn comes.
    findings.catch(() => undefined);
    pending.push(findings);
  };
  for await (const chunk of chunks) {
    options.signal?.throwIfAborted();
    start(check.push(chunk));
    if (pending.length > PIECES_IN_FLIGHT) yield* tally.kept(await pending.shift()!);
  }
  start(check.end());
  for (const findings of pending) yield* tally.kept(await findings);
  const read = check.report();
  const balance = labelBalance(read.statistics.labels);
  yield* tally.kept([...balanceFindings(balance), ...rows.end()]);
  yield {
    ...read,
    errorCount: tally.total('error'),
    warningCount: tally.total('warning'),
    findingCounts: tally.counts(),
    overlapRows: rows.overlapRows,
    ...(balance === undefined ? {} : { labelBalance: balance }),
    ...(rows.tokens === undefined ? {} : { tokens: rows.tokens.statistics() }),
  };
}

/** The identities of a dataset's rows, each with the first line that has it. */
export async function knownRows(dataset: string, rows: AsyncIterable<Example & { readonly line: number }>): Promise<KnownRows> {
  const lines = new Map<string, number>();
  for await (const { line, ...example } of rows) {
    const identity = normalizedIdentity(example);
    if (lines.size < MAX_REMEMBERED_ROWS && !lines.has(identity)) lines.set(identity, line);
  }
  return { dataset, lines };
}

class CodeTally {
  private readonly found = new Map<FindingCode, number>();
  private readonly severities = { error: 0, warning: 0 };

  /** Those of `findings` that are given out. */
  kept(findings: readonly Finding[]): Finding[] {
    return findings.filter(({ code, severity }) => {
      const count = (this.found.get(code) ?? 0) + 1;
      this.found.set(code, count);
      this.severities[severity] += 1;
      return count <= MAX_STREAMED;
    });
  }

  total(severity: Finding['severity']): number {
    return this.severities[severity];
  }

  counts(): CodeCount[] {
    return FINDING_CODES.flatMap((code) => (this.found.has(code) ? [{ code, count: this.found.get(code)! }] : []));
  }
}

/** What is checked row by row beyond reading it. */
class RowChecks {
  readonly tokens: TokenTally | undefined;
  overlapRows = 0;
  private readonly seen = new Map<string, { readonly line: number; readonly label: string }>();

  constructor(private readonly options: ValidationOptions) {
    this.tokens = options.meter === undefined ? undefined : new TokenTally(options.meter.maxLengthTokens);
  }

  /** All findings of these lines, in their order. */
  async of(lines: readonly CheckedLine[]): Promise<Finding[]> {
    const examples = lines.flatMap(({ example }) => (example === undefined ? [] : [example]));
    const measuring = this.options.meter === undefined || examples.length === 0 ? undefined : this.options.meter.measure(examples);
    // Handled below, unless the checks in between throw first.
    measuring?.catch(() => undefined);
    const own = lines.map((line) => this.line(line));
    const measures = await measuring;
    let next = 0;
    return lines.flatMap(({ line, example, findings }, i) => {
      const measure = example === undefined ? undefined : measures?.[next++];
      const rendered = example === undefined || measure === undefined ? [] : (this.tokens?.add(line, example, measure) ?? []);
      return [...findings, ...own[i]!, ...rendered];
    });
  }

  end(): Finding[] {
    return this.tokens?.end() ?? [];
  }

  private line({ line, example, findings }: CheckedLine): Finding[] {
    if (example === undefined) return [];
    const identity = normalizedIdentity(example);
    return [
      ...this.repetition(line, example, identity, findings.some(({ code }) => code === 'DUPLICATE_ROW')),
      ...this.overlap(line, identity),
      ...personalData(line, example),
    ];
  }

  private repetition(line: number, example: Example, identity: string, reported: boolean): Finding[] {
    const label = example.kind === 'label' ? normalized(example.label) : '';
    const first = this.seen.get(identity);
    if (first === undefined) {
      if (this.seen.size < MAX_REMEMBERED_ROWS) this.seen.set(identity, { line, label });
      return [];
    }
    if (first.label !== label)
      return [finding('CONFLICTING_LABEL', line, '$.label', `line ${first.line} has the same text with another label`, { line: first.line })];
    return reported ? [] : [finding('NORMALIZED_DUPLICATE', line, '$', `repeats line ${first.line} but for case, white space or Unicode form`, { line: first.line })];
  }

  private overlap(line: number, identity: string): Finding[] {
    const found = (this.options.compareWith ?? []).flatMap(({ dataset, lines }) => {
      const other = lines.get(identity);
      return other === undefined ? [] : [finding('OVERLAP', line, '$', `is line ${other} of ${dataset} too`, { line: other, dataset })];
    });
    if (found.length > 0) this.overlapRows += 1;
    return found;
  }
}

/** One finding for each kind of data in each text. */
function personalData(line: number, example: Example): Finding[] {
  return rowTexts(example).flatMap(({ path, text }) => {
    const counts = new Map<PersonalCode, number>();
    for (const { code } of findPersonalData(text)) counts.set(code, (counts.get(code) ?? 0) + 1);
    return Array.from(counts, ([code, count]) =>
      finding(code, line, path, `probably holds ${PERSONAL_NAMES[code]}${count === 1 ? '' : ` (${count} times)`}`),
    );
  });
}
