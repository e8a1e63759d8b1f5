import { describe, expect, test } from '@jest/globals';
import type { MessageTypeDefinition } from '@grpc/proto-loader';
import { resolve } from 'node:path';
import { JsonMessages, type MessageType } from '../../src/cli/json-messages.js';
import { loadProtos } from '../../src/services/server.js';

const definitions = loadProtos(resolve('proto'));
const messages = new JsonMessages(definitions);
const typeOf = (name: string): MessageType =>
  (definitions[`lorica.v1.${name}`] as MessageTypeDefinition<object, object>).type as MessageType;

describe('fromJson', () => {
  test('takes both spellings, short enum names, masks, maps and base64', () => {
    expect(
      messages.fromJson(
        {
          tuningJobId: 'x',
          specification: {
            base_model: 'models/m',
            stages: [{ trainable: { components: { components: ['NORMS'] } }, schedule: { kind: 'SCHEDULE_KIND_COSINE' } }],
          },
        },
        typeOf('TuneRequest'),
      ),
    ).toEqual({
      tuning_job_id: 'x',
      specification: {
        base_model: 'models/m',
        stages: [{ trainable: { components: { components: ['COMPONENT_NORMS'] } }, schedule: { kind: 'SCHEDULE_KIND_COSINE' } }],
      },
    });
    expect(
      messages.fromJson({ adapter: { labels: { camelKey: 'v' } }, updateMask: 'labels,description' }, typeOf('UpdateAdapterRequest')),
    ).toEqual({ adapter: { labels: { camelKey: 'v' } }, update_mask: { paths: ['labels', 'description'] } });
    expect(messages.fromJson({ chunk: { offset: '3', data: 'aGk=' } }, typeOf('UploadDatasetRequest'))).toEqual({
      chunk: { offset: 3, data: Buffer.from('hi') },
    });
  });

  test('names every mistake by its path', () => {
    const json = {
      targt: 1,
      prompt: 2,
      sampling: { maxTokens: 1.5, temperature: 'hot', stop: 'x', seed: 2 ** 60, logProbabilities: 1 },
      messages: { messages: [{ rol: 'user' }] },
    };
    expect(() => messages.fromJson(json, typeOf('GenerateRequest'))).toThrow(
      expect.objectContaining({
        violations: [
          'targt',
          'prompt',
          'sampling.maxTokens',
          'sampling.temperature',
          'sampling.stop',
          'sampling.seed',
          'sampling.logProbabilities',
          'messages.messages[0].rol',
        ].map((field) => expect.objectContaining({ field }) as unknown),
      }),
    );
    expect(() => messages.fromJson([], typeOf('GenerateRequest'))).toThrow(/must be a JSON object/);
    expect(() => messages.fromJson({ header: { format: 'CSV' } }, typeOf('UploadDatasetRequest'))).toThrow(/DATASET_FORMAT_JSONL/);
  });
});

test('toJson: camelCase, times as text, maps as they are', () => {
  const message = {
    name: 'n',
    create_time: { seconds: 1, nanos: 5e8 },
    label_rows: { some_key: 2 },
    findings: [{ line: 1, path: '$' }],
    etag: null,
  };
  expect(messages.toJson(message, typeOf('Dataset'))).toEqual({
    name: 'n',
    createTime: '1970-01-01T00:00:01.500Z',
    labelRows: { some_key: 2 },
    findings: [{ line: 1, path: '$' }],
  });
});
