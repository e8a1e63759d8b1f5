/** The one text for an address that can't be bound. */
import { LoricaError } from '../common/errors.js';
import { formatAddress, type Address } from '../config/config.js';

/** FAILED_PRECONDITION naming the setting and the address. */
export function addressInUse(setting: string, address: Address, cause: Error): LoricaError {
  // "listen EADDRINUSE: address already in use 127.0.0.1:50051", from gRPC inside a list of attempts.
  const why = /\bE[A-Z]{4,}: ([a-z][a-z ]*[a-z])/.exec(cause.message)?.[1] ?? cause.message;
  return new LoricaError('FAILED_PRECONDITION', 'INVALID_FIELD', `${formatAddress(address)} can not be listened on: ${why}`, {
    hint: `Stop what uses it, or set ${setting}.`,
    cause,
  });
}
