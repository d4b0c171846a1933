// Runs a kernel as fibers of one CPU thread: blocks one after the other, threads of a block until they wait.
#pragma once

#include <cstddef>
#include <cstdint>

// Seed 0: threads and blocks in their own order; any other seed: a random order. Threads only change places where
// they wait, so a kernel whose result depends on the order lacks a barrier. Returns 0, or 1 with a message.
struct EmulatorLaunch {
  void (*body)(void*);  // calls the kernel
  void* arguments;
  unsigned blocks, threads;
  size_t shared_bytes;
  uint64_t seed;
};

extern "C" int emulator_run(const EmulatorLaunch* launch, char* message, size_t message_size);
