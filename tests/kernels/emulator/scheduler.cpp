// The emulator's scheduler. It is compiled without instrumentation also where the kernel has it: sanitizers see the
// fibers through annotations (EMULATOR_ADDRESS for AddressSanitizer, EMULATOR_THREAD for ThreadSanitizer).
#include "scheduler.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "cuda_keywords.h"

#ifdef EMULATOR_ADDRESS
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* stack, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** stack, size_t* size);
}
#endif
#ifdef EMULATOR_THREAD
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* token);
void __tsan_release(void* token);
}
#else
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
#endif

#ifndef __x86_64__
#error "the emulator switches stacks with x86-64 instructions"
#endif
// Saves the callee-saved registers and the stack pointer, continues on another stack.
extern "C" void emulator_switch_stack(void** save, void* to);
asm(R"(
.text
.globl emulator_switch_stack
.type emulator_switch_stack,@function
emulator_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch_stack, .-emulator_switch_stack
)");

extern "C" EmulatorIndex threadIdx, blockIdx, blockDim, gridDim;
EmulatorIndex threadIdx, blockIdx, blockDim, gridDim;

namespace {

#ifdef EMULATOR_THREAD
constexpr size_t kStackBytes = 64 * 1024;  // ThreadSanitizer forgets the stacks of every block byte by byte
#else
constexpr size_t kStackBytes = 256 * 1024;
#endif
constexpr size_t kGuardBytes = 4096;
constexpr int kWarp = 32, kMaxThreads = 1024;
// Two collectives per lane can be open or unread at once.
constexpr int kCollectives = 2 * kWarp;

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  const char* waits_for = nullptr;
  int line = 0;
  bool done = false;
  void* sanitizer_fiber = nullptr;
  void* fake_stack = nullptr;
};

// One warp-wide operation: open until all lanes of its mask have arrived, in use until all have read.
struct Collective {
  unsigned mask, arrived, unread;
  const char* kind;
  int line;
  uint64_t values[kWarp];
  char token;
};

struct Barrier {
  std::vector<int> waiting;
  int line = 0, count = 0, counted = 0;
  bool parity = false;
  char tokens[2];
};

class Scheduler {
 public:
  int run(const EmulatorLaunch& launch, std::string* message);
  void barrier(const char* kind, int predicate, int line, int* counted);
  const uint64_t* collective(unsigned mask, uint64_t value, const char* kind, int line, bool orders_memory);
  [[noreturn]] void fail(const std::string& text);
  void enter();

  void* shared = nullptr;
  int current = 0;

 private:
  void start_block();
  void finish_block();
  void run_block(unsigned block);
  void resume(int thread);
  void yield_to_scheduler(bool finished);
  void wait(const char* what, int line);
  int next_ready();
  uint64_t random();
  void report_stuck(unsigned block);
  char* new_stack();

  EmulatorLaunch launch_{};
  std::vector<Fiber> fibers_;
  std::vector<int> ready_;
  std::vector<Collective> collectives_[kMaxThreads / kWarp];
  Barrier barrier_;
  std::vector<char*> stacks_;
  std::vector<void*> old_shared_;
  std::string error_;
  uint64_t random_state_ = 0;
  int finished_ = 0;
  void* main_stack_pointer_ = nullptr;
  void* main_fiber_ = nullptr;
  void* main_fake_stack_ = nullptr;
  const void* main_stack_ = nullptr;
  size_t main_stack_bytes_ = 0;
  char begin_token_ = 0, end_token_ = 0;
};

Scheduler scheduler;

void enter_fiber() { scheduler.enter(); }

uint64_t Scheduler::random() {  // xorshift64
  random_state_ ^= random_state_ << 13;
  random_state_ ^= random_state_ >> 7;
  random_state_ ^= random_state_ << 17;
  return random_state_;
}

char* Scheduler::new_stack() {
  void* memory = mmap(
      nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::fprintf(stderr, "emulator: no memory for the stacks of %u threads\n", launch_.threads);
    std::abort();
  }
  mprotect(memory, kGuardBytes, PROT_NONE);
  return static_cast<char*>(memory);
}

// ---- switching -----------------------------------------------------------------------------------------------------

void Scheduler::enter() {
#ifdef EMULATOR_ADDRESS
  __sanitizer_finish_switch_fiber(nullptr, &main_stack_, &main_stack_bytes_);
#endif
  __tsan_acquire(&begin_token_);
  launch_.body(launch_.arguments);
  __tsan_release(&end_token_);
  fibers_[current].done = true;
  ++finished_;
  yield_to_scheduler(true);
  std::abort();
}

void Scheduler::yield_to_scheduler(bool finished) {
  Fiber& fiber = fibers_[current];
  (void)finished;
#ifdef EMULATOR_ADDRESS
  __sanitizer_start_switch_fiber(finished ? nullptr : &fiber.fake_stack, main_stack_, main_stack_bytes_);
#endif
#ifdef EMULATOR_THREAD
  __tsan_switch_to_fiber(main_fiber_, 1);  // 1: switching orders nothing
#endif
  emulator_switch_stack(&fiber.stack_pointer, main_stack_pointer_);
#ifdef EMULATOR_ADDRESS
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &main_stack_, &main_stack_bytes_);
#endif
}

