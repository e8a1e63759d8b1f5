/**
 * Training and generation rates through gRPC, as a client meets them: LoRA of rank 16 on all linear layers at 4 x 256 tokens through the
 * job runner, and one and eight int8 streams of the base. The server runs in a process of its own; medians of repeated runs.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, type LoricaClient } from '../src/client/index.js';
import { chooseBase, PREFERRED_MODEL } from '../src/cli/quickstart/model.js';
import { startServerProcess } from '../src/cli/quickstart/server-process.js';
import { float32ProductGigaflops } from './product-rate.js';
import { type Arrivals, jointRate, median, spread, type Spread, streamRate } from './statistics.js';
import { longRows, trainingSteps, uploadRows } from './training-job.js';

const BATCH_ROWS = 4;
const ROW_TOKENS = 256;
const STEPS = 14;
/** Sessions are built and memory is mapped in the first steps. */
const WARM_UP_STEPS = 4;
const STREAM_TOKENS = 128;
const LEAST_STREAM_TOKENS = 100;
const REPEATS = 5;
const STREAMS = 8;
export const PROMPTS = [
  'Once upon a time, in a small village by the sea, there lived a fisherman who',
  'The history of the railway begins in the early nineteenth century, when engineers',
  'To bake a good loaf of bread you first have to understand how yeast works. Yeast',
  'In the north of the country the winters are long and the summers short, so the people',
  'My grandmother kept a garden behind the house, and every morning before breakfast she',
  'A computer program is a list of instructions. The machine reads them one by one and',
  'The market opened at six, and by seven the square was full of people who had come to',
  'Scientists who study the oceans have learned that the currents of the deep water',
];

export interface SmokeFigures {
  readonly base: string;
  readonly baseDigest: string;
  /** What the machine's processors give; training is read beside it. */
  readonly float32ProductGigaflops: number;
  readonly trainingTokensPerSecond: number;
  readonly training: Spread & { readonly batch: string; readonly peakMemoryBytes: number };
  readonly generation: {
    readonly oneStreamTokensPerSecond: number;
    readonly eightStreamsTokensPerSecond: number;
    readonly oneStream: Spread;
    readonly eightStreams: Spread;
    readonly timeToFirstTokenMs: number;
  };
  readonly serverPeakMemoryBytes: number | undefined;
}

export async function smoke(options: { model?: string; device: string; log: (text: string) => void }): Promise<SmokeFigures> {
  const signal = new AbortController().signal;
  const base = await chooseBase(options.model ?? PREFERRED_MODEL, { signal, onProgress: () => undefined });
  options.log(`${base.id}: ${base.why}`);
  const productRate = await float32ProductGigaflops();
  options.log(`float32 products: ${productRate.toFixed(0)} GFLOPS`);
  const dataDir = await mkdtemp(join(tmpdir(), 'lorica-bench-'));
  const server = await startServerProcess({ dataDir, models: base.embedded ? new Map() : new Map([[base.id, base.path]]), device: options.device });
  const client = connect({ address: server.address, tenant: 'bench' });
  try {
    await client.ready(30_000);
    const generation = await measureGeneration(client, `models/${base.id}`, options.log);
    const training = await measureTraining(client, base.id, options.log);
    const model = await client.models.getModel({ name: `models/${base.id}` });
    return {
      base: base.id,
      baseDigest: model.digest,
      float32ProductGigaflops: productRate,
      trainingTokensPerSecond: training.median,
      training,
      generation,
      serverPeakMemoryBytes: await server.peakMemoryBytes(),
    };
  } finally {
    client.close();
    await server.stop();
    await rm(dataDir, { recursive: true, force: true });
  }
}

/** Token arrival times of one greedy stream. */
export async function arrivals(client: LoricaClient, target: string, prompt: string): Promise<{ times: Arrivals; firstTokenMs: number }> {
  const times: number[] = [];
  const from = performance.now();
  const sampling = { maxTokens: STREAM_TOKENS, temperature: 0 };
  for await (const { event } of client.generate.streamGenerate({ target, input: { $case: 'prompt', value: prompt }, sampling })) {
    if (event?.$case === 'token') times.push(performance.now());
  }
  if (times.length < LEAST_STREAM_TOKENS) throw new Error(`a stream ended after ${times.length} tokens: it is too short to measure`);
  return { times, firstTokenMs: times[0]! - from };
}

async function measureGeneration(client: LoricaClient, target: string, log: (text: string) => void): Promise<SmokeFigures['generation']> {
  await arrivals(client, target, PROMPTS[0]!);
  const alone: number[] = [];
  const together: number[] = [];
  const firstTokenMs: number[] = [];
  for (let run = 0; run < REPEATS; run++) {
    const one = await arrivals(client, target, PROMPTS[run % PROMPTS.length]!);
    alone.push(streamRate(one.times));
    firstTokenMs.push(one.firstTokenMs);
    const all = await Promise.all(PROMPTS.slice(0, STREAMS).map((prompt) => arrivals(client, target, prompt)));
    together.push(jointRate(all.map((stream) => stream.times)));
    log(`run ${run + 1}: one stream ${alone.at(-1)!.toFixed(0)} tokens/s, eight ${together.at(-1)!.toFixed(0)}`);
  }
  return {
    oneStreamTokensPerSecond: median(alone),
    eightStreamsTokensPerSecond: median(together),
    oneStream: spread(alone),
    eightStreams: spread(together),
    timeToFirstTokenMs: median(firstTokenMs),
  };
}

async function measureTraining(client: LoricaClient, baseId: string, log: (text: string) => void): Promise<SmokeFigures['training']> {
  const dataset = await uploadRows(client, 'long-rows', await longRows(ROW_TOKENS, BATCH_ROWS));
  const rates: number[] = [];
  let step = 0;
  for await (const { tokens, seconds } of trainingSteps(client, { dataset, baseModel: `models/${baseId}`, rows: BATCH_ROWS, length: ROW_TOKENS, steps: STEPS, stage: {} })) {
    step += 1;
    if (step > WARM_UP_STEPS) rates.push(tokens / seconds);
    log(`step ${step}: ${tokens} tokens, ${(tokens / seconds).toFixed(0)} tokens/s`);
  }
  const jobs = await client.tune.listTuningJobs({ parent: 'tenants/-' });
  return { ...spread(rates), batch: `${BATCH_ROWS} x ${ROW_TOKENS}`, peakMemoryBytes: jobs.tuningJobs[0]?.result?.peakMemoryBytes ?? Number.NaN };
}
