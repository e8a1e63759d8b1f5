/**
 * Trains the embedded base, models/tiny, from scratch on public-domain text with the project's own full fine-tuning:
 *   npm run tiny-base [-- --steps 1800 --out models/tiny]
 * Prints what it does and its losses, writes the model after each part, and states data, steps and losses in the model's README.
 * With the same thread count the result is the same to the bit.
 */
import { execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { writeHfFolder } from '../../src/models/checkpoint.js';
import { createTokenizer } from '../../src/models/tokenizer.js';
import { Runtime } from '../../src/runtime/index.js';
import { trainOnTokens } from '../../src/tuning/index.js';
import { trainBpe } from './bpe.js';
import { readCorpus } from './corpus.js';
import { initialWeights, parameterCount, TINY_CONFIG } from './init.js';
import { packCorpus } from './pack.js';
import { modelReadme, type PartReport } from './readme.js';
import { END_OF_TEXT_ID, SPECIAL_TOKENS, tokenizerConfig, tokenizerJson } from './tokenizer-files.js';

const ROW_TOKENS = 256;
const SEED = 20_240_601;
const PEAK_RATE = 3e-3;
/** Of all steps: held at the peak, then half a cosine to 0. The model is written after each part. */
const PARTS = [
  { share: 0.3, schedule: { kind: 'constant', warmupSteps: 60 } },
  { share: 0.7, schedule: { kind: 'cosine', warmupSteps: 10 } },
] as const;
const VALIDATION_ROWS = 96;

const options = new Command('tiny-base')
  .option('--steps <n>', 'optimizer steps in all', Number, 1800)
  .option('--rows <n>', `rows of ${ROW_TOKENS} tokens in a step`, Number, 16)
  .option('--threads <n>', 'threads of a native run', Number, cpus().length)
  .option('--out <folder>', 'where the model is written', 'models/tiny')
  .option('--cache <folder>', 'where packages are unpacked', '.cache/tiny-base')
  .parse()
  .opts<{ steps: number; rows: number; threads: number; out: string; cache: string }>();

const documents = await readCorpus(resolve(options.cache));
const vocabulary = trainBpe(documents.map((document) => document.text), TINY_CONFIG.vocabSize - SPECIAL_TOKENS.length);
const json = tokenizerJson(vocabulary);
const tokenizer = createTokenizer({ json, bosTokenId: END_OF_TEXT_ID, eosTokenIds: [END_OF_TEXT_ID], label: 'tiny' });
const corpus = packCorpus(documents, (text) => tokenizer.encode(text, { parseSpecial: false }), ROW_TOKENS, SEED);
const validation = corpus.validation.slice(0, VALIDATION_ROWS);
const characters = documents.reduce((sum, document) => sum + document.text.length, 0);
console.log(`${documents.length} documents, ${characters} characters, ${corpus.trainTokens} tokens to train on, ${corpus.validationTokens} held out`);
console.log(`${parameterCount(TINY_CONFIG)} parameters, ${options.steps} steps of ${options.rows} x ${ROW_TOKENS} tokens, ${options.threads} threads`);

const runtime = Runtime.open({ intraOpThreads: options.threads });
let tensors = initialWeights(TINY_CONFIG, SEED);
const parts: PartReport[] = [];
for (const [index, part] of PARTS.entries()) {
  const steps = Math.round(options.steps * part.share);
  const losses: number[] = [];
  let validationLoss = Number.NaN;
  const { tensors: trained, outcome } = await trainOnTokens({
    runtime,
    config: TINY_CONFIG,
    initialTensors: tensors,
    rows: corpus.train,
    stage: {
      steps,
      batchSize: options.rows,
      learningRate: PEAK_RATE,
      schedule: part.schedule,
      weightDecay: 0.1,
      decayNorms: false,
      betas: [0.9, 0.95],
      maxGradientNorm: 1,
      objective: { kind: 'languageModel', loss: 'all' },
    },
    seed: SEED + index,
    emit: (event) => {
      losses.push(event.loss);
      if (event.step % 20 !== 0 && event.step !== 1) return;
      const recent = losses.slice(-20);
      const mean = recent.reduce((sum, loss) => sum + loss, 0) / recent.length;
      console.log(`part ${index + 1} step ${event.step}/${steps} loss ${mean.toFixed(4)} rate ${event.learningRate.toExponential(2)} norm ${event.gradientNorm.toFixed(2)} ${event.tokensPerSecond.toFixed(0)} tokens/s, ${Math.round(event.etaMs / 1000)} s left`);
    },
    validation: {
      rows: validation,
      everySteps: 200,
      report: (step, loss) => {
        validationLoss = loss;
        console.log(`part ${index + 1} step ${step}: validation loss ${loss.toFixed(4)} nats per token`);
      },
    },
  });
  tensors = trained;
  const recent = losses.slice(-20);
  parts.push({ steps, tokens: outcome.tokens, trainLoss: recent.reduce((sum, loss) => sum + loss, 0) / recent.length, validationLoss, seconds: outcome.elapsedMs / 1000, schedule: part.schedule.kind });
  await writeHfFolder(resolve(options.out), {
    config: TINY_CONFIG,
    tensors,
    dtype: 'float16',
    tokenizerJson: json,
    tokenizerConfig: tokenizerConfig(TINY_CONFIG.maxPositionTokens),
  });
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD']).toString().trim();
  const text = modelReadme({ config: TINY_CONFIG, documents, corpus, parts, rowTokens: ROW_TOKENS, batchRows: options.rows, peakRate: PEAK_RATE, seed: SEED, threads: options.threads, commit });
  await writeFile(join(resolve(options.out), 'README.md'), text);
  console.log(`written to ${options.out}`);
}
await runtime.close();
