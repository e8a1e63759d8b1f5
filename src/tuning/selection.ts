/**
 * The one implementation of trainable-parameter selection: from what a user says to names of the checkpoint's tensors and of
 * modules that get LoRA matrices. Invariant: every name returned exists in the model, and no linear layer is trained both in
 * full and by LoRA. It must not read weights.
 */
import { invalidFields, type FieldViolation } from '../common/errors.js';
import { linearShapes, normShapes, weightShapes, type DecoderConfig } from '../models/config.js';
import { ATTENTION_MODULES, CLASSIFICATION_HEAD_WEIGHT, EMBEDDING_WEIGHT, FEED_FORWARD_MODULES, FINAL_NORM_BIAS, FINAL_NORM_WEIGHT, HEAD_WEIGHT, layerPrefix, POSITION_WEIGHT, type LinearModule } from '../models/decoder.js';
import { matchesModule, matchesName } from './name-pattern.js';
import type { Component, Layers, LoraSelection, TrainableSelection } from './specification.js';

/** Beyond this the input of a low-rank path is mostly noise. */
const MOST_DROPOUT = 0.9;

export interface LoraSettings {
  readonly rank: number;
  readonly alpha: number;
  /** alpha / rank, or alpha / √rank. */
  readonly scaling: number;
  readonly dropout: number;
  readonly dora: boolean;
}

/** What a stage trains. */
export interface TrainablePlan {
  /** Tensors of the checkpoint trained whole, by name; among them the classification head of a stage that trains one. */
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
 * gradient comes from both of its uses. `classification`: the stage trains a classification head, always; it stands in the language
 * model head's place, which has no part in the loss. Throws INVALID_ARGUMENT / INVALID_FIELD with every broken rule.
 */
export function selectTrainable(config: DecoderConfig, selection: TrainableSelection, path = 'trainable', classification = false): TrainablePlan {
  const resolver = new Resolver(config, classification);
  resolver.add(selection, path);
  if (classification) resolver.tensors.add(CLASSIFICATION_HEAD_WEIGHT);
  resolver.conflicts(path);
  if (resolver.violations.length > 0) throw invalidFields(resolver.violations);
  return { tensors: resolver.tensors, lora: resolver.lora };
}

class Resolver {
  readonly tensors = new Set<string>();
  readonly lora = new Map<string, LoraSettings>();
  readonly violations: FieldViolation[] = [];
  private readonly names: readonly string[];

  private readonly head: string;

  constructor(private readonly config: DecoderConfig, private readonly classification: boolean) {
    const names = [...weightShapes(config).keys()];
    this.names = classification ? [...names.filter((name) => name !== HEAD_WEIGHT), CLASSIFICATION_HEAD_WEIGHT] : names;
    this.head = classification ? CLASSIFICATION_HEAD_WEIGHT : headWeight(config);
  }

