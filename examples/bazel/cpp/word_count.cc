// SPDX-License-Identifier: Apache-2.0
#include "cpp/word_count.h"

#include <algorithm>
#include <map>

std::vector<std::pair<std::string, int>> CountWords(std::istream& text) {
  std::map<std::string, int> counts;
  std::string word;
  while (text >> word) {
    for (char& c : word) {
      if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
    }
    ++counts[word];
  }
  std::vector<std::pair<std::string, int>> sorted(counts.begin(), counts.end());
  std::stable_sort(
      sorted.begin(), sorted.end(),
      [](const std::pair<std::string, int>& a,
         const std::pair<std::string, int>& b) { return a.second > b.second; });
  return sorted;
}
