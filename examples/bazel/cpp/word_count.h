// SPDX-License-Identifier: Apache-2.0
#ifndef CPP_WORD_COUNT_H_
#define CPP_WORD_COUNT_H_

#include <istream>
#include <string>
#include <utility>
#include <vector>

// The words of a text with how often each occurs, without regard to case:
// most frequent first, equally frequent ones in alphabetical order.
std::vector<std::pair<std::string, int>> CountWords(std::istream& text);

#endif  // CPP_WORD_COUNT_H_