  add(selection: TrainableSelection, path: string): void {
    switch (selection.kind) {
      case 'full':
        { this.train(this.names); return; }
      case 'lastLayers': {
        const { layers } = selection;
        if (!Number.isInteger(layers) || layers < 1 || layers > this.config.layers) { this.violate(`${path}.layers`, `must be 1 to ${this.config.layers}, not ${layers}`); return; }
        for (let i = this.config.layers - layers; i < this.config.layers; i++) this.trainLayer(i);
        if (selection.includeNorm === true) this.trainPresent(FINAL_NORM_WEIGHT, FINAL_NORM_BIAS);
        if (selection.includeHead === true) this.train([this.head]);
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
      case 'except':
        { this.addExcept(selection, path); return; }
    }
  }

  /** LoRA beside whole training of the same weight would train one matrix twice. */
  conflicts(path: string): void {
    for (const module of this.lora.keys()) {
      if (this.tensors.has(`${module}.weight`)) this.violate(path, `${module} is selected both in full and for LoRA`);
    }
  }

  private addComponent(component: Component, layers: readonly Layers[] | undefined, path: string): void {
    const indices = this.layers(layers, `${path}.layers`);
    switch (component) {
      case 'attention':
        { indices.forEach((i) => this.trainModules(i, ATTENTION_MODULES)); return; }
      case 'feedForward':
        { indices.forEach((i) => this.trainModules(i, FEED_FORWARD_MODULES)); return; }
      case 'norms':
        this.train(indices.flatMap((i) => [...normShapes(this.config).keys()].map((norm) => `${layerPrefix(i)}.${norm}`)));
        if (layers === undefined) this.trainPresent(FINAL_NORM_WEIGHT, FINAL_NORM_BIAS);
        return;
      case 'biases': {
        const biases = indices.flatMap((i) => this.names.filter((name) => name.startsWith(`${layerPrefix(i)}.`) && name.endsWith('.bias')));
        if (biases.length === 0 && indices.length > 0) this.violate(`${path}.components`, 'the model has no biases there');
        this.train(biases);
        return;
      }
      case 'embeddings':
        { this.trainPresent(EMBEDDING_WEIGHT, POSITION_WEIGHT); return; }
      case 'head':
        { this.train([this.head]); return; }
    }
  }

  private addPattern(pattern: string, path: string): void {
    const matches = this.names.filter((name) => matchesName(pattern, name));
    if (matches.length === 0) this.violate(path, `no tensor of the model matches '${pattern}'`);
    this.train(matches);
  }

  private addLora(selection: LoraSelection, path: string): void {
    const { rank, dropout = 0, modulePatterns = [] } = selection;
    const alpha = selection.alpha ?? 2 * rank;
    if (!this.rankAndAlpha(rank, alpha, path)) return;
    if (!(dropout >= 0 && dropout <= MOST_DROPOUT)) this.violate(`${path}.dropout`, `must be 0 to ${MOST_DROPOUT}, not ${dropout}`);
    modulePatterns.forEach((part, i) => this.rankAndAlpha(part.rank ?? rank, part.alpha ?? alpha, `${path}.modulePatterns[${i}]`));
    const modules = new Set<LinearModule>();
    const linear = [...linearShapes(this.config, 0).keys()];
    (selection.targetModules ?? linear).forEach((target, i) => {
      const found = linear.filter((module) => module === target || module.endsWith(`.${target}`));
      if (found.length === 0) this.violate(`${path}.targetModules[${i}]`, `'${target}' is not one of ${linear.map((m) => m.split('.')[1]).join(', ')}`);
      for (const module of found) modules.add(module);
    });
    if (selection.targetModules?.length === 0) this.violate(`${path}.targetModules`, 'names no module');
    const unmatched = new Set(modulePatterns.keys());
    const settings = (module: string): LoraSettings => {
      const matching = modulePatterns.filter((part, i) => matchesModule(part.pattern, module) && (unmatched.delete(i) || true));
      const own = { rank: matching.find((part) => part.rank !== undefined)?.rank ?? rank, alpha: matching.find((part) => part.alpha !== undefined)?.alpha ?? alpha };
      return { ...own, scaling: selection.rsLora === true ? own.alpha / Math.sqrt(own.rank) : own.alpha / own.rank, dropout, dora: selection.dora === true };
    };
    for (const i of this.layers(selection.layers, `${path}.layers`)) {
      for (const local of modules) {
        const module = `${layerPrefix(i)}.${local}`;
        this.addModule(module, settings(module), path);
      }
    }
    for (const i of unmatched) this.violate(`${path}.modulePatterns[${i}].pattern`, `no module with LoRA matches '${modulePatterns[i]!.pattern}'`);
  }

  private rankAndAlpha(rank: number, alpha: number, path: string): boolean {
    const whole = Number.isInteger(rank) && rank >= 1;
    if (!whole) this.violate(`${path}.rank`, `must be an integer of at least 1, not ${rank}`);
    if (whole && !(alpha > 0 && Number.isFinite(alpha))) this.violate(`${path}.alpha`, `must be above 0, not ${alpha}`);
    return whole;
  }

  /** Adds the inner selection without what is frozen; selections beside it in a union keep theirs. */
  private addExcept({ of, patterns = [], layers }: Extract<TrainableSelection, { kind: 'except' }>, path: string): void {
    if (patterns.length === 0 && layers === undefined) this.violate(path, 'excepts nothing: give patterns or layers');
    const inner = new Resolver(this.config, this.classification);
    inner.add(of, `${path}.of`);
    this.violations.push(...inner.violations);
    const all = [...inner.tensors, ...inner.lora.keys()];
    const frozenLayers = layers === undefined ? [] : this.layers(layers, `${path}.layers`).map((i) => `${layerPrefix(i)}.`);
    patterns.forEach((pattern, i) => {
      if (!all.some((name) => matchesName(pattern, name))) this.violate(`${path}.patterns[${i}]`, `nothing selected matches '${pattern}'`);
    });
    const kept = (name: string): boolean => !patterns.some((pattern) => matchesName(pattern, name)) && !frozenLayers.some((prefix) => name.startsWith(prefix));
    if (inner.violations.length === 0 && !all.some(kept)) this.violate(path, 'leaves nothing to train');
    this.train([...inner.tensors].filter(kept));
    for (const [module, settings] of inner.lora) if (kept(module)) this.addModule(module, settings, path);
  }

  private addModule(module: string, settings: LoraSettings, path: string): void {
    if (this.lora.has(module)) this.violate(path, `${module} is selected for LoRA twice`);
    this.lora.set(module, settings);
  }

  /** Layer indices, ascending; all when undefined. */
  private layers(given: readonly Layers[] | undefined, path: string): number[] {
    if (given === undefined) return Array.from({ length: this.config.layers }, (_, i) => i);
    if (given.length === 0) this.violate(path, 'names no layer');
    const exists = (index: number): boolean => Number.isInteger(index) && index >= 0 && index < this.config.layers;
    const known = given.flatMap((part, at) => {
      const { first, last } = typeof part === 'number' ? { first: part, last: part } : part;
      const ok = exists(first) && exists(last);
      if (!ok) this.violate(`${path}[${at}]`, `the model has layers 0 to ${this.config.layers - 1}, not ${typeof part === 'number' ? part : `${first} to ${last}`}`);
      else if (first > last) this.violate(`${path}[${at}]`, `the first layer, ${first}, comes after the last, ${last}`);
      return ok ? Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i) : [];
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

  /** Those of the names that the model has. */
  private trainPresent(...names: readonly string[]): void {
    this.train(names.filter((name) => this.names.includes(name)));
  }

  private train(names: readonly string[]): void {
    for (const name of names) this.tensors.add(name);
  }

  private violate(field: string, description: string): void {
    this.violations.push({ field, description });
  }
}
