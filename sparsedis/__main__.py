"""python -m sparsedis"""

import sys

from sparsedis.cli import main

sys.exit(main())
