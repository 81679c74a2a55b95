// Four adjacent values at aligned addresses.
#pragma once

#include "platform.hpp"

namespace sparsedis::cuda {

// Four adjacent values, loaded and stored at once.
template <class T>
struct alignas(16) Four {
  T of[4];
};
template <class T>
__device__ const Four<T>& four(const T* at) {
  return *reinterpret_cast<const Four<T>*>(at);
}
template <class T>
__device__ Four<T>& four(T* at) {
  return *reinterpret_cast<Four<T>*>(at);
}

}  // namespace sparsedis::cuda
