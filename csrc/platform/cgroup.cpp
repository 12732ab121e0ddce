#include "platform/cgroup.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <string_view>
#include <utility>

namespace llama_rt {
namespace {

// Which hierarchies exist is told by two files. /proc/self/cgroup has lines `id:controllers:path`
// (v2: `0::path`); /proc/self/mountinfo says where a part of that hierarchy is visible:
// `id parent dev ROOT MOUNTPOINT options [optional...] - TYPE source SUPER_OPTIONS` (proc(5)).
struct Mount {
  std::string root;  // which directory of the hierarchy is mounted
  std::string point;
  int version;
};

bool has_item(std::string_view list, std::string_view item) {
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    if (list.substr(0, comma) == item) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}

// Undoes the \ooo escapes of spaces, tabs, newlines and backslashes in mountinfo.
std::string unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    if (text[i] == '\\' && i + 3 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 4, value, 8).ptr ==
            text.data() + i + 4) {
      out.push_back(static_cast<char>(value));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::vector<Mount> cgroup_mounts(const std::string& root, const std::string& controller) {
  std::vector<Mount> mounts;
  std::istringstream lines(read_text_file(root + "/proc/self/mountinfo").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string skip, mount_root, point, type, super_options;
    fields >> skip >> skip >> skip >> mount_root >> point;
    while (fields >> skip && skip != "-") {
    }
    if (!(fields >> type >> skip)) continue;
    fields >> super_options;
    if (type == "cgroup2") {
      mounts.push_back({unescape(mount_root), unescape(point), 2});
    } else if (type == "cgroup" && has_item(super_options, controller)) {
      mounts.push_back({unescape(mount_root), unescape(point), 1});
    }
  }
  return mounts;
}

// The process's path in the v1 hierarchy of `controller`, or in the v2 hierarchy.
std::optional<std::string> own_path(const std::string& root, const std::string& controller,
                                    int version) {
  std::istringstream lines(read_text_file(root + "/proc/self/cgroup").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string_view controllers =
        std::string_view(line).substr(first + 1, second - first - 1);
    const bool match = version == 2 ? controllers.empty() : has_item(controllers, controller);
    if (match) return line.substr(second + 1);
  }
  return std::nullopt;
}

// `path` relative to the mounted part of the hierarchy ("" or "/a/b"); nothing if it lies outside,
// as it does when the namespace hides where the process really is.
std::optional<std::string> relative_to(const std::string& path, const std::string& mount_root) {
  if (path.find("/..") != std::string::npos) return std::nullopt;
  const std::string base = mount_root == "/" ? "" : mount_root;
  if (path.compare(0, base.size(), base) != 0) return std::nullopt;
  std::string rest = path.substr(base.size());
  if (!rest.empty() && rest.front() != '/') return std::nullopt;
  while (!rest.empty() && rest.back() == '/') rest.pop_back();
  return rest;
}

void add_dirs(std::vector<CgroupDir>& dirs, const std::string& point, std::string rest,
              int version) {
  for (;;) {
    dirs.push_back({point + rest, version});
    if (rest.empty()) return;
    rest.erase(rest.rfind('/'));
  }
}

template <typename Number>
std::optional<Number> parse_number(const std::string& text) {
  std::istringstream in(text);
  Number value;
  if (in >> value) return value;
  return std::nullopt;  // "max", or no such file
}

std::string read_or_empty(const CgroupDir& dir, const char* file) {
  return read_text_file(dir.path + "/" + file).value_or("");
}

std::optional<double> quota_of(const CgroupDir& dir) {
  std::optional<double> quota, period;
  if (dir.version == 2) {
    std::istringstream fields(read_or_empty(dir, "cpu.max"));  // "max 100000" or "150000 100000"
    std::string first, second;
    fields >> first >> second;
    quota = parse_number<double>(first);
    period = second.empty() ? 100000.0 : parse_number<double>(second);
  } else {
    quota = parse_number<double>(read_or_empty(dir, "cpu.cfs_quota_us"));  // -1: no limit
    period = parse_number<double>(read_or_empty(dir, "cpu.cfs_period_us"));
  }
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;
  return *quota / *period;
}

// Sum of the named rows of memory.stat.
uint64_t stat_sum(const CgroupDir& dir, std::string_view a, std::string_view b) {
  std::istringstream in(read_or_empty(dir, "memory.stat"));
  uint64_t sum = 0, value = 0;
  for (std::string name; in >> name >> value;) {
    if (name == a || name == b) sum += value;
  }
  return sum;
}

std::optional<uint64_t> memory_limit_of(const CgroupDir& dir) {
  const bool v2 = dir.version == 2;
  auto limit =
      parse_number<uint64_t>(read_or_empty(dir, v2 ? "memory.max" : "memory.limit_in_bytes"));
  if (v2) {
    const auto high = parse_number<uint64_t>(read_or_empty(dir, "memory.high"));
    if (high) limit = std::min(*high, limit.value_or(*high));
  }
  // v1 has no word for "no limit": it shows the largest multiple of the page size.
  if (!limit || *limit > std::numeric_limits<uint64_t>::max() / 4) return std::nullopt;
  return limit;
}

std::optional<uint64_t> available_in(const CgroupDir& dir) {
  const bool v2 = dir.version == 2;
  const auto limit = memory_limit_of(dir);
  if (!limit) return std::nullopt;
  const auto used =
      parse_number<uint64_t>(read_or_empty(dir, v2 ? "memory.current" : "memory.usage_in_bytes"));
  const uint64_t cache = v2 ? stat_sum(dir, "inactive_file", "active_file")
                            : stat_sum(dir, "total_inactive_file", "total_active_file");
  const uint64_t held = used.value_or(0) - std::min(cache, used.value_or(0));
  return *limit - std::min(held, *limit);
}

// The least that any memory group around this process says.
std::optional<uint64_t> least_of_memory(const std::string& root,
                                        std::optional<uint64_t> (*of)(const CgroupDir&)) {
  std::optional<uint64_t> least;
  for (const CgroupDir& dir : cgroup_dirs(root, "memory")) {
    const auto bytes = of(dir);
    if (bytes && (!least || *bytes < *least)) least = *bytes;
  }
  return least;
}

}  // namespace

std::optional<std::string> read_text_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (file.bad()) return std::nullopt;
  return text;
}

std::vector<CgroupDir> cgroup_dirs(const std::string& root, const std::string& controller) {
  const std::vector<Mount> mounts = cgroup_mounts(root, controller);
  std::vector<CgroupDir> dirs;
  for (const int version : {1, 2}) {
    const auto path = own_path(root, controller, version);
    if (!path) continue;
    const Mount* fallback = nullptr;
    bool found = false;
    for (const Mount& mount : mounts) {
      if (mount.version != version) continue;
      if (fallback == nullptr) fallback = &mount;
      const auto rest = relative_to(*path, mount.root);
      if (!rest) continue;
      add_dirs(dirs, root + mount.point, *rest, version);
      found = true;
    }
    if (!found && fallback != nullptr) add_dirs(dirs, root + fallback->point, "", version);
  }
  return dirs;
}

double cgroup_quota(const std::string& root) {
  double least = 0;
  for (const CgroupDir& dir : cgroup_dirs(root, "cpu")) {
    const auto quota = quota_of(dir);
    if (quota && (least == 0 || *quota < least)) least = *quota;
  }
  return least;
}

std::optional<uint64_t> cgroup_memory_limit(const std::string& root) {
  return least_of_memory(root, memory_limit_of);
}

std::optional<uint64_t> cgroup_available_memory(const std::string& root) {
  return least_of_memory(root, available_in);
}

}  // namespace llama_rt
