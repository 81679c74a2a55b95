// The fibers behind emulation.hpp. Compiled without ThreadSanitizer, which is notified of the ordering instead: a fiber
// switch does not order memory accesses, a barrier does. It thus detects races between the emulated threads.
#include "emulation.hpp"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#ifdef SPARSEDIS_TSAN
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void* __tsan_get_current_fiber();
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#else
namespace {
void* __tsan_create_fiber(unsigned) { return nullptr; }
void __tsan_destroy_fiber(void*) {}
void __tsan_switch_to_fiber(void*, unsigned) {}
void* __tsan_get_current_fiber() { return nullptr; }
void __tsan_acquire(void*) {}
void __tsan_release(void*) {}
}  // namespace
#endif

// Saves the callee-saved registers on the stack, stores its end in *from, and continues on another stack.
#if defined(__x86_64__)
asm(R"(
.text
.globl emulation_switch
.type emulation_switch,@function
emulation_switch:
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
.size emulation_switch,.-emulation_switch
)");
constexpr int kSaved = 6;
#else
#error "the emulation has no context switch for this processor"
#endif
extern "C" void emulation_switch(void** from, void* to);

namespace emulation {
namespace {

constexpr std::size_t kStack = std::size_t(256) << 10, kPage = 4096;

struct Fiber {
  void *stack = nullptr, *at = nullptr, *tsan = nullptr;
  Index index = {};
  bool done = false;
};
struct Warp {
  int arrived = 0;
  long generation = 0;
  unsigned mask = 0;
  char sync[2];
  std::uint64_t slot[2][32];
};

std::mutex one_launch;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
Fiber* now = nullptr;
void *host = nullptr, *host_tsan = nullptr;
Index block = {}, size = {};
char* shared = nullptr;
int arrived = 0, alive = 0;
long generation = 0, progress = 0;
const char* barrier_file = nullptr;
int barrier_line = 0;
char barrier_sync[2], launch_sync, end_sync;
void (*body)(const void*);
const void* kernel_arguments;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s (block %u, thread %u)\n", what, block.x, now ? now->index.x : 0);
  std::abort();
}

void switch_to(Fiber* next) {
  Fiber* from = now;
  now = next;
  __tsan_switch_to_fiber(next->tsan, 1);
  emulation_switch(&from->at, next->at);
}

// Runs other fibers until `ready`; fails if no fiber makes progress, which means a deadlock.
template <class Ready>
void wait_until(Ready ready) {
  long seen = progress;
  unsigned idle = 0;
  while (!ready()) {
    auto i = unsigned(now - fibers.data());
    do {
      i = i + 1 == fibers.size() ? 0 : i + 1;
    } while (fibers[i].done && &fibers[i] != now);
    if (progress != seen) {
      seen = progress;
      idle = 0;
    } else if (++idle > 2 * fibers.size() + 2) {
      fail("threads wait for one another at different barriers");
    }
    switch_to(&fibers[i]);
  }
}

// Entry function of a fiber.
void enter() {
  __tsan_acquire(&launch_sync);
  body(kernel_arguments);
  __tsan_release(&end_sync);
  now->done = true;
  ++progress;
  --alive;
  if (arrived > 0 && arrived == alive) fail("a thread ended while others wait at __syncthreads");
  for (Fiber& fiber : fibers) {
    if (!fiber.done) switch_to(&fiber);  // does not return
  }
  Fiber* from = now;
  __tsan_switch_to_fiber(host_tsan, 1);
  emulation_switch(&from->at, host);
  std::abort();
}

void prepare(Fiber& fiber, unsigned index) {
  fiber.index = {index, 0, 0};
  fiber.done = false;
  // A new TSan fiber for every block, since nothing orders the threads of different blocks.
  if (fiber.tsan) __tsan_destroy_fiber(fiber.tsan);
  fiber.tsan = __tsan_create_fiber(0);
  auto* top = reinterpret_cast<void**>(static_cast<char*>(fiber.stack) + kStack);
  *--top = nullptr;  // keeps the stack aligned
  *--top = reinterpret_cast<void*>(&enter);
  for (int r = 0; r < kSaved; ++r) *--top = nullptr;
  fiber.at = top;
}

void run_block(unsigned threads, std::size_t shared_bytes) {
  shared = static_cast<char*>(std::aligned_alloc(16, (shared_bytes + 15) / 16 * 16));
  poison(shared, shared_bytes);
  warps.assign((threads + 31) / 32, Warp());
  arrived = 0;
  alive = int(threads);
  for (unsigned i = 0; i < threads; ++i) prepare(fibers[i], i);
  now = &fibers[0];
  __tsan_switch_to_fiber(now->tsan, 1);
  emulation_switch(&host, now->at);
  __tsan_acquire(&end_sync);
  std::free(shared);
}

}  // namespace

