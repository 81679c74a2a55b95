"""Thresholds that all backends share; csrc/svm/thresholds.hpp explains each value.

They are duplicated because the package also works without its compiled module; a test compares the two files.
"""

# Newton: choice of the form by lambda1^2 / lambda2, and the point at which the light form gives up.
LIGHT_STRENGTH = 0.3
LIGHT_STRENGTH_FEW_FEATURES = 1e-3
FULL_STRENGTH = 1e-10
LIGHT_ITERATIONS = 8
LIGHT_GAP = 1e-2

# Limits on checks without a smaller gap, on iterations with float32 products and on first-order steps after newton.
NEWTON_PATIENCE = 60
FIRST_ORDER_PATIENCE = 100
FLOAT_ITERATIONS = 60
FALLBACK_STEPS = 5000
CHECK_EVERY = 10

# First-order steps before newton: the conditions under which they are tried, and their number.
FIRST_ORDER_ORDER = 400
FIRST_ORDER_SHARE = 0.4
ENTRY_COST = 340
FIRST_ORDER_TRIAL = 0.25
EXPECTED_STEPS = 3
NEWTON_ITERATIONS = 200

# Steps and initial point of the interior-point method.
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

# float32 weights: usual increase of the relative gap by rounding. If it is larger, the weights are lengthened by
# LENGTHEN_LEAST, then by LENGTHEN_FACTOR times more in each try, up to LENGTHEN_MOST.
WELL_ROUNDED = 8 * 2.0**-23
LENGTHEN_LEAST = 2.0**-23
LENGTHEN_FACTOR = 4
LENGTHEN_MOST = 16 * 2.0**-23
