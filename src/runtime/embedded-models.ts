/**
 * Two one-operator ONNX models (opset 21) that the runtime itself needs, as bytes, because this layer may not import the graph builder.
 * test/runtime/embedded-models.test.ts builds both graphs again and compares.
 */

const decode = (base64: string): Uint8Array => new Uint8Array(Buffer.from(base64, 'base64'));

/** to[N] = Identity(from[N]), uint8: moves bytes between host and device through IO binding. */
export const COPY_MODEL = decode(
  'CAoSBmxvcmljYTpQCiAKBGZyb20SAnRvGgpJZGVudGl0eV8wIghJZGVudGl0eRIEY29weVoTCgRmcm9tEgsKCQgCEgUKAxIBTmIRCgJ0bxILCgkIAhIFCgMSAU5CBAoAEBVC' +
  'EQoNY29tLm1pY3Jvc29mdBAB');

/** y[N,16] = MatMul(x[N,16], weight[16,16]), float32, `weight` an external initializer: the self-check. */
export const CHECK_MODEL = decode(
  'CAoSBmxvcmljYTp8CiAKAXgKBndlaWdodBIBeRoITWF0TXVsXzAiBk1hdE11bBIFY2hlY2sqJQgQCBAQAUIGd2VpZ2h0ahMKCGxvY2F0aW9uEgd3ZWlnaHRzcAFaFAoBeBIP' +
  'Cg0IARIJCgMSAU4KAggQYhQKAXkSDwoNCAESCQoDEgFOCgIIEEIECgAQFUIRCg1jb20ubWljcm9zb2Z0EAE=');
