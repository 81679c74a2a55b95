"""Thresholds that every backend shares; csrc/svm/thresholds.hpp says why each has its value.

They stand here too because the package works without its compiled module; a test compares the two.
"""

# Newton: the choice between its forms, by lambda1^2 / lambda2, and when the light one gives up.
LIGHT_STRENGTH = 0.3
LIGHT_STRENGTH_FEW_FEATURES = 1e-3
FULL_STRENGTH = 1e-10
LIGHT_ITERATIONS = 8
LIGHT_GAP = 1e-2

# Checks without a better gap, iterations with products in float32, first-order steps after newton.
NEWTON_PATIENCE = 60
FIRST_ORDER_PATIENCE = 100
FLOAT_ITERATIONS = 60
FALLBACK_STEPS = 5000
CHECK_EVERY = 10

# First-order steps before newton: from which order of its matrix on, how many, the part of them that is tried without a
# group Lasso where more are expected, and how many are; fewer iterations of newton than the last are not exceeded so.
FIRST_ORDER_ORDER = 400
FIRST_ORDER_SHARE = 0.4
ENTRY_COST = 340
FIRST_ORDER_TRIAL = 0.25
EXPECTED_STEPS = 3
NEWTON_ITERATIONS = 200

# The interior point's steps and start.
FRACTION_TO_BOUNDARY = 0.995
SHORT_STEP = 0.1
SHORT_STEPS = 10
CURVATURE_CUT = 1e-8
LARGEST_START = 0.9
SMALLEST_START = 1e-3
SMALLEST_START_FEW_FEATURES = 0.2
START_BARRIER = 0.3
START_NORM = 0.9
START_SLACK = 0.01
START_PRODUCT = 0.2

FINISH_GAP = 1e-3

# Weights in float32: what rounding usually adds to the relative gap; what they are made longer by where it adds more,
# at least, the factor from one try to the next, and at most.
WELL_ROUNDED = 8 * 2.0**-23
LENGTHEN_LEAST = 2.0**-23
LENGTHEN_FACTOR = 4
LENGTHEN_MOST = 16 * 2.0**-23
