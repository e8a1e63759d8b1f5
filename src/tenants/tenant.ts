/** Who may do what: tenants, their API keys (only hashes are kept) and the identity that a key proves. */
export type Role = 'tenant' | 'operator';

export interface Identity {
  readonly tenant: string;
  readonly roles: readonly Role[];
  /** The key that proved it; absent for the development identity. */
  readonly keyId?: string;
}

export interface Tenant {
  /** tenants/{id} */
  readonly name: string;
  readonly id: string;
  readonly displayName: string;
  readonly createTime: Date;
}

export interface ApiKey {
  /** tenants/{tenant}/apiKeys/{id} */
  readonly name: string;
  readonly tenant: string;
  readonly id: string;
  readonly roles: readonly Role[];
  readonly createTime: Date;
  readonly revokeTime?: Date;
}
