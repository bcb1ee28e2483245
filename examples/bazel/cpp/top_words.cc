// SPDX-License-Identifier: Apache-2.0
//
// top_words N FILE: the N most frequent words of FILE.
#include <cstdlib>
#include <fstream>
#include <iostream>

#include "cpp/word_count.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: top_words N FILE\n";
    return 2;
  }
  std::ifstream file(argv[2]);
  if (!file) {
    std::cerr << "top_words: cannot open " << argv[2] << "\n";
    return 1;
  }
  int left = std::atoi(argv[1]);
  for (const auto& entry : CountWords(file)) {
    if (left-- <= 0) break;
    std::cout << entry.first << " " << entry.second << "\n";
  }
  return 0;
}
