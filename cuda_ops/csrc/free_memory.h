// Memory this process may still take, so that a huge result is refused instead of getting the process killed.
#pragma once

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace dkmp {

// What the kernel would give back of a container's memory before it refuses any: files it has read, mostly.
inline double reclaimable_memory(const std::string& group) {
  double sum = 0.0, bytes = 0.0;
  std::ifstream stat(group + "/memory.stat");
  for (std::string name; stat >> name >> bytes;)
    if (name == "inactive_file" || name == "active_file" || name == "slab_reclaimable") sum += bytes;
  return sum;
}

// Bytes; infinite where the system does not say (then an allocation failure is the only limit).
inline double free_memory(const std::string& group = "/sys/fs/cgroup") {
  double available = std::numeric_limits<double>::infinity();
  std::ifstream info("/proc/meminfo");
  for (std::string word; info >> word;)
    if (word == "MemAvailable:") {
      double kilobytes = 0.0;
      if (info >> kilobytes) available = kilobytes * 1024.0;
      break;
    }
  double limit = 0.0, used = 0.0;
  std::ifstream limit_file(group + "/memory.max"), used_file(group + "/memory.current");
  if (limit_file >> limit && used_file >> used)
    available = std::min(available, std::max(0.0, limit - std::max(0.0, used - reclaimable_memory(group))));
  return available;
}

}  // namespace dkmp
