// Prints the name of each main ID register given in hexadecimal.
#include "platform/processor/arm_parts.h"

#include <cstdio>
#include <cstdlib>

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    std::puts(llama_rt::arm_part_name(std::strtoull(arguments[i], nullptr, 16)).c_str());
  }
}
