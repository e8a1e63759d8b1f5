/** What the quickstart tunes with, for each kind of base. The prompt and the labels are the same for all. */
export const PROMPT_TEMPLATE = 'Review: {text}\nSentiment:';
export const LABEL_TEMPLATE = ' {label}';
export const LABELS = ['negative', 'positive'] as const;

export const TRAIN_ROWS = 800;
/** Rows of the first version, which the alias points to until the real one is evaluated. */
export const DRAFT_ROWS = 64;

export interface TuningSettings {
  readonly rank: number;
  readonly alpha: number;
  readonly learningRate: number;
  readonly epochs: number;
  readonly batchSize: number;
}

/** For pretrained models: LoRA on all linear layers as it is commonly used. */
export const PRETRAINED_SETTINGS: TuningSettings = { rank: 16, alpha: 32, learningRate: 2e-4, epochs: 2, batchSize: 8 };

/** For the embedded base, which knows little: more passes at a higher rate. */
export const EMBEDDED_SETTINGS: TuningSettings = { rank: 16, alpha: 32, learningRate: 2e-3, epochs: 6, batchSize: 8 };
