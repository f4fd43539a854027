"""Starts `lidit_stickers.scorer.selftest`: the name of before, for one release."""

import runpy

runpy.run_module("lidit_stickers.scorer.selftest", run_name="__main__", alter_sys=True)
