/**
 * The thread that measures rows: opens the tokenizer and the chat template of one checkpoint, then answers batches in the order in which
 * they come. It loads no native code and reads no weights. What it throws on a batch goes back as the fields of a LoricaError.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { LoricaError } from '../common/errors.js';
import { openCheckpoint } from '../models/checkpoint.js';
import { rowMeasurer } from './row-measure.js';
import type { MeterAnswer, MeterBatch, MeterSetup } from './row-meter.js';

const { path, id, digest, options } = workerData as MeterSetup;
const checkpoint = await openCheckpoint(path, { id, knownDigest: digest });
await checkpoint.close();
const measure = rowMeasurer(checkpoint, options);

parentPort!.on('message', (rows: MeterBatch) => {
  parentPort!.postMessage(answer(rows));
});

function answer(rows: MeterBatch): MeterAnswer {
  try {
    return { measures: measure(rows) };
  } catch (error) {
    if (!(error instanceof LoricaError)) return { failure: { code: 'INTERNAL', reason: 'INTERNAL', message: 'rows could not be measured', hint: undefined } };
    const { code, reason, message, hint } = error;
    return { failure: { code, reason, message, hint } };
  }
}
