/**
 * The one implementation of trainable-parameter selection: from what a user says to names of the checkpoint's tensors and of
 * modules that get LoRA matrices. Invariant: every name returned exists in the model, and no linear layer is trained both in
 * full and by LoRA. It must not read weights.
 */
import { invalidFields, type FieldViolation } from '../common/errors.js';
import { weightShapes, type DecoderConfig } from '../models/config.js';
import { ATTENTION_MODULES, EMBEDDING_WEIGHT, FEED_FORWARD_MODULES, FINAL_NORM_WEIGHT, HEAD_WEIGHT, LAYER_NORMS, LINEAR_MODULES, layerPrefix, type LinearModule } from '../models/decoder.js';
import type { Component, LoraSelection, TrainableSelection } from './specification.js';

export interface LoraSettings {
  readonly rank: number;
  readonly alpha: number;
  /** alpha / rank, or alpha / √rank. */
  readonly scaling: number;
}

/** What a stage trains. */
export interface TrainablePlan {
  /** Tensors of the checkpoint trained whole, by name. */
  readonly tensors: ReadonlySet<string>;
  /** LoRA by full module name ('model.layers.0.self_attn.q_proj'). */
  readonly lora: ReadonlyMap<string, LoraSettings>;
}

/** The tensor that the head multiplies by: its own, or the embedding where the two are tied. */
export function headWeight(config: DecoderConfig): string {
  return config.tieWordEmbeddings ? EMBEDDING_WEIGHT : HEAD_WEIGHT;
}

/**
 * Resolves a selection against a model. With tied embeddings, 'head' and `includeHead` mean the embedding tensor, whose
 * gradient comes from both of its uses. Throws INVALID_ARGUMENT / INVALID_FIELD with every broken rule.
 */
export function selectTrainable(config: DecoderConfig, selection: TrainableSelection, path = 'trainable'): TrainablePlan {
  const resolver = new Resolver(config);
  resolver.add(selection, path);
  resolver.conflicts(path);
  if (resolver.violations.length > 0) throw invalidFields(resolver.violations);
  return { tensors: resolver.tensors, lora: resolver.lora };
}

class Resolver {
  readonly tensors = new Set<string>();
  readonly lora = new Map<string, LoraSettings>();
  readonly violations: FieldViolation[] = [];
  private readonly names: readonly string[];

  constructor(private readonly config: DecoderConfig) {
    this.names = [...weightShapes(config).keys()];
  }

  add(selection: TrainableSelection, path: string): void {
    switch (selection.kind) {
      case 'full':
        { this.train(this.names); return; }
      case 'lastLayers': {
        const { layers } = selection;
        if (!Number.isInteger(layers) || layers < 1 || layers > this.config.layers) { this.violate(`${path}.layers`, `must be 1 to ${this.config.layers}, not ${layers}`); return; }
        for (let i = this.config.layers - layers; i < this.config.layers; i++) this.trainLayer(i);
        if (selection.includeNorm === true) this.train([FINAL_NORM_WEIGHT]);
        if (selection.includeHead === true) this.train([headWeight(this.config)]);
        return;
      }
      case 'layers':
        for (const i of this.layers(selection.indices, `${path}.indices`)) this.trainLayer(i);
        return;
      case 'components':
        if (selection.components.length === 0) this.violate(`${path}.components`, 'names no component');
        for (const component of selection.components) this.addComponent(component, selection.layers, path);
        return;
      case 'names':
        if (selection.patterns.length === 0) this.violate(`${path}.patterns`, 'names no tensor');
        selection.patterns.forEach((pattern, i) => this.addPattern(pattern, `${path}.patterns[${i}]`));
        return;
      case 'lora':
        { this.addLora(selection, path); return; }
      case 'union':
        if (selection.of.length === 0) this.violate(`${path}.of`, 'is empty');
        selection.of.forEach((part, i) => this.add(part, `${path}.of[${i}]`));
        return;
    }
  }

  /** LoRA beside whole training of the same weight would train one matrix twice. */
  conflicts(path: string): void {
    for (const module of this.lora.keys()) {
      if (this.tensors.has(`${module}.weight`)) this.violate(path, `${module} is selected both in full and for LoRA`);
    }
  }

