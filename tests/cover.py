"""Measures the coverage of both packages in every process of the tests, and costs nothing in the others.

conftest.py has every Python process below `make test` execute this text when it starts. The measurement starts when a
package is first imported: tracing all imports of Snakemake and torch would take as long as the tests.
"""

import os
import sys

PACKAGES = ("sparsity_cliff", "snakemake_executor_plugin_submitit", "gpu_claims")


class StartCoverage:
    """Finds no module, and starts the measurement when it is asked for one of the packages."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in PACKAGES and self in sys.meta_path:
            sys.meta_path.remove(self)
            import coverage

            os.environ["COVERAGE_PROCESS_START"] = os.environ["COVER_CONFIG"]
            coverage.process_startup()
            os.environ.pop("COVERAGE_PROCESS_START", None)  # or child processes would start at once


# Snakemake starts another Snakemake for each job, which runs nothing of ours that the first one has not run, and a
# script, whose work other tests do in their own process
if "--target-jobs" not in sys.orig_argv and not any("/.snakemake/scripts/" in word for word in sys.orig_argv):
    sys.meta_path.insert(0, StartCoverage())
