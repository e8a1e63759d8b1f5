import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { createMetrics } from '../../src/metrics/metrics.js';

describe('metrics', () => {
  test('two registries are independent', async () => {
    const [one, other] = [createMetrics(), createMetrics()];
    one.tuningStepsTotal.inc({ tenant: 't' });
    expect(await one.registry.metrics()).toContain('lorica_tuning_steps_total{tenant="t"} 1');
    expect(await other.registry.metrics()).not.toContain('tenant="t"');
    expect(await other.registry.metrics()).toMatch(/lorica_process_resident_bytes [1-9]\d{6,}/);
  });

  test('docs/metrics.md names every metric with its type and labels, and no other', async () => {
    const written = [...readFileSync('docs/metrics.md', 'utf8').matchAll(/^\| `(lorica_\w+)` \| (\w+) \| ([^|]*)\|/gm)].map(
      ([, name, type, labels]) => `${name!} ${type!} ${labels!.replace(/[`\s]/g, '')}`,
    );
    const metrics = await createMetrics().registry.getMetricsAsJSON();
    const own = createMetrics().registry;
    const actual = metrics.map(
      ({ name, type }) =>
        `${name} ${String(type)} ${(own.getSingleMetric(name) as unknown as { labelNames: string[] }).labelNames.join(',')}`,
    );
    expect(written.sort()).toEqual(actual.sort());
  });
});
