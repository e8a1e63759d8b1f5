/** Recommendations over the grid of what can be asked: valid specifications, within memory, for the reasons that they give. */
import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import type { LoricaError } from '../../src/common/errors.js';
import { parseHfConfig, type DecoderConfig } from '../../src/models/config.js';
import { layerSegments } from '../../src/models/training-form.js';
import { tuningCost } from '../../src/tuning/recommend-cost.js';
import { MEMORY_RUNGS, TIME_RUNGS } from '../../src/tuning/recommend-fit.js';
import { RULES } from '../../src/tuning/recommend-rules.js';
import type { RecommendInput, TuningTask } from '../../src/tuning/recommend-types.js';
import { WARNINGS } from '../../src/tuning/recommend-warnings.js';
import { ALTERNATIVES, recommendTuning, TASK_KINDS } from '../../src/tuning/recommend.js';
import { checkTuning } from '../../src/tuning/run.js';

const TINY = parseHfConfig(JSON.parse(readFileSync('test/golden/tiny-serving/config.json', 'utf8')));
const llama = (more: object): DecoderConfig =>
  parseHfConfig({ model_type: 'llama', architectures: ['LlamaForCausalLM'], hidden_act: 'silu', rms_norm_eps: 1e-5, rope_theta: 10_000, max_position_embeddings: 2048, ...more });
const SMOLLM2 = llama({
  hidden_size: 576, intermediate_size: 1536, num_hidden_layers: 30, num_attention_heads: 9, num_key_value_heads: 3, vocab_size: 49_152, tie_word_embeddings: true,
});
const LARGE = llama({
  hidden_size: 4096, intermediate_size: 11_008, num_hidden_layers: 32, num_attention_heads: 32, num_key_value_heads: 32, vocab_size: 32_000, tie_word_embeddings: false,
});
const MIB = 2 ** 20;
const NO_NEEDS = { manyAdapters: false, keepGeneralAbilities: false, domainVocabulary: false, cheaperInference: false };

function input(more: Partial<Omit<RecommendInput, 'data'>> & { data?: Partial<RecommendInput['data']> } = {}): RecommendInput {
  const task = more.task ?? 'questionAnswering';
  const kind = TASK_KINDS[task][0]!;
  const labels: Record<string, number> = kind === 'label' ? { good: 500, bad: 500 } : {};
  return {
    config: SMOLLM2, baseModel: 'm', dataset: 'tenants/t/datasets/d', task, needs: NO_NEEDS, memoryLimitBytes: 16_384 * MIB, timeLimitSeconds: undefined, threads: 2,
    ...more,
    data: { stored: true, rows: 1000, meanTokens: 100, longestTokens: 180, kind, labels, ...more.data },
  };
}
const rules = (asked: RecommendInput): string[] => recommendTuning(asked).reasons.map(({ rule }) => rule);
const last = <T>(items: readonly T[]): T => items.at(-1)!;

test('every combination gives specifications that pass the checks and fit the memory, or says what would', () => {
  const seen = new Set<string>();
  const checked = new Set<string>();
  const flags = Array.from({ length: 16 }, (_, i) => ({ manyAdapters: (i & 1) > 0, keepGeneralAbilities: (i & 2) > 0, domainVocabulary: (i & 4) > 0, cheaperInference: (i & 8) > 0 }));
  let [recommended, refused] = [0, 0];
  for (const config of [TINY, SMOLLM2, LARGE]) {
    for (const task of Object.keys(TASK_KINDS) as TuningTask[]) {
      for (const kind of TASK_KINDS[task]) {
        for (const [at, rows] of [1, 150, 3000, 2_000_000].entries()) {
          for (const memoryLimitBytes of [1, 2000 * MIB, 64_000 * MIB, 400_000 * MIB]) {
            const needs = flags[(at * 5 + seen.size + refused) % 16]!;
            for (const asked of [needs, { ...needs, manyAdapters: false }]) {
              const labels = Object.fromEntries(Array.from({ length: kind === 'label' ? [2, 5, 40, 1000][at]! : 0 }, (_, i) => [`label ${i}`, 1 + i]));
              const question = input({
                config, task, needs: asked, memoryLimitBytes, ...(at % 2 === 0 ? { timeLimitSeconds: 60 } : {}),
                data: { rows, kind, labels, longestTokens: at === 3 ? 5000 : 180 },
              });
              let answer;
              try {
                answer = recommendTuning(question);
              } catch (error) {
                expect(error).toMatchObject({ code: 'RESOURCE_EXHAUSTED', reason: 'MEMORY_INSUFFICIENT' });
                const leastBytes = Number((error as LoricaError).metadata['leastBytes']);
                expect(leastBytes).toBeGreaterThan(memoryLimitBytes);
                recommendTuning({ ...question, memoryLimitBytes: leastBytes });
                refused++;
                continue;
              }
              recommended++;
              for (const { specification, cost } of [answer, ...answer.alternatives]) {
                const key = JSON.stringify([config.layers, specification]);
                if (!checked.has(key)) checkTuning(specification, config);
                checked.add(key);
                expect(cost.memoryBytes).toBeLessThanOrEqual(memoryLimitBytes);
                expect(cost.seconds).toBeGreaterThan(0);
              }
              for (const { rule, because, evidence } of answer.reasons) {
                expect([rule, because !== '', evidence !== '']).toEqual([rule, true, true]);
                seen.add(rule);
              }
              for (const { rule } of [...answer.alternatives, ...answer.warnings]) seen.add(rule);
            }
          }
        }
      }
    }
  }
  expect(refused).toBeGreaterThan(20);
  expect(recommended).toBeGreaterThan(300);
  expect(seen.size).toBeGreaterThan(30);
}, 240_000);

