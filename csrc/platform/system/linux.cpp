// Linux: affinity, /proc and /sys, control groups, madvise, arch_prctl.
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <set>
#include <sstream>
#include <string>

#include "platform/cgroup.h"
#include "platform/system.h"

namespace llama_rt {
namespace {

// Whether every byte of [begin, end) lies in shared mappings of files.
// Lines of /proc/self/maps: `from-to perms offset device inode path`, by ascending address.
bool is_shared_file(uintptr_t begin, uintptr_t end) {
  std::istringstream lines(read_text_file("/proc/self/maps").value_or(""));
  uintptr_t covered = begin;
  for (std::string line; std::getline(lines, line) && covered < end;) {
    std::istringstream fields(line);
    uintptr_t from = 0, to = 0;
    char dash = 0;
    std::string permissions, offset, device;
    uint64_t inode = 0;
    if (!(fields >> std::hex >> from >> dash >> to >> permissions >> offset >> device >> std::dec >>
          inode)) {
      return false;
    }
    if (to <= covered) continue;
    const bool shared = permissions.size() == 4 && permissions[3] == 's';
    if (from > covered || !shared || inode == 0) return false;
    covered = to;
  }
  return covered >= end;
}

// MemAvailable, which counts the file cache as free; without it the pages that nobody uses.
std::optional<uint64_t> machine_available() {
  std::istringstream in(read_text_file("/proc/meminfo").value_or(""));
  std::string name, unit;
  for (uint64_t kib = 0; in >> name >> kib;) {
    if (name == "MemAvailable:") return kib * 1024;
    std::getline(in, unit);
  }
  const long pages = sysconf(_SC_AVPHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page <= 0) return std::nullopt;
  return static_cast<uint64_t>(pages) * static_cast<uint64_t>(page);
}

}  // namespace

// The mask has no fixed size, so it is asked for with larger and larger buffers.
std::vector<int> usable_cpus() {
  std::vector<int> cpus;
  for (int capacity = 1024; capacity <= 1 << 20; capacity *= 2) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(
        CPU_ALLOC(static_cast<size_t>(capacity)), [](cpu_set_t* s) { CPU_FREE(s); });
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(capacity));
    if (!set) break;
    if (sched_getaffinity(0, bytes, set.get()) != 0) continue;
    for (int cpu = 0; cpu < capacity; ++cpu) {
      if (CPU_ISSET_S(static_cast<size_t>(cpu), bytes, set.get())) cpus.push_back(cpu);
    }
    break;
  }
  return cpus;
}

// CPUs that share a core list the same siblings; without topology every CPU is its own core.
int count_cores(const std::vector<int>& cpus) {
  std::set<std::string> cores;
  for (const int cpu : cpus) {
    const std::string number = std::to_string(cpu);
    const auto siblings =
        read_text_file("/sys/devices/system/cpu/cpu" + number + "/topology/thread_siblings_list");
    cores.insert(siblings && !siblings->empty() ? *siblings : "cpu" + number);
  }
  return static_cast<int>(cores.size());
}

double cpu_quota() { return cgroup_quota(""); }

// Linux hands out the 8 KiB of tile state per process and only on request (since 5.16).
bool request_tile_permission() {
#ifdef SYS_arch_prctl
  constexpr long kReqXcompPerm = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kXtileData = 18;         // its bit in XCR0
  return syscall(SYS_arch_prctl, kReqXcompPerm, kXtileData) == 0;
#else
  return false;
#endif
}

void name_thread(const char* name) { pthread_setname_np(pthread_self(), name); }

int current_cpu() { return sched_getcpu(); }

bool keep_from_cpu(pthread_t thread, int cpu) {
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0 || CPU_COUNT(&cpus) < 2) return false;
  CPU_CLR(static_cast<size_t>(cpu), &cpus);
  return pthread_setaffinity_np(thread, sizeof(cpus), &cpus) == 0;
}

void prefer_huge_pages(void* begin, size_t bytes) { madvise(begin, bytes, MADV_HUGEPAGE); }

std::optional<uint64_t> system_available_memory() {
  const auto machine = machine_available(), group = cgroup_available_memory("");
  return machine && group ? std::min(machine, group) : machine ? machine : group;
}

void drop_file_pages(uintptr_t begin, uintptr_t end) {
  if (!is_shared_file(begin, end)) return;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace llama_rt
