"""Starts `lidit_stickers.newcomer`: the name of before, for one release."""

import runpy

runpy.run_module("lidit_stickers.newcomer", run_name="__main__", alter_sys=True)
