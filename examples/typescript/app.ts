import { type Plant, describe } from "./plants";

const case1: Plant[] = [
  { name: "fern", waterings: 1 },
  { name: "orchid", waterings: 3 },
];

for (const plant of case1) console.log(describe(plant));
