"""Runs focus-validator on a file with the rules of FOCUS 1.2 that its package has in it; nothing is downloaded.

The package asks for Python 3.12 because of one expression, which older ones are given in words that they know. It looks for its
list of currencies below the working directory.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import pathlib
import sys

MODULE = "focus_validator.config_objects.focus_to_duckdb_converter"
NEWER = rb"""", ".join(f"'{k.replace('\"', '\"\"')}'" for k in ignore_keys)"""
OLDER = rb"""", ".join("'" + k.replace('"', '""') + "'" for k in ignore_keys)"""
# What a site does: accounts have names, usage is measured and priced by the unit, projects are accounts below accounts, places are known.
APPLIES = (
    "ACCOUNT_NAMING_SUPPORTED",
    "PUBLIC_PRICE_LIST_SUPPORTED",
    "UNIT_PRICING_SUPPORTED",
    "USAGE_MEASUREMENT_SUPPORTED",
    "SUB_ACCOUNT_SUPPORTED",
    "REGION_SUPPORTED",
    "BILLING_BASED_ON_PROVISIONED_RESOURCES_SUPPORTED",
    "RESOURCE_TYPE_ASSIGNMENT_SUPPORTED",
    "NEGOTIATED_PRICING_SUPPORTED",
)


class Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data, path, *, _optimize=-1):
        assert data.count(NEWER) == 1, "another version of focus-validator"
        return super().source_to_code(data.replace(NEWER, OLDER), path, _optimize=_optimize)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = Loader(name, spec.origin)
        return spec


def main(report):
    package = pathlib.Path(importlib.util.find_spec("focus_validator").origin).parent
    if sys.version_info < (3, 12):
        sys.meta_path.insert(0, Finder())
    from focus_validator.main import main as validate

    report = pathlib.Path(report).resolve()
    os.chdir(package.parent)
    sys.argv = ["focus-validator", "--data-file", str(report), "--validate-version", "1.2", "--block-download"]
    sys.argv += ["--applicability-criteria", ",".join(APPLIES), "--show-violations"]
    validate()


if __name__ == "__main__":
    main(sys.argv[1])
