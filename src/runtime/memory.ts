/** Resident memory of this process, current and peak, and what it may have, in bytes. */
import { readFileSync } from 'node:fs';
import { freemem, totalmem } from 'node:os';

export interface ProcessMemory {
  readonly residentBytes: number;
  readonly peakResidentBytes: number;
}

/** From /proc/self/status where there is one (Linux); otherwise from what Node reports. */
export function processMemory(): ProcessMemory {
  const fromNode = { residentBytes: process.memoryUsage.rss(), peakResidentBytes: process.resourceUsage().maxRSS * 1024 };
  if (process.platform !== 'linux') return fromNode;
  const status = readFileSync('/proc/self/status', 'utf8');
  const kibibytes = (key: string): number | undefined => {
    const match = new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(status);
    return match === null ? undefined : Number(match[1]) * 1024;
  };
  return { residentBytes: kibibytes('VmRSS') ?? fromNode.residentBytes, peakResidentBytes: kibibytes('VmHWM') ?? fromNode.peakResidentBytes };
}

/** What a process may have here at most, whatever else runs: its control group's limit, or all of the machine's memory. */
export function memorySizeBytes(): number {
  const constrained = process.constrainedMemory();
  return Math.min(constrained > 0 ? constrained : Infinity, totalmem());
}

/** What this process may come to hold: its control group's limit, or what it holds with what the machine has left, whichever is less. */
export function memoryLimitBytes(): number {
  const constrained = process.constrainedMemory();
  return Math.min(constrained > 0 ? constrained : Infinity, processMemory().residentBytes + freemem());
}
