// Any POSIX system (macOS, the BSDs): what C++ and sysconf say, and nothing where they are silent.
#include <unistd.h>

#include <numeric>
#include <thread>

#include "platform/system.h"

namespace llama_rt {

std::vector<int> usable_cpus() {
  std::vector<int> cpus(std::thread::hardware_concurrency());
  std::iota(cpus.begin(), cpus.end(), 0);
  return cpus;
}

int count_cores(const std::vector<int>& cpus) { return static_cast<int>(cpus.size()); }

double cpu_quota() { return 0; }

bool request_tile_permission() { return false; }

void name_thread(const char*) {}

int current_cpu() { return -1; }

bool keep_from_cpu(pthread_t, int) { return false; }

void prefer_huge_pages(void*, size_t) {}

// All of the machine's memory: POSIX has no word for the part that is free.
std::optional<uint64_t> system_available_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page <= 0) return std::nullopt;
  return static_cast<uint64_t>(pages) * static_cast<uint64_t>(page);
}

void drop_file_pages(uintptr_t, uintptr_t) {}

}  // namespace llama_rt
