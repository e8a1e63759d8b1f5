/**
 * The functions of OrtApi that Lorica calls, with their places in that table of function pointers. The order never changes between
 * versions: new functions are only appended. Every name here is called once by the self-check; a function that nobody calls has no place here.
 * Parameter types are koffi's; `OUT` is a `T **` that the callee fills.
 */
import koffi from 'koffi';

const P = 'void *';
const OUT = koffi.out(koffi.pointer('void *'));
const SIZE_OUT = koffi.out(koffi.pointer('size_t'));
const INT_OUT = koffi.out(koffi.pointer('int'));
/** ORTCHAR_T: wide on Windows. */
const PATH = process.platform === 'win32' ? 'str16' : 'str';

export interface FunctionEntry {
  readonly index: number;
  readonly parameters: readonly Parameters<typeof koffi.out>[0][];
  /** Most functions return an OrtStatus*, null for success; Release* and the two readers of a status do not. */
  readonly returns: 'status' | 'void' | 'int' | 'str';
}

function entry(index: number, parameters: FunctionEntry['parameters'], returns: FunctionEntry['returns'] = 'status'): FunctionEntry {
  return { index, parameters, returns };
}

export const API_VERSION = 30;

export const API = {
  GetErrorCode: entry(1, [P], 'int'),
  GetErrorMessage: entry(2, [P], 'str'),
  DisableTelemetryEvents: entry(6, [P]),
  CreateSessionFromArray: entry(8, [P, P, 'size_t', P, OUT]),
  CreateSessionOptions: entry(10, [OUT]),
  EnableProfiling: entry(14, [P, PATH]),
  DisableMemPattern: entry(17, [P]),
  SetSessionGraphOptimizationLevel: entry(23, [P, 'int']),
  SessionGetInputCount: entry(30, [P, SIZE_OUT]),
  SessionGetOutputCount: entry(31, [P, SIZE_OUT]),
  SessionGetInputTypeInfo: entry(33, [P, 'size_t', OUT]),
  SessionGetOutputTypeInfo: entry(34, [P, 'size_t', OUT]),
  SessionGetInputName: entry(36, [P, 'size_t', P, OUT]),
  SessionGetOutputName: entry(37, [P, 'size_t', P, OUT]),
  CreateRunOptions: entry(39, [OUT]),
  RunOptionsSetTerminate: entry(46, [P]),
  RunOptionsUnsetTerminate: entry(47, [P]),
  CreateTensorWithDataAsOrtValue: entry(49, [P, P, 'size_t', 'int64_t *', 'size_t', 'int', OUT]),
  GetTensorMutableData: entry(51, [P, OUT]),
  CastTypeInfoToTensorInfo: entry(55, [P, OUT]),
  GetTensorElementType: entry(60, [P, INT_OUT]),
  GetDimensionsCount: entry(61, [P, SIZE_OUT]),
  GetDimensions: entry(62, [P, P, 'size_t']),
  GetSymbolicDimensions: entry(63, [P, P, 'size_t']),
  GetTensorTypeAndShape: entry(65, [P, OUT]),
  CreateMemoryInfo: entry(68, ['str', 'int', 'int', 'int', OUT]),
  AllocatorAlloc: entry(75, [P, 'size_t', OUT]),
  AllocatorFree: entry(76, [P, P]),
  GetAllocatorWithDefaultOptions: entry(78, [OUT]),
  ReleaseEnv: entry(92, [P], 'void'),
  ReleaseStatus: entry(93, [P], 'void'),
  ReleaseMemoryInfo: entry(94, [P], 'void'),
  ReleaseSession: entry(95, [P], 'void'),
  ReleaseValue: entry(96, [P], 'void'),
  ReleaseRunOptions: entry(97, [P], 'void'),
  ReleaseTypeInfo: entry(98, [P], 'void'),
  ReleaseTensorTypeAndShapeInfo: entry(99, [P], 'void'),
  ReleaseSessionOptions: entry(100, [P], 'void'),
  SessionEndProfiling: entry(110, [P, P, OUT]),
  CreateEnvWithGlobalThreadPools: entry(119, ['int', 'str', P, OUT]),
  DisablePerSessionThreads: entry(120, [P]),
  CreateThreadingOptions: entry(121, [OUT]),
  ReleaseThreadingOptions: entry(122, [P], 'void'),
  GetAvailableProviders: entry(125, [OUT, INT_OUT]),
  ReleaseAvailableProviders: entry(126, [P, 'int']),
  AddSessionConfigEntry: entry(130, [P, 'str', 'str']),
  CreateAllocator: entry(131, [P, P, OUT]),
  ReleaseAllocator: entry(132, [P], 'void'),
  RunWithBinding: entry(133, [P, P, P]),
  CreateIoBinding: entry(134, [P, OUT]),
  ReleaseIoBinding: entry(135, [P], 'void'),
  BindInput: entry(136, [P, 'str', P]),
  BindOutput: entry(137, [P, 'str', P]),
  BindOutputToDevice: entry(138, [P, 'str', P]),
  GetBoundOutputValues: entry(140, [P, P, OUT, SIZE_OUT]),
  CreateAndRegisterAllocator: entry(144, [P, P, P]),
  SetGlobalIntraOpNumThreads: entry(147, [P, 'int']),
  SetGlobalSpinControl: entry(149, [P, 'int']),
  AddInitializer: entry(150, [P, 'str', P]),
  CreatePrepackedWeightsContainer: entry(166, [OUT]),
  ReleasePrepackedWeightsContainer: entry(167, [P], 'void'),
  CreateSessionFromArrayWithPrepackedWeightsContainer: entry(169, [P, P, 'size_t', P, P, OUT]),
  SessionOptionsAppendExecutionProvider_CUDA_V2: entry(204, [P, P]),
  CreateCUDAProviderOptions: entry(205, [OUT]),
  UpdateCUDAProviderOptions: entry(206, [P, P, P, 'size_t']),
  ReleaseCUDAProviderOptions: entry(208, [P], 'void'),
  AddExternalInitializers: entry(210, [P, P, P, 'size_t']),
  SetDeterministicCompute: entry(273, [P, 'bool']),
} as const satisfies Record<string, FunctionEntry>;

export type FunctionName = keyof typeof API;
