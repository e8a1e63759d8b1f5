import { describe, expect, test } from '@jest/globals';
import { LoricaError } from '../../src/common/errors.js';
import { WaitingQueue } from '../../src/engine/waiting-queue.js';

const item = (tenant: string, id: number): { tenant: string; id: number } => ({ tenant, id });

describe('WaitingQueue', () => {
  test('tenants take turns whatever the order of arrival; within a tenant first come, first served', () => {
    const queue = new WaitingQueue<{ tenant: string; id: number }>(10);
    for (let i = 0; i < 4; i++) queue.push(item('a', i), () => 1);
    queue.push(item('b', 0), () => 1);
    queue.push(item('c', 0), () => 1);
    queue.push(item('b', 1), () => 1);
    const order: string[] = [];
    for (let next = queue.take(); next !== undefined; next = queue.take()) order.push(`${next.tenant}${next.id}`);
    expect(order).toEqual(['a0', 'b0', 'c0', 'a1', 'b1', 'a2', 'a3']);
    expect(queue.length).toBe(0);
  });

  test('a full queue refuses with OVERLOADED and says when to come back', () => {
    const queue = new WaitingQueue<{ tenant: string; id: number }>(1);
    queue.push(item('a', 0), () => 1);
    try {
      queue.push(item('b', 0), () => 1234.4);
      throw new Error('not refused');
    } catch (error) {
      expect(error).toBeInstanceOf(LoricaError);
      expect(error).toMatchObject({ code: 'RESOURCE_EXHAUSTED', reason: 'OVERLOADED', retryAfterMs: 1234 });
    }
  });

  test('a tenant that fills its share leaves places to others, fewer the more of them wait', () => {
    const queue = new WaitingQueue<{ tenant: string; id: number }>(256);
    const flood = (tenant: string): number => {
      for (let id = 0; ; id++) {
        try {
          queue.push(item(tenant, id), () => 5);
        } catch (error) {
          expect(error).toMatchObject({ code: 'RESOURCE_EXHAUSTED', reason: 'OVERLOADED', retryAfterMs: 5, message: `${id} requests of this tenant are waiting already` });
          return id;
        }
      }
    };
    expect(flood('a')).toBe(192);
    expect(flood('b')).toBe(48);
    expect(flood('c')).toBe(12);
    expect(queue.length).toBe(252);
  });

  test('an item that does not fit keeps its place and lets another tenant go first', () => {
    const queue = new WaitingQueue<{ tenant: string; id: number }>(10);
    queue.push(item('a', 0), () => 1);
    queue.push(item('b', 1), () => 1);
    expect(queue.take((i) => i.tenant !== 'a')?.id).toBe(1);
    expect(queue.take()?.id).toBe(0);
  });

  test('removal frees a place, once', () => {
    const queue = new WaitingQueue<{ tenant: string; id: number }>(1);
    const first = item('a', 0);
    queue.push(first, () => 1);
    expect(queue.remove(first)).toBe(true);
    expect(queue.remove(first)).toBe(false);
    queue.push(item('a', 1), () => 1);
    expect(queue.take()?.id).toBe(1);
  });
});
