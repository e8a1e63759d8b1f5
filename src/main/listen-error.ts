/** The one text for an address that can't be bound. */
import { LoricaError } from '../common/errors.js';
import { formatAddress, type Address } from '../config/config.js';

/** FAILED_PRECONDITION naming the setting and the address. */
export function addressInUse(setting: string, address: Address, cause: Error): LoricaError {
  return new LoricaError('FAILED_PRECONDITION', 'INVALID_FIELD', `${formatAddress(address)} can not be listened on: ${cause.message}`, {
    hint: `Stop what uses it, or set ${setting}.`,
    cause,
  });
}
