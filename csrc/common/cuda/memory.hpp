// Memory of a block: shared memory while it lasts, then the block's part of the scratch buffer in global memory.
#pragma once

#include "team.hpp"

namespace sparsedis::cuda {

class Memory {
 public:
  static constexpr std::size_t kAlign = 16;

  // Of these sizes, which are the same for every task.
  __device__ Memory(const Team& team, char* shared, std::size_t shared_bytes, char* scratch, std::size_t scratch_bytes)
      : team_(team),
        shared_(shared),
        shared_end_(shared + shared_bytes),
        scratch_(scratch),
        scratch_end_(scratch + scratch_bytes) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Uninitialised memory for `count` values, in shared memory if it fits and is at most `most` bytes.
  template <class T>
  __device__ T* take(std::size_t count, std::size_t most = kSmall) {
    return reinterpret_cast<T*>(take_bytes(rounded_up(count * sizeof(T), kAlign), most));
  }

  // Scratch memory for sizes that grow with the number of features.
  template <class T>
  __device__ T* take_scratch(std::size_t count) {
    return take<T>(count, 0);
  }

  // Releases the memory taken during its lifetime.
  class Scope {
   public:
    __device__ explicit Scope(Memory& memory) : memory_(memory), shared_(memory.shared_), scratch_(memory.scratch_) {}
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    __device__ ~Scope() {
      memory_.team_.wait();  // threads may still read memory that is reused next
      memory_.shared_ = shared_;
      memory_.scratch_ = scratch_;
    }

   private:
    Memory& memory_;
    char *shared_, *scratch_;
  };

 private:
  SPARSEDIS_ONCE __device__ char* take_bytes(std::size_t bytes, std::size_t most) {
    char*& from = bytes <= most && bytes <= std::size_t(shared_end_ - shared_) ? shared_ : scratch_;
    char* taken = from;
    from += bytes;
#ifdef SPARSEDIS_EMULATION
    emulation::check(scratch_ <= scratch_end_, "a task takes more memory than was computed for its shape");
    team_.once([&] { emulation::poison(taken, bytes); });
#endif
    return taken;
  }

  // Larger arrays leave shared memory to the Newton matrix.
  static constexpr std::size_t kSmall = std::size_t(16) << 10;

  const Team& team_;
  char *shared_, *shared_end_, *scratch_, *scratch_end_;
};

}  // namespace sparsedis::cuda
