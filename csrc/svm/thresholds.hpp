// Every threshold of the solvers and why it has its value, for all devices. Python's backends take those that they
// share from sparsedis's thresholds.py, which a test compares with these.
#pragma once

namespace sparsedis {

// What is guarded against division by zero: the smallest normal double.
constexpr double kTiny = 2.2250738585072014e-308;
// Of double: half the distance of 1 and the next number.
constexpr double kUnitRoundoff = 1.1102230246251565e-16;

// --- Choice of the Newton form (policy.hpp) ---

// Largest lambda1^2/lambda2, which does not depend on the scale of the features, for which the light form is tried:
// above it, its active set changes from step to step. Tasks with fewer features than samples get there sooner.
constexpr double kLightStrength = 0.3, kLightStrengthFewFeatures = 1e-3;
// Smallest lambda1^2/lambda2 for which the full form, which divides the features by lambda1, is tried: below it there
// is no group Lasso to speak of.
constexpr double kFullStrength = 1e-10;
// The light form gives up where its gap is above kLightGap from iteration kLightIterations on: it converges in fewer
// where it suits the task, and the full form takes half of what it wanders otherwise.
constexpr int kLightIterations = 8;
constexpr double kLightGap = 1e-2;
// Range of lambda1 and lambda2 for products in float, which must hold them and what they are multiplied with.
constexpr double kFloatSmallest = 1e-12, kFloatLargest = 1e12;

// --- Limits ---

// Checks without a better gap after which a task has stalled. The light form's gap can rise for dozens of iterations
// before it falls; a first-order solver checks once in kCheckEvery steps.
constexpr int kNewtonPatience = 60, kFirstOrderPatience = 100;
// The same for a task that is certified already and only goes for rounding.
constexpr int kPatienceWhenCertified = 5;
// Iterations of each form with products in float: few tasks take half as many, and where the features' means are large
// they wander without stalling. The forms in double have the rest.
constexpr int kFloatIterations = 60;
// Iterations of each form in double: every task of the sweeps takes fewer.
constexpr int kNewtonIterations = 200;
// First-order steps for a task that Newton does not certify.
constexpr int kFallbackSteps = 5000;
// Part of tol that the solver's own gap may take for float features: rounding the weights takes some of the rest.
constexpr double kOwnTol = 0.9;

// --- First-order steps before Newton (first_order_steps in algorithm/first_order.hpp) ---

// Least order n (k-1) of the Newton matrix for a try.
constexpr int kFirstOrderOrder = 400;
// Steps that cost half of Newton's usual iterations, by the flops of a factor and of a step; a step costs as much for
// each entry of L, whose row is projected, as so many features do. Fitted to times of both on a CPU.
constexpr double kFirstOrderShare = 0.4, kEntryCost = 340;
// The part of these steps that tasks without a group Lasso try, however many are expected: most need fewer, and of
// those that do not the try is an eighth of what they take.
constexpr double kFirstOrderTrial = 0.25;
// Steps to a gap of kFinishGap, in units of n/k sqrt(lipschitz): between a half and twice as many in tasks of 2 to 20
// samples a class, 1 <= lipschitz <= 1e5.
constexpr double kExpectedSteps = 3;

// --- Interior point (newton.hpp, full_form.hpp) ---

// Fraction of the step to the boundary that is taken: Mehrotra's usual value.
constexpr double kFractionToBoundary = 0.995;
// A predictor shorter than this damps the corrector's second-order term, which holds for a whole step, by its length:
// undamped the term points out of the interior, and the first steps are lost.
constexpr double kShortStep = 0.1;
// Gondzio's corrector: how much longer a step it aims at, and the least product L Z there as a part of the centre,
// the largest one's inverse.
constexpr double kFurther = 0.3, kProductBand = 0.1;
// Least order n (k-1) of the Newton matrix for it: below, a solve costs about as much as all else.
constexpr int kCorrectorOrder = 64;
// Steps of less than kShortStep one after another after which the start is taken to be too near the bounds.
constexpr int kShortSteps = 10;
// The start, L = (1 - theta) Y + theta/k: bounds of theta, so that it is not too close to an end. With fewer features
// than samples many samples end far from their label.
constexpr double kLargestStart = 0.9, kSmallestStart = 1e-3, kSmallestStartFewFeatures = 0.2;
// The search for the best theta: its relative accuracy, and a bound on its iterations, which are a handful.
constexpr double kStartAccuracy = 1e-6;
constexpr int kStartIterations = 100;
// The products L Z of the start, as a fraction of theta/k: nearer to the solution than the centre, which is 1.
constexpr double kStartBarrier = 0.3;
// The full form's start: ||U_j|| is clipped to this, so that U is inside; the slack w and the product th w are at least
// so much.
constexpr double kStartNorm = 0.9, kStartSlack = 0.01, kStartProduct = 0.2;
// Features whose curvature is below this fraction of the task's largest are left out of H. Larger cuts cost nothing at
// lambda2 >= 1, but at lambda2 <= 0.1 anything above 1e-4 destroys convergence. A fraction of the largest, not of the
// 1/lambda2 that the curvature tends to on active features: where all are off, every curvature is small.
constexpr double kCurvatureCut = 1e-8;

// --- Finish (finish.hpp) ---

// Relative gap at which the finish is first tried, and the factor on the last try's gap at which it is tried again: at
// 1e-3 nearly every task has the active set of its solution within reach (docs/solvers.md).
constexpr double kFinishGap = 1e-3, kFinishAgain = 0.01;
// A relative gap of rounding: there is no better point to be found.
constexpr double kRounding = 3e-13;
// Near rounding: a turn that does not improve on this ends the finish well.
constexpr double kNearRounding = 1e-9;
// So is what rounding of margins of size 1 may add to the gap, for every sample: more than that beside objectives of
// 1e-6, as those of separable tasks are at small lambda2. A factor on the sum of the sample weights.
constexpr double kMarginRounding = 4 * kUnitRoundoff;
// Turns of the finish at most, and without a better gap before it gives up.
constexpr int kFinishTurns = 15, kFinishPatience = 3;
// The same as a last resort, which few tasks in a hundred thousand need; and halvings of a step.
constexpr int kLastTurns = 60, kLastPatience = 20, kLastHalvings = 12;
// Halvings of a step. Steps shorter than 1/4 mean that features become active on the way: the interior point does
// better there.
constexpr int kHalvings = 3;
// What rounding may take of the dual objective in a step, relative to it.
constexpr double kObjectiveRounding = 1e-14;
// What the sum of a row of L may be off 1 by. Directions along which the dual is flat can be so long that their
// rounding shows in it; that of others is left there, as entries of the size of lambda2 would drown in it.
constexpr double kRowSum = 1e-12;
// Newton's direction: residual, conjugate gradients, and how many of them a factor of an earlier turn may take.
constexpr double kDirectionResidual = 1e-4;
constexpr int kDirectionSteps = 30, kStaleSteps = 4;
// Solves of a turn that hold entries at 0 which the one before would take below.
constexpr int kHoldings = 3;
// A relative residual above which a direction is useless.
constexpr double kSolved = 0.5;

// --- First-order solvers (first_order.hpp) ---

// The certificate costs as much as a step; it is asked for once in so many steps.
constexpr int kCheckEvery = 10;

// --- Weights (weights.hpp) ---

// Of float: the distance of 1 and the next number.
constexpr double kFloatEpsilon = 1.1920928955078125e-07;
// What rounding usually adds to the relative gap. Above it weights are tried that are longer by a part of this much,
// then by a factor more, and at most: twice that is added to the relative gap, which is still below the usual tol.
constexpr double kWellRounded = 8 * kFloatEpsilon;
constexpr double kLengthenLeast = kFloatEpsilon, kLengthenFactor = 4, kLengthenMost = 16 * kFloatEpsilon;

// --- Adjoint (adjoint.hpp) ---

// An entry below this fraction of its multiplier, in units of the hinge's margin, is at its bound: float holds no
// larger Z/L.
constexpr double kAtBound = 1e-20;
// A multiplier below this, in the same units, and smaller than its entry is what rounding leaves of 0.
constexpr double kMultiplierNoise = 1e-6;
// The linear system: relative residual, and conjugate gradients at most, where the features are close to dependent.
constexpr double kAdjointResidual = 1e-10;
constexpr int kAdjointSteps = 100;

}  // namespace sparsedis
