// Symmetric products Z Z^T in tiles of 16 x 16 that a warp holds in registers, while slices of a few columns of Z pass
// through shared memory: on tensor cores in float, where there are any.
#pragma once

#include "four.hpp"
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

// The columns of Z that are in memory at once: fewer where Z has many rows, so that the matrix fits beside them. From
// one row to the next the stride keeps the eight rows that lanes read at once in different banks.
struct Slice {
  int shift, columns, stride;  // columns = 2^shift: dividing by them is a shift
  __device__ explicit Slice(int most_rows)
      : shift(most_rows <= 128 ? 5 : 4), columns(1 << shift), stride(columns + 4) {}
};

// Entries of a lane of 16 rows of a slice: as its first factor, `four` has rows l / 4 and l / 4 + 8 of columns l % 4,
// then of l % 4 + 4. As its second, rows l / 4 with both columns, then rows l / 4 + 8.
__device__ inline void read_four(int lane, const float* rows, int stride, bool second, float (&four)[4]) {
#ifndef SPARSEDIS_EMULATION
  if (__isShared(rows)) {  // one instruction in place of four
    const int row = second ? lane % 8 + lane / 16 * 8 : lane % 16, column = second ? lane / 8 % 2 * 4 : lane / 16 * 4;
    const auto address = unsigned(__cvta_generic_to_shared(rows + row * stride + column));
    unsigned bits[4];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(bits[0]), "=r"(bits[1]), "=r"(bits[2]), "=r"(bits[3])
                 : "r"(address)
                 : "memory");
#pragma unroll
    for (int e = 0; e < 4; ++e) four[e] = __uint_as_float(bits[e]);
    return;
  }
#endif
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int below = second ? e / 2 : e % 2, across = second ? e % 2 : e / 2;
    four[e] = rows[(lane / 4 + below * 8) * stride + lane % 4 + across * 4];
  }
}

// sum += the products of 16 rows of a slice with 16 others; for Precision::tf32 they are of TF32 already.
template <Precision precision, class T>
__device__ void multiply_tile(int lane, const T* own, const T* other, Slice slice, T (&sum)[kTileEntries]) {
  if constexpr (kTensorCores && sizeof(T) == sizeof(float)) {
    // Tensor cores truncate where they add: over thousands of columns that is a bias. Their sums are short, and added
    // up outside of them.
    float part[kTileEntries] = {};
#pragma unroll 2
    for (int p = 0; p < slice.columns; p += 8) {
      float a[4], b[4];
      read_four(lane, own + p, slice.stride, false, a);
      read_four(lane, other + p, slice.stride, true, b);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float b_half[2] = {b[half * 2], b[half * 2 + 1]};
        if constexpr (precision == Precision::split) {
          tensor_cores::multiply_add_split(part + half * 4, a, b_half);
        } else {
          tensor_cores::multiply_add(part + half * 4, a, b_half);
        }
      }
    }
#pragma unroll
    for (int e = 0; e < kTileEntries; ++e) sum[e] += part[e];
  } else {
#pragma unroll 1
    for (int p = 0; p < slice.columns; ++p) {
#pragma unroll
      for (int e = 0; e < kTileEntries; ++e) {
        sum[e] += own[tile_row(lane, e) * slice.stride + p] * other[tile_column(lane, e) * slice.stride + p];
      }
    }
  }
}

// The tiles of a symmetric matrix's lower triangle, numbered row by row.
struct SymmetricTiles {
  int rows, strips, count;
  __device__ explicit SymmetricTiles(int order)
      : rows(order), strips((order + kTile - 1) / kTile), count(strips * (strips + 1) / 2) {}
};

// Of the tiles first to last of one matrix: whether one has a strip's rows, as its rows or as its columns.
struct NeededStrips {
  Entry first, last;
  __device__ NeededStrips(int first_tile, int last_tile)
      : first(lower_entry(first_tile)), last(lower_entry(last_tile)) {}
  __device__ bool operator()(int strip) const {
    if (strip >= first.i && strip <= last.i) return true;
    if (first.i == last.i) return strip >= first.j && strip <= last.j;
    return last.i - first.i > 1 || strip >= first.j || strip <= last.j;
  }
};

// The tiles that the calling warp holds: of those from `first` on, of two matrices one after the other.
template <class T>
class HeldTiles {
 public:
  // 32 registers of a thread, or 24 where it has fewer: with more, they do not fit, or what calls this spills its own.
  static constexpr int kHeld = (kMostThreads > 256 ? 12 : 16) / int(sizeof(T));

  __device__ HeldTiles(const Team& team, int first, const SymmetricTiles& one, const SymmetricTiles& other) {
#pragma unroll
    for (int t = 0; t < kHeld; ++t) {
      const int tile = first + team.warp() + t * team.warps();
      const bool of_one = tile < one.count;
      const Entry at = lower_entry(of_one ? tile : tile - one.count);
      tiles_[t] = of_one || tile < one.count + other.count ? unsigned(of_one) << 31 | at.i << 12 | at.j : kNone;
    }
  }

  // Adds the products of a slice of Z, for the first matrix, and of X, for the second one.
  __device__ void multiply(const Team& team, const T* z, const T* x, Slice slice, Precision precision) {
    if (precision == Precision::split) {
      multiply<Precision::split>(team, z, x, slice);
    } else {
      multiply<Precision::tf32>(team, z, x, slice);
    }
  }

  // Into the packed lower triangles of both matrices.
  __device__ void store(const Team& team, const SymmetricTiles& one, T* to_one, const SymmetricTiles& other,
                        T* to_other) const {
#pragma unroll
    for (int t = 0; t < kHeld; ++t) {
      if (tiles_[t] == kNone) continue;
      const bool of_one = tiles_[t] >> 31;
      const int rows = of_one ? one.rows : other.rows;
      T* const to = of_one ? to_one : to_other;
#pragma unroll
      for (int e = 0; e < kTileEntries; ++e) {
        const int i = down(t) + tile_row(team.lane(), e), j = across(t) + tile_column(team.lane(), e);
        if (i < rows && j <= i) to[i * (i + 1) / 2 + j] = sum_[t][e];
      }
    }
  }

 private:
  // The first row and column of a tile.
  __device__ int down(int t) const { return int(tiles_[t] >> 12 & 0xfff) * kTile; }
  __device__ int across(int t) const { return int(tiles_[t] & 0xfff) * kTile; }

  template <Precision precision>
  __device__ void multiply(const Team& team, const T* z, const T* x, Slice slice) {
#pragma unroll
    for (int t = 0; t < kHeld; ++t) {
      if (tiles_[t] == kNone) continue;
      const T* from = tiles_[t] >> 31 ? z : x;
      multiply_tile<precision>(team.lane(), from + down(t) * slice.stride, from + across(t) * slice.stride, slice,
                               sum_[t]);
    }
  }

  static constexpr unsigned kNone = ~0u;
  T sum_[kHeld][kTileEntries] = {};
  unsigned tiles_[kHeld];  // whether of the first matrix, strip of its rows, strip of its columns
};

}  // namespace sparsedis::cuda
