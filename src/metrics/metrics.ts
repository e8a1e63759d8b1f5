/**
 * Every Prometheus metric of the process, in one place, with bounded labels. docs/metrics.md explains each.
 *
 * Invariant: a label takes values only from closed sets (service, method, code, lane, kind, state) or from identities that the
 * server itself created or authenticated (tenant, adapter, job). Text that a client sends is never a label value.
 * Not here: the HTTP listener (src/main) and the reading of figures for decisions; metrics are write-only for the product.
 */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';

export interface Metrics {
  readonly registry: Registry;
  readonly requestsTotal: Counter<'service' | 'method' | 'tenant' | 'code'>;
  readonly requestSeconds: Histogram<'service' | 'method'>;
  readonly generatedTokensTotal: Counter<'tenant' | 'adapter'>;
  readonly promptTokensTotal: Counter<'tenant'>;
  readonly timeToFirstTokenSeconds: Histogram;
  readonly interTokenSeconds: Histogram;
  readonly runningSequences: Gauge;
  readonly waitingSequences: Gauge;
  readonly kvSlotsUsed: Gauge;
  readonly kvSlots: Gauge;
  readonly tuningStepsTotal: Counter<'tenant'>;
  readonly tuningTokensTotal: Counter<'tenant'>;
  /** Present only while the job runs: the writer removes the child when the job ends, so the label stays bounded. */
  readonly tuningLoss: Gauge<'tenant' | 'job'>;
  readonly jobs: Gauge<'kind' | 'state'>;
  readonly checkpointsTotal: Counter<'tenant'>;
  readonly checkpointBytesTotal: Counter<'tenant'>;
  readonly adaptersResident: Gauge;
  readonly adapterLoadsTotal: Counter<'tenant'>;
  readonly aliasMovesTotal: Counter<'tenant'>;
  readonly evaluationRowsTotal: Counter<'tenant'>;
  readonly runtimeRunSeconds: Histogram<'lane'>;
  readonly processResidentBytes: Gauge;
}

const REQUEST_BUCKETS = [0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800];
const TOKEN_BUCKETS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10];
const RUN_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];

/** A fresh, independent set of metrics (one per server; tests make their own). Names carry the prefix `lorica_`. */
export function createMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  const counter = <L extends string>(name: string, help: string, labelNames: readonly L[] = []): Counter<L> =>
    new Counter<L>({ name: `lorica_${name}`, help, labelNames: [...labelNames], registers });
  const gauge = <L extends string>(name: string, help: string, labelNames: readonly L[] = []): Gauge<L> =>
    new Gauge<L>({ name: `lorica_${name}`, help, labelNames: [...labelNames], registers });
  const histogram = <L extends string>(name: string, help: string, buckets: number[], labelNames: readonly L[] = []): Histogram<L> =>
    new Histogram<L>({ name: `lorica_${name}`, help, buckets, labelNames: [...labelNames], registers });

  return {
    registry,
    requestsTotal: counter('requests_total', 'Finished calls by service, method, tenant and status code.', [
      'service',
      'method',
      'tenant',
      'code',
    ]),
    requestSeconds: histogram('request_seconds', 'Duration of calls, streams until their end.', REQUEST_BUCKETS, ['service', 'method']),
    generatedTokensTotal: counter('generated_tokens_total', 'Tokens generated, by tenant and adapter (empty for the base).', [
      'tenant',
      'adapter',
    ]),
    promptTokensTotal: counter('prompt_tokens_total', 'Prompt tokens processed.', ['tenant']),
    timeToFirstTokenSeconds: histogram(
      'time_to_first_token_seconds',
      'From the acceptance of a generation to its first token.',
      TOKEN_BUCKETS,
    ),
    interTokenSeconds: histogram('inter_token_seconds', 'Between consecutive tokens of one sequence.', TOKEN_BUCKETS),
    runningSequences: gauge('running_sequences', 'Sequences in the running batch.'),
    waitingSequences: gauge('waiting_sequences', 'Sequences that wait for a slot.'),
    kvSlotsUsed: gauge('kv_slots_used', 'KV-cache slots (rows) in use.'),
    kvSlots: gauge('kv_slots', 'KV-cache slots (rows) in total.'),
    tuningStepsTotal: counter('tuning_steps_total', 'Optimizer steps done.', ['tenant']),
    tuningTokensTotal: counter('tuning_tokens_total', 'Tokens trained on, padding aside.', ['tenant']),
    tuningLoss: gauge('tuning_loss', 'Loss of the last step (nats per token) of each running tuning job.', ['tenant', 'job']),
    jobs: gauge('jobs', 'Jobs by kind and state.', ['kind', 'state']),
    checkpointsTotal: counter('checkpoints_total', 'Checkpoints of tuning jobs stored.', ['tenant']),
    checkpointBytesTotal: counter('checkpoint_bytes_total', 'Bytes of checkpoints stored.', ['tenant']),
    adaptersResident: gauge('adapters_resident', 'Adapters and variants held in memory for serving.'),
    adapterLoadsTotal: counter('adapter_loads_total', 'Adapter versions loaded from storage into memory.', ['tenant']),
    aliasMovesTotal: counter('alias_moves_total', 'Aliases created, moved, promoted or rolled back.', ['tenant']),
    evaluationRowsTotal: counter('evaluation_rows_total', 'Rows scored by evaluations, each target counted.', ['tenant']),
    runtimeRunSeconds: histogram('runtime_run_seconds', 'Native ONNX Runtime runs, queueing aside.', RUN_BUCKETS, ['lane']),
    processResidentBytes: new Gauge({
      name: 'lorica_process_resident_bytes',
      help: 'Resident memory of the process.',
      registers,
      collect() {
        this.set(process.memoryUsage.rss());
      },
    }),
  };
}
