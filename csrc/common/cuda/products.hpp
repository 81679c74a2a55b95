// Symmetric products Z Z^T in 16 x 16 tiles that a warp holds in registers, while slices of a few columns of Z pass
// through shared memory. In float they use tensor cores where available.
#pragma once

#include "four.hpp"
#include "memory.hpp"
#include "triangle.hpp"

namespace sparsedis::cuda {

constexpr int kTile = 16;
// Entries of a tile per lane.
constexpr int kTileEntries = kTile * kTile / kWarp;

// Position of a lane's entry e in its tile, in the layout in which tensor cores return two 16 x 8 products.
__device__ inline int tile_row(int lane, int e) { return lane / 4 + e / 2 % 2 * 8; }
__device__ inline int tile_column(int lane, int e) { return lane % 4 * 2 + e % 2 + e / 4 * 8; }

// Precision of float products on tensor cores: a single TF32 product keeps 11 bits, three products nearly all.
enum class Precision { tf32, split };

namespace tensor_cores {

// x rounded to TF32, as a float; double does not use tensor cores.
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

// A warp's sum (16 x 8) += a (16 x 8) b (8 x 8) in TF32. Of the factors, lane l holds row or column l / 4 and entries
// l % 4 and l % 4 + 4 along the summed dimension; of a also row l / 4 + 8.
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

// The same for float factors, each split into a sum of two TF32 numbers; the product of the small parts is omitted.
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

// Number of columns of Z in memory at once. The row stride puts the eight rows that lanes read at once into different
// banks.
constexpr int kSlice = 16, kSliceStride = kSlice + 4;

// A lane's entries of 16 rows of a slice. As first factor, `four` holds rows l / 4 and l / 4 + 8 of column l % 4, then
// of column l % 4 + 4; as second factor, row l / 4 with both columns, then row l / 4 + 8.
__device__ inline void read_four(int lane, const float* rows, bool second, float (&four)[4]) {
#ifndef SPARSEDIS_EMULATION
  if (__isShared(rows)) {  // one instruction in place of four
    const int row = second ? lane % 8 + lane / 16 * 8 : lane % 16, column = second ? lane / 8 % 2 * 4 : lane / 16 * 4;
    const auto address = unsigned(__cvta_generic_to_shared(rows + row * kSliceStride + column));
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
    four[e] = rows[(lane / 4 + below * 8) * kSliceStride + lane % 4 + across * 4];
  }
}

// A strip of 16 rows of a slice as the first factor of its tiles, read once for several of them.
template <Precision precision, class T>
class Strip {
 public:
  __device__ void read(int lane, const T* rows) {
    if constexpr (kOnTensorCores) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) read_four(lane, rows + step * kStep, false, own_[step]);
    } else {
      rows_ = rows;
    }
  }

  // sum += product with 16 other rows; for Precision::tf32 all values are already rounded to TF32.
  __device__ void multiply(int lane, const T* other, T (&sum)[kTileEntries]) const {
    if constexpr (kOnTensorCores) {
      // Tensor cores truncate when adding, which over thousands of columns causes a bias. Their sums are therefore kept
      // short and accumulated outside of them.
      float part[kTileEntries] = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        float b[4];
        read_four(lane, other + step * kStep, true, b);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float b_half[2] = {b[half * 2], b[half * 2 + 1]};
          if constexpr (precision == Precision::split) {
            tensor_cores::multiply_add_split(part + half * 4, own_[step], b_half);
          } else {
            tensor_cores::multiply_add(part + half * 4, own_[step], b_half);
          }
        }
      }
#pragma unroll
      for (int e = 0; e < kTileEntries; ++e) sum[e] += part[e];
    } else {
#pragma unroll 1
      for (int p = 0; p < kSlice; ++p) {
#pragma unroll
        for (int e = 0; e < kTileEntries; ++e) {
          sum[e] += rows_[tile_row(lane, e) * kSliceStride + p] * other[tile_column(lane, e) * kSliceStride + p];
        }
      }
    }
  }

 private:
  static constexpr bool kOnTensorCores = kTensorCores && sizeof(T) == sizeof(float);
  static constexpr int kStep = 8, kSteps = kSlice / kStep;  // columns of one product of the tensor cores

  float own_[kSteps][4];
  const T* rows_;
};

// The tiles of the lower triangle of a symmetric matrix, numbered row by row.
struct SymmetricTiles {
  int rows, strips, count;
  __device__ explicit SymmetricTiles(int order)
      : rows(order), strips((order + kTile - 1) / kTile), count(strips * (strips + 1) / 2) {}
};

