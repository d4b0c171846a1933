// Asks for memory ahead of its use. Include inside the namespace of the instruction-set level, after cache_line.h.

// So many numbers from a place on, to be read or written.
template <bool write = false, class Scalar>
inline void prefetch(const Scalar* from, int64_t count) {
  for (int64_t at = 0; at < count; at += kCacheLine / int64_t(sizeof(Scalar))) __builtin_prefetch(from + at, write);
}
