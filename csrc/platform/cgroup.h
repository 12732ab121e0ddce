// What the container allows: CPU time and memory limits of Linux control groups, v1 and v2.
// Owns the reading of /proc and the cgroup file systems; what to make of it belongs to processor
// and memory. Every function takes a path prefix (usually empty) so that tests can feed fake trees.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace llama_rt {

// A control group this process is in, or one of its ancestors, as far as they are visible.
struct CgroupDir {
  std::string path;  // with the prefix
  int version;       // 1 or 2
};

// The groups that limit `controller` ("cpu", "memory"), innermost first; v1 and v2 hierarchies
// both, because a hybrid system mounts both and only one of them carries the controller.
// Reads root/proc/self/cgroup and root/proc/self/mountinfo; empty when there are none.
std::vector<CgroupDir> cgroup_dirs(const std::string& root, const std::string& controller);

// CPUs' worth of time per wall-clock time: the smallest quota on the way up; 0 means no limit.
double cgroup_quota(const std::string& root);

// Bytes that the tightest limit lets this process use; nothing when there is none.
std::optional<uint64_t> cgroup_memory_limit(const std::string& root);

// Bytes this process may still use before the tightest limit is reached, file cache counted as
// free because the kernel drops it first; nothing when there is no limit.
std::optional<uint64_t> cgroup_available_memory(const std::string& root);

// The whole file, or nothing when it cannot be read. For the small files of /proc and /sys.
std::optional<std::string> read_text_file(const std::string& path);

}  // namespace llama_rt