Index& thread_index() { return now->index; }
Index& block_index() { return block; }
Index& block_size() { return size; }
char* shared_memory() { return shared; }
unsigned lane() { return now->index.x & 31; }

void check(bool condition, const char* what) {
  if (!condition) fail(what);
}

void poison(void* memory, std::size_t bytes) { std::memset(memory, 0xff, bytes); }

void wait_for_block(const char* file, int line) {
  const long mine = generation;
  char* sync = &barrier_sync[mine & 1];
  __tsan_release(sync);
  if (arrived == 0) {
    barrier_file = file;
    barrier_line = line;
  } else if (barrier_line != line || std::strcmp(barrier_file, file) != 0) {
    std::fprintf(stderr, "emulation: %s:%d and %s:%d\n", barrier_file, barrier_line, file, line);
    fail("threads meet at different __syncthreads");
  }
  ++progress;
  if (++arrived == int(fibers.size())) {
    arrived = 0;
    ++generation;
  } else {
    wait_until([&] { return generation != mine; });
  }
  __tsan_acquire(sync);
}

void wait_for_warp(unsigned mask, bool memory) {
  Warp& warp = warps[now->index.x / 32];
  const long mine = warp.generation;
  char* sync = &warp.sync[mine & 1];
  if (memory) __tsan_release(sync);
  if (warp.arrived == 0) warp.mask = mask;
  if (warp.mask != mask) fail("lanes of a warp meet with different masks");
  ++progress;
  if (++warp.arrived == __builtin_popcount(mask)) {
    warp.arrived = 0;
    ++warp.generation;
  } else {
    wait_until([&] { return warp.generation != mine; });
  }
  if (memory) __tsan_acquire(sync);
}

const std::uint64_t* exchange(unsigned mask, std::uint64_t own) {
  Warp& warp = warps[now->index.x / 32];
  std::uint64_t* slot = warp.slot[warp.generation & 1];
  slot[now->index.x & 31] = own;
  wait_for_warp(mask, false);
  return slot;
}

extern "C" void emulation_launch(void (*kernel)(const void*), const void* arguments, unsigned blocks, unsigned threads,
                                 std::size_t shared_bytes) {
  const std::lock_guard<std::mutex> lock(one_launch);
  body = kernel;
  kernel_arguments = arguments;
  size = {threads, 1, 1};
  fibers.assign(threads, Fiber());
  for (Fiber& fiber : fibers) {
    fiber.stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (fiber.stack == MAP_FAILED) fail("no memory for the stacks");
    mprotect(fiber.stack, kPage, PROT_NONE);
  }
  host_tsan = __tsan_get_current_fiber();
  __tsan_release(&launch_sync);
  for (block = {0, 0, 0}; block.x < blocks; ++block.x) run_block(threads, shared_bytes);
  for (Fiber& fiber : fibers) {
    munmap(fiber.stack, kStack);
    __tsan_destroy_fiber(fiber.tsan);
  }
  now = nullptr;
}

extern "C" long emulation_barriers() { return generation; }

}  // namespace emulation
