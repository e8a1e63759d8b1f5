/** What can be said about a change of architecture. */

/**
 * New layers that compute the identity before training: their o_proj and down_proj are zero, biases included (block expansion,
 * LLaMA Pro, Wu et al. 2024).
 */
export interface LayerInsertion {
  /** They stand before this layer of the base; L is behind the last one. Insertions at one place stay in their order. */
  readonly at: number;
  /** Default 1. */
  readonly count?: number;
  /** 'copy' (default) of a neighbour in all but the zeros; 'fresh': gains 1, weights normal with the neighbour's root mean square. */
  readonly initialize?: 'copy' | 'fresh';
  /** The neighbour; default the layer before, or the first. */
  readonly copyOf?: number;
}

/** Adds neurons: gate and up rows random (normal, the matrix's root mean square), columns of down zero, so that outputs stay equal. */
export interface FeedForwardGrowth {
  /** Added to each layer. */
  readonly neurons: number;
  /** Default all layers. */
  readonly layers?: readonly number[];
}

/** Removes the least important neurons. */
export interface FeedForwardPruning {
  /** Removed from each layer. */
  readonly neurons: number;
  /** Default all layers. */
  readonly layers?: readonly number[];
  /** 'magnitude' (default): |gate_j|·|up_j|·|down_j|; 'activation': E|silu(gate_j)·up_j| on data times |down_j|. */
  readonly importance?: 'magnitude' | 'activation';
}

/** Probabilities that training zeroes a value, survivors scaled by 1/(1 − p): of attention weights, of what a sublayer adds to the stream, of embeddings. */
export interface DropoutRates {
  readonly attention?: number;
  readonly residual?: number;
  readonly embedding?: number;
}

export interface ArchitectureEdits {
  readonly insert?: readonly LayerInsertion[];
  readonly remove?: readonly number[];
  /** Removes as many layers with the lowest importance; not together with `remove`. */
  readonly removeLeastImportant?: number;
  readonly growFeedForward?: readonly FeedForwardGrowth[];
  readonly pruneFeedForward?: readonly FeedForwardPruning[];
  readonly dropout?: DropoutRates;
}

/** What was measured on data, where edits ask for it. */
export interface ArchitectureMeasurements {
  /** [L], for removeLeastImportant; `BlockInfluence` measures one. */
  readonly layerImportance?: readonly number[];
  /** Mean |silu(gate)·up| of every neuron [F] by layer, for pruning by activation; `NeuronActivity` measures it. */
  readonly neuronActivity?: ReadonlyMap<number, ArrayLike<number>>;
}
