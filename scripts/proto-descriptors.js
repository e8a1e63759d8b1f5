// Writes proto/descriptors.binpb, what the server's reflection answers from: a FileDescriptorSet of the API, of grpc.health.v1, of
// grpc.reflection and of google.rpc's error details, with comments. (proto-loader's own descriptors lack well-known types and map entries that other languages' tools need.)
// Run by `npm run proto`; drift is checked by `npm run proto:check`.
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';

const SOURCES = [
  ['proto'],
  ['node_modules/grpc-health-check/proto'],
  ['node_modules/@grpc/reflection/build/proto/grpc'],
  // What errors carry.
  [
    'node_modules/google-proto-files',
    '--path',
    'node_modules/google-proto-files/google/rpc/error_details.proto',
    '--path',
    'node_modules/google-proto-files/google/rpc/status.proto',
  ],
];

// Serialized sets, one after the other, are their union: a repeated field of a protobuf message is concatenated when it is read.
const sets = SOURCES.map((source) =>
  execFileSync('node_modules/.bin/buf', ['build', ...source, '--as-file-descriptor-set', '-o', '-#format=binpb'], { maxBuffer: 1 << 26 }),
);
writeFileSync('proto/descriptors.binpb', Buffer.concat(sets));
