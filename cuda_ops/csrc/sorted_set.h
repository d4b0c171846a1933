// Small integers in ascending order without comparisons: a bitmap with one summary level.
#pragma once

#include <cstdint>
#include <vector>

namespace dkmp {

class SortedSet {
 public:
  // Holds integers in [0, size).
  explicit SortedSet(int64_t size) : words_((size + 63) / 64, 0), summary_((words_.size() + 63) / 64, 0) {}

  // Returns false when the value was already there.
  bool insert(int64_t value) {
    const int64_t word = value >> 6;
    const uint64_t bit = uint64_t(1) << (value & 63);
    if (words_[word] & bit) return false;
    words_[word] |= bit;
    summary_[word >> 6] |= uint64_t(1) << (word & 63);
    return true;
  }

  // Calls visit(value) in ascending order and leaves the set empty.
  template <class Visit>
  void drain(Visit&& visit) {
    for (size_t s = 0; s < summary_.size(); ++s) {
      for (uint64_t words = summary_[s]; words; words &= words - 1) {
        const int64_t word = int64_t(s) * 64 + __builtin_ctzll(words);
        for (uint64_t bits = words_[word]; bits; bits &= bits - 1) visit(word * 64 + __builtin_ctzll(bits));
        words_[word] = 0;
      }
      summary_[s] = 0;
    }
  }

 private:
  std::vector<uint64_t> words_, summary_;
};

}  // namespace dkmp
