// All thresholds of the solvers and the reasons for their values, for all devices. The Python backends use copies of
// those that they share (thresholds.py of sparsedis), which a test compares with these.
#pragma once

namespace sparsedis {

// Lower bound on divisors: the smallest normal double.
constexpr double kTiny = 2.2250738585072014e-308;
// Unit roundoff of double: half the distance between 1 and the next larger number.
constexpr double kUnitRoundoff = 1.1102230246251565e-16;

// --- Choice of the Newton form (policy.hpp) ---

// Largest lambda1^2/lambda2, which does not depend on the scale of the features, for which the light form is tried.
// Above it the active set changes from step to step; with fewer features than samples this happens earlier.
constexpr double kLightStrength = 0.3, kLightStrengthFewFeatures = 1e-3;
// Smallest lambda1^2/lambda2 for which the full form is tried. Below it lambda1, by which the full form divides the
// features, is negligible.
constexpr double kFullStrength = 1e-10;
// The light form gives up if its gap exceeds kLightGap from iteration kLightIterations on. If it suits the task it
// converges earlier; otherwise the full form takes half of the iterations that the light form would waste.
constexpr int kLightIterations = 8;
constexpr double kLightGap = 1e-2;
// Range of lambda1 and lambda2 for products in float, which must represent them and their products with other values.
constexpr double kFloatSmallest = 1e-12, kFloatLargest = 1e12;

// --- Limits ---

// Number of checks without a smaller gap after which a task counts as stalled. The light form's gap can increase for
// dozens of iterations before it decreases; first-order solvers check once every kCheckEvery steps.
constexpr int kNewtonPatience = 60, kFirstOrderPatience = 100;
// The same for a task that is already certified and continues to rounding error.
constexpr int kPatienceWhenCertified = 5;
// Iterations of each form with products in float. Most tasks need less than half of them; for features with large means
// they may make no progress without stalling. The forms in double take the remaining iterations.
constexpr int kFloatIterations = 60;
// Iterations of each form in double; every task of the parameter sweeps needed fewer.
constexpr int kNewtonIterations = 200;
// Number of first-order steps for a task that Newton does not certify.
constexpr int kFallbackSteps = 5000;
// Fraction of tol available to the solver's own gap for float features; rounding the weights takes part of the rest.
constexpr double kSolverTolShare = 0.9;

// --- First-order steps before Newton (first_order_steps in algorithm/first_order.hpp) ---

// Smallest order n (k-1) of the Newton matrix for which first-order steps are tried.
constexpr int kFirstOrderOrder = 400;
// Number of steps that cost half of Newton's usual iterations, from the flops of a factorisation and of a step. In a
// step, projecting an entry of L costs as much as kEntryCost features. Fitted to CPU timings of both.
constexpr double kFirstOrderShare = 0.4, kEntryCost = 340;
// Fraction of these steps that tasks without a group Lasso try even if more are expected. Most of them need fewer; for
// the others, the attempt is an eighth of their cost.
constexpr double kFirstOrderTrial = 0.25;
// Expected number of steps to a gap of kFinishGap, in units of n/k sqrt(lipschitz). For tasks with 2 to 20 samples per
// class and 1 <= lipschitz <= 1e5, the actual number is between half and twice of it.
constexpr double kExpectedSteps = 3;

// --- Interior point (newton.hpp, full_form.hpp) ---

// Fraction to the boundary; Mehrotra's usual value.
constexpr double kFractionToBoundary = 0.995;
// If the predictor's step is shorter than this, its length damps the corrector's second-order term, which assumes a
// full step. Without damping the term points out of the interior and the first steps are wasted.
constexpr double kShortStep = 0.1;
// Gondzio's corrector: by how much it aims to lengthen the step, and the smallest product L Z that it allows there,
// relative to the centre; the largest is the reciprocal.
constexpr double kStepExtension = 0.3, kProductBand = 0.1;
// Smallest order n (k-1) of the Newton matrix for which it is used; below, a solve costs about as much as everything
// else.
constexpr int kCorrectorOrder = 64;
// Number of consecutive steps shorter than kShortStep after which the initial point is considered too close to the
// bounds.
constexpr int kShortSteps = 10;
// Initial point L = (1 - theta) Y + theta/k: bounds on theta that keep it away from the ends. With fewer features than
// samples, many samples end far from their label.
constexpr double kLargestStart = 0.9, kSmallestStart = 1e-3, kSmallestStartFewFeatures = 0.2;
// Search for the optimal theta: relative accuracy, and a bound on the number of iterations, which is usually small.
constexpr double kStartAccuracy = 1e-6;
constexpr int kStartIterations = 100;
// Initial products L Z relative to theta/k; smaller than at the centre (1), and thus closer to the solution.
constexpr double kStartBarrier = 0.3;
// Initial point of the full form: ||U_j|| is clipped to kStartNorm so that U is in the interior; lower bounds of the
// slack w and of the product th w.
constexpr double kStartNorm = 0.9, kStartSlack = 0.01, kStartProduct = 0.2;
// Features with a curvature below this fraction of the task's largest are left out of H. Larger cuts are harmless for
// lambda2 >= 1, but for lambda2 <= 0.1 anything above 1e-4 destroys convergence. The reference is the largest curvature
// rather than 1/lambda2, the limit for active features: if no feature is active, all curvatures are small.
constexpr double kCurvatureCut = 1e-8;

// --- Finish (finish.hpp) ---

// Relative gap at which the finish is first tried, and the factor on the gap of the last attempt at which it is tried
// again. At 1e-3 the finish can identify the active set of the solution for nearly every task (docs/solvers.md).
constexpr double kFinishGap = 1e-3, kFinishRetryFactor = 0.01;
// Relative gap that is rounding error, so that no better point can be found.
constexpr double kRounding = 3e-13;
// Near rounding error: from this gap on, an iteration without improvement ends the finish successfully.
constexpr double kNearRounding = 1e-9;
// The same bound per sample, from the rounding error of margins of size 1, as a factor on the sum of the sample
// weights. It is larger for objectives of 1e-6, which separable tasks have at small lambda2.
constexpr double kMarginRounding = 4 * kUnitRoundoff;
// Largest number of iterations of the finish, and of iterations without halving the gap after which it gives up.
constexpr int kFinishIterations = 15, kFinishPatience = 3;
// The same as a last resort, which a few tasks in a hundred thousand need; and the number of halvings of a step.
constexpr int kLastIterations = 60, kLastPatience = 20, kLastHalvings = 12;
// Number of halvings of a step. Steps shorter than 1/4 mean that features become active on the way, in which case the
// interior point performs better.
constexpr int kHalvings = 3;
// Decrease of the dual objective in a step that rounding can cause, relative to the objective.
constexpr double kObjectiveRounding = 1e-14;
// Allowed deviation of the sum of a row of L from 1. Along flat directions of the dual, steps can be so long that their
// rounding error exceeds it. Smaller deviations are not corrected, since the correction would swamp entries of the size
// of lambda2.
constexpr double kRowSum = 1e-12;
// Newton direction: relative residual, conjugate gradient steps, and steps allowed with a factor of an earlier
// iteration.
constexpr double kDirectionResidual = 1e-4;
constexpr int kDirectionSteps = 30, kStaleSteps = 4;
// Number of solves per iteration in which entries that the previous solve made negative are held at 0.
constexpr int kHoldings = 3;
// Relative residual above which a direction is not used.
constexpr double kSolved = 0.5;

// --- First-order solvers (first_order.hpp) ---

// Number of steps between certificates, each of which costs as much as a step.
constexpr int kCheckEvery = 10;

// --- Weights (weights.hpp) ---

// Machine epsilon of float: the distance between 1 and the next larger number.
constexpr double kFloatEpsilon = 1.1920928955078125e-07;
// Usual increase of the relative gap by rounding. Above it, the weights are lengthened by kLengthenLeast, then by
// kLengthenFactor times more in each try, up to kLengthenMost. A lengthening adds twice its size to the relative gap,
// which stays below the usual tol.
constexpr double kWellRounded = 8 * kFloatEpsilon;
constexpr double kLengthenLeast = kFloatEpsilon, kLengthenFactor = 4, kLengthenMost = 16 * kFloatEpsilon;

// --- Adjoint (adjoint.hpp) ---

// An entry below this fraction of its multiplier, in units of the hinge's margin, is at its bound; float cannot
// represent larger Z/L.
constexpr double kAtBound = 1e-20;
// A multiplier below this, in the same units, and below its entry is rounding error of 0.
constexpr double kMultiplierNoise = 1e-6;
// The adjoint system: relative residual, and largest number of conjugate gradient steps, for nearly dependent features.
constexpr double kAdjointResidual = 1e-10;
constexpr int kAdjointSteps = 100;

}  // namespace sparsedis
