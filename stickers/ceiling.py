"""Starts `lidit_stickers.ceiling`: the name of before, for one release."""

import runpy

runpy.run_module("lidit_stickers.ceiling", run_name="__main__", alter_sys=True)
