/** The README that is written beside the trained base: what it is, what it was trained on and how well it went. */
import type { DecoderConfig } from '../../src/models/config.js';
import type { Document } from './corpus.js';
import { SOURCES } from './corpus.js';
import { parameterCount } from './init.js';
import { HELD_OUT_EVERY, type PackedCorpus } from './pack.js';

export interface PartReport {
  readonly schedule: string;
  readonly steps: number;
  readonly tokens: number;
  /** Means in nats per token: over the last 20 steps, and over the validation rows at the end. */
  readonly trainLoss: number;
  readonly validationLoss: number;
  readonly seconds: number;
}

export interface ReadmeInput {
  readonly config: DecoderConfig;
  readonly documents: readonly Document[];
  readonly corpus: PackedCorpus;
  readonly parts: readonly PartReport[];
  readonly rowTokens: number;
  readonly batchRows: number;
  readonly peakRate: number;
  readonly seed: number;
  readonly threads: number;
  readonly commit: string;
}

export function modelReadme(input: ReadmeInput): string {
  const { config, documents, corpus, parts } = input;
  const bySource = new Map<string, { documents: number; characters: number }>();
  for (const { source, text } of documents) {
    const sum = bySource.get(source) ?? { documents: 0, characters: 0 };
    bySource.set(source, { documents: sum.documents + 1, characters: sum.characters + text.length });
  }
  const tokens = parts.reduce((sum, part) => sum + part.tokens, 0);
  const whole = (value: number): string => value.toLocaleString('en-US');
  return `# The embedded base

A small language model of the Llama family, trained from scratch by this project's own full fine-tuning. It serves tests, CI and the quickstart
on machines where no model can be fetched. It knows some English and little else.

${whole(parameterCount(config))} parameters in float16: ${config.layers} layers, width ${config.hiddenSize}, feed-forward ${config.intermediateSize}, ${config.heads} query and ${config.kvHeads} key/value heads of ${config.headDim}, a tied
vocabulary of ${whole(config.vocabSize)} (byte-level BPE, learned from the same text), contexts up to ${config.maxPositionTokens} tokens (trained on ${input.rowTokens}).

## Data

Public-domain text from pinned packages (${SOURCES.map((source) => `${source.name}@${source.version}`).join(', ')});
terms in data/NOTICE.

| source | documents | characters |
|---|---|---|
${[...bySource].map(([source, sum]) => `| ${source} | ${whole(sum.documents)} | ${whole(sum.characters)} |`).join('\n')}

${whole(corpus.trainTokens)} tokens to train on; every ${HELD_OUT_EVERY}th document (${whole(corpus.validationTokens)} tokens) is held out.

## Training

\`npm run tiny-base\` (scripts/tiny-base) at ${input.commit}: ${whole(tokens)} tokens in steps of ${input.batchRows} x ${input.rowTokens}, AdamW (0.9, 0.95), peak rate ${input.peakRate}, decay 0.1 (not on gains), clipped
at norm 1, seed ${input.seed}, ${input.threads} threads.

| part | rate | steps | training loss | validation loss | perplexity | minutes |
|---|---|---|---|---|---|---|
${parts.map((part, i) => `| ${i + 1} | ${part.schedule} | ${whole(part.steps)} | ${part.trainLoss.toFixed(3)} | ${part.validationLoss.toFixed(3)} | ${Math.exp(part.validationLoss).toFixed(1)} | ${(part.seconds / 60).toFixed(1)} |`).join('\n')}

Losses in nats per token; training losses are means of a part's last 20 steps.
`;
}
