/**
 * Ids in resource names, and the one NOT_FOUND text. A name that another tenant owns and a name that nobody owns give this same error,
 * so that it says nothing about other tenants.
 */
import { type ErrorReason, invalidFields, LoricaError } from '../common/errors.js';

const ID = /^[a-z][a-z0-9-]{0,62}$/;

export function isResourceId(id: string): boolean {
  return ID.test(id);
}

/** Throws INVALID_ARGUMENT naming `field` unless `id` is a resource id. */
export function requireResourceId(field: string, id: string): void {
  if (!isResourceId(id)) {
    throw invalidFields([
      {
        field,
        description: `${JSON.stringify(id)} is not an id: a lower-case letter, then up to 62 lower-case letters, digits and hyphens`,
      },
    ]);
  }
}

export function notFound(reason: ErrorReason, name: string): LoricaError {
  return new LoricaError('NOT_FOUND', reason, `${name} does not exist`);
}
