
#include "platform/processor.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "platform/system.h"

namespace llama_rt {
namespace {

constexpr int kMaxThreads = 1024;

CpuInfo detect() {
  CpuInfo info;
  detect_isa(info);
  info.model = processor_name();
  const std::vector<int> cpus = usable_cpus();
  info.cores = std::max(1, static_cast<int>(cpus.size()));
  info.physical_cores = std::max(1, count_cores(cpus));
  info.quota = cpu_quota();
  info.default_threads = info.physical_cores;
  if (info.quota > 0) {
    const double whole = std::max(1.0, std::floor(info.quota));
    info.default_threads = static_cast<int>(std::min<double>(info.default_threads, whole));
  }
  const int asked = parse_thread_count(std::getenv("LLAMA_RT_THREADS"));
  if (asked > 0) info.default_threads = asked;
  return info;
}

}  // namespace

const CpuInfo& cpu_info() {
  static const CpuInfo info = detect();
  return info;
}

int parse_thread_count(const char* text) {
  if (text == nullptr) return 0;
  const std::string_view digits(text);
  int value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const bool whole = error == std::errc{} && end == digits.data() + digits.size();
  return whole && value >= 1 && value <= kMaxThreads ? value : 0;
}

}  // namespace llama_rt
