/**
 * Training beside generation on one device: `npm run bench -- share`. One stream of a base while a LoRA job trains on it (4 x 256 tokens), beside the
 * same stream while the job is paused and the job while nobody generates; the three take turns, so that the machine's drift hits all alike.
 * The server runs in this process, because native runs are counted one by one; its client pays on the same event loop.
 *
 * combinedWork: the stream's rate with the job, in its idle rate, plus the job's rate with the stream, in its rate alone. Perfect alternation of two
 * loops on one device gives 1: what one gets the other loses. The job's work is counted in layer runs, which are all of one batch size.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chooseBase, PREFERRED_MODEL } from '../src/cli/quickstart/model.js';
import { connect, JobState, type LoricaClient } from '../src/client/index.js';
import { silentLogger } from '../src/common/logger.js';
import { loadConfig } from '../src/config/config.js';
import { startServer } from '../src/main/server.js';
import { Runtime, type RunReport } from '../src/runtime/index.js';
import { float32ProductGigaflops } from './product-rate.js';
import { arrivals, PROMPTS } from './smoke.js';
import { median, quantile, streamRate } from './statistics.js';
import { longRows, uploadRows } from './training-job.js';

const BATCH_ROWS = 4;
const ROW_TOKENS = 256;
/** Steps before and while the job is measured alone; the first builds sessions and maps memory. */
const STEPS = 1;
/** Where float32 products run at this rate, a run of training is to be at most 100 ms. */
const REFERENCE_GIGAFLOPS = 200;
const LAYER_RUN = /^training:layer-/;

export interface ShareFigures {
  readonly base: string;
  readonly timeSharing: string;
  readonly float32ProductGigaflops: number;
  /** Between tokens of one stream. */
  readonly idle: Latency;
  readonly withJob: Latency;
  /** withJob.p95Ms − idle.p95Ms, in longest segments of the same rounds. */
  readonly p95IncreaseInSegments: number;
  readonly segments: {
    readonly longestMs: number;
    readonly p95Ms: number;
    readonly medianMs: number;
    /** The 95th percentile where products run at 200 GFLOPS: scaled by this machine's rate. */
    readonly p95MsAtReference: number;
    /** Longest run by kind of session. */
    readonly byKindMs: Readonly<Record<string, number>>;
  };
  readonly generationShare: number;
  readonly trainingShare: number;
  readonly combinedWork: number;
  /** Of the time with both, the share in which a native run went on. */
  readonly deviceBusyShare: number;
  readonly rounds: number;
}

interface Latency {
  readonly p50Ms: number;
  readonly p95Ms: number;
  readonly tokensPerSecond: number;
}

interface ShareOptions {
  readonly model?: string;
  readonly timeSharing: string;
  readonly rounds: number;
  readonly log: (text: string) => void;
}

export async function share({ model, timeSharing, rounds, log }: ShareOptions): Promise<ShareFigures> {
  const base = await chooseBase(model ?? PREFERRED_MODEL, { signal: new AbortController().signal, onProgress: () => undefined });
  const gigaflops = await float32ProductGigaflops();
  log(`${base.id}: ${base.why}; float32 products: ${gigaflops.toFixed(0)} GFLOPS`);
  const dataDir = await mkdtemp(join(tmpdir(), 'lorica-bench-'));
  const models = base.embedded ? {} : { models: `${base.id}=${base.path}` };
  const config = loadConfig({}, { listen: '127.0.0.1:0', metricsListen: '127.0.0.1:0', dataDir, timeSharing, ...models });
  const server = await startServer(config, { logger: silentLogger });
  const runtime = Runtime.open();
  const client = connect({ address: server.address, tenant: 'bench' });
  try {
    const measured = await measure(new Bench(client, runtime, base.id, log), rounds);
    return { base: base.id, timeSharing, float32ProductGigaflops: gigaflops, ...figures(measured, gigaflops), rounds };
  } finally {
    client.close();
    await server.stop();
    await runtime.close();
    await rm(dataDir, { recursive: true, force: true });
  }
}

/** A stretch of time: the stream's arrivals, where one ran, and all native runs. */
interface Stretch {
  readonly ms: number;
  readonly times: readonly number[];
  readonly runs: readonly RunReport[];
}

interface Round {
  readonly idle: Stretch;
  readonly alone: Stretch;
  readonly together: Stretch;
}

async function measure(bench: Bench, rounds: number): Promise<Round[]> {
  await bench.stream(PROMPTS[0]!);
  await bench.startJob();
  const all: Round[] = [];
  for (let round = 0; round < rounds; round++) {
    const prompt = PROMPTS[round % PROMPTS.length]!;
    const together = await bench.stretch(() => bench.stream(prompt));
    const alone = await bench.stretch(() => bench.untilStep(STEPS));
    await bench.pause();
    const idle = await bench.stretch(() => bench.stream(prompt));
    if (round + 1 < rounds) await bench.resume();
    all.push({ idle, alone, together });
    bench.log(`round ${round + 1}: ${streamRate(idle.times).toFixed(0)} tokens/s idle, ${streamRate(together.times).toFixed(1)} with the job; layers/s ${layerRate(alone).toFixed(1)} alone, ${layerRate(together).toFixed(1)} with the stream`);
  }
  return all;
}

