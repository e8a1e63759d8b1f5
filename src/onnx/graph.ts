/**
 * The graph: values, nodes in topological order (the order in which they were made), and nothing that computes.
 * Invariants: names are unique; a node's inputs exist before it; shapes and dtypes are known when a node is made; every shape is
 * canonical (dims.ts). Operators (operators/*.ts) infer shapes and call `emit`; only serialize.ts knows ONNX's wire format.
 */
import { elementCount, type DType, type TypedArray } from '../tensor/dtype.js';
import { constantKey, encodeConstant, type ConstantData } from './constant.js';
import { canonical, formatShape, type Dim } from './dims.js';
import { graphError, Origin } from './origin.js';

/** A tensor of the graph. `constant` holds the elements of an embedded constant. */
export interface Value {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly Dim[];
  readonly graph: Graph;
  readonly kind: 'input' | 'weight' | 'constant' | 'node';
  /** The producer, for values of kind 'node'. */
  readonly node?: Node;
  readonly constant?: TypedArray;
}

/** An attribute of a node with its ONNX kind, since a JavaScript number doesn't tell an int from a float. */
export type Attribute =
  | { readonly kind: 'int' | 'float'; readonly value: number }
  | { readonly kind: 'ints' | 'floats'; readonly value: readonly number[] }
  | { readonly kind: 'string'; readonly value: string }
  | { readonly kind: 'tensor'; readonly dtype: DType; readonly shape: readonly number[]; readonly value: TypedArray };

export type Domain = '' | 'com.microsoft';

export interface Node {
  readonly name: string;
  readonly operator: string;
  readonly domain: Domain;
  /** null: an optional input that is left out. */
  readonly inputs: readonly (Value | null)[];
  /** null: an optional output that nobody asked for. */
  readonly outputs: readonly (Value | null)[];
  readonly attributes: Readonly<Record<string, Attribute>>;
  /** Symbolic arguments that some inputs hold at run time: where a Slice starts. Not serialized; gradient rules read them. */
  readonly symbolic?: Readonly<Record<string, readonly Dim[]>>;
  /** Where it was built. */
  readonly origin: Origin;
}

export interface OutputType {
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

export interface NodeSpec {
  readonly operator: string;
  readonly domain?: Domain;
  readonly inputs: readonly (Value | null)[];
  readonly outputs: readonly (OutputType | null)[];
  readonly attributes?: Readonly<Record<string, Attribute>>;
  readonly symbolic?: Readonly<Record<string, readonly Dim[]>>;
  /** Kept when a node is copied into another graph. */
  readonly name?: string;
  readonly outputNames?: readonly string[];
  readonly origin?: Origin;
}

export interface GraphOptions {
  /** Version of the default operator set: 21 (default) or 24 (adds TensorScatter and Attention). */
  readonly opset?: 21 | 24;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

export class Graph {
  readonly name: string;
  readonly opset: number;
  readonly #nodes: Node[] = [];
  readonly #inputs: Value[] = [];
  readonly #weights: Value[] = [];
  readonly #constants = new Map<string, Value>();
  readonly #outputs: Value[] = [];
  readonly #values = new Map<string, Value>();
  readonly #nodeNames = new Set<string>();
  readonly #counters = new Map<string, number>();

  constructor(name: string, options: GraphOptions = {}) {
    this.name = name;
    this.opset = options.opset ?? 21;
  }

  /** In topological order. */
  get nodes(): readonly Node[] {
    return this.#nodes;
  }
  get inputs(): readonly Value[] {
    return this.#inputs;
  }
  get outputs(): readonly Value[] {
    return this.#outputs;
  }
  get weights(): readonly Value[] {
    return this.#weights;
  }

