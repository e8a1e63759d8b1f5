/**
 * What products of eight-bit integers cost in accuracy: the cosine of every LoRA gradient to float32's on real text, and the loss after
 * the same steps on three data sets, each trained both ways from the same seed. Speed is in `npm run bench -- tune --cases int8Products`.
 */
import { openCheckpoint, type Checkpoint } from '../src/models/checkpoint.js';
import { continuationTokens } from '../src/models/prompt.js';
import { Runtime } from '../src/runtime/index.js';
import { gaussian, labelledStream } from '../src/common/random-streams.js';
import { chooseBase, PREFERRED_MODEL } from '../src/cli/quickstart/model.js';
import { TrainingHost } from '../src/tuning/index.js';
import { layOut, tokenRow } from '../src/tuning/batches.js';
import { ModelPass } from '../src/tuning/model-pass.js';
import { beginStage } from '../src/tuning/tuning-run.js';
import { resolveStage } from '../src/tuning/specification.js';
import { WorkingModel } from '../src/tuning/working-model.js';
import { localRun, texts } from './local-run.js';

const DATA_SETS = ['amazon', 'yelp', 'docs'] as const;
const TRAINABLE = { kind: 'lora', rank: 16 } as const;
/** Standard deviation of B: at its start, zero, A has no gradient to compare. */
const B_DEVIATION = 0.01;
/** The loss after training is the mean over this share of the last steps. */
const LAST_SHARE = 0.1;

export interface Int8Options {
  readonly model?: string;
  readonly steps: number;
  readonly rows: number;
  readonly length: number;
  readonly log: (text: string) => void;
}

export interface Int8Figures {
  readonly base: string;
  readonly batch: string;
  readonly steps: number;
  /** Over all LoRA matrices. */
  readonly gradientCosine: { readonly mean: number; readonly least: number; readonly tensors: number };
  readonly dataSets: Readonly<Record<string, { readonly float32Loss: number; readonly int8Loss: number; readonly deviation: number }>>;
  /** The largest |int8 / float32 − 1| of the final losses. */
  readonly largestLossDeviation: number;
}

export async function int8(options: Int8Options): Promise<Int8Figures> {
  const base = await chooseBase(options.model ?? PREFERRED_MODEL, { signal: new AbortController().signal, onProgress: () => undefined });
  const checkpoint = await openCheckpoint(base.path);
  const runtime = Runtime.open();
  try {
    const gradientCosine = await compareGradients(runtime, checkpoint, options);
    options.log(`gradients: mean cosine ${gradientCosine.mean.toFixed(5)}, least ${gradientCosine.least.toFixed(5)}`);
    const dataSets: Record<string, { float32Loss: number; int8Loss: number; deviation: number }> = {};
    for (const name of DATA_SETS) {
      const losses: number[] = [];
      for (const int8Products of [false, true]) losses.push(await finalLoss(runtime, checkpoint, name, int8Products, options));
      const [float32Loss, int8Loss] = losses as [number, number];
      dataSets[name] = { float32Loss, int8Loss, deviation: int8Loss / float32Loss - 1 };
      options.log(`${name}: ${float32Loss.toFixed(5)} in float32, ${int8Loss.toFixed(5)} with integers`);
    }
    const largestLossDeviation = Math.max(...Object.values(dataSets).map(({ deviation }) => Math.abs(deviation)));
    return { base: base.id, batch: `${options.rows} x ${options.length}`, steps: options.steps, gradientCosine, dataSets, largestLossDeviation };
  } finally {
    await checkpoint.close();
    await runtime.close();
  }
}

async function finalLoss(runtime: Runtime, checkpoint: Checkpoint, name: (typeof DATA_SETS)[number], int8Products: boolean, { steps, rows, length }: Int8Options): Promise<number> {
  const taken = await localRun({
    checkpoint,
    host: new TrainingHost(runtime),
    examples: await texts(name, 8 * length),
    stage: { trainable: TRAINABLE, steps, batchSize: rows, maxLengthTokens: length + 1 },
    options: { int8Products },
  });
  const last = taken.slice(-Math.max(1, Math.round(LAST_SHARE * steps)));
  return last.reduce((sum, { loss }) => sum + loss, 0) / last.length;
}

async function compareGradients(runtime: Runtime, checkpoint: Checkpoint, { rows, length }: Int8Options): Promise<Int8Figures['gradientCosine']> {
  const [exact, approximate] = [await gradients(runtime, checkpoint, false, rows, length), await gradients(runtime, checkpoint, true, rows, length)];
  const cosines = [...exact].map(([name, values]) => cosine(values, approximate.get(name)!));
  return { mean: cosines.reduce((sum, one) => sum + one, 0) / cosines.length, least: Math.min(...cosines), tensors: cosines.length };
}

/** Gradients of one micro-batch by parameter. */
async function gradients(runtime: Runtime, checkpoint: Checkpoint, int8Products: boolean, rows: number, length: number): Promise<Map<string, Float32Array>> {
  const { config, digest, weights, tokenizer } = checkpoint;
  const lease = new TrainingHost(runtime).lease({ key: digest, config, weights }, { int8Products });
  const stage = resolveStage({ dataset: 'bench', trainable: TRAINABLE }, config.maxPositionTokens);
  const { model } = await beginStage(new WorkingModel(lease), config, stage, 0);
  for (const name of model.parameters.names.filter((one) => one.includes('lora_B'))) {
    const draw = gaussian(labelledStream(0, name));
    const values = model.parameters.value(name).f32();
    for (let i = 0; i < values.length; i++) values[i] = B_DEVIATION * draw();
  }
  const pass = await ModelPass.create(lease, model, { savedActivations: 'linear', maxLengthTokens: length });
  const examples = (await texts('reviews', 8 * length)).slice(0, rows);
  const batch = layOut(examples.map((example) => {
    const tokens = continuationTokens('', example.kind === 'text' ? example.text : '', tokenizer).slice(0, length + 1);
    return tokenRow({ tokens, lossMask: tokens.map(() => true) })!;
  }));
  await pass.gradients(batch, 1 / (rows * length), false, undefined);
  const result = new Map(model.parameters.names.map((name) => [name, model.parameters.gradient(name).f32().slice()]));
  pass.dispose();
  model.parameters.disposeGradients();
  await lease.release();
  return result;
}

function cosine(a: Float32Array, b: Float32Array): number {
  let [product, left, right] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    product += a[i]! * b[i]!;
    left += a[i]! ** 2;
    right += b[i]! ** 2;
  }
  return product / Math.sqrt(left * right);
}
