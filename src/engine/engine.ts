/**
 * The engine: generation and scoring over one runtime, for many models and adapters at once. It checks what a request may ask, then
 * hands sequences to the scheduler and scorings to their model. It knows digests, never aliases or tenants' rights.
 */
import { randomBytes } from 'node:crypto';
import { invalidFields, LoricaError, type FieldViolation } from '../common/errors.js';
import { silentLogger, type Logger } from '../common/logger.js';
import type { Metrics } from '../metrics/metrics.js';
import type { Checkpoint } from '../models/checkpoint.js';
import { ServingCache } from '../models/serving-cache.js';
import { mapFile, type Runtime } from '../runtime/index.js';
import { Residency, type Lease } from './residency.js';
import { checkRequest, samplerSettings } from './requests.js';
import { Scheduler } from './scheduler.js';
import { Scoring, type ScoringItem } from './scoring.js';
import { Sequence } from './sequence.js';
import type { ServingModel } from './serving-model.js';
import type {
  ClassifyRequest, EngineOptions, GenerateRequest, GenerationEvent, ModelProvider, Residency as ResidencyList, ResolvedTarget, ScoreNextRequest, ScoreRequest,
  SequenceScore, TargetHead,
} from './types.js';

const DEFAULTS = {
  servingForm: 'int8', maxSequences: 8, maxContextTokens: 1_024, maxWaiting: 256, prefillChunkTokens: 96, scoringBatchTokens: 256, adapterCacheBytes: 2 ** 30, maxVariants: 2,
} as const satisfies Required<EngineOptions>;

export interface EngineInput {
  readonly runtime: Runtime;
  readonly models: ModelProvider;
  readonly options?: EngineOptions;
  readonly metrics: Metrics;
  readonly logger?: Logger;
  /** A folder for weights in their serving form, so that the next start reads them; none: they are made at every start. */
  readonly servingFolder?: string;
}

export class Engine {
  readonly #residency: Residency;
  readonly #scheduler: Scheduler;
  readonly #scorings = new Map<ServingModel, Scoring>();
  readonly #scoringBatchTokens: number;
  readonly #scoringNow = new Set<Promise<unknown>>();
  readonly #stopSignal = new AbortController();
  #stopping = false;

