// The pass over the features before the first step, and the features that its lengths and norms rule out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "../../common/cpu/memory.hpp"
#include "../../common/cpu/products.hpp"
#include "../algorithm/samples.hpp"
#include "../algorithm/screening.hpp"
#include "features.hpp"
#include "team.hpp"

namespace sparsedis::cpu {

// Features that are inactive by less than this are listed as possibly active, so that the margin of a solution rarely
// depends on the others.
constexpr double kBand = 1e-3;

// Lengths and norms are in screening units, with zeros for j >= d.
template <class F>
struct Scan {
  double theta;      // of minimise_on_segment()
  const F* lengths;  // (padded d,), ||x_j||
  const F* norms;    // (padded d,), the row norms of X^T diag(s)(Y - 1/k)
  double longest;    // the largest ||x_j||
  bool finite;
};

template <class F>
Scan<F> scan(Memory& memory, const Team& team, const Samples& samples, const Features<F>& features) {
  const int n = samples.n, m = samples.m, d = features.features();
  const double unit = screening_unit(samples);
  F* rows = memory.take<F>(std::size_t(n) * m);
  F* block = memory.take<F>(std::size_t(n) * kBlock);
  const F** x = memory.take<const F*>(n);
  F* planes = memory.take<F>(std::size_t(m) * kLongBlock);
  F* lengths = memory.take<F>(d + kPad);
  F* norms = memory.take<F>(d + kPad);
  F* reordered = memory.take<F>(d);
  for (int i = 0; i < n; ++i) {
    for (int c = 0; c < m; ++c) {
      rows[i * m + c] = F(unit * samples.s[i] * samples.centred_label(i, c));
    }
  }
  F longest = 0;
  F square[kLongBlock];
  for (int from = 0, here = 0; from < d; from += here) {
    here = features.template block<F>(from, kLongBlock);
    const int length = int(padded(here));
    features.rows(from, here, block, x);
    std::fill(square, square + length, F(0));
    if (!add_squares(x, length, n, F(unit), square)) return {1, lengths, norms, 0, false};
    for (int j = 0; j < length; ++j) {
      lengths[from + j] = std::sqrt(square[j]);
      longest = square[j] > longest ? square[j] : longest;
    }
    combine(x, length, n, rows, m, planes, kLongBlock);
    square_norms(planes, kLongBlock, m, length, norms + from);
    for (int j = 0; j < length; ++j) norms[from + j] = std::sqrt(norms[from + j]);
  }
  std::copy(norms, norms + d, reordered);
  return {minimise_on_screened_segment(team, samples, d, reordered), lengths, norms, std::sqrt(double(longest)), true};
}

// Lists the features whose bounds norms[j] share + lengths[j] radius on ||V_j|| exceed 1 - kBand, in units of lambda1,
// in index (d,); returns their number. most_outside: the largest bound of the others.
template <class F, class T>
int list_possibly_active(const T* norms, T share, const F* lengths, T radius, int d, int* index, T* most_outside) {
  using namespace Eigen::internal;
  const T limit = T(1 - kBand);
  const Packet<T> zero = pset1<Packet<T>>(T(0)), bound = pset1<Packet<T>>(limit);
  const Packet<T> factor = pset1<Packet<T>>(share), reach = pset1<Packet<T>>(radius);
  Packet<T> outside = zero;
  int count = 0;
  for (int from = 0; from < d; from += kWidth<T>) {
    const Packet<T> at = pmul(factor, ploadu<Packet<T>>(norms + from));
    const Packet<T> most = pmadd(load_as<T>(lengths + from), reach, at);
    outside = pmax(outside, pselect(pcmp_le(most, bound), most, zero));
    if (predux_max(most) <= limit) continue;  // nearly all packets, if there are many features
    T values[kWidth<T>];
    pstoreu(values, most);
    for (int j = 0; j < std::min(kWidth<T>, d - from); ++j) {
      index[count] = from + j;
      count += !(values[j] <= limit);
    }
  }
  *most_outside = predux_max(outside);
  return count;
}

// The initial points are L = (1 - theta) Y + theta/k, so that their residuals are theta diag(s)(Y - 1/k), for which the
// scan has the norms. Lists the features that may be active at such a residual A (n, m) in index (d,) and returns their
// number; -1 at other points. most_outside: an upper bound on ||V_j|| of the others, in units of lambda1.
template <class F>
int list_on_segment(const Samples& samples, const Scan<F>& scan, const double* A, int d, int* index,
                    double* most_outside) {
  if (samples.lambda1 == 0) return -1;
  const int n = samples.n, m = samples.m;
  double along = 0, square = 0, off = 0;
  auto target = [&](int i, int c) { return samples.s[i] * samples.centred_label(i, c); };
  for (int i = 0; i < n; ++i) {
    for (int c = 0; c < m; ++c) {
      along += A[i * m + c] * target(i, c);
      square += target(i, c) * target(i, c);
    }
  }
  const double theta = square > 0 ? along / square : 0;
  for (int i = 0; i < n; ++i) {
    for (int c = 0; c < m; ++c) off = std::max(off, std::abs(A[i * m + c] - theta * target(i, c)));
  }
  const double error = screening_error(samples, double(std::numeric_limits<F>::epsilon()), theta * theta * square);
  const double rounding = 1e-12 * theta;  // of A in double
  if (!(theta > 0) || !(off <= rounding)) return -1;
  F most;
  const int count =
      list_possibly_active(scan.norms, F(theta), scan.lengths, F(error + n * m * rounding), d, index, &most);
  *most_outside = double(most);
  return count;
}

}  // namespace sparsedis::cpu
