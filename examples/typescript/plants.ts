export interface Plant {
  name: string;
  waterings: number;
}

export function describe({ name, waterings }: Plant): string {
  return `${name}: water ${waterings === 1 ? "once" : `${waterings} times`} a week`;
}

// Nobody imports this, so the bundle does not have it.
export const unused = "left out";
