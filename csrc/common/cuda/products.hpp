// Z Z^T for a matrix Z whose entries are computed as they are needed, in tiles of 16 x 16 that a warp holds in
// registers: on tensor cores in float, where there are any.
#pragma once

#include "cholesky.hpp"
#include "memory.hpp"

namespace sparsedis::cuda {

constexpr int kTile = 16;
// Of a tile, per lane.
constexpr int kTileEntries = kTile * kTile / kWarp;

// Where entry e of a lane is in its tile: the layout in which the tensor cores return two products of 16 x 8.
__device__ inline int tile_row(int lane, int e) { return lane / 4 + e / 2 % 2 * 8; }
__device__ inline int tile_column(int lane, int e) { return lane % 4 * 2 + e % 2 + e / 4 * 8; }

// How many bits of float the tensor cores keep: one product of TF32 keeps 11, three keep nearly all.
enum class Precision { tf32, split };

namespace tensor_cores {

// x as TF32, in a float.
__device__ inline float rounded(float x) {
#if defined(SPARSEDIS_EMULATION)
  return emulation::tf32(x);
#elif __CUDA_ARCH__ >= 800
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
#else
  return x;
#endif
}

// sum (16 x 8) += a (16 x 8) b (8 x 8), of a warp; all of TF32. In multiplicands lane l has row or column l / 4 and the
// entries l % 4 and l % 4 + 4 along the sum; a has rows l / 4 + 8 too.
__device__ inline void multiply_add(float* sum, const float (&a)[4], const float (&b)[2]) {
#if defined(SPARSEDIS_EMULATION)
  emulation::multiply_add_tf32(sum, a, b);
#elif __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#endif
}

}  // namespace tensor_cores

#if defined(SPARSEDIS_EMULATION) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
constexpr bool kTensorCores = true;
#else
constexpr bool kTensorCores = false;
#endif

// sum += the products of 16 rows of `own` with 16 of `other`, both (16, ld), over `count` columns, a multiple of 8.
template <class T>
__device__ void multiply_tile(int lane, const T* own, const T* other, int ld, int count, Precision precision,
                              T (&sum)[kTileEntries]) {
  if constexpr (kTensorCores && sizeof(T) == sizeof(float)) {
    const int from = lane / 4 * ld + lane % 4;
    for (int p = 0; p < count; p += 8) {
      float a[4], rest_a[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float value = own[from + e % 2 * 8 * ld + p + e / 2 * 4];
        a[e] = tensor_cores::rounded(value);
        rest_a[e] = tensor_cores::rounded(value - a[e]);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float b[2], rest_b[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float value = other[from + half * 8 * ld + p + e * 4];
          b[e] = tensor_cores::rounded(value);
          rest_b[e] = tensor_cores::rounded(value - b[e]);
        }
        if (precision == Precision::split) {
          tensor_cores::multiply_add(sum + half * 4, rest_a, b);
          tensor_cores::multiply_add(sum + half * 4, a, rest_b);
        }
        tensor_cores::multiply_add(sum + half * 4, a, b);
      }
    }
  } else {
    for (int p = 0; p < count; ++p) {
#pragma unroll
      for (int e = 0; e < kTileEntries; ++e) {
        sum[e] += own[tile_row(lane, e) * ld + p] * other[tile_column(lane, e) * ld + p];
      }
    }
  }
}

// The lower triangle of Z Z^T for Z (rows, count), entry by entry: store(i, j, value), j <= i. make(i, p): entry p of
// row i of Z, asked for by consecutive threads for consecutive p.
template <class T>
class SymmetricProduct {
 public:
  // For Z of up to that many rows.
  __device__ SymmetricProduct(Memory& memory, int largest)
      : slice_(memory.take<T>(std::size_t(largest + kTile - 1) / kTile * kTile * kStride, std::size_t(32) << 10)) {}

  template <class Make, class Store>
  __device__ void compute(const Team& team, int rows, int count, Precision precision, Make make, Store store) const {
    const int strips = (rows + kTile - 1) / kTile, tiles = strips * (strips + 1) / 2;
    for (int first = 0; first < tiles; first += team.warps() * kHeld) {
      T sum[kHeld][kTileEntries] = {};
      for (int from = 0; from < count; from += kSlice) {
        team.each(strips * kTile * kSlice, [&](int e) {
          const int i = e / kSlice, p = e % kSlice;
          slice_[i * kStride + p] = i < rows && from + p < count ? make(i, from + p) : T(0);
        });
#pragma unroll
        for (int t = 0; t < kHeld; ++t) {
          const int tile = first + team.warp() + t * team.warps();
          if (tile >= tiles) continue;
          int down, across;
          lower_entry(tile, down, across);
          multiply_tile(team.lane(), slice_ + down * kTile * kStride, slice_ + across * kTile * kStride, kStride,
                        kSlice, precision, sum[t]);
        }
        team.wait();
      }
#pragma unroll
      for (int t = 0; t < kHeld; ++t) {
        const int tile = first + team.warp() + t * team.warps();
        if (tile >= tiles) continue;
        int down, across;
        lower_entry(tile, down, across);
#pragma unroll
        for (int e = 0; e < kTileEntries; ++e) {
          const int i = down * kTile + tile_row(team.lane(), e), j = across * kTile + tile_column(team.lane(), e);
          if (i < rows && j <= i) store(i, j, sum[t][e]);
        }
      }
    }
    team.wait();
  }

 private:
  // Columns of Z at once. The stride keeps the lanes of a warp, four columns of eight rows, in different banks.
  static constexpr int kSlice = 32, kStride = kSlice + 4;
  // Tiles that a warp holds at once.
  static constexpr int kHeld = 4;

  T* slice_;
};

}  // namespace sparsedis::cuda
