// Memory this process may still take, so that a huge result is refused instead of getting the process killed.
#pragma once

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace dkmp {

// Bytes; infinite where the system does not say (then an allocation failure is the only limit).
inline double free_memory() {
  double available = std::numeric_limits<double>::infinity();
  std::ifstream info("/proc/meminfo");
  for (std::string word; info >> word;)
    if (word == "MemAvailable:") {
      double kilobytes = 0.0;
      if (info >> kilobytes) available = kilobytes * 1024.0;
      break;
    }
  double limit = 0.0, used = 0.0;
  std::ifstream limit_file("/sys/fs/cgroup/memory.max"), used_file("/sys/fs/cgroup/memory.current");
  if (limit_file >> limit && used_file >> used) available = std::min(available, std::max(0.0, limit - used));
  return available;
}

}  // namespace dkmp
