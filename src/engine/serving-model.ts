/**
 * A base model or variant ready to compute: weights, and the sessions over them, built when first wanted and kept. All sessions of a
 * model share one copy of the weights and one container of prepacked weights. Whether rows run, and which, is not known here.
 */
import { LoricaError } from '../common/errors.js';
import type { Checkpoint } from '../models/checkpoint.js';
import type { DecoderConfig } from '../models/config.js';
import { servingModel, type ServingSessionKind } from '../models/serving-form.js';
import type { ServingForm } from '../models/serving-form-weights.js';
import type { PrepackedWeights, Runtime, Session } from '../runtime/index.js';
import type { ServingWeights } from './serving-weights.js';

export interface ServingModelInput {
  readonly runtime: Runtime;
  readonly checkpoint: Checkpoint;
  readonly weights: ServingWeights;
  /** The checkpoint's, or that of a variant with an architecture of its own. */
  readonly config: DecoderConfig;
  readonly form: ServingForm;
  readonly contextTokens: number;
}

export class ServingModel {
  /** The base's. */
  readonly checkpoint: Checkpoint;
  readonly config: DecoderConfig;
  readonly weights: ServingWeights;
  readonly contextTokens: number;
  readonly runtime: Runtime;
  readonly #form: ServingForm;
  readonly #prepacked: PrepackedWeights;
  readonly #sessions = new Map<ServingSessionKind, Promise<Session>>();
  #disposed = false;

  constructor(input: ServingModelInput) {
    this.runtime = input.runtime;
    this.checkpoint = input.checkpoint;
    this.config = input.config;
    this.weights = input.weights;
    this.contextTokens = input.contextTokens;
    this.#form = input.form;
    this.#prepacked = input.runtime.prepackedWeights();
  }

  /** The session of this kind; the first call builds it on a native thread. */
  session(kind: ServingSessionKind): Promise<Session> {
    if (this.#disposed) throw new LoricaError('UNAVAILABLE', 'SHUTTING_DOWN', 'the serving model is disposed');
    let session = this.#sessions.get(kind);
    if (session === undefined) {
      session = this.#build(kind);
      this.#sessions.set(kind, session);
      // A build that failed is tried again by the next caller.
      session.catch(() => this.#sessions.delete(kind));
    }
    return session;
  }

  /** Builds what generation needs, so that no step waits for it. */
  async prepareGeneration(withAdapter: boolean): Promise<void> {
    const kinds = withAdapter ? (['chunk.shared', 'head', 'decode.shared', 'decode.rows'] as const) : (['chunk.none', 'head', 'decode.none'] as const);
    // The head packs other weights than the layers' sessions do, so it is built beside the first; those among themselves would each pack a copy.
    await Promise.all([kinds[0], kinds[1]].map((kind) => this.session(kind)));
    for (const kind of kinds.slice(2)) await this.session(kind);
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const session of this.#sessions.values()) session.then((built) => built.dispose(), () => undefined);
    this.#prepacked.dispose();
    this.weights.dispose();
  }

  async #build(kind: ServingSessionKind): Promise<Session> {
    const { model, weights } = servingModel(kind, { config: this.config, form: this.#form, contextTokens: this.contextTokens, stored: this.weights.stored });
    const initializers = new Map(weights.map((name) => [name, this.weights.tensors.get(name)!]));
    return this.runtime.loadSession(model, { name: `${this.checkpoint.id}.${kind}`, initializers, prepacked: this.#prepacked });
  }
}
