"""Starts `lidit_stickers.compare`: the name of before, for one release."""

import runpy

runpy.run_module("lidit_stickers.compare", run_name="__main__", alter_sys=True)
