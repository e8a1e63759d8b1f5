/**
 * GenerateService: generation, scoring, classification, tokens. Requests become tokens here and go to the engine by digest; the
 * caller's signal goes along, so a disconnect or a deadline ends the work. Prompts and texts are never logged or kept.
 */
import { LoricaError } from '../common/errors.js';
import type { FinishReason as EngineFinishReason, GenerationEvent, Sampling as EngineSampling, Usage } from '../engine/index.js';
import {
  FinishReason,
  type GenerateRequest,
  type GenerateServiceService,
  type GenerationToken,
  type Sampling,
} from '../gen/lorica/v1/generate_service.js';
import type { TokenUsage } from '../gen/lorica/v1/types.js';
import type { CallContext, Handlers } from './call.js';
import { checkText, MAX_TEXT_CHARACTERS, readConversation } from './chat-messages.js';
import { classify } from './classify.js';
import { defined } from './defined.js';
import { Fields } from './fields.js';
import type { Generator, ModelLibrary, TextModel } from './ports.js';
import type { Target, Targets } from './targets.js';

export interface GenerateDependencies {
  readonly targets: Targets;
  readonly models: ModelLibrary;
  readonly engine: Generator;
}

const DEFAULT_MAX_TOKENS = 256;

const FINISH_REASONS: Readonly<Record<EngineFinishReason, FinishReason>> = {
  stop: FinishReason.FINISH_REASON_STOP,
  length: FinishReason.FINISH_REASON_LENGTH,
  cancelled: FinishReason.FINISH_REASON_CANCELLED,
};

const usageMessage = (usage: Usage): TokenUsage => ({ promptTokens: usage.promptTokens, completionTokens: usage.generatedTokens });

const tokenMessage = (event: Extract<GenerationEvent, { kind: 'token' }>): GenerationToken => ({
  text: event.text,
  tokenId: event.id,
  logProbability: event.logProbability,
});

function readSampling(message: Sampling | undefined, fields: Fields): Omit<EngineSampling, 'maxTokens'> & { maxTokens?: number } {
  fields.integer('sampling.max_tokens', message?.maxTokens, 1, 1_048_576);
  fields.number('sampling.temperature', message?.temperature, 0, 2);
  fields.number('sampling.top_p', message?.topP, 0, 1, { least: true });
  fields.integer('sampling.top_k', message?.topK, 0, 1000);
  fields.integer('sampling.seed', message?.seed, 0, Number.MAX_SAFE_INTEGER);
  const stop = message?.stop ?? [];
  fields.check('sampling.stop', stop.length <= 16, `must be at most 16 texts, not ${stop.length}`);
  stop.forEach((text, i) => fields.check(`sampling.stop[${i}]`, text.length >= 1 && text.length <= 256, 'must be 1 to 256 characters'));
  return defined({
    maxTokens: message?.maxTokens,
    temperature: message?.temperature ?? 1,
    topP: message?.topP,
    topK: message?.topK,
    seed: message?.seed,
    stop: stop.length > 0 ? stop : undefined,
    logProbabilities: message?.logProbabilities === true ? true : undefined,
  });
}

/** A request with its target resolved and its prompt in tokens. */
interface Prepared {
  readonly target: Target;
  readonly promptTokens: readonly number[];
  readonly events: AsyncIterable<GenerationEvent>;
}

