/**
 * Training beside PyTorch + PEFT, interleaved in one run: in every round our job runner takes some steps, then every peer does, and what
 * counts is the median of the rounds' ratios. Every participant is a process of its own, whose peak memory is the highest resident set.
 * Processor time is given beside the wall's: on a machine that others use it says more.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, type LoricaClient } from '../src/client/index.js';
import { chooseBase, PREFERRED_MODEL, type ChosenBase } from '../src/cli/quickstart/model.js';
import { startServerProcess, type ServerProcess } from '../src/cli/quickstart/server-process.js';
import { usableProcessors } from '../src/runtime/environment.js';
import { Peer } from './peer.js';
import { float32ProductGigaflops } from './product-rate.js';
import { median, spread, type Spread } from './statistics.js';
import { longRows, trainingSteps, uploadRows } from './training-job.js';
import { TUNE_CASES, type OursSettings, type PeerKind, type TuneCase } from './tune-cases.js';

export interface ParticipantFigures {
  readonly tokensPerSecond: Spread;
  readonly processorSecondsPerStep: number;
  readonly peakMemoryBytes: number;
}

export interface CaseFigures {
  readonly title: string;
  readonly batch: string;
  /** Share of the tokens that counted in our loss; the peers are given the same. */
  readonly lossShare: number;
  readonly participants: Readonly<Record<string, ParticipantFigures>>;
  /** Our tokens a second over each other participant's: the median of the rounds. */
  readonly speed: Readonly<Record<string, number>>;
  /** The same of processor time: theirs over ours. */
  readonly processorTime: Readonly<Record<string, number>>;
  /** Our peak memory over theirs. */
  readonly memory: Readonly<Record<string, number>>;
}

export interface TuneFigures {
  readonly base: string;
  readonly threads: number;
  readonly float32ProductGigaflops: number;
  readonly peerProductGigaflops: number;
  /** The former over the latter: what the float32 ratios are read beside (docs/decisions/0014-ratios-and-product-rates.md). */
  readonly productAdvantage: number;
  readonly cases: Readonly<Record<string, CaseFigures>>;
}

export interface TuneOptions {
  readonly model?: string;
  /** Ids of cases; default all. */
  readonly cases?: readonly string[];
  readonly rounds: number;
  /** Measured steps of a participant in a round. */
  readonly steps: number;
  readonly log: (text: string) => void;
}

interface Measured {
  readonly tokens: number;
  readonly seconds: number;
  readonly processorSeconds: number;
}

/** What takes part in a case's rounds. */
interface Participant {
  readonly name: string;
  take(steps: number): Promise<Measured>;
  peakMemoryBytes(): Promise<number>;
  stop(): Promise<void>;
}

export async function tune(options: TuneOptions): Promise<TuneFigures> {
  const signal = new AbortController().signal;
  const base = await chooseBase(options.model ?? PREFERRED_MODEL, { signal, onProgress: () => undefined });
  const chosen = TUNE_CASES.filter(({ id }) => options.cases === undefined || options.cases.includes(id));
  const unknown = (options.cases ?? []).filter((id) => !TUNE_CASES.some((one) => one.id === id));
  if (unknown.length > 0) throw new Error(`no such case: ${unknown.join(', ')}; there are ${TUNE_CASES.map(({ id }) => id).join(', ')}`);
  const rate = await float32ProductGigaflops();
  const cases: Record<string, CaseFigures> = {};
  const peerRates: number[] = [];
  for (const one of chosen) cases[one.id] = await measureCase(one, base, options, peerRates);
  const peerRate = median(peerRates);
  return { base: base.id, threads: usableProcessors(), float32ProductGigaflops: rate, peerProductGigaflops: peerRate, productAdvantage: rate / peerRate, cases };
}

async function measureCase(one: TuneCase, base: ChosenBase, options: TuneOptions, peerRates: number[]): Promise<CaseFigures> {
  const participants: Participant[] = [];
  try {
    const subject = await startOurs('ours', one, one.ours, base);
    participants.push(subject);
    if (one.beside !== undefined) participants.push(await startOurs('oursFloat32', one, one.beside, base));
    // A first job builds sessions and says how many tokens count.
    for (const ours of participants) await ours.take(1);
    const lossShare = subject.lossShare();
    for (const kind of one.peers) {
      const peer = await startPeer(kind, one, lossShare);
      peerRates.push(peer.productGigaflops);
      participants.push(peer);
    }
    const rounds: Measured[][] = [];
    for (let round = 0; round < options.rounds; round++) {
      const measured: Measured[] = [];
      for (const participant of participants) measured.push(await participant.take(options.steps));
      rounds.push(measured);
      options.log(`${one.id}, round ${round + 1}: ${participants.map(({ name }, i) => `${name} ${rateOf(measured[i]!).toFixed(0)}`).join(', ')} tokens/s`);
    }
    return await figuresOf(one, lossShare, participants, rounds, options.steps);
  } finally {
    for (const participant of participants) await participant.stop();
  }
}

