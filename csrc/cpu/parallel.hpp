// Tasks over threads. Threads live as long as the call, so that nothing is left for a fork to inherit.
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "memory.hpp"

namespace sparsedis::cpu {

// run(task, memory) for every task, each by one thread; an exception ends the rest and is thrown on.
template <class F>
void for_each_task(std::int64_t tasks, int threads, F run) {
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failing;
  auto work = [&] {
    try {
      Memory memory;
      for (std::int64_t task; (task = next.fetch_add(1)) < tasks;) {
        memory.reset();
        run(task, memory);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(failing);
      failure = std::current_exception();
      next = tasks;
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads && i < tasks; ++i) {
    try {
      others.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // no more threads to be had: those that there are do it all
    }
  }
  work();
  for (std::thread& thread : others) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace sparsedis::cpu
