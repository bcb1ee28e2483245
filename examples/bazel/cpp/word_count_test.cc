// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <iostream>
#include <sstream>

#include "cpp/word_count.h"

namespace {

int failures = 0;

void Expect(bool ok, const char* what) {
  if (ok) return;
  std::cerr << "FAILED: " << what << "\n";
  ++failures;
}

}  // namespace

int main(int argc, char** argv) {
  std::istringstream text("the cat The dog THE Cat");
  const auto counts = CountWords(text);
  Expect(counts.size() == 3, "three different words");
  Expect(counts.at(0).first == "the" && counts.at(0).second == 3, "3 the");
  Expect(counts.at(1).first == "cat" && counts.at(1).second == 2, "2 cat");
  Expect(counts.at(2).first == "dog" && counts.at(2).second == 1, "1 dog");

  std::istringstream nothing("");
  Expect(CountWords(nothing).empty(), "no words in no text");

  // The words of the poem, a runfile.
  Expect(argc == 2, "one argument");
  std::ifstream words(argv[1]);
  Expect(words.is_open(), "the runfile can be opened");
  Expect(CountWords(words).at(0).first == "the", "the first of the poem");
  return failures == 0 ? 0 : 1;
}
