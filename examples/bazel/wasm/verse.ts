// SPDX-License-Identifier: Apache-2.0
export interface Verse {
  title: string;
  syllables: number[];
}

export function lines(verse: Verse): number {
  return verse.syllables.length;
}
