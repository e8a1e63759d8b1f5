/**
 * Estimates of tuning jobs beside the jobs themselves: six configurations that differ in method, rank, length, batch and data, each estimated
 * and then run on a server of its own. Nothing is fitted to them: an estimate measures layers of its own job.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Component, connect, DatasetFormat, JobState, SavedActivations, type DeepPartial, type TuningStage } from '../src/client/index.js';
import { chooseBase, PREFERRED_MODEL } from '../src/cli/quickstart/model.js';
import { readReviews } from '../src/cli/quickstart/reviews.js';
import { startServerProcess } from '../src/cli/quickstart/server-process.js';
import { median } from './statistics.js';

interface Configuration {
  readonly id: string;
  /** Sentences of a row, put one after another. */
  readonly sentences: number;
  readonly stage: DeepPartial<TuningStage>;
}

const components = (list: Component[]) => ({ selection: { $case: 'components' as const, value: { components: list } } });
const lora = (value: object) => ({ selection: { $case: 'lora' as const, value } });
/** Of an epoch. Of two, the second is timed: buffers have grown to their sizes, and every row counts once, as it does in the estimate. */
const STEPS = 12;
/** Writing a checkpoint is no step; the runner's own policy keeps it at 2 % of a job's time, but for the first. */
const CHECKPOINTS = { everySteps: 4 * STEPS };

const CONFIGURATIONS: readonly Configuration[] = [
  { id: 'LoRA r16, short rows', sentences: 1, stage: { trainable: lora({ rank: 16 }), batchSize: 16 } },
  { id: 'LoRA r8 on q and v, long rows', sentences: 12, stage: { trainable: lora({ rank: 8, targetModules: ['q_proj', 'v_proj'] }), batchSize: 4 } },
  { id: 'LoRA r32, recomputed', sentences: 6, stage: { trainable: lora({ rank: 32 }), batchSize: 8, savedActivations: SavedActivations.SAVED_ACTIVATIONS_LAYER } },
  { id: 'last 4 layers', sentences: 4, stage: { trainable: { selection: { $case: 'lastLayers', value: { layers: 4 } } }, batchSize: 8 } },
  { id: 'attention only, accumulated', sentences: 3, stage: { trainable: components([Component.COMPONENT_ATTENTION]), batchSize: 4, accumulationSteps: 2 } },
  { id: 'full', sentences: 2, stage: { trainable: { selection: { $case: 'full', value: {} } }, batchSize: 8 } },
];

export interface EstimateFigures {
  readonly base: string;
  readonly worstTimeError: number;
  readonly worstMemoryError: number;
  readonly configurations: readonly {
    readonly id: string;
    readonly estimatedSecondsPerStep: number;
    readonly secondsPerStep: number;
    readonly timeError: number;
    readonly estimatedPeakBytes: number;
    readonly peakBytes: number;
    readonly memoryError: number;
    readonly estimateSeconds: number;
  }[];
}

export async function estimate(options: { model?: string; log: (text: string) => void }): Promise<EstimateFigures> {
  const base = await chooseBase(options.model ?? PREFERRED_MODEL, { signal: new AbortController().signal, onProgress: () => undefined });
  const sentences = (await readReviews()).map(({ text }) => text);
  const configurations: EstimateFigures['configurations'][number][] = [];
  for (const { id, sentences: count, stage } of CONFIGURATIONS) {
    const dataDir = await mkdtemp(join(tmpdir(), 'lorica-bench-'));
    const server = await startServerProcess({ dataDir, models: base.embedded ? new Map() : new Map([[base.id, base.path]]), device: 'cpu' });
    const client = connect({ address: server.address, tenant: 'bench' });
    try {
      const { batchSize = 1, accumulationSteps = 1 } = stage;
      const rows = Array.from({ length: STEPS * batchSize * accumulationSteps }, (_, i) => `${JSON.stringify({ text: Array.from({ length: count }, (__, j) => sentences[(i * count + j) % sentences.length]).join(' ') })}\n`);
      const bytes = Buffer.from(rows.join(''));
      const dataset = await client.datasets.uploadDataset({ parent: 'tenants/-', datasetId: 'rows', format: DatasetFormat.DATASET_FORMAT_JSONL }, bytes);
      const specification = {
        baseModel: `models/${base.id}`, adapterId: 'estimated',
        stages: [{ dataset: dataset.name, length: { $case: 'epochs' as const, value: 2 }, maxLengthTokens: 512, ...stage }],
        checkpoints: CHECKPOINTS,
      };
      // The base's serving form is loaded as the server starts; estimate and job should both find it there.
      await client.generate.generate({ target: `models/${base.id}`, input: { $case: 'prompt', value: 'The' }, sampling: { maxTokens: 1 } });
      const from = performance.now();
      const estimated = await client.tune.estimateTuningJob({ parent: 'tenants/-', specification });
      const estimateSeconds = (performance.now() - from) / 1000;
      const times: number[] = [];
      let peakBytes = Number.NaN;
      let before: number | undefined;
      for await (const { event } of client.tune.tune({ parent: 'tenants/-', specification })) {
        if (event?.$case === 'step') {
          // A step's own tokens per second are the mean since the first: times come from where the events stand.
          const now = performance.now();
          if (before !== undefined) times.push((now - before) / 1000);
          before = now;
        }
        if (event?.$case !== 'result') continue;
        if (event.value.state !== JobState.JOB_STATE_SUCCEEDED) throw new Error(`${id}: the job ended as ${event.value.state}: ${event.value.error?.message ?? ''}`);
        peakBytes = event.value.result!.peakMemoryBytes;
      }
      const steady = times.slice(-STEPS);
      const secondsPerStep = steady.reduce((sum, time) => sum + time, 0) / steady.length;
      const estimatedSecondsPerStep = estimated.seconds / estimated.steps;
      const timeError = estimatedSecondsPerStep / secondsPerStep - 1;
      const memoryError = estimated.peakMemoryBytes / peakBytes - 1;
      configurations.push({ id, estimatedSecondsPerStep, secondsPerStep, timeError, estimatedPeakBytes: estimated.peakMemoryBytes, peakBytes, memoryError, estimateSeconds });
      options.log(
        `${id.padEnd(30)} ${estimatedSecondsPerStep.toFixed(3)} s a step estimated, ${secondsPerStep.toFixed(3)} taken (median ${median(steady).toFixed(3)}, ${(100 * timeError).toFixed(0)} %); ` +
          `${(estimated.peakMemoryBytes / 1e6).toFixed(0)} MB estimated, ${(peakBytes / 1e6).toFixed(0)} taken (${(100 * memoryError).toFixed(0)} %); the estimate took ${estimateSeconds.toFixed(1)} s`,
      );
    } finally {
      client.close();
      await server.stop();
      await rm(dataDir, { recursive: true, force: true });
    }
  }
  const worst = (key: 'timeError' | 'memoryError'): number => Math.max(...configurations.map((one) => Math.abs(one[key])));
  return { base: base.id, worstTimeError: worst('timeError'), worstMemoryError: worst('memoryError'), configurations };
}
