// Scratch memory of one thread, which grows on demand and is reused by every task.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#ifdef SPARSEDIS_POISON
#include <cstring>
#endif
#include <memory>
#include <new>
#include <vector>

namespace sparsedis::cpu {

class Memory {
 public:
  static constexpr std::size_t kAlign = 64;
  static constexpr std::size_t kKept = std::size_t(16) << 20;

  // Uninitialised memory for `count` values, aligned to a cache line.
  template <class T>
  T* take(std::size_t count) {
    const std::size_t bytes = (count * sizeof(T) + kAlign - 1) / kAlign * kAlign + kAlign;
    if (next_ == blocks_.size()) blocks_.emplace_back();
    Block& block = blocks_[next_++];
    if (block.size < bytes) {
      block.data.reset(static_cast<char*>(std::malloc(bytes)));
      if (!block.data) throw std::bad_alloc();
      block.size = bytes;
    }
#ifdef SPARSEDIS_POISON
    std::memset(block.data.get(), 0xff, bytes);  // NaN exposes reads of uninitialised values
#endif
    const auto address = reinterpret_cast<std::uintptr_t>(block.data.get());
    return reinterpret_cast<T*>((address + kAlign - 1) / kAlign * kAlign);
  }

  // Releases the memory taken during its lifetime.
  class Scope {
   public:
    explicit Scope(Memory& memory) : memory_(memory), next_(memory.next_) {}
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() { memory_.next_ = next_; }

   private:
    Memory& memory_;
    std::size_t next_;
  };

  // Makes all memory available again.
  void reset() { next_ = 0; }

  // Frees all memory if it exceeds kKept. Smaller amounts are kept between calls, because mapping new pages would take
  // a tenth of the time of a small call.
  void trim() {
    std::size_t size = 0;
    for (const Block& block : blocks_) size += block.size;
    if (size > kKept) blocks_.clear();
  }

 private:
  struct Free {
    void operator()(char* data) const { std::free(data); }
  };
  struct Block {
    std::unique_ptr<char, Free> data;
    std::size_t size = 0;
  };
  std::vector<Block> blocks_;
  std::size_t next_ = 0;
};

}  // namespace sparsedis::cpu