  /** UNIMPLEMENTED/DEVICE_UNAVAILABLE on a device that the serving form is not made for. */
  constructor(input: EngineInput) {
    const { runtime, models, metrics, logger = silentLogger } = input;
    if (runtime.device !== 'cpu') {
      throw new LoricaError('UNIMPLEMENTED', 'DEVICE_UNAVAILABLE', `generation and scoring run on the CPU only in this version, not on ${runtime.device}`, {
        hint: 'Use the device cpu.',
      });
    }
    const options = { ...DEFAULTS, ...input.options };
    checkOptions(options);
    this.#scoringBatchTokens = options.scoringBatchTokens;
    this.#residency = new Residency({
      runtime, models, form: options.servingForm, maxContextTokens: options.maxContextTokens,
      cache: input.servingFolder === undefined ? undefined : new ServingCache(input.servingFolder, mapFile),
      limits: { loraBytes: options.adapterCacheBytes, variants: options.maxVariants },
      onAdapterLoaded: (tenant) => metrics.adapterLoadsTotal.inc({ tenant }),
      onResidentChange: (adapters) => metrics.adaptersResident.set(adapters),
      onModelDropped: (model) => this.#forget(model),
    });
    const { maxSequences, maxWaiting, prefillChunkTokens: chunkTokens } = options;
    this.#scheduler = new Scheduler(this.#residency, { maxSequences, maxWaiting, chunkTokens }, metrics, logger);
  }

  /**
   * Streams the tokens that follow the prompt; nothing happens before the first event is asked for. Errors come from the iteration:
   * INVALID_ARGUMENT, CONTEXT_LENGTH_EXCEEDED, OVERLOADED, what loading the target throws. An abort ends the stream with 'cancelled';
   * a consumer that leaves early cancels too.
   */
  async *generate(request: GenerateRequest): AsyncGenerator<GenerationEvent> {
    const checkpoint = await this.#residency.checkpoint(request.target);
    const contextTokens = this.#residency.contextTokens(checkpoint);
    checkRequest(request, checkpoint.config.vocabSize, contextTokens);
    const eosTokenIds = new Set([...checkpoint.tokenizer.eosTokenIds, ...checkpoint.config.eosTokenIds]);
    const settings = samplerSettings(request.sampling, () => randomBytes(8).readBigUInt64LE());
    const sequence = new Sequence({ request, tokenizer: checkpoint.tokenizer, eosTokenIds, settings, contextTokens });
    const cancel = (): void => this.#scheduler.cancel(sequence);
    if (request.signal?.aborted === true) sequence.finish('cancelled');
    else this.#scheduler.submit(sequence);
    request.signal?.addEventListener('abort', cancel);
    try {
      yield* sequence.events();
    } finally {
      request.signal?.removeEventListener('abort', cancel);
      cancel();
    }
  }

  /** Natural log-probabilities of the tokens from `scoreFrom` on, each given all tokens before it. */
  async score(request: ScoreRequest): Promise<SequenceScore[]> {
    const violations = request.sequences.flatMap(({ tokens, scoreFrom }, i): FieldViolation[] =>
      Number.isSafeInteger(scoreFrom) && scoreFrom >= 1 && scoreFrom < tokens.length ? []
        : [{ field: `sequences[${i}].score_from`, description: `must be from 1 to ${tokens.length - 1}` }]);
    if (violations.length > 0) throw invalidFields(violations);
    const items = request.sequences.map(({ tokens, scoreFrom }) => ({
      // The last token is predicted, never read.
      tokens: tokens.slice(0, -1),
      queries: Array.from({ length: tokens.length - scoreFrom }, (_, i) => ({ position: scoreFrom + i - 1, candidates: [tokens[scoreFrom + i]!] })),
    }));
    const found = await this.#score(request, items);
    return found.map((logProbabilities) => ({ logProbabilities }));
  }

  /** Natural log-probabilities of each candidate right after each prompt: one pass over the prompts. */
  async scoreNext(request: ScoreNextRequest): Promise<Float64Array[]> {
    const { candidates } = request;
    if (candidates.length === 0) throw invalidFields([{ field: 'candidates', description: 'needs at least one token' }]);
    return this.#score(request, request.prompts.map((tokens) => ({ tokens, queries: [{ position: tokens.length - 1, candidates }] })));
  }

  /** The target's classification head; undefined for one without. Loads an adapter that is not in memory. */
  async head(target: ResolvedTarget): Promise<TargetHead | undefined> {
    if (target.adapter === undefined) return undefined;
    const lease = await this.#acquire(target);
    try {
      return lease.head === undefined ? undefined : { labels: lease.head.labels, template: lease.head.template };
    } finally {
      lease.release();
    }
  }

  /** Natural log-probabilities of the labels of the target's head, in its order: one pass over the prompts. */
  async classify(request: ClassifyRequest): Promise<Float64Array[]> {
    return this.#score(request, request.prompts.map((tokens) => ({ tokens, queries: [{ position: tokens.length - 1, candidates: [] }] })), 'labels');
  }

  /** Loads a target and what generation with it needs, so that the first request does not wait for it. */
  async preload(target: ResolvedTarget): Promise<void> {
    const lease = await this.#acquire(target);
    try {
      await lease.model.prepareGeneration(lease.adapter !== undefined);
    } finally {
      lease.release();
    }
  }

  /** Drops an adapter or variant from memory; false when it is in use or not resident. */
  unload(digest: string): boolean {
    return this.#residency.drop(digest);
  }

  residency(): ResidencyList {
    return this.#residency.list();
  }

  /** Refuses new work, lets streams go on for up to `graceMs`, then ends them and frees everything. */
  async stop({ graceMs }: { graceMs: number }): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    const timer = setTimeout(() => this.#stopSignal.abort(), graceMs);
    await this.#scheduler.stop(graceMs);
    while (this.#scoringNow.size > 0) await Promise.allSettled(this.#scoringNow);
    clearTimeout(timer);
    this.#residency.dispose();
  }

  async #score(request: Pick<ScoreRequest, 'target' | 'signal' | 'lane'>, items: readonly ScoringItem[], what: 'tokens' | 'labels' = 'tokens'): Promise<Float64Array[]> {
    const checkpoint = await this.#residency.checkpoint(request.target);
    checkItems(items, checkpoint, this.#residency.contextTokens(checkpoint));
    const lease = await this.#acquire(request.target);
    const signals = [this.#stopSignal.signal, ...(request.signal === undefined ? [] : [request.signal])];
    if (what === 'labels' && lease.head === undefined) {
      lease.release();
      throw new LoricaError('FAILED_PRECONDITION', 'ADAPTER_INCOMPATIBLE', 'the target has no classification head');
    }
    const run = { adapter: lease.adapter, ...(what === 'labels' ? { labels: lease.head!.weight } : {}), lane: request.lane ?? 'evaluation', signal: AbortSignal.any(signals) };
    const running = this.#scoring(lease.model).run(items, run);
    this.#scoringNow.add(running);
    try {
      return await running;
    } finally {
      this.#scoringNow.delete(running);
      lease.release();
    }
  }

  async #acquire(target: ResolvedTarget): Promise<Lease> {
    if (this.#stopping) throw new LoricaError('UNAVAILABLE', 'SHUTTING_DOWN', 'the server is shutting down');
    return this.#residency.acquire(target);
  }

  #scoring(model: ServingModel): Scoring {
    let scoring = this.#scorings.get(model);
    if (scoring === undefined) {
      scoring = new Scoring(model, this.#scoringBatchTokens);
      this.#scorings.set(model, scoring);
    }
    return scoring;
  }

  #forget(model: ServingModel): void {
    this.#scheduler.forget(model);
    this.#scorings.get(model)?.dispose();
    this.#scorings.delete(model);
  }
}

function checkOptions(options: Required<EngineOptions>): void {
  const counts = ['maxSequences', 'maxContextTokens', 'maxWaiting', 'prefillChunkTokens', 'scoringBatchTokens'] as const;
  const wrong = counts.filter((name) => !Number.isSafeInteger(options[name]) || options[name] < 1);
  if (wrong.length > 0) throw invalidFields(wrong.map((name) => ({ field: name, description: `${options[name]} is not a positive integer` })));
}

function checkItems(items: readonly ScoringItem[], { config }: Checkpoint, contextTokens: number): void {
  items.forEach(({ tokens, queries }, i) => {
    const candidates = queries.flatMap((query) => query.candidates);
    const unknown = [...tokens, ...candidates].find((id) => !Number.isSafeInteger(id) || id < 0 || id >= config.vocabSize);
    if (tokens.length === 0 || unknown !== undefined) {
      throw invalidFields([{ field: `sequences[${i}]`, description: unknown === undefined ? 'is empty' : `${unknown} is not a token of this model` }]);
    }
    if (tokens.length > contextTokens) {
      throw new LoricaError('INVALID_ARGUMENT', 'CONTEXT_LENGTH_EXCEEDED', `sequence ${i} has ${tokens.length} tokens, the limit is ${contextTokens}`);
    }
  });
}