class Bench {
  private readonly job: string;

  constructor(
    private readonly client: LoricaClient,
    private readonly runtime: Runtime,
    private readonly baseId: string,
    readonly log: (text: string) => void,
  ) {
    this.job = 'tenants/bench/tuningJobs/share';
  }

  async stream(prompt: string): Promise<readonly number[]> {
    return (await arrivals(this.client, `models/${this.baseId}`, prompt)).times;
  }

  /** A job that outlives the measurement; resolves when its sessions are built and memory is mapped. */
  async startJob(): Promise<void> {
    const parent = 'tenants/-';
    const dataset = await uploadRows(this.client, 'long-rows', await longRows(ROW_TOKENS, BATCH_ROWS));
    const stage = {
      dataset,
      trainable: { selection: { $case: 'lora' as const, value: { rank: 16 } } },
      length: { $case: 'steps' as const, value: 100_000 },
      batchSize: BATCH_ROWS,
      // A row of n + 1 tokens feeds n and predicts the n after each.
      maxLengthTokens: ROW_TOKENS + 1,
    };
    await this.client.tune.createTuningJob({ parent, tuningJobId: 'share', specification: { baseModel: `models/${this.baseId}`, adapterId: 'share', stages: [stage] } });
    await this.untilStep(STEPS);
  }

  /** Resolves after the next `count` steps. */
  async untilStep(count: number): Promise<readonly number[]> {
    const from = Date.now();
    let left = count;
    for await (const { event, time } of this.client.tune.watchTuningJob({ name: this.job })) {
      if (event?.$case === 'result') throw new Error(`the job ended: ${event.value.error?.message ?? ''}`);
      if (event?.$case === 'step' && time!.getTime() >= from && --left === 0) return [];
    }
    return [];
  }

  async pause(): Promise<void> {
    await this.client.tune.pauseTuningJob({ name: this.job });
    for await (const { event } of this.client.tune.watchTuningJob({ name: this.job })) if (event?.$case === 'job' && event.value.state === JobState.JOB_STATE_PAUSED) return;
  }

  async resume(): Promise<void> {
    await this.client.tune.resumeTuningJob({ name: this.job });
    await this.untilStep(STEPS);
  }

  async stretch(work: () => Promise<readonly number[]>): Promise<Stretch> {
    const runs: RunReport[] = [];
    const stop = this.runtime.onRun((report) => void runs.push(report));
    const from = performance.now();
    const times = await work();
    const ms = performance.now() - from;
    stop();
    return { ms, times, runs };
  }
}

const gaps = (times: readonly number[]): number[] => times.slice(1).map((time, i) => time - times[i]!);
const layerRate = ({ runs, ms }: Stretch): number => (1000 * runs.filter(({ session }) => LAYER_RUN.test(session)).length) / ms;

function latency(stretches: readonly Stretch[]): Latency {
  const all = stretches.flatMap(({ times }) => gaps(times));
  return { p50Ms: median(all), p95Ms: quantile(all, 0.95), tokensPerSecond: median(stretches.map(({ times }) => streamRate(times))) };
}

function figures(rounds: readonly Round[], gigaflops: number): Omit<ShareFigures, 'base' | 'timeSharing' | 'float32ProductGigaflops' | 'rounds'> {
  const idle = latency(rounds.map((round) => round.idle));
  const withJob = latency(rounds.map((round) => round.together));
  const runs = rounds.flatMap(({ together }) => together.runs).filter(({ lane }) => lane === 'training');
  const ranMs = runs.map((run) => run.ranMs);
  const longestMs = Math.max(...ranMs);
  const byKindMs: Record<string, number> = {};
  for (const { session, ranMs: ms } of runs) {
    const kind = session.split(':').slice(0, 2).join(':');
    byKindMs[kind] = Math.max(byKindMs[kind] ?? 0, ms);
  }
  const generationShare = median(rounds.map((round) => streamRate(round.together.times) / streamRate(round.idle.times)));
  const trainingShare = median(rounds.map((round) => layerRate(round.together) / layerRate(round.alone)));
  const p95Ms = quantile(ranMs, 0.95);
  return {
    idle,
    withJob,
    p95IncreaseInSegments: (withJob.p95Ms - idle.p95Ms) / longestMs,
    segments: { longestMs, p95Ms, medianMs: median(ranMs), p95MsAtReference: p95Ms * Math.min(1, gigaflops / REFERENCE_GIGAFLOPS), byKindMs },
    generationShare,
    trainingShare,
    combinedWork: generationShare + trainingShare,
    deviceBusyShare: median(rounds.map(({ together }) => together.runs.reduce((sum, { ranMs: ms }) => sum + ms, 0) / together.ms)),
  };
}
