/**
 * The linear layers of the training form: x·Wᵀ with bias, LoRA, its dropout and DoRA, each with a gradient of its own. Activations are
 * matrices [B*T, features], weights [out, in]. Invariant: the merged weight's gradient is never formed for LoRA, and a gradient that is
 * summed over micro-batches is added to its sum inside the product that makes it.
 */
import { customVjp } from '../autodiff/index.js';
import { ops, type Dim, type Graph, type Value } from '../onnx/index.js';
import type { LinearModule } from './decoder.js';
import { dequantizedWeight, integerBackwardProduct, integerForwardProduct, type FrozenWeights } from './training-form-weights.js';

/** Rows of every activation: batch times length. */
export const TOKENS: Dim = 'B*T';

export interface LoraKind {
  readonly rank: number;
  readonly scaling: number;
  /** With a trained magnitude per output (DoRA, Liu et al. 2024). */
  readonly dora?: boolean;
  /** What kept inputs of the low-rank path are multiplied by; without it nothing is dropped. The mask is an input, `dropoutMask`. */
  readonly dropoutScale?: number;
}

export const loraA = (module: string): string => `${module}.lora_A.weight`;
export const loraB = (module: string): string => `${module}.lora_B.weight`;
export const loraMagnitude = (module: string): string => `${module}.lora_magnitude_vector.weight`;
/** uint8 [B*T, in]: 1 keeps an element of the input of the low-rank path, 0 drops it. */
export const dropoutMask = (module: string): string => `${module}.lora_dropout.mask`;

/** Gradients that are added to what earlier micro-batches left, in `sum.<local name>`. */
export class GradientSums {
  private readonly sums = new Map<string, Value>();
  private readonly summed = new Set<string>();

  /** Makes the input that holds the sum of a parameter's gradients. */
  declare(graph: Graph, name: string, shape: readonly Dim[]): void {
    this.sums.set(name, graph.input(`sum.${name}`, 'float32', shape));
  }

  /** The gradient of a parameter plus its sum, unless its rule added that already. */
  accumulated(name: string, gradient: Value): Value {
    const sum = this.sums.get(name);
    return sum === undefined || this.summed.has(name) ? gradient : ops.add(sum, gradient);
  }

  /** alpha·leftᵀ·right, the gradient of a matrix parameter, added to its sum in the same product. */
  product(parameter: Value, left: Value, right: Value, alpha: number): Value {
    const sum = this.sums.get(parameter.name);
    if (sum === undefined) return ops.fusedMatMul(left, right, { transA: true, alpha });
    this.summed.add(parameter.name);
    return ops.gemm(left, right, sum, { transA: true, alpha });
  }
}

/** Lowers linear layers into a graph whose inputs are their weights under local names. */
export class LinearLayers {
  constructor(
    private readonly graph: Graph,
    private readonly lora: ReadonlyMap<LinearModule, LoraKind>,
    private readonly sums: GradientSums,
    private readonly frozen: FrozenWeights,
    /** Shapes of the weights, [out, in], by local name. */
    private readonly shapes: ReadonlyMap<string, readonly number[]>,
    /** Names a value that is worth handing to the backward segment. */
    private readonly keep: (value: Value, name: string) => Value,
  ) {}

