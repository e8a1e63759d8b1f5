/**
 * The rows of a stage as tokens, as its objective wants them: from examples to rows that a pass can feed. Rows that have nothing to
 * count are left out and counted; rows that do not fit the objective are refused. It must not run models.
 */
import { labelViolations } from '../adapters/index.js';
import { invalidFields, LoricaError, type FieldViolation } from '../common/errors.js';
import type { Checkpoint } from '../models/checkpoint.js';
import { fillTemplate, lastTokens, promptTokens, renderExample, truncateRendered, type PromptExample } from '../models/prompt.js';
import { tokenRow, type TokenRow } from './batches.js';
import type { ResolvedStage } from './specification.js';

export interface StageRows {
  /** What is fed. Of preferences two a pair: the chosen answer, then the rejected one. */
  readonly rows: readonly TokenRow[];
  /** Rows of data that were left out. */
  readonly skipped: number;
  /** Of a classification; `targets` of its rows are indices into them. */
  readonly labels?: readonly string[];
}

export interface ReadOptions {
  readonly signal?: AbortSignal | undefined;
  /** Of a classification, instead of the stage's own: those that the rows trained on have. */
  readonly labels?: readonly string[];
  /** Field that violations are reported under. Default 'dataset'. */
  readonly path?: string;
}

type TextModel = Pick<Checkpoint, 'tokenizer' | 'chatTemplate'>;
type Examples = AsyncIterable<PromptExample> | Iterable<PromptExample>;

/** Rows between two turns of the event loop. */
const RENDER_AT_ONCE = 64;
const MOST_VIOLATIONS = 20;

/** Throws INVALID_ARGUMENT: INVALID_FIELD for rows that the objective does not take, DATASET_INVALID where nothing is left. */
export async function readStageRows(examples: Examples, stage: ResolvedStage, model: TextModel, options: ReadOptions = {}): Promise<StageRows> {
  switch (stage.objective.kind) {
    case 'languageModel':
      return readAnswers(examples, stage, model, options);
    case 'classification':
      return readLabelled(examples, stage, model, options);
    case 'preference':
      return readPairs(examples, stage, model, options);
  }
}

async function readAnswers(examples: Examples, stage: ResolvedStage, model: TextModel, options: ReadOptions): Promise<StageRows> {
  const rows: TokenRow[] = [];
  const seen = await eachRow(examples, ['completion', 'messages', 'text', 'label'], stage, options, (example) => {
    const row = answerRow(example, stage, model);
    if (row !== undefined) rows.push(row);
  });
  return nonEmpty({ rows, skipped: seen - rows.length }, stage, 'in none of them a token that counts in the loss', 'Completions, labels and assistant turns must not be empty.');
}

async function readPairs(examples: Examples, stage: ResolvedStage, model: TextModel, options: ReadOptions): Promise<StageRows> {
  const rows: TokenRow[] = [];
  const seen = await eachRow(examples, ['preference'], stage, options, ({ prompt, chosen, rejected }) => {
    const pair = [chosen, rejected].map((completion) => answerRow({ kind: 'completion', prompt, completion }, stage, model));
    if (pair[0] !== undefined && pair[1] !== undefined) rows.push(pair[0], pair[1]);
  });
  return nonEmpty({ rows, skipped: seen - rows.length / 2 }, stage, 'in none of them two answers with tokens of their own', 'Answers must not be empty.');
}

function answerRow(example: PromptExample, stage: ResolvedStage, { tokenizer, chatTemplate }: TextModel): TokenRow | undefined {
  const loss = stage.objective.kind === 'languageModel' ? stage.objective.loss : 'completion';
  const rendered = renderExample(example, tokenizer, chatTemplate, { loss, ...(stage.labelTemplate === undefined ? {} : { labelTemplate: stage.labelTemplate }) });
  return tokenRow(truncateRendered(rendered, stage.maxLengthTokens, tokenizer.bosTokenId));
}

async function readLabelled(examples: Examples, stage: ResolvedStage, { tokenizer }: TextModel, options: ReadOptions): Promise<StageRows> {
  const { path = 'dataset' } = options;
  const objective = stage.objective as Extract<ResolvedStage['objective'], { kind: 'classification' }>;
  const given = options.labels ?? objective.labels;
  const known = given === undefined ? undefined : new Set(given);
  const unknown: FieldViolation[] = [];
  const read: { readonly tokens: readonly number[]; readonly label: string }[] = [];
  let index = -1;
  const seen = await eachRow(examples, ['label'], stage, options, ({ text, label }) => {
    index += 1;
    if (known?.has(label) === false && unknown.length < MOST_VIOLATIONS) unknown.push({ field: `${path}.rows[${index}].label`, description: `${JSON.stringify(label)} is not one of the objective's labels` });
    const tokens = lastTokens(promptTokens(fillTemplate(objective.template, { text }), tokenizer), stage.maxLengthTokens, tokenizer.bosTokenId);
    if (tokens.length > 0) read.push({ tokens, label });
  });
  if (unknown.length > 0) throw invalidFields(unknown, 'Add the labels to the objective, or correct the rows.');
  const labels = given ?? [...new Set(read.map(({ label }) => label))].sort();
  const violations = labelViolations(labels, given === undefined ? path : 'labels');
  if (violations.length > 0) throw invalidFields(violations, 'A classification tells at least two labels apart.');
  const indices = new Map(labels.map((label, i) => [label, i]));
  const rows = read.map(({ tokens, label }) => labelRow(tokens, indices.get(label)!));
  return { ...nonEmpty({ rows, skipped: seen - rows.length }, stage, 'in none of them a token', 'Texts must not be empty.'), labels };
}

/** A row whose only loss is at its last token, with the label's index as its target. */
export function labelRow(tokens: readonly number[], label: number): TokenRow {
  const targets = new Int32Array(tokens.length);
  const counts = new Uint8Array(tokens.length);
  targets[tokens.length - 1] = label;
  counts[tokens.length - 1] = 1;
  return { inputs: Int32Array.from(tokens), targets, counts, lossTokens: 1 };
}

/** Hands on every example of the kinds that the objective takes; gives how many there were. Lets the event loop run in between. */
async function eachRow<K extends PromptExample['kind']>(
  examples: Examples, kinds: readonly K[], stage: ResolvedStage, { signal, path = 'dataset' }: ReadOptions, take: (example: Extract<PromptExample, { kind: K }>) => void,
): Promise<number> {
  let seen = 0;
  for await (const example of examples) {
    if (!(kinds as readonly string[]).includes(example.kind)) throw invalidFields([{ field: path, description: kindProblem(stage.objective.kind, example.kind, kinds) }]);
    take(example as Extract<PromptExample, { kind: K }>);
    if (++seen % RENDER_AT_ONCE === 0) await new Promise((resolve) => setImmediate(resolve));
    if (signal?.aborted === true) throw new LoricaError('CANCELLED', 'CANCELLED', 'tuning was cancelled', { cause: signal.reason });
  }
  return seen;
}

function kindProblem(objective: string, kind: string, kinds: readonly string[]): string {
  return `has rows of the kind ${kind}; the objective ${objective} takes ${kinds.join(', ')}`;
}

function nonEmpty(read: StageRows, stage: ResolvedStage, what: string, hint: string): StageRows {
  if (read.rows.length > 0) return read;
  throw new LoricaError('INVALID_ARGUMENT', 'DATASET_INVALID', `${stage.dataset} has ${read.skipped} rows, and ${what}`, { hint });
}
