/**
 * The one boundary to ONNX protobuf (field numbers of onnx.proto3). Nothing else in the project writes or knows the wire format.
 * Constants are embedded as raw_data; weights become external initializers, whose bytes the runtime receives by name.
 */
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { DTYPES, type DType, type TypedArray } from '../tensor/dtype.js';
import { rawBytes } from './constant.js';
import type { Dim } from './dims.js';
import type { Attribute, Graph, Node, Value } from './graph.js';
import { graphError } from './origin.js';
import { leavesOf, liveNodes } from './live.js';

/** ir_version of the operator set: 10 came with opset 21, 11 with opset 23 and 24's types need no more. */
const IR_VERSIONS: Readonly<Record<number, number>> = { 21: 10, 24: 11 };
const MICROSOFT_VERSION = 1;
const EXTERNAL = 1;
const ATTRIBUTE_TYPE = { float: 1, int: 2, string: 3, tensor: 4, floats: 6, ints: 7 } as const;
/** `location` of external data. The runtime supplies the bytes itself, so no such file exists. */
const EXTERNAL_LOCATION = 'weights';

/** Writes a nested message into field `field`. */
function message(writer: BinaryWriter, field: number, body: (writer: BinaryWriter) => void): void {
  writer.tag(field, WireType.LengthDelimited).fork();
  body(writer);
  writer.join();
}

const text = (writer: BinaryWriter, field: number, value: string): BinaryWriter =>
  writer.tag(field, WireType.LengthDelimited).string(value);
const int = (writer: BinaryWriter, field: number, value: number): BinaryWriter => writer.tag(field, WireType.Varint).int64(value);

function tensorProto(writer: BinaryWriter, name: string, dtype: DType, shape: readonly number[], data: TypedArray | 'external'): void {
  for (const dim of shape) int(writer, 1, dim);
  int(writer, 2, DTYPES[dtype].onnx);
  if (name !== '') text(writer, 8, name);
  if (data !== 'external') {
    writer.tag(9, WireType.LengthDelimited).bytes(rawBytes(data));
    return;
  }
  message(writer, 13, (w) => text(text(w, 1, 'location'), 2, EXTERNAL_LOCATION));
  int(writer, 14, EXTERNAL);
}

function valueInfo(writer: BinaryWriter, value: Value): void {
  text(writer, 1, value.name);
  message(writer, 2, (type) => {
    message(type, 1, (tensor) => {
      int(tensor, 1, DTYPES[value.dtype].onnx);
      message(tensor, 2, (shape) => {
        for (const dim of value.shape) message(shape, 1, (w) => dimension(w, dim));
      });
    });
  });
}

function dimension(writer: BinaryWriter, dim: Dim): void {
  if (typeof dim === 'number') int(writer, 1, dim);
  else text(writer, 2, dim);
}

function attributeProto(writer: BinaryWriter, name: string, attribute: Attribute): void {
  text(writer, 1, name);
  switch (attribute.kind) {
    case 'float':
      writer.tag(2, WireType.Bit32).float(attribute.value);
      break;
    case 'int':
      int(writer, 3, attribute.value);
      break;
    case 'string':
      writer.tag(4, WireType.LengthDelimited).string(attribute.value);
      break;
    case 'tensor':
      message(writer, 5, (w) => tensorProto(w, '', attribute.dtype, attribute.shape, attribute.value));
      break;
    case 'floats':
      for (const value of attribute.value) writer.tag(7, WireType.Bit32).float(value);
      break;
    case 'ints':
      for (const value of attribute.value) int(writer, 8, value);
      break;
  }
  int(writer, 20, ATTRIBUTE_TYPE[attribute.kind]);
}

function nodeProto(writer: BinaryWriter, node: Node): void {
  for (const value of node.inputs) text(writer, 1, value?.name ?? '');
  for (const value of node.outputs) text(writer, 2, value?.name ?? '');
  text(writer, 3, node.name);
  text(writer, 4, node.operator);
  for (const [name, attribute] of Object.entries(node.attributes)) message(writer, 5, (w) => attributeProto(w, name, attribute));
  if (node.domain !== '') text(writer, 7, node.domain);
}

/**
 * ModelProto bytes of the part of `graph` that its outputs need; all inputs are kept. Every weight that is needed becomes an external
 * initializer. A graph without outputs is an error: it would compute nothing.
 */
export function serialize(graph: Graph): Uint8Array {
  if (graph.outputs.length === 0) throw graphError('serialize', `graph '${graph.name}' has no outputs`);
  const nodes = liveNodes(graph);
  const leaves = leavesOf(nodes, graph.outputs);
  const writer = new BinaryWriter();
  int(writer, 1, IR_VERSIONS[graph.opset] as number);
  text(writer, 2, 'lorica');
  message(writer, 7, (g) => {
    for (const node of nodes) message(g, 1, (w) => nodeProto(w, node));
    text(g, 2, graph.name);
    for (const value of leaves) {
      if (value.kind === 'input') continue;
      const data = value.constant ?? 'external';
      message(g, 5, (w) => tensorProto(w, value.name, value.dtype, value.shape as readonly number[], data));
    }
    for (const value of graph.inputs) message(g, 11, (w) => valueInfo(w, value));
    for (const value of graph.outputs) message(g, 12, (w) => valueInfo(w, value));
  });
  message(writer, 8, (w) => int(text(w, 1, ''), 2, graph.opset));
  message(writer, 8, (w) => int(text(w, 1, 'com.microsoft'), 2, MICROSOFT_VERSION));
  return writer.finish();
}