  /**
   * y = g∘z + bias with z = x·Wᵀ, with LoRA + scaling·u·Bᵀ, u = x'·Aᵀ. x' is x, after dropout where it is on (inverted, on the low-rank
   * path alone); g is 1, with DoRA magnitude / n, where n = ‖W + scaling·B·A‖ of each output's row is a constant to the gradient
   * (Liu et al. 2024, section 4.3). With dz = g∘dy and v = scaling·dz·B: dA = vᵀ·x', dB = scaling·dzᵀ·u, dx = dz·W + v·A through the
   * mask, dW = dzᵀ·x, dmagnitude = Σ dy∘z / n: the merged weight's gradient is never formed for LoRA.
   */
  lower(x: Value, module: LinearModule): Value {
    const weight = this.weight(module);
    const bias = this.graph.has(`${module}.bias`) ? this.graph.value(`${module}.bias`) : undefined;
    const lora = this.lora.get(module);
    const a = lora === undefined ? undefined : this.graph.value(loraA(module));
    const b = lora === undefined ? undefined : this.graph.value(loraB(module));
    const magnitude = lora?.dora === true ? this.graph.value(loraMagnitude(module)) : undefined;
    const scaling = lora?.scaling ?? 1;
    const mask = lora?.dropoutScale === undefined ? undefined : ops.mul(ops.cast(this.graph.value(dropoutMask(module)), 'float32'), lora.dropoutScale);
    const operands = [x, weight, bias, a, b, magnitude].filter((value) => value !== undefined);
    let dropped = x;
    let u: Value | undefined;
    let z: Value;
    let n: Value;
    let g: Value | undefined;
    const [y] = customVjp(
      operands,
      () => {
        const base = this.forwardProduct(x, weight, module, magnitude === undefined ? bias : undefined);
        if (a === undefined || b === undefined) return [base];
        if (mask !== undefined) dropped = ops.mul(x, mask);
        u = this.keep(ops.fusedMatMul(dropped, a, { transB: true }), `${module}.lora_A.output`);
        const sum = ops.gemm(u, b, base, { transB: true, alpha: scaling });
        if (magnitude === undefined) return [sum];
        z = this.keep(sum, `${module}.output`);
        n = rowNorms(ops.gemm(b, a, weight, { alpha: scaling }));
        g = ops.div(magnitude, n);
        const scaled = ops.mul(z, g);
        return [bias === undefined ? scaled : ops.add(scaled, bias)];
      },
      ([dy], needed) => {
        const needs = (value: Value): boolean => needed[operands.indexOf(value)] === true;
        const dz = g === undefined ? dy! : ops.mul(dy!, g);
        const v = a !== undefined && b !== undefined && (needs(x) || needs(a)) ? ops.fusedMatMul(dz, b, { alpha: scaling }) : undefined;
        return operands.map((operand) => {
          if (!needs(operand)) return null;
          if (operand === x) return v === undefined ? this.backwardProduct(dz, weight, module) : this.inputGradient(v, a!, this.backwardProduct(dz, weight, module), mask);
          if (operand === weight) return this.sums.product(weight, dz, x, 1);
          if (operand === bias) return ops.reduceSum(dy!, [0], false);
          if (operand === magnitude) return ops.div(ops.reduceSum(ops.mul(dy!, z), [0], false), n);
          return operand === a ? this.sums.product(a, v!, dropped, 1) : this.sums.product(operand, dz, u!, scaling);
        });
      },
    );
    return y!;
  }

  /** The weight [out, in] in float32: an input, or computed from the form in which it is held. */
  private weight(module: LinearModule): Value {
    const name = `${module}.weight`;
    const held = this.frozen.get(module)?.find((form) => form === 'int8' || form === 'int4');
    return held === undefined ? this.graph.value(name) : dequantizedWeight(this.graph, name, held, this.shapes.get(name) as readonly [number, number]);
  }

  private forwardProduct(x: Value, weight: Value, module: LinearModule, bias: Value | undefined): Value {
    if (this.frozen.get(module)?.includes('int8ByOutput') !== true) {
      return bias === undefined ? ops.fusedMatMul(x, weight, { transB: true }) : ops.gemm(x, weight, bias, { transB: true });
    }
    const product = integerForwardProduct(x, weight);
    return bias === undefined ? product : ops.add(product, bias);
  }

  /** dz · W. */
  private backwardProduct(dz: Value, weight: Value, module: LinearModule): Value {
    return this.frozen.get(module)?.includes('int8ByInput') === true ? integerBackwardProduct(dz, weight.name) : ops.matMul(dz, weight);
  }

  /** base + v·A, the product through the mask where there is one. */
  private inputGradient(v: Value, a: Value, base: Value, mask: Value | undefined): Value {
    return mask === undefined ? ops.gemm(v, a, base) : ops.add(base, ops.mul(ops.matMul(v, a), mask));
  }
}

/** [O,I] → the 2-norm of every row [O]. */
export function rowNorms(matrix: Value): Value {
  return ops.sqrt(ops.reduceSum(ops.mul(matrix, matrix), [1], false));
}
