/** Log-probabilities by the model in training: what the evaluation layer asks of a scorer, through a pass without gradients. */
import { layOut, padded, tokenRow } from './batches.js';
import type { ModelPass } from './model-pass.js';

/** Padded tokens of one micro-batch. */
const MOST_TOKENS = 4096;

interface Scored {
  readonly tokens: readonly number[];
  /** First position whose token is scored, at least 1. */
  readonly scoreFrom: number;
}

export class WorkingScorer {
  /** `classifier`: of a pass with a classification head. */
  constructor(private readonly pass: ModelPass, private readonly classifier: { readonly labels: readonly string[]; readonly template: string } | undefined) {}

  /** Natural log-probabilities of the tokens from `scoreFrom` on. */
  async score({ sequences, signal }: { readonly sequences: readonly Scored[]; readonly signal?: AbortSignal }): Promise<readonly { readonly logProbabilities: Float64Array }[]> {
    const rows = sequences.map(({ tokens, scoreFrom }) => tokenRow({ tokens: [...tokens], lossMask: tokens.map((_, i) => i >= scoreFrom) })!);
    const longest = rows.reduce((most, row) => Math.max(most, row.inputs.length), 1);
    const atOnce = Math.max(1, Math.floor(MOST_TOKENS / padded(longest)));
    const scores: { logProbabilities: Float64Array }[] = [];
    for (let start = 0; start < rows.length; start += atOnce) {
      const some = rows.slice(start, start + atOnce);
      const losses = await this.pass.losses(layOut(some), signal);
      let at = 0;
      for (const { lossTokens } of some) scores.push({ logProbabilities: Float64Array.from(losses.subarray(at, (at += lossTokens)), (loss) => -loss) });
    }
    return scores;
  }

  async scoreNext({ prompts, candidates, signal }: { readonly prompts: readonly (readonly number[])[]; readonly candidates: readonly number[]; readonly signal?: AbortSignal }): Promise<readonly Float64Array[]> {
    const sequences = prompts.flatMap((prompt) => candidates.map((candidate) => ({ tokens: [...prompt, candidate], scoreFrom: prompt.length })));
    const scores = await this.score({ sequences, ...(signal === undefined ? {} : { signal }) });
    return prompts.map((_, i) => Float64Array.from(candidates, (_candidate, k) => scores[i * candidates.length + k]!.logProbabilities[0]!));
  }

  head(): Promise<{ readonly labels: readonly string[]; readonly template: string } | undefined> {
    return Promise.resolve(this.classifier);
  }

  /** Natural log-probabilities of the head's labels after each prompt. */
  async classify({ prompts, signal }: { readonly prompts: readonly (readonly number[])[]; readonly signal?: AbortSignal }): Promise<readonly Float64Array[]> {
    const scores: Float64Array[] = [];
    for (const prompt of prompts) {
      const logits = await this.pass.logits(prompt, [prompt.length - 1], signal);
      const most = logits.reduce((a, b) => Math.max(a, b));
      const logSum = most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
      scores.push(Float64Array.from(logits, (logit) => logit - logSum));
    }
    return scores;
  }
}
