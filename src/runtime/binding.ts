/**
 * Which tensors a session reads and writes. Bindings are made once and run many times; native binding happens lazily, right before a
 * run and only for what changed. Invariant: while a run with it waits or goes on, it cannot change and what it names stays in memory.
 */
import { LoricaError, invalidFields } from '../common/errors.js';
import type { Core } from './core.js';
import { checkTensors } from './signature.js';
import { call, create } from './status.js';
import type { Tensor } from './tensor.js';
import type { ValueInfo } from './types.js';

/** What a binding needs of its session. */
export interface BindingOwner {
  readonly name: string;
  readonly pointer: bigint;
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
}

export class Binding {
  /** OrtIoBinding*. */
  readonly pointer: bigint;
  private readonly boundInputs = new Map<string, Tensor>();
  private readonly boundOutputs = new Map<string, Tensor>();
  private readonly stale = new Set<string>();
  private checked = false;
  private users = 0;
  private disposed = false;

  /** Made by Session.binding(). `onDisposed` is called when the native object is gone. */
  constructor(private readonly core: Core, readonly owner: BindingOwner, private readonly onDisposed: () => void) {
    this.pointer = create(core.environment.api, 'CreateIoBinding', owner.pointer);
  }

  /** Binds or replaces an input. Throws for an unknown name, a disposed tensor, and while a run uses this binding. */
  input(name: string, tensor: Tensor): this {
    return this.set(this.owner.inputs, this.boundInputs, 'input', name, tensor);
  }

  /** Binds or replaces an output; outputs that are not bound are not given out. The same tensor may be input and output (in place). */
  output(name: string, tensor: Tensor): this {
    return this.set(this.owner.outputs, this.boundOutputs, 'output', name, tensor);
  }

  /** Released now, or when the runs that use it have ended. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    if (this.users === 0) this.free();
  }

  /** For Session: checks everything against the session and pins the tensors until `unpin`. Throws without pinning. */
  pin(): void {
    this.assertUsable();
    if (!this.checked) {
      checkTensors(this.owner.name, this.owner.inputs, this.owner.outputs, this.boundInputs, this.boundOutputs);
      this.checked = true;
    }
    for (const tensor of this.boundInputs.values()) tensor.assertAlive(this.owner.name);
    for (const tensor of this.boundOutputs.values()) tensor.assertAlive(this.owner.name);
    this.users++;
    for (const tensor of this.boundInputs.values()) tensor.storage.retain();
    for (const tensor of this.boundOutputs.values()) tensor.storage.retain();
  }

  unpin(): void {
    for (const tensor of this.boundInputs.values()) tensor.storage.release();
    for (const tensor of this.boundOutputs.values()) tensor.storage.release();
    this.users--;
    if (this.disposed && this.users === 0) this.free();
  }

  /** For Session, right before the native run: brings the native binding up to date. */
  apply(): void {
    for (const [name, tensor] of this.boundInputs) {
      if (this.stale.has(`i${name}`) || (this.core.device.copiesHostInputs && tensor.where === 'host')) this.bindNative('BindInput', name, tensor);
    }
    for (const [name, tensor] of this.boundOutputs) {
      if (this.stale.has(`o${name}`)) this.bindNative('BindOutput', name, tensor);
    }
    this.stale.clear();
  }

  private bindNative(name: 'BindInput' | 'BindOutput', valueName: string, tensor: Tensor): void {
    const value = this.core.device.valueOver(tensor);
    try {
      call(this.core.environment.api, name, this.pointer, valueName, value);
    } finally {
      this.core.environment.api.ReleaseValue(value);
    }
  }

  private set(infos: readonly ValueInfo[], bound: Map<string, Tensor>, kind: 'input' | 'output', name: string, tensor: Tensor): this {
    this.assertUsable();
    if (this.users > 0) throw new LoricaError('FAILED_PRECONDITION', 'RUNTIME_FAILED', `${this.owner.name}: a run uses this binding; it cannot change now`);
    if (!infos.some((info) => info.name === name)) {
      const names = infos.map((info) => info.name).join(', ');
      throw invalidFields([{ field: `${this.owner.name}.${name}`, description: `no such ${kind}; there are ${names}` }]);
    }
    tensor.assertAlive(`${this.owner.name}.${name}`);
    if (bound.get(name) === tensor) return this;
    bound.set(name, tensor);
    this.stale.add(kind === 'input' ? `i${name}` : `o${name}`);
    this.checked = false;
    return this;
  }

  private assertUsable(): void {
    if (this.disposed) throw new LoricaError('FAILED_PRECONDITION', 'RUNTIME_FAILED', `${this.owner.name}: the binding is disposed`);
    this.core.assertOpen();
  }

  private free(): void {
    this.core.environment.api.ReleaseIoBinding(this.pointer);
    this.boundInputs.clear();
    this.boundOutputs.clear();
    this.onDisposed();
  }
}
