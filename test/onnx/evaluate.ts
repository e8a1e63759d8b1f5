/** Runs graphs on the real runtime for tests: numbers in, numbers out, and symbolic shapes compared with the run-time ones. */
import { serialize, type Dim, type DType, type Graph, type Value } from '../../src/onnx/index.js';
import { Runtime, type Session, type Tensor } from '../../src/runtime/index.js';

export const runtime = Runtime.open({ intraOpThreads: 2 });

export interface Feed {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: readonly number[];
}

export interface Outcome {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: number[];
}

export function tensor({ dtype, shape, data }: Feed): Tensor {
  return runtime.from(dtype === 'int64' ? BigInt64Array.from(data, BigInt) : data, dtype, shape);
}

/** A number for every symbol, so that 'B*T+1' has a value. */
export type Symbols = Readonly<Record<string, number>>;

export function sizeOf(dim: Dim, symbols: Symbols): number {
  if (typeof dim === 'number') return dim;
  return dim
    .replace(/(?!^)-/g, '+-')
    .split('+')
    .reduce((sum, term) => {
      const negative = term.startsWith('-');
      const product = term
        .replace('-', '')
        .split('*')
        .reduce((p, factor) => {
          const size = /^\d+$/.test(factor) ? Number(factor) : symbols[factor];
          if (size === undefined) throw new Error(`no size for '${factor}' of '${dim}'`);
          return p * size;
        }, 1);
      return sum + (negative ? -product : product);
    }, 0);
}

export const shapeAt = (shape: readonly Dim[], symbols: Symbols): number[] => shape.map((dim) => sizeOf(dim, symbols));

export interface LoadOptions {
  readonly weights?: Readonly<Record<string, Feed>>;
  readonly optimization?: 'all' | 'none';
}

/** A session of the graph that takes and gives plain arrays. Every output's shape and dtype must be what the graph had inferred. */
export async function load(graph: Graph, options: LoadOptions = {}): Promise<Runner> {
  const { weights = {}, optimization = 'all' } = options;
  const initializers = new Map(Object.entries(weights).map(([name, feed]) => [name, tensor(feed)]));
  return new Runner(graph, await runtime.loadSession(serialize(graph), { name: graph.name, initializers, optimization }));
}

export class Runner {
  constructor(
    private readonly graph: Graph,
    private readonly session: Session,
  ) {}

  async run(feeds: Readonly<Record<string, Feed>>): Promise<Record<string, Outcome>> {
    const named = Object.fromEntries(this.graph.inputs.map((input) => [input.name, tensor(this.feedOf(input, feeds))]));
    const results = await this.session.call(named, { lane: 'training' });
    const symbols = this.symbols(feeds);
    return Object.fromEntries(
      this.graph.outputs.map((output) => {
        const result = results[output.name] as Tensor;
        const expected = `${output.dtype}[${shapeAt(output.shape, symbols).join(',')}]`;
        const actual = `${result.dtype}[${result.shape.join(',')}]`;
        if (expected !== actual) throw new Error(`${output.name}: inferred ${expected}, but ran as ${actual}`);
        return [
          output.name,
          { dtype: result.dtype, shape: result.shape, data: Array.from(result.data as ArrayLike<number | bigint>, Number) },
        ];
      }),
    );
  }

  dispose(): void {
    this.session.dispose();
  }

  private feedOf(input: Value, feeds: Readonly<Record<string, Feed>>): Feed {
    const feed = feeds[input.name];
    if (feed === undefined) throw new Error(`no feed for '${input.name}'`);
    return feed;
  }

  private symbols(feeds: Readonly<Record<string, Feed>>): Symbols {
    const symbols: Record<string, number> = {};
    for (const input of this.graph.inputs) {
      input.shape.forEach((dim, i) => {
        if (typeof dim === 'string') symbols[dim] = (feeds[input.name] as Feed).shape[i] as number;
      });
    }
    return symbols;
  }
}

/** Loads, runs once and disposes. */
export async function evaluate(
  graph: Graph,
  feeds: Readonly<Record<string, Feed>> = {},
  options: LoadOptions = {},
): Promise<Record<string, Outcome>> {
  const runner = await load(graph, options);
  try {
    return await runner.run(feeds);
  } finally {
    runner.dispose();
  }
}
