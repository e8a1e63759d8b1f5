/** Training in this process, without server and job runner: for studies of the step itself. Text is real (npm `sentiment`, this tree's documents). */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Checkpoint } from '../src/models/checkpoint.js';
import type { PromptExample } from '../src/models/prompt.js';
import { runTuning, type StageSpecification, type TrainingHost } from '../src/tuning/index.js';
import type { TuningSpecification } from '../src/tuning/specification.js';
import { readReviews } from '../src/cli/quickstart/reviews.js';

export interface LocalStep {
  readonly step: number;
  readonly loss: number;
  readonly tokens: number;
  readonly seconds: number;
  readonly processorSeconds: number;
}

export interface LocalRun {
  readonly checkpoint: Checkpoint;
  readonly host: TrainingHost;
  readonly examples: readonly PromptExample[];
  readonly stage: Omit<StageSpecification, 'dataset'>;
  readonly options?: Partial<Pick<TuningSpecification, 'baseWeights' | 'int8Products'>>;
}

/** One stage from seed 0; the first step holds the building of sessions and the reading of weights. */
export async function localRun({ checkpoint, host, examples, stage, options }: LocalRun): Promise<readonly LocalStep[]> {
  const steps: LocalStep[] = [];
  let [last, cpu] = [performance.now(), process.cpuUsage()];
  await runTuning({
    checkpoint,
    host,
    examples: () => examples,
    specification: { baseModel: 'bench', seed: 0, stages: [{ ...stage, dataset: 'bench' }], ...options },
    emit: ({ step, loss, tokens }) => {
      const used = process.cpuUsage(cpu);
      steps.push({ step, loss, tokens, seconds: (performance.now() - last) / 1000, processorSeconds: (used.user + used.system) / 1e6 });
      [last, cpu] = [performance.now(), process.cpuUsage()];
    },
  });
  return steps;
}

/** Texts of about this many characters, cut from reviews of one source, or from the Markdown of `docs`. */
export async function texts(source: 'amazon' | 'yelp' | 'docs' | 'reviews', characters: number): Promise<PromptExample[]> {
  const all = source === 'docs' ? await documents() : (await readReviews()).filter((review) => source === 'reviews' || review.source === source).map(({ text }) => text);
  const rows: PromptExample[] = [];
  let text = '';
  for (const piece of all.flatMap((one) => cut(one, characters))) {
    text += `${piece} `;
    if (text.length < characters) continue;
    rows.push({ kind: 'text', text: text.trim() });
    text = '';
  }
  return rows;
}

async function documents(): Promise<string[]> {
  const names = (await readdir('docs', { recursive: true })).filter((name) => name.endsWith('.md')).sort();
  return Promise.all(names.map((name) => readFile(join('docs', name), 'utf8')));
}

function cut(text: string, characters: number): string[] {
  return Array.from({ length: Math.ceil(text.length / characters) }, (_, i) => text.slice(i * characters, (i + 1) * characters));
}