void Scheduler::resume(int thread) {
  Fiber& fiber = fibers_[thread];
  current = thread;
  threadIdx = {unsigned(thread), 0, 0};
#ifdef EMULATOR_ADDRESS
  __sanitizer_start_switch_fiber(&main_fake_stack_, fiber.stack, kStackBytes);
#endif
#ifdef EMULATOR_THREAD
  __tsan_switch_to_fiber(fiber.sanitizer_fiber, 1);
#endif
  emulator_switch_stack(&main_stack_pointer_, fiber.stack_pointer);
#ifdef EMULATOR_ADDRESS
  __sanitizer_finish_switch_fiber(main_fake_stack_, nullptr, nullptr);
#endif
}

void Scheduler::wait(const char* what, int line) {
  fibers_[current].waits_for = what;
  fibers_[current].line = line;
  yield_to_scheduler(false);
}

void Scheduler::fail(const std::string& text) {
  if (error_.empty())
    error_ = text + " [block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(current) + "]";
  while (true) yield_to_scheduler(false);
}

// ---- barriers and collectives --------------------------------------------------------------------------------------

void Scheduler::barrier(const char* kind, int predicate, int line, int* counted) {
  if (barrier_.waiting.empty()) {
    barrier_.line = line;
    barrier_.count = 0;
  } else if (barrier_.line != line) {
    fail("divergent barriers: lines " + std::to_string(barrier_.line) + " and " + std::to_string(line));
  }
  char* token = &barrier_.tokens[barrier_.parity];
  __tsan_release(token);
  barrier_.count += predicate != 0;
  if (barrier_.waiting.size() + 1 == fibers_.size()) {
    barrier_.parity = !barrier_.parity;
    barrier_.counted = barrier_.count;
    for (int waiting : barrier_.waiting) ready_.push_back(waiting);
    barrier_.waiting.clear();
  } else {
    barrier_.waiting.push_back(current);
    wait(kind, line);
  }
  // No thread can finish the next barrier before this one has left this one.
  *counted = barrier_.counted;
  __tsan_acquire(token);
}

const uint64_t* Scheduler::collective(
    unsigned mask, uint64_t value, const char* kind, int line, bool orders_memory) {
  const int lane = current % kWarp, first = current - lane;
  const auto at = [&] { return std::string(kind) + " in line " + std::to_string(line); };
  if (!(mask >> lane & 1)) fail(at() + ": the mask leaves out the lane that calls");
  const int lanes = std::min(kWarp, int(fibers_.size()) - first);
  if (lanes < kWarp && mask != 0xffffffffu && mask >> lanes) fail(at() + ": the mask names lanes that do not exist");
  const unsigned needed = lanes < kWarp ? mask & ((1u << lanes) - 1) : mask;
  Collective* joined = nullptr;
  for (Collective& open : collectives_[current / kWarp]) {
    if (open.arrived == open.mask || !(open.mask & needed)) continue;
    if (open.mask != needed || open.line != line || std::strcmp(open.kind, kind) != 0)
      fail("divergent warp: " + at() + " while other lanes are in " + open.kind + " in line " + std::to_string(open.line));
    joined = &open;
  }
  if (!joined) {
    for (Collective& free : collectives_[current / kWarp])
      if (!free.unread) joined = &free;
    if (!joined) std::abort();
    joined->mask = joined->unread = needed;
    joined->arrived = 0;
    joined->kind = kind;
    joined->line = line;
  }
  if (orders_memory) __tsan_release(&joined->token);
  joined->values[lane] = value;
  joined->arrived |= 1u << lane;
  if (joined->arrived == needed) {
    for (int other = 0; other < kWarp; ++other)
      if (other != lane && needed >> other & 1) ready_.push_back(first + other);
  } else {
    wait(kind, line);
  }
  if (orders_memory) __tsan_acquire(&joined->token);
  joined->unread &= ~(1u << lane);
  return joined->values;
}

// ---- blocks --------------------------------------------------------------------------------------------------------

void Scheduler::start_block() {
  const size_t count = launch_.threads;
  // A fresh allocation of exactly the bytes asked for: AddressSanitizer guards its ends. All bits set: NaN and -1.
  shared = std::malloc(std::max<size_t>(1, launch_.shared_bytes));
  std::memset(shared, 0xff, launch_.shared_bytes);
  fibers_.assign(count, Fiber());
  for (auto& warp : collectives_) warp.assign(kCollectives, Collective());
  barrier_ = Barrier();
  // Reserved here: fibers that allocate or copy memory would look like threads that race for it.
  barrier_.waiting.reserve(kMaxThreads);
  ready_.reserve(2 * kMaxThreads);
  ready_.clear();
  finished_ = 0;
  for (size_t thread = 0; thread < count; ++thread) {
    if (stacks_.size() <= thread) stacks_.push_back(new_stack());
    Fiber& fiber = fibers_[thread];
    fiber.stack = stacks_[thread];
    void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes - 64);
    *--top = nullptr;                                // keeps the stack aligned as a call would leave it
    *--top = reinterpret_cast<void*>(enter_fiber);   // where the first switch returns to
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    fiber.stack_pointer = top;
#ifdef EMULATOR_THREAD
    fiber.sanitizer_fiber = __tsan_create_fiber(0);
#endif
    ready_.push_back(int(thread));
  }
  __tsan_release(&begin_token_);
}

