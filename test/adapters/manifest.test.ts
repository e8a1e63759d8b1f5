import { expect, test } from '@jest/globals';
import { digestOf, manifestText } from '../../src/adapters/manifest.js';

const TENSORS = { sha256: '0'.repeat(64), bytes: 96 };

test('the text of a variant without an architecture, and so its digest, never changes', () => {
  const text = manifestText({ kind: 'variant', tensors: new Map() }, 'sha256:base', TENSORS);
  expect(text).toBe(`{"format":"lorica.adapter.v1","kind":"variant","baseDigest":"sha256:base","modules":[],"tensors":{"sha256":"${TENSORS.sha256}","bytes":96}}`);
  expect(digestOf(text)).toBe('sha256:e1caa19758d6834800ef08d2e554dca762fd01beafcf10b5f5af67e8198df79b');
});

test('an architecture comes last, its fields in one order', () => {
  const architecture = { tieWordEmbeddings: false, intermediateSizes: [8, 9], layerOrigins: [0, 0] };
  expect(manifestText({ kind: 'variant', tensors: new Map(), architecture }, 'sha256:base', TENSORS))
    .toMatch(/"bytes":96\},"architecture":\{"layerOrigins":\[0,0\],"intermediateSizes":\[8,9\],"tieWordEmbeddings":false\}\}$/);
});
