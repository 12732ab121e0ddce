// Prints the name of each main ID register given in hexadecimal.
#include <cstdio>
#include <cstdlib>

#include "platform/processor.h"

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    std::puts(llama_rt::arm_part_name(std::strtoull(arguments[i], nullptr, 16)).c_str());
  }
}
