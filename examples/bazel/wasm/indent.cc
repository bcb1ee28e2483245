// SPDX-License-Identifier: Apache-2.0
//
// indent N INPUT OUTPUT: every line of INPUT that is not empty, N spaces to the right.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: indent N INPUT OUTPUT\n";
    return 2;
  }
  const std::string margin(std::atoi(argv[1]), ' ');
  std::ifstream input(argv[2]);
  std::ofstream output(argv[3]);
  if (!input || !output) {
    std::cerr << "indent: cannot open " << argv[input ? 3 : 2] << "\n";
    return 1;
  }
  std::string line;
  while (std::getline(input, line)) {
    output << (line.empty() ? line : margin + line) << "\n";
  }
  return output.flush() ? 0 : 1;
}
