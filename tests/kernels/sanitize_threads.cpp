// Ends calls of for_each_task in all possible ways, under sanitizers.
#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <string>

#include "../../csrc/common/cpu/threads.hpp"

using namespace sparsedis::cpu;

namespace {

struct Stop : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void check(bool fine, const char* what) {
  if (!fine) throw std::runtime_error(what);
}

std::string failure_of(std::int64_t tasks, int threads, void (*task)(std::int64_t, Memory&)) {
  try {
    for_each_task(tasks, threads, task);
  } catch (const Stop& stop) {
    return stop.what();
  }
  return "";
}

// A task that ends only when it is interrupted.
void endless(std::int64_t, Memory&) {
  while (!interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  throw Interruption();  // not visible to the caller
}

// All tasks, once each.
void run_whole(int threads) {
  std::atomic<int> done{0};
  for_each_task(100, threads, [&](std::int64_t, Memory&) {
    check(!interrupted(), "interrupted for no reason");
    ++done;
  });
  check(done == 100, "a task was left out, or run twice");
}

int polls = 0;

}  // namespace

int main() {
  for (int threads : {1, 2, 4}) {
    poll = nullptr;
    run_whole(threads);

    poll = [] { throw Stop("a signal"); };
    check(failure_of(8, threads, endless) == "a signal", "a signal does not end tasks");
    check(!interrupted(), "interrupted outside of a call");
    // Between tasks that do not check for interruption.
    check(failure_of(1'000'000, threads,
                     [](std::int64_t, Memory&) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }) ==
              "a signal",
          "a signal does not end a batch");
    // The calling thread has no tasks left when the signal arrives.
    check(failure_of(threads, threads,
                     [](std::int64_t task, Memory& memory) {
                       if (task > 0 || interrupted()) endless(task, memory);
                     }) == (threads > 1 ? "a signal" : ""),
          "a caller that waits does not poll");

    poll = nullptr;
    check(failure_of(threads, threads,
                     [](std::int64_t task, Memory& memory) {
                       if (task == 0) throw Stop("a task");
                       endless(task, memory);
                     }) == "a task",
          "an exception of a task does not end the others");

    // A handler that itself calls for_each_task during a task does not affect the task's memory.
    polls = 0;
    poll = [] {
      ++polls;
      for_each_task(3, 2, [](std::int64_t, Memory& memory) { memory.take<int>(1000)[999] = -1; });
    };
    for_each_task(threads, threads, [](std::int64_t, Memory& memory) {
      int* mine = memory.take<int>(1000);
      mine[999] = 7;
      const auto end = std::chrono::steady_clock::now() + 3 * kPollInterval;
      while (!interrupted() && std::chrono::steady_clock::now() < end) check(mine[999] == 7, "a handler took memory");
    });
    check(polls > 0, "the handler was not called");
    run_whole(threads);
  }
  std::puts("calls end as they should");
}