  private addComponent(component: Component, layers: readonly number[] | undefined, path: string): void {
    const indices = this.layers(layers, `${path}.layers`);
    switch (component) {
      case 'attention':
        { indices.forEach((i) => this.trainModules(i, ATTENTION_MODULES)); return; }
      case 'feedForward':
        { indices.forEach((i) => this.trainModules(i, FEED_FORWARD_MODULES)); return; }
      case 'norms':
        this.train(indices.flatMap((i) => LAYER_NORMS.map((norm) => `${layerPrefix(i)}.${norm}.weight`)));
        if (layers === undefined) this.train([FINAL_NORM_WEIGHT]);
        return;
      case 'embeddings':
        { this.train([EMBEDDING_WEIGHT]); return; }
      case 'head':
        { this.train([headWeight(this.config)]); return; }
    }
  }

  private addPattern(pattern: string, path: string): void {
    const expression = new RegExp(`^${pattern.split('*').map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('.*')}$`);
    const matches = this.names.filter((name) => expression.test(name));
    if (matches.length === 0) this.violate(path, `no tensor of the model matches '${pattern}'`);
    this.train(matches);
  }

  private addLora(selection: LoraSelection, path: string): void {
    const { rank } = selection;
    const alpha = selection.alpha ?? 2 * rank;
    if (!Number.isInteger(rank) || rank < 1) { this.violate(`${path}.rank`, `must be an integer of at least 1, not ${rank}`); return; }
    if (!(alpha > 0 && Number.isFinite(alpha))) this.violate(`${path}.alpha`, `must be above 0, not ${alpha}`);
    if ((selection.dropout ?? 0) !== 0) this.violate(`${path}.dropout`, 'LoRA dropout is not supported; leave it out or set it to 0');
    const modules = new Set<LinearModule>();
    (selection.targetModules ?? LINEAR_MODULES).forEach((target, i) => {
      const found = LINEAR_MODULES.filter((module) => module === target || module.endsWith(`.${target}`));
      if (found.length === 0) this.violate(`${path}.targetModules[${i}]`, `'${target}' is not one of ${LINEAR_MODULES.map((m) => m.split('.')[1]).join(', ')}`);
      for (const module of found) modules.add(module);
    });
    if (selection.targetModules?.length === 0) this.violate(`${path}.targetModules`, 'names no module');
    const settings = { rank, alpha, scaling: selection.rsLora === true ? alpha / Math.sqrt(rank) : alpha / rank };
    for (const i of this.layers(selection.layers, `${path}.layers`)) {
      for (const local of modules) {
        const module = `${layerPrefix(i)}.${local}`;
        if (this.lora.has(module)) this.violate(path, `${module} is selected for LoRA twice`);
        this.lora.set(module, settings);
      }
    }
  }

  /** Layer indices, ascending; all when undefined. */
  private layers(indices: readonly number[] | undefined, path: string): number[] {
    if (indices === undefined) return Array.from({ length: this.config.layers }, (_, i) => i);
    if (indices.length === 0) this.violate(path, 'names no layer');
    const known = indices.filter((index, at) => {
      const ok = Number.isInteger(index) && index >= 0 && index < this.config.layers;
      if (!ok) this.violate(`${path}[${at}]`, `the model has layers 0 to ${this.config.layers - 1}, not ${index}`);
      return ok;
    });
    return [...new Set(known)].sort((a, b) => a - b);
  }

  private trainLayer(layer: number): void {
    const prefix = `${layerPrefix(layer)}.`;
    this.train(this.names.filter((name) => name.startsWith(prefix)));
  }

  private trainModules(layer: number, modules: readonly string[]): void {
    for (const module of modules) this.train(this.names.filter((name) => name.startsWith(`${layerPrefix(layer)}.${module}.`)));
  }

  private train(names: readonly string[]): void {
    for (const name of names) this.tensors.add(name);
  }

  private violate(field: string, description: string): void {
    this.violations.push({ field, description });
  }
}
