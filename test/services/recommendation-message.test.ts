/** Recommended specifications as messages: read back they are what was recommended. */
import { expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { parseHfConfig } from '../../src/models/config.js';
import { Fields } from '../../src/services/fields.js';
import { specificationMessage } from '../../src/services/recommendation-message.js';
import { readTuningSpecification } from '../../src/services/tuning-specification.js';
import { recommendTuning, TASK_KINDS, type TuningTask } from '../../src/tuning/index.js';

const config = parseHfConfig(JSON.parse(readFileSync('models/tiny/config.json', 'utf8')));
const dataset = 'tenants/acme/datasets/d';

test('what is read back is what was recommended', () => {
  const kinds = new Set<string>();
  for (const task of Object.keys(TASK_KINDS) as TuningTask[]) {
    for (const needy of [false, true]) {
      for (const rows of [100, 500_000]) {
        // Rows are held in memory, so that what is tight depends on how many there are.
        for (const [memoryLimitBytes, timeLimitSeconds] of [[2 ** 34, undefined], [40 * 2 ** 20 + 450 * rows, 1]] as const) {
          const kind = TASK_KINDS[task][0]!;
          const labels: Record<string, number> = kind === 'label' ? { a: 1, b: 2 } : {};
          const needs = { manyAdapters: false, keepGeneralAbilities: false, domainVocabulary: needy, cheaperInference: needy };
          const data = { stored: true, rows, meanTokens: 50, longestTokens: 120, kind, labels };
          const { specification, alternatives } = recommendTuning({ config, baseModel: 'm', dataset, task, data, needs, memoryLimitBytes, timeLimitSeconds, threads: 2 });
          for (const one of [specification, ...alternatives.map((other) => other.specification)]) {
            const fields = new Fields();
            const message = specificationMessage(one, { adapterId: 'a', dataset });
            const read = readTuningSpecification(message, 'specification', { tenant: 'acme', roles: ['tenant'] }, fields);
            fields.done();
            expect(read!.specification).toEqual(one);
            for (const { trainable } of one.stages) kinds.add(trainable.kind);
          }
        }
      }
    }
  }
  expect([...kinds].sort()).toEqual(['components', 'full', 'lastLayers', 'lora']);
});