const rateOf = ({ tokens, seconds }: Measured): number => tokens / seconds;

async function figuresOf(one: TuneCase, lossShare: number, participants: readonly Participant[], rounds: readonly Measured[][], steps: number): Promise<CaseFigures> {
  const figures: Record<string, ParticipantFigures> = {};
  for (const [i, participant] of participants.entries()) {
    figures[participant.name] = {
      tokensPerSecond: spread(rounds.map((round) => rateOf(round[i]!))),
      processorSecondsPerStep: median(rounds.map((round) => round[i]!.processorSeconds / steps)),
      peakMemoryBytes: await participant.peakMemoryBytes(),
    };
  }
  const others = participants.slice(1).map(({ name }, i) => [name, i + 1] as const);
  const ratio = (of: (round: Measured[], other: number) => number) => Object.fromEntries(others.map(([name, other]) => [name, median(rounds.map((round) => of(round, other)))]));
  return {
    title: one.title,
    batch: `${one.rows} x ${one.length}`,
    lossShare,
    participants: figures,
    speed: ratio((round, other) => rateOf(round[0]!) / rateOf(round[other]!)),
    processorTime: ratio((round, other) => round[other]!.processorSeconds / round[other]!.tokens / (round[0]!.processorSeconds / round[0]!.tokens)),
    memory: Object.fromEntries(others.map(([name]) => [name, figures['ours']!.peakMemoryBytes / figures[name]!.peakMemoryBytes])),
  };
}

/** A server with a job runner; every `take` is a job, whose first step, with its start, is not counted. */
async function startOurs(name: string, one: TuneCase, settings: OursSettings, base: ChosenBase): Promise<Participant & { lossShare(): number }> {
  const dataDir = await mkdtemp(join(tmpdir(), 'lorica-bench-'));
  // A single configured base would be loaded for serving too; what is measured here is training.
  const models = base.embedded ? new Map<string, string>() : new Map([[base.id, base.path], [`${base.id}-not-used`, base.path]]);
  const server = await startServerProcess({ dataDir, models, device: 'cpu' });
  const client = connect({ address: server.address, tenant: 'bench' });
  await client.ready(60_000);
  const dataset = await uploadRows(client, 'long-rows', await longRows(one.length, one.rows, one.completionShare));
  let share = Number.NaN;
  return {
    name,
    lossShare: () => share,
    take: async (steps) => {
      const measured = await ourSteps(client, server, { dataset, baseModel: `models/${base.id}`, rows: one.rows, length: one.length, steps: steps + 1, ...settings });
      share = measured.lossShare;
      return measured;
    },
    peakMemoryBytes: async () => (await server.peakMemoryBytes()) ?? Number.NaN,
    stop: async () => {
      client.close();
      await server.stop();
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}

async function ourSteps(client: LoricaClient, server: ServerProcess, job: Parameters<typeof trainingSteps>[1]): Promise<Measured & { lossShare: number }> {
  let [tokens, seconds, lossTokens, fed, began, ended] = [0, 0, 0, 0, Number.NaN, Number.NaN];
  let first = true;
  for await (const step of trainingSteps(client, job)) {
    lossTokens += step.lossTokens;
    fed += step.tokens;
    ended = (await server.processorSeconds()) ?? Number.NaN;
    if (first) began = ended;
    else {
      tokens += step.tokens;
      seconds += step.seconds;
    }
    first = false;
  }
  return { tokens, seconds, processorSeconds: ended - began, lossShare: lossTokens / fed };
}

async function startPeer(kind: PeerKind, one: TuneCase, lossShare: number): Promise<Participant & { readonly productGigaflops: number }> {
  const dtype = kind === 'bfloat16' ? 'bfloat16' : 'float32';
  const settings = { method: one.method, dtype, rank: 16, rows: one.rows, length: one.length, lossShare, threads: usableProcessors() } as const;
  const peer = await Peer.start(settings, kind !== 'float32');
  let peak = Number.NaN;
  return {
    name: kind,
    productGigaflops: peer.productGigaflops,
    take: async (count) => {
      const { seconds, processorSeconds, peakMemoryBytes } = await peer.steps(count);
      peak = peakMemoryBytes;
      return { tokens: count * one.rows * one.length, seconds: seconds.reduce((sum, one) => sum + one, 0), processorSeconds };
    },
    peakMemoryBytes: () => Promise.resolve(peak),
    stop: () => peer.stop(),
  };
}
