/**
 * One generation from acceptance to its last event: its tokens, its settings, the text that may be given out, and the queue of events
 * that its consumer reads. It never touches a model; the batch feeds it tokens.
 */
import { LoricaError } from '../common/errors.js';
import type { IncrementalDecoder, Tokenizer } from '../models/tokenizer.js';
import type { Lease } from './residency.js';
import type { SamplerSettings } from './sampler.js';
import { StopStrings } from './stop-strings.js';
import type { FinishReason, GenerateRequest, GenerationEvent } from './types.js';

export interface SequenceInput {
  readonly request: GenerateRequest;
  readonly tokenizer: Tokenizer;
  readonly eosTokenIds: ReadonlySet<number>;
  readonly settings: SamplerSettings;
  /** Prompt plus generated tokens. */
  readonly contextTokens: number;
}

export class Sequence {
  readonly tenant: string;
  readonly request: GenerateRequest;
  readonly settings: SamplerSettings;
  /** Set when admitted; the batch computes with it. */
  lease: Lease | undefined;
  /** Tokens sampled so far. */
  generated = 0;
  lastToken = -1;
  lastTokenMs = 0;
  readonly acceptedMs = performance.now();
  admittedMs = 0;
  firstTokenMs = 0;
  readonly #limit: number;
  readonly #eos: ReadonlySet<number>;
  readonly #decoder: IncrementalDecoder;
  readonly #stops: StopStrings;
  readonly #events: GenerationEvent[] = [];
  #failure: Error | undefined;
  #ended = false;
  #notify: (() => void) | undefined;

  constructor({ request, tokenizer, eosTokenIds, settings, contextTokens }: SequenceInput) {
    this.tenant = request.tenant;
    this.request = request;
    this.settings = settings;
    this.#limit = Math.min(request.sampling.maxTokens, contextTokens - request.promptTokens.length);
    this.#eos = eosTokenIds;
    this.#decoder = tokenizer.incremental({ skipSpecialTokens: true });
    this.#stops = new StopStrings(request.sampling.stop ?? []);
  }

  /** Tokens whose keys and values are in the cache while it decodes: all but the last sampled one. */
  get cachedTokens(): number {
    return this.request.promptTokens.length + this.generated - 1;
  }

  /** Finished, failed or cancelled: it must not be fed any more. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Takes the next sampled token. */
  accept(id: number, logProbability: number | undefined): void {
    const now = performance.now();
    if (this.generated === 0) this.firstTokenMs = now;
    this.generated++;
    this.lastToken = id;
    this.lastTokenMs = now;
    if (this.#eos.has(id)) {
      this.finish('stop');
      return;
    }
    const { text, stopped } = this.#stops.push(this.#decoder.push(id));
    this.#emit({ kind: 'token', id, text, ...(logProbability === undefined ? {} : { logProbability }) });
    if (stopped) this.#end('stop', '');
    else if (this.generated >= this.#limit) this.finish('length');
  }

  /** Ends it and releases held-back text; nothing happens when it has ended. */
  finish(reason: FinishReason): void {
    if (this.#ended) return;
    const { text, stopped } = this.#stops.push(this.#decoder.flush());
    this.#end(reason, stopped ? text : text + this.#stops.flush());
  }

  /** Ends it with an error that its consumer gets. */
  fail(error: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#failure = error instanceof Error ? error : new LoricaError('INTERNAL', 'INTERNAL', 'generation failed', { cause: error });
    this.#notify?.();
  }

  /** The events in order; ends after the 'end' event, throws what `fail` was given. For one consumer. */
  async *events(): AsyncGenerator<GenerationEvent> {
    for (;;) {
      for (let event = this.#events.shift(); event !== undefined; event = this.#events.shift()) {
        yield event;
        if (event.kind === 'end') return;
      }
      if (this.#failure !== undefined) throw this.#failure;
      await new Promise<void>((resolve) => {
        this.#notify = resolve;
      });
    }
  }

  #end(finishReason: FinishReason, text: string): void {
    const now = performance.now();
    this.#ended = true;
    this.#emit({
      kind: 'end', text, finishReason,
      usage: {
        promptTokens: this.request.promptTokens.length, generatedTokens: this.generated,
        queueMs: (this.admittedMs === 0 ? now : this.admittedMs) - this.acceptedMs,
        timeToFirstTokenMs: this.generated === 0 ? 0 : this.firstTokenMs - this.acceptedMs,
        totalMs: now - this.acceptedMs,
      },
    });
  }

  #emit(event: GenerationEvent): void {
    this.#events.push(event);
    this.#notify?.();
  }
}