export function generateHandlers({ targets, models, engine }: GenerateDependencies): Handlers<typeof GenerateServiceService> {
  const prepare = async (request: GenerateRequest, context: CallContext): Promise<Prepared> => {
    const fields = new Fields();
    const { input } = request;
    if (input === undefined) fields.add('input', 'is required: prompt or messages');
    const prompt = input?.$case === 'prompt' ? input.value : '';
    checkText('prompt', prompt, fields);
    const conversation = input?.$case === 'messages' ? readConversation(input.value, 'messages', fields) : undefined;
    fields.check('target', request.target !== '', 'is required, such as models/m or tenants/-/adapters/a@production');
    const { maxTokens, ...sampling } = readSampling(request.sampling, fields);
    fields.done();
    const target = await targets.resolve(request.target, 'target', context.identity);
    const text = await models.text(target.resolved.modelId);
    const promptTokens = conversation === undefined ? text.prompt(prompt) : text.chat(conversation.turns, conversation.tools);
    fields.check('prompt', promptTokens.length > 0, 'is empty, and this model has no begin token to start from');
    fields.done();
    const room = text.maxContextTokens - promptTokens.length;
    if (room < 1) throw tooLong(promptTokens.length, text.maxContextTokens);
    const events = engine.generate({
      tenant: context.identity.tenant,
      target: target.resolved,
      promptTokens,
      sampling: { ...sampling, maxTokens: maxTokens ?? Math.min(DEFAULT_MAX_TOKENS, room) },
      signal: context.signal,
    });
    return { target, promptTokens, events };
  };

  /** The target and its model's text functions. */
  const textOf = async (target: string, context: CallContext): Promise<{ target: Target; text: TextModel }> => {
    const resolved = await targets.resolve(target, 'target', context.identity);
    return { target: resolved, text: await models.text(resolved.resolved.modelId) };
  };

  /** Log-probabilities of each continuation's tokens after its prompt, in order. */
  const scoreAll = async (
    pairs: readonly { prompt: string; continuation: string }[],
    { target, text }: { target: Target; text: TextModel },
    context: CallContext,
  ): Promise<{ tokens: number[]; logProbabilities: Float64Array }[]> => {
    const fields = new Fields();
    const sequences = pairs.map(({ prompt, continuation }, i) => {
      const before = text.prompt(prompt);
      const after = text.continuation(prompt, continuation);
      fields.check(`items[${i}].prompt`, before.length > 0, 'is empty, and this model has no begin token to start from');
      if (before.length + after.length > text.maxContextTokens) throw tooLong(before.length + after.length, text.maxContextTokens);
      return { tokens: [...before, ...after], scoreFrom: before.length };
    });
    fields.done();
    const scores = await engine.score({ target: target.resolved, sequences, signal: context.signal, lane: 'generation' });
    return scores.map(({ logProbabilities }, i) => ({ tokens: sequences[i]!.tokens.slice(sequences[i]!.scoreFrom), logProbabilities }));
  };

  return {
    generate: async (request, context) => {
      const { target, events } = await prepare(request, context);
      let text = '';
      const tokens: GenerationToken[] = [];
      for await (const event of events) {
        text += event.text;
        if (event.kind === 'token') tokens.push(tokenMessage(event));
        else {
          const finishReason = FINISH_REASONS[event.finishReason];
          return {
            text,
            finishReason,
            usage: usageMessage(event.usage),
            servedBy: target.servedBy,
            tokens: request.sampling?.logProbabilities === true ? tokens : [],
          };
        }
      }
      throw new Error('the engine ended a generation without its end event');
    },
    async *streamGenerate(request, context) {
      const { target, promptTokens, events } = await prepare(request, context);
      yield { event: { $case: 'start', value: { servedBy: target.servedBy, promptTokens: promptTokens.length } } };
      for await (const event of events) {
        if (event.kind === 'token') yield { event: { $case: 'token', value: tokenMessage(event) } };
        else
          yield {
            event: {
              $case: 'end',
              value: { text: event.text, finishReason: FINISH_REASONS[event.finishReason], usage: usageMessage(event.usage) },
            },
          };
      }
    },
    score: async (request, context) => {
      const fields = new Fields();
      fields.check(
        'items',
        request.items.length >= 1 && request.items.length <= 256,
        `must be 1 to 256 items, not ${request.items.length}`,
      );
      request.items.forEach((item, i) => {
        checkText(`items[${i}].prompt`, item.prompt, fields);
        fields.check(`items[${i}].completion`, item.completion !== '', 'is required');
        checkText(`items[${i}].completion`, item.completion, fields);
      });
      fields.done();
      const model = await textOf(request.target, context);
      const scores = await scoreAll(
        request.items.map(({ prompt, completion }) => ({ prompt, continuation: completion })),
        model,
        context,
      );
      return {
        scores: scores.map(({ tokens, logProbabilities }) => ({
          logProbability: sum(logProbabilities),
          tokenLogProbabilities: [...logProbabilities],
          tokenIds: tokens,
        })),
        servedBy: model.target.servedBy,
      };
    },
    classify: (request, context) =>
      classify(request, {
        engine,
        model: (target) => textOf(target, context),
        likelihoods: async (pairs, model) => (await scoreAll(pairs, model, context)).map(({ logProbabilities }) => sum(logProbabilities)),
        checkLength: (tokens, { maxContextTokens }) => {
          if (tokens > maxContextTokens) throw tooLong(tokens, maxContextTokens);
        },
        signal: context.signal,
      }),
    tokenize: async (request, context) => {
      const fields = new Fields();
      checkText('text', request.text, fields);
      fields.done();
      const { text } = await textOf(request.target, context);
      return { tokenIds: text.encode(request.text, { addSpecialTokens: request.addSpecialTokens }) };
    },
    detokenize: async (request, context) => {
      const fields = new Fields();
      fields.check('token_ids', request.tokenIds.length <= MAX_TEXT_CHARACTERS, `must be at most ${MAX_TEXT_CHARACTERS} ids`);
      fields.done();
      const { text } = await textOf(request.target, context);
      const wrong = request.tokenIds.findIndex((id) => id < 0 || id >= text.vocabSize);
      if (wrong >= 0) fields.add(`token_ids[${wrong}]`, `must be from 0 to ${text.vocabSize - 1}, not ${request.tokenIds[wrong]!}`);
      fields.done();
      return { text: text.decode(request.tokenIds, { skipSpecialTokens: request.skipSpecialTokens }) };
    },
  };
}

const sum = (values: Float64Array): number => values.reduce((all, value) => all + value, 0);

function tooLong(tokens: number, most: number): LoricaError {
  return new LoricaError(
    'INVALID_ARGUMENT',
    'CONTEXT_LENGTH_EXCEEDED',
    `the request has ${tokens} tokens; the context of this model here is ${most}`,
    {
      hint: "Shorten the prompt or the completion. The context is the smaller of the model's own and the server's (LORICA_MAX_CONTEXT).",
    },
  );
}
