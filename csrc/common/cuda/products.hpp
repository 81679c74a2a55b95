// Z Z^T for a matrix Z whose entries are computed as they are needed, in tiles of 16 x 16 that a warp holds in
// registers: on tensor cores in float, where there are any.
#pragma once

#include "memory.hpp"
#include "triangle.hpp"

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

// x as TF32, in a float; double is not for tensor cores.
__device__ inline double rounded(double x) { return x; }
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
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#endif
}

// The same for numbers of float, each the sum of two of TF32; the product of the smaller parts is left out.
__device__ inline void multiply_add_split(float* sum, const float (&a)[4], const float (&b)[2]) {
  float high_a[4], low_a[4], high_b[2], low_b[2];
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    high_a[e] = rounded(a[e]);
    low_a[e] = rounded(a[e] - high_a[e]);
  }
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    high_b[e] = rounded(b[e]);
    low_b[e] = rounded(b[e] - high_b[e]);
  }
  multiply_add(sum, low_a, high_b);
  multiply_add(sum, high_a, low_b);
  multiply_add(sum, high_a, high_b);
}

}  // namespace tensor_cores

#if defined(SPARSEDIS_EMULATION) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
constexpr bool kTensorCores = true;
#else
constexpr bool kTensorCores = false;
#endif

// sum += the products of 16 rows of `own` with 16 of `other`, both (16, ld), over `count` columns, a multiple of 8. For
// Precision::tf32 they are of TF32 already.
template <class T>
__device__ void multiply_tile(int lane, const T* own, const T* other, int ld, int count, Precision precision,
                              T (&sum)[kTileEntries]) {
  if constexpr (kTensorCores && sizeof(T) == sizeof(float)) {
    const int from = lane / 4 * ld + lane % 4;
    // Tensor cores truncate where they add: over thousands of columns that is a bias. Their sums are short, and added
    // up outside of them.
    float part[kTileEntries] = {};
    for (int p = 0; p < count; p += 8) {
      float a[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) a[e] = own[from + e % 2 * 8 * ld + p + e / 2 * 4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float b[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) b[e] = other[from + half * 8 * ld + p + e * 4];
        if (precision == Precision::split) {
          tensor_cores::multiply_add_split(part + half * 4, a, b);
        } else {
          tensor_cores::multiply_add(part + half * 4, a, b);
        }
      }
    }
#pragma unroll
    for (int e = 0; e < kTileEntries; ++e) sum[e] += part[e];
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
      : slice_(memory.take<T>(std::size_t(largest + kTile - 1) / kTile * kTile * kStride, std::size_t(48) << 10)) {}

  template <class Make, class Store>
  __device__ void compute(const Team& team, int rows, int count, Precision precision, Make make, Store store) const {
    const int strips = (rows + kTile - 1) / kTile, tiles = strips * (strips + 1) / 2;
    const int together = team.warps() * kHeld;
    for (int first = 0; first < tiles; first += together) {
      const int last = (first + together < tiles ? first + together : tiles) - 1;
      int first_down, first_across, last_down, last_across;
      lower_entry(first, first_down, first_across);
      lower_entry(last, last_down, last_across);
      // Whether one of the tiles first to last has the strip's rows, as its rows or as its columns.
      auto needed = [&](int strip) {
        if (strip >= first_down && strip <= last_down) return true;
        if (first_down == last_down) return strip >= first_across && strip <= last_across;
        return last_down - first_down > 1 || strip >= first_across || strip <= last_across;
      };
      T sum[kHeld][kTileEntries] = {};
      for (int from = 0; from < count; from += kSlice) {
        team.each(strips * kTile * kSlice, [&](int e) {
          const int i = e / kSlice, p = e % kSlice;
          if (!needed(i / kTile)) return;
          const T value = i < rows && from + p < count ? make(i, from + p) : T(0);
          slice_[i * kStride + p] = precision == Precision::tf32 ? T(tensor_cores::rounded(value)) : value;
        });
        each_held(team, first, tiles, [&](int t, int down, int across) {
          multiply_tile(team.lane(), slice_ + down * kTile * kStride, slice_ + across * kTile * kStride, kStride,
                        kSlice, precision, sum[t]);
        });
        team.wait();
      }
      each_held(team, first, tiles, [&](int t, int down, int across) {
#pragma unroll
        for (int e = 0; e < kTileEntries; ++e) {
          const int i = down * kTile + tile_row(team.lane(), e), j = across * kTile + tile_column(team.lane(), e);
          if (i < rows && j <= i) store(i, j, sum[t][e]);
        }
      });
    }
    team.wait();
  }

 private:
  // Columns of Z at once. The stride keeps the lanes of a warp, four columns of eight rows, in different banks.
  static constexpr int kSlice = 16, kStride = kSlice + 4;
  // Tiles that a warp holds at once: 64 registers of a thread.
  static constexpr int kHeld = 32 / int(sizeof(T));

  // f(t, down, across) for the tiles of this warp, of those from `first` on; t < kHeld.
  template <class F>
  __device__ static void each_held(const Team& team, int first, int tiles, F f) {
#pragma unroll
    for (int t = 0; t < kHeld; ++t) {
      const int tile = first + team.warp() + t * team.warps();
      if (tile >= tiles) continue;
      int down, across;
      lower_entry(tile, down, across);
      f(t, down, across);
    }
  }

  T* slice_;
};

}  // namespace sparsedis::cuda
