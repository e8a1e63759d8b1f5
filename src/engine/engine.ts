/** Signatures first; the class's body replaces this declaration. */
import type { Logger } from '../common/logger.js';
import type { Metrics } from '../metrics/metrics.js';
import type { Runtime } from '../runtime/index.js';
import type {
  EngineOptions, GenerateRequest, GenerationEvent, ModelProvider, Residency, ResolvedTarget, ScoreNextRequest, ScoreRequest, SequenceScore,
} from './types.js';

export declare class Engine {
  constructor(input: { runtime: Runtime; models: ModelProvider; options?: EngineOptions; metrics: Metrics; logger?: Logger });
  generate(request: GenerateRequest): AsyncIterable<GenerationEvent>;
  score(request: ScoreRequest): Promise<SequenceScore[]>;
  scoreNext(request: ScoreNextRequest): Promise<Float64Array[]>;
  preload(target: ResolvedTarget): Promise<void>;
  /** Drops an adapter or variant that no sequence uses; false when it is in use or not resident. */
  unload(digest: string): boolean;
  residency(): Residency;
  stop(options: { graceMs: number }): Promise<void>;
}
