// Tasks over threads: those of the caller's OpenMP pool where there is one, else threads that live as long as the call.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "../contract.hpp"
#include "memory.hpp"

namespace sparsedis::cpu {

// PyTorch's threads wait for its next loop by spinning, on the cores that other threads would want: these here are
// best.
class Pool {
 public:
  void use(OpenMPParallel parallel) {
    parallel_ = parallel;
    process_ = process();
  }

  // work() by at most `threads` threads at once, the calling one among them. It must not throw.
  template <class F>
  void run(int threads, F& work) const {
    // A fork leaves the pool without its threads.
    if (threads > 1 && parallel_ && process_ == process()) {
      parallel_([](void* f) { (*static_cast<F*>(f))(); }, &work, unsigned(threads), 0);
      return;
    }
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) {
      try {
        others.emplace_back([&work] { work(); });
      } catch (const std::system_error&) {
        break;  // no more threads to be had: those that there are do it all
      }
    }
    work();
    for (std::thread& thread : others) thread.join();
  }

 private:
  static long process() {
#if defined(__unix__) || defined(__APPLE__)
    return long(getpid());
#else
    return 0;
#endif
  }

  OpenMPParallel parallel_ = nullptr;
  long process_ = 0;
};

inline Pool& pool() {
  static Pool one;
  return one;
}

// This thread's: a pool's threads, and the caller, come back to it.
inline Memory& scratch() {
  static thread_local Memory memory;
  return memory;
}

// run(task, memory) for every task, each by one thread; an exception ends the rest and is thrown on.
template <class F>
void for_each_task(std::int64_t tasks, int threads, F run) {
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failing;
  auto work = [&] {
    Memory& memory = scratch();
    try {
      for (std::int64_t task; (task = next.fetch_add(1)) < tasks;) {
        memory.reset();
        run(task, memory);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(failing);
      failure = std::current_exception();
      next = tasks;
    }
    memory.trim();
  };
  pool().run(tasks < threads ? int(tasks) : threads, work);
  if (failure) std::rethrow_exception(failure);
}

}  // namespace sparsedis::cpu
