#pragma once

#include <cstdint>

namespace dkmp {

constexpr int64_t kCacheLine = 64;  // bytes

}  // namespace dkmp