  /** The value of that name; a graph error if there is none. */
  value(name: string): Value {
    const value = this.#values.get(name);
    if (value === undefined) throw graphError('value', `graph '${this.name}' has no value '${name}'`);
    return value;
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  /** A tensor bound at every run. */
  input(name: string, dtype: DType, shape: readonly Dim[]): Value {
    const value = this.#define({ name, dtype, shape, kind: 'input' });
    this.#inputs.push(value);
    return value;
  }

  /** A tensor bound once, when the session is made: an external initializer whose bytes the runtime is given under this name. */
  weight(name: string, dtype: DType, shape: readonly number[]): Value {
    const value = this.#define({ name, dtype, shape, kind: 'weight' });
    this.#weights.push(value);
    return value;
  }

  /**
   * An embedded tensor; equal constants are one value. A number alone is a scalar [], an array without a shape is [length].
   * Meant for small data: large tensors are weights or inputs.
   */
  constant(data: ConstantData, dtype: DType, shape?: readonly number[]): Value {
    let elements: TypedArray;
    try {
      elements = encodeConstant(data, dtype);
    } catch (cause) {
      throw graphError('constant', cause instanceof Error ? cause.message : String(cause));
    }
    const dims = shape ?? (typeof data === 'number' ? [] : [elements.length]);
    if (elementCount(dims) !== elements.length) {
      throw graphError('constant', `${elements.length} elements do not fill the shape ${formatShape(dims)}`);
    }
    const key = constantKey(elements, dtype, dims);
    let value = this.#constants.get(key);
    if (value === undefined) {
      value = this.#define({ name: this.#fresh('constant'), dtype, shape: dims, kind: 'constant', constant: elements });
      this.#constants.set(key, value);
    }
    return value;
  }

  /**
   * Makes a value an output of the graph. With a name, a value computed by a node takes that name from now on (`value.name`
   * changes); an input, weight, constant or a value that is an output already goes through an Identity of that name.
   */
  output(value: Value, name: string = value.name): void {
    this.#own(value, 'output');
    if (value.kind === 'node' && !this.#outputs.includes(value)) {
      this.rename(value, name);
      this.#outputs.push(value);
      return;
    }
    if (this.#values.has(name)) throw graphError('output', `the name '${name}' is taken`);
    const [copy] = this.emit({ operator: 'Identity', inputs: [value], outputs: [value], outputNames: [name] });
    this.#outputs.push(copy as Value);
  }

  /** Gives a computed value a name of its own, so that segments, bindings and printed graphs can speak of it. */
  rename(value: Value, name: string): Value {
    this.#own(value, 'rename');
    if (name === value.name) return value;
    if (value.kind !== 'node') throw graphError('rename', `'${value.name}' is a graph ${value.kind}, whose name is fixed`);
    if (this.#values.has(name)) throw graphError('rename', `the name '${name}' is taken`);
    this.#values.delete(value.name);
    (value as Mutable<Value>).name = name;
    this.#values.set(name, value);
    return value;
  }

  /** Appends a node. The operators call this after inferring the outputs; it checks that the inputs belong here. */
  emit(spec: NodeSpec): (Value | null)[] {
    for (const value of spec.inputs) if (value !== null) this.#own(value, spec.operator);
    const name = spec.name !== undefined && !this.#nodeNames.has(spec.name) ? spec.name : this.#fresh(spec.operator);
    const outputs: (Value | null)[] = [];
    const node: Node = {
      name,
      operator: spec.operator,
      domain: spec.domain ?? '',
      inputs: [...spec.inputs],
      outputs,
      attributes: spec.attributes ?? {},
      origin: spec.origin ?? new Origin(),
      ...(spec.symbolic === undefined ? {} : { symbolic: spec.symbolic }),
    };
    const several = spec.outputs.filter((type) => type !== null).length > 1;
    spec.outputs.forEach((type, i) => {
      const outputName = spec.outputNames?.[i] ?? (several ? `${name}.${i}` : name);
      outputs.push(type === null ? null : this.#define({ name: outputName, dtype: type.dtype, shape: type.shape, kind: 'node', node }));
    });
    this.#nodes.push(node);
    this.#nodeNames.add(name);
    return outputs;
  }

  #define(fields: Omit<Value, 'graph'>): Value {
    if (fields.name === '') throw graphError('value', 'a name is empty');
    if (this.#values.has(fields.name)) throw graphError('value', `the name '${fields.name}' is taken in graph '${this.name}'`);
    let shape: Dim[];
    try {
      shape = fields.shape.map(canonical);
    } catch (cause) {
      throw graphError('value', `'${fields.name}': ${cause instanceof Error ? cause.message : String(cause)}`);
    }
    if (shape.some((dim) => typeof dim === 'number' && dim < 0)) {
      throw graphError(fields.node?.operator ?? fields.kind, `'${fields.name}' has a negative dimension ${formatShape(shape)}`);
    }
    const value: Value = { ...fields, shape: Object.freeze(shape), graph: this };
    this.#values.set(value.name, value);
    return value;
  }

  #own(value: Value, operator: string): void {
    if (value.graph !== this) throw graphError(operator, `'${value.name}' belongs to graph '${value.graph.name}', not to '${this.name}'`);
  }

  #fresh(prefix: string): string {
    let name: string;
    do {
      const n = this.#counters.get(prefix) ?? 0;
      this.#counters.set(prefix, n + 1);
      name = `${prefix}_${n}`;
    } while (this.#values.has(name) || this.#nodeNames.has(name));
    return name;
  }
}