test('the document has every rule, rung, alternative and warning', () => {
  const document = readFileSync('docs/tuning.md', 'utf8');
  const ids = [...RULES, ...MEMORY_RUNGS, ...TIME_RUNGS, ...ALTERNATIVES, ...WARNINGS].map(({ id }) => id);
  expect(new Set(ids).size).toBe(ids.length);
  expect(ids.filter((id) => !document.includes(`\`${id}\``))).toEqual([]);
  for (const { id, evidence } of [...RULES, ...MEMORY_RUNGS, ...TIME_RUNGS]) expect([id, document.includes(evidence)]).toEqual([id, true]);
});

describe('the rules', () => {
  test('question answering on a thousand rows is LoRA on the answers', () => {
    const { specification } = recommendTuning(input());
    expect(specification.stages).toEqual([
      expect.objectContaining({ trainable: { kind: 'lora', rank: 16, rsLora: false }, objective: { kind: 'languageModel', loss: 'completion' }, learningRate: 'auto', epochs: 2, batchSize: 8, maxLengthTokens: 192 }),
    ]);
  });

  test('much domain text is trained in full, unless adapters are shared or the base must keep what it can do', () => {
    const much = { task: 'domainAdaptation' as const, data: { rows: 200_000, meanTokens: 150 } };
    expect(last(recommendTuning(input(much)).specification.stages).trainable).toEqual({ kind: 'full' });
    for (const need of ['manyAdapters', 'keepGeneralAbilities'] as const) {
      expect(last(recommendTuning(input({ ...much, needs: { ...NO_NEEDS, [need]: true } })).specification.stages).trainable).toMatchObject({ kind: 'lora' });
    }
    expect(recommendTuning(input({ ...much, task: 'domainAdaptation' })).specification.stages[0]!.objective).toEqual({ kind: 'languageModel', loss: 'all' });
  });

  test('few labels are learnt as text, many by a head that is trained alone first', () => {
    expect(rules(input({ task: 'classification' }))).toContain('label-text');
    const labels = Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`l${i}`, 30]));
    const { stages } = recommendTuning(input({ task: 'classification', data: { labels } })).specification;
    expect(stages.map(({ objective, trainable }) => [objective?.kind, trainable.kind])).toEqual([['classification', 'components'], ['classification', 'lora']]);
  });

  test('preferences get DPO at a tenth of the rate', () => {
    const [stage] = recommendTuning(input({ task: 'preferenceAlignment' })).specification.stages;
    expect(stage).toMatchObject({ objective: { kind: 'preference' }, learningRate: 2e-5, trainable: { kind: 'lora' } });
    expect(stage).not.toHaveProperty('packing');
  });

  test('domain words train the embeddings first, a smaller model loses layers, and neither touches adapters that are shared', () => {
    const needs = { ...NO_NEEDS, domainVocabulary: true, cheaperInference: true };
    const { stages } = recommendTuning(input({ needs })).specification;
    expect(stages.map(({ trainable }) => trainable.kind)).toEqual(['components', 'lora']);
    expect(stages[0]!.architecture).toEqual({ removeLeastImportant: 4 });
    const shared = recommendTuning(input({ needs: { ...needs, manyAdapters: true } }));
    expect(shared.specification.stages).toHaveLength(1);
    expect(shared.specification.stages[0]).not.toHaveProperty('architecture');
    expect(shared.warnings.map(({ rule }) => rule)).toEqual(expect.arrayContaining(['adapters-without-vocabulary', 'adapters-on-a-whole-base']));
  });

  test('few rows lower the rank and are warned of; many raise it', () => {
    const few = recommendTuning(input({ data: { rows: 60 } }));
    expect(few.specification.stages[0]!.trainable).toEqual({ kind: 'lora', rank: 8, rsLora: false, dropout: 0.1 });
    expect(few.warnings.find(({ rule }) => rule === 'little-data')?.text).toMatch(/evaluation gate.*shuffled labels/);
    expect(recommendTuning(input({ data: { rows: 500_000, meanTokens: 300 } })).specification.stages[0]!.trainable).toMatchObject({ rank: 128, rsLora: true });
  });

  test('unbalanced labels and rows beyond the context are warned of', () => {
    const unbalanced = recommendTuning(input({ task: 'classification', data: { labels: { no: 980, yes: 20 } } }));
    expect(unbalanced.warnings.find(({ rule }) => rule === 'unbalanced-labels')?.text).toContain('98 %');
    expect(recommendTuning(input({ data: { longestTokens: 9000 } })).warnings.map(({ rule }) => rule)).toContain('long-rows');
  });

  test('rows of no use for the task are refused with what to do', () => {
    const refusal = (asked: RecommendInput): unknown => {
      try {
        return recommendTuning(asked);
      } catch (error) {
        return error;
      }
    };
    expect(refusal(input({ task: 'translation', data: { kind: 'text' } }))).toMatchObject({ code: 'INVALID_ARGUMENT', violations: [{ field: 'dataset', description: expect.stringContaining('completion, messages') }] });
    expect(refusal(input({ task: 'classification', data: { labels: { one: 5 } } }))).toMatchObject({ violations: [{ field: 'dataset' }] });
    expect(refusal(input({ data: { rows: 0 }, timeLimitSeconds: 0 }))).toMatchObject({ violations: [{ field: 'rows' }, { field: 'time_limit' }] });
  });
});

