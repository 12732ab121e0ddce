// What depends on the operating system beyond C++20 and POSIX: one source of system/ implements
// it, chosen by cmake/platform.cmake. The portable one does without; everything works, and may be
// slower or know less.
#pragma once

#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace llama_rt {

// --- Processors

// The CPUs that the calling thread may run on, by number.
std::vector<int> usable_cpus();

// Cores among `cpus`: SMT siblings count once.
int count_cores(const std::vector<int>& cpus);

// CPUs' worth of time that the system grants; 0 means no limit.
double cpu_quota();

// Asks for the state of the matrix unit (AMX); whether this process may use it.
bool request_tile_permission();

// --- Threads

// Shown by debuggers and profilers for the calling thread; at most 15 characters.
void name_thread(const char* name);

// The CPU that the calling thread is on; -1 if unknown.
int current_cpu();

// Keeps `thread` from `cpu`, on all others that the caller may use; false where that cannot be.
bool keep_from_cpu(pthread_t thread, int cpu);

// --- Memory

// Asks for huge pages behind a fresh mapping; a wish.
void prefer_huge_pages(void* begin, size_t bytes);

// Bytes that can be allocated and touched now, within what the system grants; nothing if unknown.
std::optional<uint64_t> system_available_memory();

// Unmaps whole pages of a shared file mapping; does nothing to any other memory.
void drop_file_pages(uintptr_t begin, uintptr_t end);

}  // namespace llama_rt
