// Distribution of tasks over threads, those of the caller's OpenMP pool if there is one and otherwise new ones; and
// interruption of a call.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "../status.hpp"
#include "memory.hpp"

namespace sparsedis::cpu {

// GOMP_parallel of an OpenMP runtime.
using OpenMPParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

// PyTorch's threads spin while they wait for its next loop, so tasks run on these threads rather than compete with
// them.
class Pool {
 public:
  // From now on runs tasks on the threads of the OpenMP runtime with this GOMP_parallel, in this process.
  void use(OpenMPParallel parallel) {
    parallel_ = parallel;
    process_ = process();
  }

  // Calls work() on at most `threads` threads at once, including the calling one. It must not throw.
  template <class F>
  void run(int threads, F& work) const {
    // After a fork the pool has no threads.
    if (threads > 1 && parallel_ && process_ == process()) {
      parallel_([](void* f) { (*static_cast<F*>(f))(); }, &work, unsigned(threads), 0);
      return;
    }
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) {
      try {
        others.emplace_back([&work] { work(); });
      } catch (const std::system_error&) {
        break;  // no more threads are available; the started ones do all the work
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

// This thread's scratch memory, kept between calls.
inline Memory& scratch() {
  static thread_local Memory memory;
  return memory;
}

// Called by the calling thread every kPollInterval during a call; an exception ends the call. Null disables it.
using Poll = void (*)();
inline Poll poll = nullptr;
constexpr std::chrono::milliseconds kPollInterval(100);

// State of one call of for_each_task, shared by its threads.
class Call {
 public:
  // Starts no more tasks and lets running ones stop, since their output is not read. The first failure is rethrown.
  void abandon(std::exception_ptr failure) {
    const std::lock_guard<std::mutex> lock(failing_);
    if (!failure_) failure_ = std::move(failure);
    abandoned_ = true;
  }

  bool abandoned() {
    if (!abandoned_ && poll && is_caller() && Clock::now() >= next_poll_) {
      try {
        poll();
      } catch (...) {
        abandon(std::current_exception());
      }
      next_poll_ = Clock::now() + kPollInterval;
    }
    return abandoned_;
  }

  // On the calling thread, once it has no work left: polls until the other threads have ended.
  void wait(const std::atomic<int>& busy) {
    if (!is_caller()) return;
    // Spins as long as the pool's barrier would; yielding takes many times as long as a short call.
    const auto patience = Clock::now() + std::chrono::milliseconds(1);
    while (busy > 0) {
      abandoned();
      if (Clock::now() > patience) std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  using Clock = std::chrono::steady_clock;

  bool is_caller() const { return std::this_thread::get_id() == caller_; }

  const std::thread::id caller_ = std::this_thread::get_id();
  Clock::time_point next_poll_ = Clock::now() + kPollInterval;  // used by the calling thread only
  std::atomic<bool> abandoned_{false};
  std::mutex failing_;
  std::exception_ptr failure_;
};

// The call that this thread works for; null outside of tasks.
inline thread_local Call* current_call = nullptr;

// Whether the task on this thread may stop because a signal or another task's exception has ended its call, so that its
// output will not be read. For long loops, once per iteration; it costs a clock read.
inline bool interrupted() { return current_call && current_call->abandoned(); }

// Thrown to leave an interrupted task; for_each_task catches it and throws the exception that ended the call.
struct Interruption {};

// Thrown by a task with values that its problem does not allow.
struct InvalidInput {};

// Calls run(task, memory) for every task, each on one thread. An exception from a task or from `poll` ends the
// remaining tasks and is rethrown, except for InvalidInput, which is returned.
template <class F>
Input for_each_task(std::int64_t tasks, int threads, F run) {
  std::atomic<std::int64_t> next{0};
  std::atomic<int> busy{0};
  Call call;
  auto work = [&] {
    ++busy;
    // A signal handler may start a call inside a task's poll; the thread's memory then belongs to that task.
    Call* const outer = std::exchange(current_call, &call);
    Memory separate_memory;
    Memory& memory = outer ? separate_memory : scratch();
    try {
      for (std::int64_t task; !call.abandoned() && (task = next.fetch_add(1)) < tasks;) {
        memory.reset();
        run(task, memory);
      }
    } catch (...) {
      call.abandon(std::current_exception());
    }
    memory.trim();
    current_call = outer;
    --busy;
    call.wait(busy);
  };
  pool().run(tasks < threads ? int(tasks) : threads, work);
  try {
    call.rethrow();
  } catch (const InvalidInput&) {
    return Input::invalid;
  }
  return Input::valid;
}

}  // namespace sparsedis::cpu
