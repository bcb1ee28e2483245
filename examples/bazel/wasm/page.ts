// SPDX-License-Identifier: Apache-2.0
import { lines, Verse } from "./verse";

const verse: Verse = { title: "A gate keeps watch", syllables: [10, 10, 10, 10] };
console.log(`${verse.title}: ${lines(verse)} lines`);
