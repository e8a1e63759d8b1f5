/**
 * A model cut down to one layer of each kind, for measuring what a stage costs: layers that a stage treats alike take the same time, so
 * that one of them stands for all. Invariant: a layer of the slice has the sessions of the layers that it stands for. Nothing is read or run here.
 */
import type { DecoderConfig } from '../models/config.js';
import { EMBEDDING_WEIGHT, layerPrefix, POSITION_WEIGHT } from '../models/decoder.js';
import type { LoraSettings, TrainablePlan } from './selection.js';

export interface ModelSlice {
  readonly config: DecoderConfig;
  readonly plan: TrainablePlan;
  /** How many layers of the model each layer of the slice stands for. */
  readonly counts: readonly number[];
}

/** Layers in their order, each kind once. What lies outside the layers is all there. */
export function sliceModel(config: DecoderConfig, plan: TrainablePlan): ModelSlice {
  const lowest = lowestTrained([...plan.tensors, ...plan.lora.keys()], config.layers);
  const kinds = new Map<string, { readonly layer: number; count: number }>();
  for (let layer = 0; layer < config.layers; layer++) {
    const key = JSON.stringify([kindOfLayer(layer, plan), layer < lowest, layer === lowest, perLayer(config, layer)]);
    const known = kinds.get(key);
    if (known === undefined) kinds.set(key, { layer, count: 1 });
    else known.count += 1;
  }
  const chosen = [...kinds.values()];
  const renamed = (name: string): string | undefined => {
    const match = /^model\.layers\.(\d+)\.(.*)$/.exec(name);
    if (match === null) return name;
    const place = chosen.findIndex(({ layer }) => layer === Number(match[1]));
    return place < 0 ? undefined : `${layerPrefix(place)}.${match[2]!}`;
  };
  const tensors = new Set([...plan.tensors].map(renamed).filter((name) => name !== undefined));
  const lora = new Map([...plan.lora].map(([module, settings]) => [renamed(module), settings] as const).filter((entry): entry is [string, LoraSettings] => entry[0] !== undefined));
  return { config: slicedConfig(config, chosen.map(({ layer }) => layer)), plan: { ...plan, tensors, lora }, counts: chosen.map(({ count }) => count) };
}

/** What a stage trains inside a layer, by local names. */
function kindOfLayer(layer: number, plan: TrainablePlan): unknown {
  const prefix = `${layerPrefix(layer)}.`;
  const inside = (name: string): boolean => name.startsWith(prefix);
  const local = (name: string): string => name.slice(prefix.length);
  return [[...plan.tensors].filter(inside).map(local).sort(), [...plan.lora].filter(([module]) => inside(module)).map(([module, settings]) => [local(module), settings]).sort()];
}

/** Index of the layer that a tensor or module lies in; undefined outside the layers. */
export function layerOf(name: string): number | undefined {
  const index = /^model\.layers\.(\d+)\./.exec(name)?.[1];
  return index === undefined ? undefined : Number(index);
}

/** The lowest layer with something trained: −1 where an embedding is, the number of layers where none has. `names`: of what is trained. */
export function lowestTrained(names: Iterable<string>, layers: number): number {
  let lowest = layers;
  for (const name of names) lowest = Math.min(lowest, name === EMBEDDING_WEIGHT || name === POSITION_WEIGHT ? -1 : (layerOf(name) ?? layers));
  return lowest;
}

/** Values of the config that differ from layer to layer: lists as long as the model is deep. */
function perLayer(config: DecoderConfig, layer: number): readonly unknown[] {
  return Object.values(config).map((value: unknown) => (isPerLayer(value, config) ? value[layer] : null));
}

function slicedConfig(config: DecoderConfig, layers: readonly number[]): DecoderConfig {
  const entries = Object.entries(config).map(([key, value]: [string, unknown]) => [key, isPerLayer(value, config) ? layers.map((layer) => value[layer]) : value]);
  return { ...(Object.fromEntries(entries) as unknown as DecoderConfig), layers: layers.length };
}

function isPerLayer(value: unknown, { layers, eosTokenIds }: DecoderConfig): value is readonly unknown[] {
  return Array.isArray(value) && value.length === layers && value !== eosTokenIds;
}