describe('resources', () => {
  test('less memory costs speed first, then the form of the base', () => {
    const used = (mib: number): string[] => rules(input({ memoryLimitBytes: mib * MIB })).filter((rule) => MEMORY_RUNGS.some(({ id }) => id === rule));
    const all = recommendTuning(input()).cost.memoryBytes / MIB;
    expect(used(Math.ceil(all))).toEqual([]);
    expect(used(Math.floor(all * 0.98))).toEqual(['accumulate']);
    const tight = recommendTuning(input({ memoryLimitBytes: 420 * MIB }));
    expect(tight.specification.baseWeights).toMatch(/int[84]/);
    expect(tight.cost.memoryBytes).toBeLessThanOrEqual(420 * MIB);
  });

  test('full tuning that does not fit becomes Adafactor, then LoRA', () => {
    const much = { task: 'domainAdaptation' as const, data: { rows: 200_000, meanTokens: 150 } };
    const within = (memoryLimitBytes: number): unknown => last(recommendTuning(input({ ...much, memoryLimitBytes })).specification.stages);
    const { memoryBytes } = recommendTuning(input(much)).cost;
    expect(within(memoryBytes * 0.6)).toMatchObject({ trainable: { kind: 'full' }, adafactor: {} });
    expect(within(memoryBytes * 0.3)).toMatchObject({ trainable: { kind: 'lora' } });
  });

  test('less time makes it shorter until it fits', () => {
    const whole = recommendTuning(input());
    for (const share of [0.9, 0.5, 0.3, 0.1, 0.01]) {
      const { cost, warnings } = recommendTuning(input({ timeLimitSeconds: share * whole.cost.seconds }));
      expect(cost.seconds).toBeLessThanOrEqual(share * whole.cost.seconds);
      if (share <= 0.1) expect(warnings.map(({ rule }) => rule)).toContain('part-of-the-rows');
    }
  });

  test('kept activations are counted as the training form keeps them', () => {
    const module = 'self_attn.q_proj' as const;
    const lora = new Map([[module, { rank: 8, scaling: 2, dora: false }]]);
    const { saved } = layerSegments(SMOLLM2, { saved: 'linear', inputGradient: true, lora, trainable: new Set([`${module}.lora_A.weight`, `${module}.lora_B.weight`]) });
    const width = SMOLLM2.hiddenSize + saved.reduce((sum, { shape }) => sum + Number(shape[1]), 0);
    const bytes = (savedActivations: 'linear' | 'layer', rows: number): number =>
      tuningCost(
        {
          baseModel: 'm', seed: 0,
          stages: [{ dataset: 'd', trainable: { kind: 'lora', rank: 8, targetModules: ['q_proj'] }, batchSize: rows, maxLengthTokens: 64, savedActivations }],
        },
        SMOLLM2, { rows: 100, meanTokens: 64, longestTokens: 64, labels: 0 }, 2,
      ).memoryBytes;
    const perToken = (bytes('linear', 8) - bytes('layer', 8)) / (8 * 64);
    expect(perToken).toBe(4 * SMOLLM2.layers * (width - SMOLLM2.hiddenSize));
  });

  test('SmolLM2 as measured: LoRA of rank 16 at 4 x 256 tokens takes about 1.5 GB and runs at about 250 tokens/s on two threads', () => {
    const specification = { baseModel: 'm', seed: 0, stages: [{ dataset: 'd', trainable: { kind: 'lora' as const, rank: 16 }, batchSize: 4, maxLengthTokens: 256 }] };
    const figures = { rows: 400, meanTokens: 256, longestTokens: 256, labels: 0 };
    const { memoryBytes, seconds, trainableParameters } = tuningCost(specification, SMOLLM2, figures, 2);
    expect(memoryBytes / 1e6).toBeGreaterThan(1250);
    expect(memoryBytes / 1e6).toBeLessThan(1800);
    expect((figures.rows * 256) / seconds).toBeGreaterThan(180);
    expect((figures.rows * 256) / seconds).toBeLessThan(320);
    expect(trainableParameters).toBe(4_884_480);
  });
});
