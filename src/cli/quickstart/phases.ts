/**
 * The phases of the quickstart that make and measure an adapter, each an ordinary use of the gRPC API: upload and validate data, tune
 * with progress, evaluate. The swap under traffic is in swap.ts. Every figure comes from a reply of the server.
 */
import { createHash } from 'node:crypto';
import { LoricaError } from '../../common/errors.js';
import { DatasetFormat, JobState, type EvaluationResult, type TuningResult } from '../../client/index.js';
import { bar, sparkline } from './display.js';
import { type Review, toJsonl } from './reviews.js';
import { ADAPTER, PARENT, type Session } from './session.js';
import { LABEL_TEMPLATE, LABELS, PROMPT_TEMPLATE } from './settings.js';

const LABEL_TEMPLATES = { promptTemplate: PROMPT_TEMPLATE, labelTemplate: LABEL_TEMPLATE };

/** Uploads rows as a data set, has the server read it again, and returns its name. */
export async function uploadReviews({ client, screen, signal }: Session, id: string, reviews: readonly Review[]): Promise<string> {
  const bytes = toJsonl(reviews);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const header = { parent: PARENT, datasetId: id, format: DatasetFormat.DATASET_FORMAT_JSONL, sha256 };
  const dataset = await client.datasets.uploadDataset(header, bytes, { signal });
  for await (const { event } of client.datasets.validateDataset({ name: dataset.name }, { signal })) {
    if (event?.$case === 'finding') screen.line(`line ${event.value.line}: ${event.value.description}`);
    if (event?.$case !== 'report') continue;
    const { rows, errorCount, warningCount, labelRows } = event.value;
    const labels = Object.entries(labelRows).map(([label, count]) => `${count} ${label}`).join(', ');
    screen.line(`${id}: ${rows} rows (${labels}), ${errorCount} errors, ${warningCount} warnings, sha256 ${sha256.slice(0, 12)}…`);
  }
  return dataset.name;
}

export interface Tuned {
  readonly version: string;
  readonly result: TuningResult;
  readonly losses: readonly number[];
}

/** Tunes on one data set and shows how it goes; returns the version that the job published. */
export async function tune(session: Session, dataset: string, length: { epochs: number }): Promise<Tuned> {
  const { client, screen, base, settings, seed, signal } = session;
  const losses: number[] = [];
  const request = {
    parent: PARENT,
    specification: {
      baseModel: `models/${base.id}`,
      adapterId: ADAPTER,
      seed,
      stages: [
        {
          dataset,
          trainable: { selection: { $case: 'lora' as const, value: { rank: settings.rank, alpha: settings.alpha } } },
          optimizer: { learningRate: settings.learningRate },
          length: { $case: 'epochs' as const, value: length.epochs },
          batchSize: settings.batchSize,
          labelTemplate: LABEL_TEMPLATES,
        },
      ],
    },
  };
  for await (const { event } of client.tune.tune(request, { signal })) {
    if (event?.$case === 'step') {
      const { step, totalSteps, loss, tokensPerSecond, remainingSeconds } = event.value;
      losses.push(loss);
      const figures = `step ${step}/${totalSteps}  loss ${loss.toFixed(3)}  ${tokensPerSecond.toFixed(0)} tokens/s  ${Math.ceil(remainingSeconds)} s left`;
      screen.progress(step / totalSteps, `${bar(step, totalSteps)} ${figures}  ${sparkline(losses, 24)}`);
    } else if (event?.$case === 'result') {
      screen.endProgress();
      const { state, result, error } = event.value;
      if (state !== JobState.JOB_STATE_SUCCEEDED || result === undefined) throw jobFailed('tuning', state, error?.message);
      return { version: result.adapterVersion, result, losses };
    }
  }
  throw jobFailed('tuning', 'no result', undefined);
}

/** Scores the targets on the rows held out; the first is the baseline. */
export async function evaluate({ client, screen, seed, signal }: Session, dataset: string, targets: readonly string[]): Promise<EvaluationResult> {
  const task = { $case: 'classification' as const, value: { labels: [...LABELS], template: LABEL_TEMPLATES } };
  const request = { parent: PARENT, specification: { dataset, targets: [...targets], task, seed } };
  for await (const { event } of client.evaluate.evaluate(request, { signal })) {
    if (event?.$case === 'progress') {
      const { target, rowsDone, rowsTotal } = event.value;
      const index = Math.max(0, targets.indexOf(target));
      const share = (index + rowsDone / Math.max(1, rowsTotal)) / targets.length;
      screen.progress(share, `${bar(share, 1)} ${index === 0 ? 'base' : 'adapter'}: ${rowsDone} of ${rowsTotal} rows`);
    } else if (event?.$case === 'result') {
      screen.endProgress();
      const { state, result, error } = event.value;
      if (state !== JobState.JOB_STATE_SUCCEEDED || result === undefined) throw jobFailed('evaluation', state, error?.message);
      return result;
    }
  }
  throw jobFailed('evaluation', 'no result', undefined);
}

function jobFailed(kind: string, state: string, message: string | undefined): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'JOB_STATE', `the ${kind} ended as ${state}${message === undefined ? '' : `: ${message}`}`);
}