// Two symmetric products computed together. In a slice, the rows of the second are below the strips of the first; its
// tiles are numbered after those of the first.
struct TwoProducts {
  SymmetricTiles one, other;
  __device__ int strips() const { return one.strips + other.strips; }
  __device__ int count() const { return one.count + other.count; }
  // The strips of the slice that contain a tile's rows and columns.
  __device__ Entry tile(int index) const {
    if (index < one.count) return lower_entry(index);
    const Entry at = lower_entry(index - one.count);
    return {one.strips + at.i, one.strips + at.j};
  }
};

// Whether the tiles first to last use a strip as rows or as columns.
class NeededStrips {
 public:
  __device__ NeededStrips(const TwoProducts& products, int first, int last)
      : of_one_(products.one.strips),
        ones_(first < products.one.count),
        others_(last >= products.one.count),
        first_(lower_entry(ones_ ? first : 0)),
        last_(lower_entry(others_ ? products.one.count - 1 : last)) {}
  __device__ bool operator()(int strip) const {
    if (strip >= of_one_) return others_;
    if (!ones_) return false;
    if (strip >= first_.i && strip <= last_.i) return true;
    if (first_.i == last_.i) return strip >= first_.j && strip <= last_.j;
    return last_.i - first_.i > 1 || strip >= first_.j || strip <= last_.j;
  }

 private:
  int of_one_;
  bool ones_, others_;
  Entry first_, last_;
};

// Tiles held in registers by the warps of a block, from `first` on, the same number for every warp.
template <class T>
class HeldTiles {
 public:
  // 40 registers per thread; with more, the callers' values no longer fit in registers.
  static constexpr int kHeld = 20 / int(sizeof(T));

  __device__ HeldTiles(const Team& team, const TwoProducts& products, int first) {
    const int left = products.count() - first, share = (left + team.warps() - 1) / team.warps();
    const int of_warp = share < kHeld ? share : kHeld, own = first + team.warp() * of_warp;
    held_ = of_warp * team.warps() < left ? of_warp * team.warps() : left;
#pragma unroll
    for (int t = 0; t < kHeld; ++t) {
      tiles_[t] = kNone;
      if (t < of_warp && own + t < products.count()) {
        const Entry at = products.tile(own + t);
        tiles_[t] = unsigned(at.i) << 16 | unsigned(at.j);
      }
    }
  }

  // Number of tiles held by all warps together.
  __device__ int held() const { return held_; }

  // Adds the products of a slice.
  __device__ void multiply(const Team& team, const T* slice, Precision precision) {
    if (precision == Precision::split) {
      multiply<Precision::split>(team, slice);
    } else {
      multiply<Precision::tf32>(team, slice);
    }
  }

  // Writes the tiles to the packed lower triangles of both products.
  __device__ void store(const Team& team, const TwoProducts& products, T* to_one, T* to_other) const {
#pragma unroll
    for (int t = 0; t < kHeld; ++t) {
      if (tiles_[t] == kNone) continue;
      const bool of_one = down(t) < products.one.strips;
      const int rows = of_one ? products.one.rows : products.other.rows;
      const int before = of_one ? 0 : products.one.strips;
      T* const to = of_one ? to_one : to_other;
#pragma unroll
      for (int e = 0; e < kTileEntries; ++e) {
        const int i = (down(t) - before) * kTile + tile_row(team.lane(), e);
        const int j = (across(t) - before) * kTile + tile_column(team.lane(), e);
        if (i < rows && j <= i) to[i * (i + 1) / 2 + j] = sum_[t][e];
      }
    }
  }

 private:
  // The strips of a tile's rows and columns.
  __device__ int down(int t) const { return int(tiles_[t] >> 16); }
  __device__ int across(int t) const { return int(tiles_[t] & 0xffff); }
  __device__ static const T* strip(const T* slice, int number) { return slice + number * kTile * kSliceStride; }

  template <Precision precision>
  __device__ void multiply(const Team& team, const T* slice) {
    Strip<precision, T> own;
    int read = -1;
#pragma unroll
    for (int t = 0; t < kHeld; ++t) {
      if (tiles_[t] == kNone) continue;
      if (down(t) != read) own.read(team.lane(), strip(slice, read = down(t)));
      own.multiply(team.lane(), strip(slice, across(t)), sum_[t]);
    }
  }

  static constexpr unsigned kNone = ~0u;
  T sum_[kHeld][kTileEntries] = {};
  unsigned tiles_[kHeld];  // strips of rows and columns
  int held_;
};

}  // namespace sparsedis::cuda