void Scheduler::finish_block() {
#ifdef EMULATOR_THREAD
  for (Fiber& fiber : fibers_) __tsan_destroy_fiber(fiber.sanitizer_fiber);
  // The next block's threads are others: old accesses to stacks and shared memory must not count as theirs.
  for (char* stack : stacks_) munmap(stack, kStackBytes);
  stacks_.clear();
  // Freeing orders nothing, so it waits until all blocks have ended.
  old_shared_.push_back(shared);
#else
  std::free(shared);
#endif
  shared = nullptr;
}

int Scheduler::next_ready() {
  const size_t pick = launch_.seed ? random() % ready_.size() : 0;
  const int thread = ready_[pick];
  if (launch_.seed) {
    ready_[pick] = ready_.back();
    ready_.pop_back();
  } else {
    ready_.erase(ready_.begin());
  }
  return thread;
}

void Scheduler::report_stuck(unsigned block) {
  error_ = "threads wait for ever in block " + std::to_string(block) + ": " + std::to_string(finished_) + " of " +
           std::to_string(fibers_.size()) + " have returned";
  int told = 0;
  for (size_t thread = 0; thread < fibers_.size() && told < 4; ++thread) {
    const Fiber& fiber = fibers_[thread];
    if (fiber.done) continue;
    error_ += ", thread " + std::to_string(thread) + " waits in " + fiber.waits_for + " in line " +
              std::to_string(fiber.line);
    ++told;
  }
}

void Scheduler::run_block(unsigned block) {
  blockIdx = {block, 0, 0};
  start_block();
  while (!ready_.empty() && error_.empty()) resume(next_ready());
  if (error_.empty() && finished_ != int(fibers_.size())) report_stuck(block);
  finish_block();
}

int Scheduler::run(const EmulatorLaunch& launch, std::string* message) {
  launch_ = launch;
  error_.clear();
  if (launch.threads == 0 || launch.threads > unsigned(kMaxThreads) || launch.blocks == 0) {
    *message = "invalid launch: " + std::to_string(launch.blocks) + " blocks of " + std::to_string(launch.threads) +
               " threads";
    return 1;
  }
  random_state_ = launch.seed * 0x9E3779B97F4A7C15ull + 88172645463325252ull;
  blockDim = {launch.threads, 1, 1};
  gridDim = {launch.blocks, 1, 1};
#ifdef EMULATOR_THREAD
  main_fiber_ = __tsan_get_current_fiber();
#endif
  std::vector<unsigned> order(launch.blocks);
  for (unsigned block = 0; block < launch.blocks; ++block) order[block] = block;
  if (launch.seed)
    for (unsigned last = launch.blocks; last > 1; --last) std::swap(order[last - 1], order[random() % last]);
  for (unsigned block : order) {
    run_block(block);
    if (!error_.empty()) break;
  }
  for (char* stack : stacks_) munmap(stack, kStackBytes);
  stacks_.clear();
  __tsan_acquire(&end_token_);
  if (error_.empty())
    for (void* old : old_shared_) std::free(old);
  old_shared_.clear();
  *message = error_;
  return error_.empty() ? 0 : 1;
}

}  // namespace

extern "C" {

void* emulator_shared_memory() { return scheduler.shared; }
unsigned emulator_lane() { return unsigned(scheduler.current % kWarp); }
void emulator_barrier(int line) {
  int counted;
  scheduler.barrier("__syncthreads", 0, line, &counted);
}
int emulator_counting_barrier(int predicate, int line) {
  int counted;
  scheduler.barrier("__syncthreads_count", predicate, line, &counted);
  return counted;
}
const uint64_t* emulator_collective(unsigned mask, uint64_t value, const char* kind, int line) {
  return scheduler.collective(mask, value, kind, line, false);
}
void emulator_warp_barrier(unsigned mask, int line) { scheduler.collective(mask, 0, "__syncwarp", line, true); }
void emulator_fail(const char* message, int line) {
  scheduler.fail(std::string(message) + " in line " + std::to_string(line));
}

int emulator_run(const EmulatorLaunch* launch, char* message, size_t message_size) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  std::string text;
  const int failed = scheduler.run(*launch, &text);
  if (message_size) std::snprintf(message, message_size, "%s", text.c_str());
  return failed;
}
}
