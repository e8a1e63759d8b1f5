import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { ModelBatch } from '../../src/engine/model-batch.js';
import { Sequence } from '../../src/engine/sequence.js';
import type { ServingModel } from '../../src/engine/serving-model.js';
import type { GenerationEvent } from '../../src/engine/types.js';
import { createMetrics } from '../../src/metrics/metrics.js';
import type { Checkpoint } from '../../src/models/checkpoint.js';
import { Runtime, Session } from '../../src/runtime/index.js';
import { openTiny, serve } from './support.js';

const SLOTS = 3;
let runtime: Runtime;
let checkpoint: Checkpoint;
let model: ServingModel;
let batch: ModelBatch;

beforeAll(async () => {
  runtime = Runtime.open();
  checkpoint = await openTiny();
  model = await serve(runtime, checkpoint, 'float32', 64);
  batch = new ModelBatch(model, SLOTS, 16, createMetrics());
});
afterEach(() => {
  jest.restoreAllMocks();
});
afterAll(async () => {
  batch.dispose();
  model.dispose();
  await checkpoint.close();
  await runtime.close();
});

function added(promptTokens: readonly number[]): Sequence {
  const sequence = new Sequence({
    request: { tenant: 't', target: { modelId: checkpoint.id, modelDigest: checkpoint.digest }, promptTokens, sampling: { maxTokens: 40 } },
    tokenizer: checkpoint.tokenizer, eosTokenIds: new Set(), settings: { temperature: 0, topP: 1, topK: 0, seed: 0n }, contextTokens: 64,
  });
  sequence.lease = { model, adapter: undefined, head: undefined, release: () => undefined };
  batch.add(sequence);
  return sequence;
}

const prompts = (sequences: readonly Sequence[]): (readonly number[])[] => sequences.map(({ request }) => request.promptTokens);

async function eventsOf(sequence: Sequence): Promise<GenerationEvent[]> {
  const events: GenerationEvent[] = [];
  for await (const event of sequence.events()) events.push(event);
  return events;
}

describe('ModelBatch', () => {
  test('a sequence that ended before a run that fails is given out with the failed ones', async () => {
    const cancelled = added([5, 6, 7]);
    const failed = added([8, 9]);
    while (cancelled.generated === 0 || failed.generated === 0) expect(await batch.step()).toEqual([]);
    cancelled.finish('cancelled');
    jest.spyOn(Session.prototype, 'run').mockRejectedValueOnce(new Error('device lost'));
    const step = batch.step();
    await expect(step).rejects.toThrow('device lost');
    expect(prompts(batch.failAll(await step.catch((error: unknown) => error)))).toEqual([[5, 6, 7], [8, 9]]);
    await expect(eventsOf(failed)).rejects.toThrow('device lost');
    expect((await eventsOf(cancelled)).at(-1)).toMatchObject({ kind: 'end', finishReason: 'cancelled' });
    expect(batch.busy).toBe(false);
    expect(batch.slotsUsed).toBe(0);
  });

  test('a prompt that fails ends its own sequence, the rows go on', async () => {
    const row = added([5, 6, 7]);
    // A prompt and a decode step take turns: after the second step it is a prompt's turn.
    while (row.generated < 2) await batch.step();
    const failing = added([8, 9]);
    jest.spyOn(Session.prototype, 'run').mockRejectedValueOnce(new Error('no memory'));
    expect(prompts(await batch.step())).toEqual([[8, 9]]);
    await expect(eventsOf(failing)).rejects.toThrow('no memory');
    expect(row.ended).toBe(false);
    row.finish('cancelled');
    expect(prompts(await batch.step())).toEqual([[5, 6, 7]]);
  });

  test('one that is cancelled while its prompt is computed gets no token and leaves', async () => {
    const sequence = added([5, 6, 7]);
    const run = Session.prototype.run;
    jest.spyOn(Session.prototype, 'run').mockImplementationOnce(async function (this: Session, ...rest) {
      await run.apply(this, rest);
      sequence.finish('cancelled');
    });
    expect(prompts(await batch.step())).toEqual([[5, 6, 7]]);
    expect(sequence.generated).toBe(0);
    expect((await eventsOf(sequence)).map((event) => event.kind)).toEqual(['end']);
    expect(batch.busy).toBe(false);
  });
});
